//! The secret of the application: a wrong one is told of, another one is taken up without a restart, and none is ever told.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverPhase, RecoveryVault, Site};
use homeward_asr_emulator::FabricKind;
use homeward_playground::world::{Credentials, LIMIT, ServiceWorld, VAULT, is_true, until};
use k8s_openapi::api::{core::v1 as core, events::v1 as events};
use kube::{Api, api::ListParams};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lane::{Lane, condition, finish, quick, run};

const WRONG: &str = "a-wrong-secret-of-nobody";
const SECOND: &str = "the-second-secret-that-is-right";

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_one_is_told_of_and_the_next_one_taken_up() {
    run(async {
        let mut options = quick(FabricKind::HyperVSite, 1);
        options.log = "info,homeward=trace,azure_core=debug,azure_identity=debug".into();
        let first = options.secret()?.to_owned();
        options.seed.principals[0].secrets.push(SECOND.into());
        let wrong = Credentials::ClientSecret(WRONG.into());
        let mut world = ServiceWorld::start_unconnected(options, &wrong, |_| {}).await?;
        world.keep_logs(true);
        denied(&world).await?;

        world.use_secret(&first).await?;
        ready(&world).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;

        world.use_secret(SECOND).await?;
        lane.travel(Site::OnPremises).await?;
        world.use_secret(WRONG).await?;
        denied(&world).await?;
        world.use_secret(SECOND).await?;
        ready(&world).await?;
        lane.travel(Site::Azure).await?;

        for secret in [WRONG, first.as_str(), SECOND] {
            told_nowhere(&world, secret).await?;
        }
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_missing_or_empty_is_asked_for() {
    run(async {
        let options = quick(FabricKind::HyperVSite, 1);
        let right = options.secret()?.to_owned();
        let none = Credentials::ClientSecret(String::new());
        let mut world = ServiceWorld::start_unconnected(options, &none, |_| {}).await?;
        world.keep_logs(true);
        until_not_ready(&world).await?;
        world.use_secret(&right).await?;
        ready(&world).await?;
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_taken_any_more_is_followed_by_another() {
    run(async {
        let world = crate::lane::world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        world.emulator.revoke_tokens().await?;
        lane.travel(Site::Azure).await?;
        // Right before something is asked for, too.
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
            .await?;
        world.emulator.revoke_tokens().await?;
        lane.lead(&failover, Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
        finish(world).await
    })
    .await;
}

pub async fn ready(world: &ServiceWorld) -> Result<()> {
    let ready = |vault: &RecoveryVault| {
        let conditions = vault.status.iter().flat_map(|status| &status.conditions);
        is_true(conditions, "Ready")
    };
    until(&world.cluster.vaults(), VAULT, LIMIT, "Ready", ready).await?;
    Ok(())
}

async fn until_not_ready(world: &ServiceWorld) -> Result<RecoveryVault> {
    let stalled = |vault: &RecoveryVault| {
        let conditions = vault.status.iter().flat_map(|status| &status.conditions);
        is_true(conditions, "Stalled")
    };
    until(&world.cluster.vaults(), VAULT, LIMIT, "Stalled", stalled).await
}

async fn denied(world: &ServiceWorld) -> Result<()> {
    denied_for(world, "secret").await
}

/// What was shown to get a token is not taken, and `words` say what is wrong with it.
pub async fn denied_for(world: &ServiceWorld, expected: &str) -> Result<()> {
    let vault = until_not_ready(world).await?;
    let status = vault.status.context("it has a status")?;
    let (_, reason, words) = condition(&status.conditions, "Stalled").context("it is Stalled")?;
    println!("{reason}: {words}");
    ensure!(reason == "CredentialsInvalid", "{reason}: {words}");
    ensure!(
        words.to_lowercase().contains(expected),
        "it does not say what is wrong: {words}"
    );
    // It would be written anew at each look.
    ensure!(!words.contains("Trace ID"), "{words}");
    Ok(())
}

/// It stands in no log, no status, no event, no metric and no message.
pub async fn told_nowhere(world: &ServiceWorld, secret: &str) -> Result<()> {
    let nowhere = |place: &str, text: &str| {
        ensure!(!text.is_empty(), "{place} says nothing");
        // Bodies of requests for tokens have it in its percent-encoded form, which is the same for these.
        ensure!(!text.contains(secret), "{secret} stands in {place}");
        Ok(())
    };
    let read = |path: &Path| std::fs::read_to_string(path).context(path.display().to_string());
    let log = world.cluster.operator_log(0);
    nowhere("the operator's log", &read(&log)?)?;
    let cluster = &world.cluster;
    nowhere("the vault", &all(cluster.vaults()).await?)?;
    nowhere("the VMs", &all(cluster.vms()).await?)?;
    nowhere("the Failovers", &all(cluster.failovers()).await?)?;
    let client = cluster.client().clone();
    nowhere(
        "the events",
        &all(Api::<events::Event>::all(client.clone())).await?,
    )?;
    nowhere(
        "the ConfigMaps",
        &all(Api::<core::ConfigMap>::all(client)).await?,
    )?;
    nowhere("the metrics", &metrics(world).await?)?;
    let requests = serde_json::to_string(&world.emulator.requests().await?)?;
    nowhere("the requests", &requests)
}

async fn all<K>(api: Api<K>) -> Result<String>
where
    K: Clone + std::fmt::Debug + Serialize + serde::de::DeserializeOwned,
{
    let list = api.list(&ListParams::default()).await?;
    Ok(serde_json::to_string(&list.items)?)
}

async fn metrics(world: &ServiceWorld) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(world.cluster.operator_listens(0)).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nHost: operator\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
