//! Jobs of a kind that Homeward never asks for: while one works on the VM it is waited for, in words, and nobody is asked to mend anything.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{ProtectedVirtualMachine, Site};
use homeward_asr_emulator::{Button, FabricKind};
use homeward_playground::{asked::THERE_AND_BACK, world::is_true};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};

use crate::lane::{Lane, condition, finish, quick, run, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_resynchronisation_is_waited_for() {
    run(async {
        let mut options = quick(FabricKind::HyperVSite, 1);
        // Long enough for a move to be asked for meanwhile: ten seconds of the world's.
        let repair = ("RepairVmReplicationTask".into(), 100_000);
        options.settings.timings.tasks.extend([repair]);
        let world = world(options).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let item = lane.item();
        world.emulator.press(&Button::Repair { item }).await?;
        let told = world
            .cluster
            .until_vm("vm-1", "it waits for the job", |vm| waits(vm).is_some())
            .await?;
        let words = waits(&told).context("it waits")?;
        ensure!(words.contains("Resynchronize"), "{words}");
        let status = told.status.as_ref().context("it has a status")?;
        ensure!(
            !is_true(&status.conditions, "Stalled") && is_true(&status.conditions, "Protected"),
            "{:#?}",
            status.conditions
        );

        // A move that is asked for meanwhile waits too, and goes on when the job has ended.
        let failover = lane.begin(Site::Azure).await?;
        let held = lane
            .until(&failover, "it waits for the job", |it| {
                let words = it.status.as_ref().and_then(|it| it.waiting_for.as_deref());
                words.is_some_and(|words| words.contains("Resynchronize"))
            })
            .await?;
        let status = held.status.as_ref().context("it has a status")?;
        ensure!(
            is_true(&status.conditions, "Reconciling") && !is_true(&status.conditions, "Stalled"),
            "{:#?}",
            status.conditions
        );
        let asked = lane.asked().await?;
        ensure!(asked.is_empty(), "asked for by nobody: {asked:?}");
        lane.lead(&failover, Site::Azure).await?;
        lane.travel(Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
        lane.each_once(&THERE_AND_BACK).await?;
        // Neither that job nor those with which the service ends an initial replication and a data sync were anything to mend.
        nobody_was_asked_to_mend(&lane).await?;
        finish(world).await
    })
    .await;
}

fn waits(vm: &ProtectedVirtualMachine) -> Option<&str> {
    let conditions = vm.status.as_ref().map(|status| &status.conditions[..])?;
    let (is, reason, words) = condition(conditions, "Reconciling")?;
    ((is, reason) == ("True", "OperationUnderWay")).then_some(words)
}

/// Each time that something becomes Stalled is an event.
async fn nobody_was_asked_to_mend(lane: &Lane<'_>) -> Result<()> {
    let api: Api<Event> = Api::all(lane.world.cluster.client().clone());
    let events = api.list(&ListParams::default()).await?.items;
    let stalled: Vec<_> = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("VirtualMachineNotReady"))
        .map(|event| event.note.as_deref())
        .collect();
    ensure!(stalled.is_empty(), "{stalled:#?}");
    ensure!(!events.is_empty(), "there are no events at all");
    Ok(())
}
