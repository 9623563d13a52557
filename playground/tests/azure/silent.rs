//! Providers that go silent: who waits says for which host, nothing is asked for that only it could do, and all goes on when it is back.

use anyhow::{Result, ensure};
use homeward::api::{Failover, FailoverPhase, ProtectedVirtualMachine, RecoveryVault, Site};
use homeward_asr_emulator::FabricKind;
use homeward_playground::{
    asked::{Intent, THERE_AND_BACK},
    world::{LIMIT, ServiceWorld, VAULT, until},
};
use serde_json::json;

use crate::lane::{Lane, condition, finish, phase, quick, run, world};

const FIRST: &str = "hv-1.example.test";
const VMM: &str = "vmm-1.example.test";

#[derive(Clone, Copy)]
enum Silence {
    /// The service says so.
    Noticed,
    /// Only the age of the last heartbeat tells.
    Unnoticed,
}

impl Silence {
    async fn begins(self, world: &ServiceWorld, host: &str) -> Result<()> {
        match self {
            Self::Noticed => world.emulator.connect_provider(host, false).await,
            Self::Unnoticed => world.emulator.silence_unnoticed(host).await,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Noticed => "is NotConnected, last heard at",
            Self::Unnoticed => "is called Connected, but was last heard at",
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vms_of_a_host_that_the_service_calls_not_connected_wait_for_it() {
    run(one_host_of_two(Silence::Noticed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vms_of_a_host_whose_heartbeat_is_old_wait_for_it() {
    run(one_host_of_two(Silence::Unnoticed)).await;
}

async fn one_host_of_two(silence: Silence) -> Result<()> {
    let world = world(quick(FabricKind::HyperVSite, 2)).await?;
    let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
    let other = Lane::start(&world, "vm-2", "DeltaBeforeFailover").await?;
    silence.begins(&world, FIRST).await?;

    // The site answers by its other host.
    let vault = until_vault(&world, "the silent host", |vault| {
        reason(vault, "Ready") == Some(("False", "SiteDisconnected"))
    })
    .await?;
    ensure!(
        reason(&vault, "OnPremisesConnected") == Some(("True", "Connected"))
            && reason(&vault, "Reconciling") == Some(("True", "SiteDisconnected")),
        "{vault:#?}"
    );
    let hosts = vault.status.iter().flat_map(|status| &status.hosts);
    let told = hosts.clone().find(|host| host.name == FIRST);
    let message = told.and_then(|host| host.message.as_deref());
    ensure!(
        message.is_some_and(|words| words.contains(silence.words())),
        "{told:?}"
    );
    let connected = hosts.filter(|host| host.connected).count();
    ensure!(connected == 1, "{connected} hosts are connected");
    until_vm_waits(&lane, silence).await?;

    // A move that is asked for meanwhile says what it waits for, and touches nothing; the other host's VM goes.
    let failover = lane.begin(Site::Azure).await?;
    until_waits_for(&lane, &failover, FIRST, silence).await?;
    other.travel(Site::Azure).await?;
    until_waits_for(&lane, &failover, FIRST, silence).await?;
    nothing_since(&lane, &[]).await?;

    world.emulator.connect_provider(FIRST, true).await?;
    lane.lead(&failover, Site::Azure).await?;
    lane.runs_only_at(Site::Azure).await?;
    until_connected(&world).await?;
    lane.travel(Site::OnPremises).await?;
    other.travel(Site::OnPremises).await?;
    finish(world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failback_that_waits_is_not_completed_while_the_site_is_silent() {
    run(in_the_middle(Silence::Noticed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failback_that_waits_is_not_completed_while_the_heartbeat_is_old() {
    run(in_the_middle(Silence::Unnoticed)).await;
}

/// Of a VMM server, which has the only provider: the whole site is away with it.
async fn in_the_middle(silence: Silence) -> Result<()> {
    let world = world(quick(FabricKind::Vmm, 1)).await?;
    let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
    lane.travel(Site::Azure).await?;
    let failover = lane.begin(Site::OnPremises).await?;
    lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
        .await?;
    silence.begins(&world, VMM).await?;
    until_vault(&world, "the site is away", |vault| {
        reason(vault, "OnPremisesConnected") == Some(("False", "SiteDisconnected"))
    })
    .await?;
    // Whoever is about to approve it is told.
    lane.until(&failover, "it tells of the silent host", |it| {
        says(it, VMM, silence) && phase(it) == Some(FailoverPhase::AwaitingCutover)
    })
    .await?;
    // "Complete failover" would stop the VM in Azure for a host that cannot take it.
    lane.answer(&failover, json!({"cutover": "Approved"}))
        .await?;
    until_waits_for(&lane, &failover, VMM, silence).await?;
    lane.runs_only_at(Site::Azure).await?;
    let before = [Intent::Failover, Intent::Commit, Intent::Failback];
    nothing_since(&lane, &before).await?;

    world.emulator.connect_provider(VMM, true).await?;
    lane.until_phase(&failover, FailoverPhase::AwaitingCommit)
        .await?;
    // Finalizing takes the host too.
    silence.begins(&world, VMM).await?;
    until_vault(&world, "the site is away again", |vault| {
        reason(vault, "OnPremisesConnected") == Some(("False", "SiteDisconnected"))
    })
    .await?;
    lane.answer(&failover, json!({"commit": "Approved"}))
        .await?;
    until_waits_for(&lane, &failover, VMM, silence).await?;
    world.emulator.connect_provider(VMM, true).await?;
    lane.lead(&failover, Site::OnPremises).await?;
    lane.runs_only_at(Site::OnPremises).await?;
    until_connected(&world).await?;
    lane.each_once(&THERE_AND_BACK).await?;
    nothing_since(&lane, &THERE_AND_BACK).await?;
    finish(world).await
}

/// The service was asked for these and for nothing else, refused or not.
async fn nothing_since(lane: &Lane<'_>, before: &[Intent]) -> Result<()> {
    let asked: Vec<Intent> = lane.asked().await?.iter().map(|it| it.intent).collect();
    ensure!(asked == before, "asked for {asked:?}, not {before:?}");
    Ok(())
}

async fn until_waits_for(
    lane: &Lane<'_>,
    failover: &str,
    host: &str,
    silence: Silence,
) -> Result<Failover> {
    let what = format!("it waits for {host}");
    lane.until(failover, &what, |it| {
        says(it, host, silence)
            && it.status.as_ref().is_some_and(|status| {
                let found = condition(&status.conditions, "Reconciling");
                found.is_some_and(|(is, reason, _)| (is, reason) == ("True", "SiteDisconnected"))
            })
    })
    .await
}

/// What it waits for names the host.
fn says(failover: &Failover, host: &str, silence: Silence) -> bool {
    let status = failover.status.as_ref();
    let words = status.and_then(|it| it.waiting_for.as_deref());
    words.is_some_and(|words| words.contains(host) && words.contains(silence.words()))
}

async fn until_vm_waits(lane: &Lane<'_>, silence: Silence) -> Result<ProtectedVirtualMachine> {
    let waits = |vm: &ProtectedVirtualMachine| {
        let conditions = vm.status.as_ref().map(|status| &status.conditions[..]);
        let found = conditions.and_then(|it| condition(it, "Reconciling"));
        found.is_some_and(|(is, reason, words)| {
            (is, reason) == ("True", "SiteDisconnected") && words.contains(silence.words())
        })
    };
    lane.world
        .cluster
        .until_vm(lane.vm, "it waits for its host", waits)
        .await
}

async fn until_connected(world: &ServiceWorld) -> Result<()> {
    until_vault(world, "Ready", |vault| {
        reason(vault, "Ready") == Some(("True", "Connected"))
    })
    .await?;
    Ok(())
}

/// Waits until the vault tells of it.
pub async fn until_vault(
    world: &ServiceWorld,
    what: &str,
    met: impl Fn(&RecoveryVault) -> bool,
) -> Result<RecoveryVault> {
    until(&world.cluster.vaults(), VAULT, LIMIT, what, met).await
}

/// Status and reason of a condition of the vault.
pub fn reason<'a>(vault: &'a RecoveryVault, kind: &str) -> Option<(&'a str, &'a str)> {
    let status = vault.status.as_ref()?;
    condition(&status.conditions, kind).map(|(is, reason, _)| (is, reason))
}
