//! Data that is encrypted in the vault: a move to Azure needs its key certificate, which is looked at before anything is touched, sent with the
//! request, and told of nowhere.

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use homeward::api::{FailoverPhase, Site};
use homeward_asr_emulator::{FabricKind, fingerprint};
use homeward_playground::{asked::Intent, world::is_true};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;

use crate::lane::{Lane, finish, quick, run, world};
use crate::secrets::told_nowhere;

const SECRET: &str = "key-certificate";
const PASSWORD: &str = "the-password-of-the-key-certificate";

/// A key certificate that is valid until the beginning of a year.
fn pfx(until: i32) -> Result<Vec<u8>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["kek".into()])?;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let certificate = params.self_signed(&key)?;
    let chain = PrivateKeyChain::new(
        vec![1],
        PrivateKey::from_der(&key.serialize_der())?,
        [Certificate::from_der(certificate.der())?],
    );
    let mut store = KeyStore::new();
    store.add_entry("kek", KeyStoreEntry::PrivateKeyChain(chain));
    Ok(store.writer(PASSWORD).write()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn its_key_certificate_is_asked_for_looked_at_and_sent() {
    run(async {
        let mut options = quick(FabricKind::Vmm, 1);
        options.seed.fabrics[0].vms[0].encrypted = true;
        options.log = "info,homeward=trace,azure_core=debug,azure_identity=debug,kube=debug".into();
        let world = world(options).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let failover = lane.begin(Site::Azure).await?;
        until_asked_to_mend(&lane, &failover, "spec.encryptionKeySecretRef of the").await?;

        let named = json!({"encryptionKeySecretRef": {"name": SECRET}});
        world.cluster.patch_vm("vm-1", named).await?;
        until_asked_to_mend(&lane, &failover, "does not exist; apply it").await?;
        let put = async |pfx: &[u8], password: &str| {
            let data = [
                ("certificate.pfx", pfx.to_vec()),
                ("password", password.as_bytes().to_vec()),
            ];
            world.cluster.apply_secret(SECRET, None, data).await
        };
        let (right, expired) = (pfx(2100)?, pfx(2021)?);
        put(&right, "another-password").await?;
        until_asked_to_mend(&lane, &failover, "does not open").await?;
        put(&expired, PASSWORD).await?;
        until_asked_to_mend(&lane, &failover, "expired at 2021-01-01").await?;
        let asked = lane.asked().await?;
        ensure!(asked.is_empty(), "asked for without a key: {asked:?}");

        put(&right, PASSWORD).await?;
        lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
            .await?;
        lane.lead(&failover, Site::Azure).await?;
        lane.runs_only_at(Site::Azure).await?;
        lane.each_once(&[Intent::Failover, Intent::Commit]).await?;
        let sent = STANDARD.encode(&right);
        let requests = world.emulator.requests().await?;
        let moved = requests
            .iter()
            .find(|it| it.method == "POST" && it.path.ends_with("/plannedFailover"))
            .context("it was asked for")?;
        let details = &moved.body["properties"]["providerSpecificDetails"];
        ensure!(
            details["primaryKekCertificatePfx"] == fingerprint(&sent),
            "another key was sent: {details}"
        );

        // The way back takes none.
        lane.travel(Site::OnPremises).await?;
        // A part of what was sent, in each of the ways in which base64 may have it.
        let middle = |from: usize| STANDARD.encode(&right[200 + from..260 + from]);
        for part in [0, 1, 2].map(middle) {
            told_nowhere(&world, &part).await?;
        }
        for password in [PASSWORD, "another-password"] {
            told_nowhere(&world, password).await?;
        }
        finish(world).await
    })
    .await;
}

/// The move waits for a person, who is told what is wrong with the key.
async fn until_asked_to_mend(lane: &Lane<'_>, failover: &str, words: &str) -> Result<()> {
    let what = format!("it says: {words}");
    let seen = lane
        .until(failover, &what, |it| {
            let told = it.status.as_ref().and_then(|it| it.waiting_for.as_deref());
            told.is_some_and(|told| told.contains(words))
        })
        .await?;
    let status = seen.status.context("it has a status")?;
    ensure!(
        is_true(&status.conditions, "Stalled"),
        "{:#?}",
        status.conditions
    );
    lane.runs_only_at(Site::OnPremises).await
}
