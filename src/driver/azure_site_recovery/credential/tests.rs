//! What is asked of those that give tokens out.

use std::collections::BTreeMap;

use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, HttpClient, Request, StatusCode};

use super::*;

const SCOPE: &str = "https://management.azure.com/.default";

/// Gives a token to whoever asks, and keeps what was asked.
#[derive(Debug, Default)]
struct Metadata(Mutex<Vec<Asked>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: String,
    url: String,
    query: BTreeMap<String, String>,
    metadata: Option<String>,
}

#[async_trait::async_trait]
impl HttpClient for Metadata {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let url = request.url();
        let header = |wanted: &str| {
            let mut all = request.headers().iter();
            all.find(|(name, _)| name.as_str().eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.as_str().to_owned())
        };
        let mut bare = url.clone();
        bare.set_query(None);
        let asked = Asked {
            method: request.method().as_str().to_owned(),
            url: bare.to_string(),
            query: url.query_pairs().into_owned().collect(),
            metadata: header("metadata"),
        };
        self.0.lock().unwrap().push(asked);
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        let body = serde_json::json!({
            "access_token": "a-token",
            "expires_on": until.as_second().to_string(),
            "resource": "https://management.azure.com",
            "token_type": "Bearer",
        });
        Ok(AsyncRawResponse::from_bytes(
            StatusCode::Ok,
            Headers::new(),
            body.to_string().into_bytes(),
        ))
    }
}

/// What the metadata service of the machine is asked for, and that its answer is the token.
async fn asked_by(client_id: Option<&str>) -> Asked {
    let metadata = Arc::new(Metadata::default());
    let client: Arc<dyn HttpClient> = metadata.clone();
    let client_id = client_id.map(str::to_owned);
    let sign_in = SignIn::new(
        Identity::ManagedIdentity { client_id },
        "https://login.example.test",
        Transport::new(client),
    )
    .unwrap();
    for _ in 0..2 {
        let token = sign_in.token(SCOPE).await.unwrap();
        assert_eq!(token.token.token.secret(), "a-token");
    }
    let asked = metadata.0.lock().unwrap();
    assert_eq!(asked.len(), 1, "the token is kept: {asked:?}");
    asked[0].clone()
}

fn as_documented(more: &[(&str, &str)]) -> Asked {
    let query = [
        ("api-version", "2019-08-01"),
        ("resource", "https://management.azure.com"),
    ];
    Asked {
        method: "GET".into(),
        url: "http://169.254.169.254/metadata/identity/oauth2/token".into(),
        query: query
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        metadata: Some("true".into()),
    }
}

#[tokio::test]
async fn the_managed_identity_of_the_machine_is_asked_for_as_documented() {
    assert_eq!(asked_by(None).await, as_documented(&[]));
    let named = asked_by(Some("user-assigned")).await;
    assert_eq!(named, as_documented(&[("client_id", "user-assigned")]));
}

/// A token that was refused while another was being made was refused for its age, however young the other one is.
#[tokio::test]
async fn a_token_of_before_is_followed_by_the_one_of_now() {
    let client: Arc<dyn HttpClient> = Arc::new(Metadata::default());
    let identity = Identity::ManagedIdentity { client_id: None };
    let sign_in = SignIn::new(
        identity,
        "https://login.example.test",
        Transport::new(client),
    )
    .unwrap();
    let old = sign_in.token(SCOPE).await.unwrap();
    assert!(!sign_in.renew(&old), "it was given a moment ago");
    sign_in.current().made = Instant::now().checked_sub(YOUNG).unwrap();
    assert!(sign_in.renew(&old), "it may be too old");
    assert!(sign_in.renew(&old), "the next one is there");
    let new = sign_in.token(SCOPE).await.unwrap();
    assert!(!sign_in.renew(&new), "it was given a moment ago");
}
