//! VMs that come back to where they did not come from: their host is gone, or what was left of them there.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{Failover, FailoverOutcome, Site};
use homeward_asr_emulator::{Button, FabricKind, Seed, SeedVm};
use homeward_playground::{
    asked::{Intent, THERE_AND_BACK},
    world::{ServiceOptions, ServiceWorld, is_true, status_of},
};
use serde_json::{Value, json};

use crate::cancel::next_of;
use crate::lane::{Lane, finish, phase, quick, run, world};
use crate::silent::{reason, until_vault};

const FIRST: &str = "hv-1.example.test";
const SECOND: &str = "hv-2.example.test";

/// Has it kept, to be brought back like this.
async fn keep<'a>(world: &'a ServiceWorld, vm: &'a str, failback: Value) -> Result<Lane<'a>> {
    world.keep(vm, |spec| spec["failback"] = failback).await?;
    Ok(Lane { world, vm })
}

/// The id of the provider on a host of the first fabric.
fn provider_id(seed: &Seed, host: usize) -> String {
    let fabric = &seed.fabrics[0];
    format!(
        "{}/replicationFabrics/{}/replicationRecoveryServicesProviders/{}",
        seed.vault.id(),
        fabric.name,
        fabric.provider(host)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn to_another_host_by_its_name_and_by_its_provider_while_the_own_one_is_gone() {
    run(async {
        let mut options: ServiceOptions = quick(FabricKind::HyperVSite, 0);
        let fabric = &mut options.seed.fabrics[0];
        fabric.vms = ["vm-1", "vm-2"].map(SeedVm::named).to_vec();
        let id = provider_id(&options.seed, 1);
        let world = world(options).await?;
        // The service may spell ids in another way than it is asked by.
        let hosts = [SECOND.to_owned(), id.to_uppercase()];
        for (vm, host) in ["vm-1", "vm-2"].into_iter().zip(&hosts) {
            let failback = json!({
                "dataSync": "DeltaBeforeFailover",
                "host": host,
                "createIfMissing": true,
            });
            let lane = keep(&world, vm, failback).await?;
            lane.travel(Site::Azure).await?;
        }
        world.emulator.connect_provider(FIRST, false).await?;
        for vm in ["vm-1", "vm-2"] {
            let lane = Lane { world: &world, vm };
            let removed = Button::RemoveVm { vm: vm.to_owned() };
            world.emulator.press(&removed).await?;
            let came = lane.travel(Site::OnPremises).await?;
            lane.runs_only_at(Site::OnPremises).await?;
            let machine = world.emulator.machine(vm).await?;
            ensure!(machine.host == SECOND, "it runs on {}", machine.host);
            // A switch of the same name is needed there, which nobody here can see.
            needs_switches(&came)?;
            let sent = failback_of(&lane).await?;
            ensure!(
                sent["recoveryVmCreationOption"] == "CreateVmIfNotFound"
                    && sent["providerIdForAlternateRecovery"] == id.as_str(),
                "{sent}"
            );
        }
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_another_host_that_is_silent_only_when_it_is_back() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let failback = json!({"host": SECOND, "createIfMissing": true});
        let lane = keep(&world, "vm-1", failback).await?;
        lane.travel(Site::Azure).await?;
        world.emulator.connect_provider(SECOND, false).await?;
        until_vault(&world, "the silent host", |vault| {
            reason(vault, "Ready") == Some(("False", "SiteDisconnected"))
        })
        .await?;
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until(&failover, "it tells of the silent host", |it| {
            let failure = it.status.as_ref().and_then(|it| it.failure.as_ref());
            failure.is_some_and(|failure| failure.message.contains(SECOND))
        })
        .await?;
        lane.runs_only_at(Site::Azure).await?;
        lane.each_once(&[Intent::Failover, Intent::Commit]).await?;
        world.emulator.connect_provider(SECOND, true).await?;
        lane.lead(&failover, Site::OnPremises).await?;
        let machine = world.emulator.machine("vm-1").await?;
        ensure!(machine.host == SECOND, "it runs on {}", machine.host);
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nobody_knows_is_named_with_those_that_are_known() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let failback = json!({"host": "hv-9", "createIfMissing": true});
        let lane = keep(&world, "vm-1", failback).await?;
        lane.travel(Site::Azure).await?;
        let words = "no recovery services provider of a Hyper-V site is hv-9; the vault has";
        refused_and_brought_home(&lane, words).await?;
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_vmm_a_vm_is_created_and_a_host_is_refused() {
    run(async {
        let world = world(quick(FabricKind::Vmm, 2)).await?;
        let create = json!({"createIfMissing": true});
        let lane = keep(&world, "vm-1", create).await?;
        lane.travel(Site::Azure).await?;
        let removed = Button::RemoveVm { vm: "vm-1".into() };
        world.emulator.press(&removed).await?;
        let came = lane.travel(Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
        needs_switches(&came)?;
        let sent = failback_of(&lane).await?;
        ensure!(
            sent["recoveryVmCreationOption"] == "CreateVmIfNotFound"
                && sent["providerIdForAlternateRecovery"].is_null(),
            "{sent}"
        );

        let host = json!({"host": "hv-1.example.test", "createIfMissing": true});
        let other = keep(&world, "vm-2", host).await?;
        other.travel(Site::Azure).await?;
        let words = "spec.failback.host cannot be used under VMM";
        refused_and_brought_home(&other, words).await?;
        finish(world).await
    })
    .await;
}

/// The failback is refused before anything is asked of the service; without the host the next one brings the VM home.
async fn refused_and_brought_home(lane: &Lane<'_>, words: &str) -> Result<()> {
    let failover = lane.begin(Site::OnPremises).await?;
    let seen = lane
        .until(&failover, words, |it| {
            let failure = it.status.as_ref().and_then(|it| it.failure.as_ref());
            failure.is_some_and(|failure| failure.message.contains(words))
                && it
                    .status
                    .as_ref()
                    .is_some_and(|status| is_true(&status.conditions, "Stalled"))
        })
        .await?;
    ensure!(
        status_of(&seen).contains("cancel this Failover"),
        "it does not say what to do\n{}",
        status_of(&seen)
    );
    lane.runs_only_at(Site::Azure).await?;
    // In this order: the next one is made at once, and keeps what is asked for then.
    let own = json!({"failback": {"host": null, "createIfMissing": null}});
    lane.world.cluster.patch_vm(lane.vm, own).await?;
    lane.answer(&failover, json!({"cancel": true})).await?;
    lane.until_ended(&failover, FailoverOutcome::Cancelled)
        .await?;
    let next = next_of(&failover)?;
    lane.until(&next, "it is made", |it| phase(it).is_some())
        .await?;
    lane.answer(&next, json!({"start": "Approved"})).await?;
    lane.lead(&next, Site::OnPremises).await?;
    lane.runs_only_at(Site::OnPremises).await?;
    lane.each_once(&THERE_AND_BACK).await
}

fn needs_switches(failover: &Failover) -> Result<()> {
    let tasks = failover.status.iter().flat_map(|status| &status.tasks);
    let words = tasks.filter_map(|task| task.message.as_deref());
    let words: Vec<&str> = words.filter(|it| it.contains("virtual switches")).collect();
    ensure!(
        words.len() == 1 && words[0].contains("of the same names: virtual-switch"),
        "{}",
        status_of(failover)
    );
    Ok(())
}

/// What was said of the place of the only failback of a VM.
async fn failback_of(lane: &Lane<'_>) -> Result<Value> {
    let item = lane.item();
    let requests = lane.world.emulator.requests().await?;
    let mut all = requests.into_iter().filter(|it| {
        it.method == "POST"
            && it.path.contains(&item)
            && it.body["properties"]["failoverDirection"] == "RecoveryToPrimary"
    });
    let sent = all.next().context("a failback was asked for")?;
    ensure!(all.next().is_none(), "two failbacks were asked for");
    Ok(sent.body["properties"]["providerSpecificDetails"].clone())
}
