use std::time::Duration;

use homeward_asr_emulator::{Emulator, FabricKind, Fault, Options, Phase, Rule, Seed};
use serde_json::{Value, json};

use crate::client::{VERSION, to_azure};

/// A plain client that trusts the emulator's CA and nobody else.
fn client(emulator: &Emulator) -> reqwest::Client {
    // Another test of this process may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(emulator.ca_pem.as_bytes()).unwrap();
    reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .retry(reqwest::retry::never())
        .build()
        .unwrap()
}

async fn token(emulator: &Emulator, client: &reqwest::Client) -> String {
    let tenant = emulator.service.lock().tenant().to_owned();
    let body = "grant_type=client_credentials&client_id=0c1e0a4e-aaaa-4bbb-8ccc-1dddd2eeee3f&client_secret=emulated-secret&scope=https://management.azure.com/.default";
    let response = client
        .post(format!("{}/{tenant}/oauth2/v2.0/token", emulator.url))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
        .send()
        .await
        .unwrap();
    let body: Value = response.json().await.unwrap();
    body["access_token"].as_str().unwrap().to_owned()
}

fn options(state: Option<std::path::PathBuf>) -> Options {
    Options {
        state,
        ..Options::manual(Seed::of(FabricKind::HyperVSite, 2))
    }
}

#[tokio::test]
async fn a_plain_client_moves_a_vm_and_a_restart_remembers_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.json");
    let emulator = Emulator::start(options(Some(state.clone()))).await.unwrap();
    let client = client(&emulator);
    let token = token(&emulator, &client).await;
    let list: Value = client
        .get(format!(
            "{}/replicationProtectedItems?api-version={VERSION}",
            emulator.vault_url()
        ))
        .bearer_auth(&token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id = list["value"][0]["id"].as_str().unwrap().to_owned();
    let vm = list["value"][0]["properties"]["friendlyName"]
        .as_str()
        .unwrap()
        .to_owned();
    let response = client
        .post(format!(
            "{}{id}/plannedFailover?api-version={VERSION}",
            emulator.url
        ))
        .bearer_auth(&token)
        .json(&to_azure())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 202);
    let status = response.headers()["azure-asyncoperation"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(status.starts_with(&emulator.url));
    assert!(response.bytes().await.unwrap().is_empty());
    let ca = emulator.ca_pem.clone();
    let listen = emulator.address;
    emulator.stop().await;

    let again = Options {
        listen,
        ..options(Some(state))
    };
    let emulator = Emulator::start(again).await.unwrap();
    assert_eq!(emulator.ca_pem, ca);
    emulator.advance(Duration::from_mins(1));
    assert_eq!(
        emulator.now().phase(&vm),
        Some(Phase::FailedOver { planned: true })
    );
}

#[tokio::test]
async fn a_dropped_connection_is_an_error_and_the_deed_is_done() {
    let emulator = Emulator::start(options(None)).await.unwrap();
    let client = client(&emulator);
    let token = token(&emulator, &client).await;
    let control = |path: &str| format!("{}/_emulator/{path}", emulator.url);
    let rule = Rule::next("POST", "plannedFailover", Fault::DropAfter);
    let response = client
        .post(control("faults"))
        .json(&rule)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let id = emulator.service.lock().item_id("vm-1").unwrap();
    let sent = client
        .post(format!(
            "{}{id}/plannedFailover?api-version={VERSION}",
            emulator.url
        ))
        .bearer_auth(&token)
        .json(&to_azure())
        .send()
        .await;
    assert!(sent.is_err());
    let moved = client
        .post(control("time"))
        .json(&json!({ "advanceMillis": 60_000 }))
        .send();
    assert_eq!(moved.await.unwrap().status(), 200);
    assert_eq!(
        emulator.now().phase("vm-1"),
        Some(Phase::FailedOver { planned: true })
    );
    let press = client
        .post(control("portal/commit"))
        .json(&json!({ "item": "vm-1" }))
        .send()
        .await
        .unwrap();
    assert_eq!(press.status(), 200);
    let requests: Value = client
        .get(control("requests"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let last = requests["value"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (&last["fault"], &last["acted"]),
        (&"dropAfter".into(), &true.into())
    );
    assert!(last["status"].is_null());
    let violations = client.get(control("violations")).send().await.unwrap();
    assert_eq!(
        violations.json::<Value>().await.unwrap()["value"],
        json!([])
    );
}

#[tokio::test]
async fn a_request_acts_though_its_client_has_gone() {
    let emulator = Emulator::start(options(None)).await.unwrap();
    let client = client(&emulator);
    let token = token(&emulator, &client).await;
    let rule = Rule::next("POST", "plannedFailover", Fault::Delay { millis: 5_000 });
    emulator.service.lock().add_rule(rule).unwrap();
    let id = emulator.service.lock().item_id("vm-1").unwrap();
    let asked = tokio::spawn(
        client
            .post(format!(
                "{}{id}/plannedFailover?api-version={VERSION}",
                emulator.url
            ))
            .bearer_auth(token)
            .json(&to_azure())
            .send(),
    );
    while emulator.service.lock().rules() > 0 {
        tokio::task::yield_now().await;
    }
    asked.abort();
    assert!(emulator.now().jobs().is_empty());
    while emulator.now().jobs().is_empty() {
        emulator.advance(Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
    emulator.advance(Duration::from_mins(1));
    assert_eq!(
        emulator.now().phase("vm-1"),
        Some(Phase::FailedOver { planned: true })
    );
}

#[tokio::test]
async fn a_delayed_request_waits_for_the_emulators_time() {
    let emulator = Emulator::start(options(None)).await.unwrap();
    let client = client(&emulator);
    let token = token(&emulator, &client).await;
    let rule = Rule::next(
        "GET",
        "replicationVaultHealth",
        Fault::Delay { millis: 5_000 },
    );
    emulator.service.lock().add_rule(rule).unwrap();
    let url = format!(
        "{}/replicationVaultHealth?api-version={VERSION}",
        emulator.vault_url()
    );
    let asked = tokio::spawn(client.get(url).bearer_auth(token).send());
    // The rule is gone once the request is there; only then does time move.
    while emulator.service.lock().rules() > 0 {
        tokio::task::yield_now().await;
    }
    emulator.advance(Duration::from_secs(5));
    while !asked.is_finished() {
        emulator.advance(Duration::from_secs(5));
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.await.unwrap().unwrap().status(), 200);
}
