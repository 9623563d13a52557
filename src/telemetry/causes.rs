//! Errors in words: libraries say the outermost, and keep what helps to themselves.

use std::error::Error;

/// The error and all its causes, without what was said already.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    anyhow::Chain::new(error).fold(String::new(), |words, cause| {
        let said = cause.to_string();
        match words.as_str() {
            "" => said,
            words if words.contains(&said) => words.to_owned(),
            words => format!("{words}: {said}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cause_adds_is_told_once() {
        let error = anyhow::anyhow!("the certificate is of nobody known")
            .context("client error (Connect)")
            .context("ServiceError: client error (Connect)");
        assert_eq!(
            with_causes(error.as_ref()),
            "ServiceError: client error (Connect): the certificate is of nobody known"
        );
    }
}
