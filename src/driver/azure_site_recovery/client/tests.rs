//! Words and classes of what does not succeed.

use super::*;
use azure_core::Error;
use azure_core::http::StatusCode;

/// As the credentials do: the cause is wrapped, and its words are repeated.
fn of_credential(cause: Error) -> Error {
    let words = format!(
        "ClientSecretCredential authentication failed. {cause} To troubleshoot, visit https://aka.ms/x"
    );
    Error::with_error(ErrorKind::Credential, cause, words)
}

fn response(status: StatusCode, words: &str) -> Error {
    let kind = ErrorKind::HttpResponse {
        status,
        error_code: None,
        raw_response: None,
    };
    of_credential(Error::with_message(kind, words.to_owned()))
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let chunk = || Ok(Bytes::from_static(b"four"));
    let endless = futures::stream::repeat_with(chunk);
    let error = bounded(endless, 10).await.unwrap_err();
    assert!(error.to_string().contains("more than 10 bytes"), "{error}");
    let whole = futures::stream::iter([chunk(), chunk()]);
    assert_eq!(bounded(whole, 8).await.unwrap(), b"fourfour");
}

#[test]
fn a_sign_in_service_that_is_away_is_no_wrong_secret() {
    let class = |error: Error| refused_token(&error).class;
    let of = |kind| of_credential(Error::with_message(kind, "x"));
    assert_eq!(class(of(ErrorKind::Connection)), ErrorClass::Transient);
    assert_eq!(class(of(ErrorKind::Io)), ErrorClass::Transient);
    assert_eq!(class(of(ErrorKind::DataConversion)), ErrorClass::Transient);
    let answer = |status| class(response(status, "x"));
    assert_eq!(
        answer(StatusCode::ServiceUnavailable),
        ErrorClass::Transient
    );
    assert_eq!(answer(StatusCode::TooManyRequests), ErrorClass::Throttled);
    assert_eq!(answer(StatusCode::Unauthorized), ErrorClass::Denied);
    assert_eq!(class(of(ErrorKind::Credential)), ErrorClass::Denied);
}

#[test]
fn the_same_refusal_is_told_of_in_the_same_words() {
    let words = |id: &str| {
        let said = format!(
            "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: {id}\r\nCorrelation ID: {id}\r\nTimestamp: 2026-01-01 00:00:0{id}Z"
        );
        refused_token(&response(StatusCode::Unauthorized, &said)).message
    };
    assert_eq!(words("1"), words("2"));
    assert!(words("1").contains("AADSTS7000215"), "{}", words("1"));
    assert!(words("1").contains("https://aka.ms/x"), "{}", words("1"));
}
