//! Client assertions: a JWT signed with the key of a registered certificate.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use jiff::Timestamp;
use serde_json::Value;
use x509_parser::pem::parse_x509_pem;

use crate::seed::Principal;

/// Why an assertion is refused.
pub(super) struct Wrong {
    pub(super) code: u32,
    pub(super) text: String,
}

fn wrong(code: u32, text: &str) -> Wrong {
    Wrong {
        code,
        text: text.into(),
    }
}

/// Either alphabet, padded or not: clients differ.
fn base64(text: &str) -> Option<Vec<u8>> {
    let plain: String = (text.trim_end_matches('=').chars())
        .map(|letter| match letter {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    STANDARD_NO_PAD.decode(plain).ok()
}

/// Checks the assertion; its times only when `now` is given.
pub(super) fn check(
    principal: &Principal,
    tenant: &str,
    assertion: &str,
    now: Option<Timestamp>,
) -> Result<(), Wrong> {
    let malformed = || wrong(50027, "JWT token is invalid or malformed.");
    let (signed, signature) = assertion.rsplit_once('.').ok_or_else(malformed)?;
    let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
    let json = |part: &str| -> Option<Value> { serde_json::from_slice(&base64(part)?).ok() };
    let header = json(header).ok_or_else(malformed)?;
    let payload = json(payload).ok_or_else(malformed)?;
    let signature = base64(signature).ok_or_else(malformed)?;
    if header["alg"] != "RS256" {
        // A federated token that nobody registered looks just like this.
        let text = "No matching federated identity record found for presented assertion.";
        return Err(wrong(700_213, text));
    }
    let thumbprint = |name: &str| header[name].as_str().and_then(base64);
    let (sha1, sha256) = (thumbprint("x5t"), thumbprint("x5t#S256"));
    if sha1.is_none() && sha256.is_none() {
        let text = "No matching federated identity record found for presented assertion.";
        return Err(wrong(700_213, text));
    }
    let fits = |der: &[u8]| {
        sha1.as_deref()
            .is_none_or(|print| print == digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref())
            && sha256
                .as_deref()
                .is_none_or(|print| print == digest(&SHA256, der).as_ref())
    };
    let verified = principal.certificates.iter().any(|pem| {
        let Ok((_, pem)) = parse_x509_pem(pem.as_bytes()) else {
            return false;
        };
        let Ok(certificate) = pem.parse_x509() else {
            return false;
        };
        let key = &certificate.public_key().subject_public_key.data;
        fits(&pem.contents)
            && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
                .verify(signed.as_bytes(), &signature)
                .is_ok()
    });
    if !verified {
        let text = "Client assertion failed signature validation, or the certificate is not registered on the application.";
        return Err(wrong(700_027, text));
    }
    let text = |name: &str| payload[name].as_str().unwrap_or_default();
    if !text("iss").eq_ignore_ascii_case(&principal.client_id)
        || !text("sub").eq_ignore_ascii_case(&principal.client_id)
    {
        let text = "The assertion's issuer and subject must be the client.";
        return Err(wrong(700_021, text));
    }
    let audience = format!("/{tenant}/oauth2/v2.0/token").to_ascii_lowercase();
    if !text("aud").to_ascii_lowercase().ends_with(&audience) {
        let text = "Client assertion audience claim does not match the token endpoint.";
        return Err(wrong(700_023, text));
    }
    if let Some(now) = now {
        let second = now.as_second();
        let (from, until) = (
            payload["nbf"].as_i64().unwrap_or(0),
            payload["exp"].as_i64().unwrap_or(0),
        );
        if until <= second || from > second + 300 {
            let text = "Client assertion is not within its valid time range.";
            return Err(wrong(700_024, text));
        }
    }
    Ok(())
}
