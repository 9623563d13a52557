use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use homeward_asr_emulator::{FabricKind, Seed, Settings};
use serde_json::Value;

use crate::client::{Client, to_azure};

const CLIENT: &str = "0c1e0a4e-aaaa-4bbb-8ccc-1dddd2eeee3f";
const BEARER: &str =
    "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";

#[test]
fn a_wrong_secret_is_refused_in_the_words_of_the_directory() {
    let mut client = Client::new();
    let response = client.ask_token("client_secret=wrong");
    assert_eq!(response.status, 401);
    let body = response.value();
    assert_eq!(body["error"], "invalid_client");
    assert_eq!(body["error_codes"][0], 7_000_215);
    assert!(
        body["error_description"]
            .as_str()
            .unwrap()
            .starts_with("AADSTS7000215:")
    );
    assert!(
        client
            .service
            .requests()
            .all(|record| !record.body.to_string().contains("wrong"))
    );
}

#[test]
fn a_federated_token_is_right_when_it_is_registered() {
    let mut client = Client::new();
    let proof = format!("{BEARER}&client_assertion=projected");
    assert_eq!(client.ask_token(&proof).status, 401);
    client.service.principals_mut()[0]
        .federated_tokens
        .push("projected".into());
    assert_eq!(client.ask_token(&proof).status, 200);
}

#[test]
fn an_assertion_is_checked_with_the_registered_certificate() {
    let mut seed = Seed::of(FabricKind::HyperVSite, 1);
    let key = RsaKey::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().unwrap();
    let pkcs8 = rustls::pki_types::PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec());
    let issuer =
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::default()
        .self_signed(&issuer)
        .unwrap();
    seed.principals[0].certificates.push(certificate.pem());
    let mut client = Client::with(&seed, Settings::default());
    // The thumbprint as azure_identity writes it: padded, in the plain alphabet.
    let print = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate.der()).as_ref());
    let tenant = client.service.tenant().to_owned();
    let mut assertion = |audience: &str, spoil: bool| {
        let header = format!(r#"{{"alg":"RS256","typ":"JWT","x5t":"{print}"}}"#);
        let payload = format!(
            r#"{{"aud":"https://login.example.test/{audience}/oauth2/v2.0/token","exp":9999999999,"nbf":0,"iss":"{CLIENT}","sub":"{CLIENT}"}}"#
        );
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .unwrap();
        if spoil {
            signature[0] ^= 1;
        }
        let proof = format!(
            "{BEARER}&client_assertion={signed}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        );
        client.ask_token(&proof)
    };
    assert_eq!(assertion(&tenant, false).status, 200);
    let spoiled = assertion(&tenant, true);
    assert_eq!(
        (spoiled.status, &spoiled.value()["error_codes"][0]),
        (401, &700_027.into())
    );
    assert_eq!(assertion("other", false).value()["error_codes"][0], 700_023);
}

#[test]
fn without_a_good_token_nothing_is_answered() {
    let mut client = Client::new();
    let request = client.request("GET", "/replicationProtectedItems");
    let mut bare = request.clone();
    bare.headers.retain(|(name, _)| name != "authorization");
    let response = client.send(&bare);
    assert_eq!(response.status, 401);
    assert_eq!(response.value()["error"]["code"], "AuthenticationFailed");
    assert!(
        response
            .get("www-authenticate")
            .unwrap()
            .starts_with("Bearer ")
    );
    client.pass(3_700_000);
    let response = client.send(&request);
    assert_eq!(response.status, 401);
    assert_eq!(
        response.value()["error"]["code"],
        "ExpiredAuthenticationToken"
    );
    client.renew();
    client.get("/replicationProtectedItems");
    client.service.revoke_tokens();
    let response = client.send(&client.request("GET", "/replicationProtectedItems"));
    assert_eq!(
        response.value()["error"]["code"],
        "InvalidAuthenticationToken"
    );
}

#[test]
fn a_permission_that_is_missing_is_refused_and_can_be_found_out() {
    let mut client = Client::new();
    let action = "Microsoft.RecoveryServices/vaults/replicationFabrics/*/plannedFailover/action";
    client.service.deny(action, true);
    let id = client.service.item_id("vm-1").unwrap();
    let response = client.post(&format!("{id}/plannedFailover"), &to_azure());
    assert_eq!(response.status, 403);
    let error = response.value()["error"].clone();
    assert_eq!(error["code"], "AuthorizationFailed");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("replicationProtectedItems/plannedFailover/action")
    );
    let found = client.get("/providers/Microsoft.Authorization/permissions?api-version=2022-04-01");
    assert_eq!(found["value"][0]["actions"][0], "*");
    assert_eq!(found["value"][0]["notActions"][0], action);
    client.service.deny(action, false);
    client.act("vm-1", "plannedFailover", &to_azure());
    let refused: Value = client
        .send(&client.request("GET", "/providers/Microsoft.Authorization/permissions"))
        .value();
    assert!(refused["error"]["code"].is_string());
}
