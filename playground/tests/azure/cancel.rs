//! A failback that is cancelled: while it synchronises, and while it waits. The disks on the premises are half written then, which is said,
//! and only another failback to completion may start the VM there.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverOutcome, FailoverPhase, Site, TaskState};
use homeward_asr_emulator::FabricKind;
use homeward_playground::world::{ServiceWorld, status_of};
use serde_json::json;

use crate::lane::{Lane, condition, finish, quick, run, world};
use homeward_playground::asked::Intent;

#[tokio::test(flavor = "multi_thread")]
async fn while_it_synchronises() {
    run(async {
        let mut options = quick(FabricKind::HyperVSite, 1);
        // Longer than any test waits.
        let sync = ("MonitorDataSync".into(), 24 * 3_600_000);
        let usual = options.settings.clone();
        options.settings.timings.tasks.extend([sync]);
        let world = world(options).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until(&failover, "data is synchronised", |it| {
            let tasks = it.status.iter().flat_map(|status| &status.tasks);
            let mut steps = tasks.flat_map(|task| &task.steps);
            steps.any(|step| step.name == "Data synchronization" && step.state == "InProgress")
        })
        .await?;
        world.emulator.behave(&usual).await?;
        cancelled_and_brought_back(&lane, &failover).await?;
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_waits() {
    run(async {
        let world = world(quick(FabricKind::Vmm, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
            .await?;
        cancelled_and_brought_back(&lane, &failover).await?;
        finish(world).await
    })
    .await;
}

async fn cancelled_and_brought_back(lane: &Lane<'_>, failover: &str) -> Result<()> {
    lane.answer(failover, json!({"cancel": true})).await?;
    let ended = lane
        .until_ended(failover, FailoverOutcome::Cancelled)
        .await?;
    let cancel = ended
        .status
        .iter()
        .flat_map(|status| &status.tasks)
        .find(|task| task.name == "CancelSync")
        .with_context(|| format!("no task tells of the cancel\n{}", status_of(&ended)))?;
    ensure!(
        cancel.state == TaskState::Succeeded && cancel.job.is_some(),
        "{cancel:?}"
    );
    lane.runs_only_at(Site::Azure).await?;
    target_is_inconsistent(lane.world, lane.vm).await?;

    // The placement stayed, so that another move is made, and waits for a person.
    let next = next_of(failover)?;
    let held = lane
        .until(&next, "it waits for start", |it| {
            it.status.as_ref().is_some_and(|status| {
                status.phase == Some(FailoverPhase::AwaitingStart) && status.waiting_for.is_some()
            })
        })
        .await?;
    let words = held.status.and_then(|status| status.waiting_for);
    ensure!(
        words.as_ref().is_some_and(|words| words.contains("start")),
        "{words:?}"
    );
    lane.answer(&next, json!({"start": "Approved"})).await?;
    lane.lead(&next, Site::OnPremises).await?;
    lane.runs_only_at(Site::OnPremises).await?;
    lane.world
        .cluster
        .until_vm(lane.vm, "consistent again", |vm| {
            let conditions = vm.status.as_ref().map(|status| &status.conditions[..]);
            let found = conditions.and_then(|it| condition(it, "TargetConsistent"));
            found.is_some_and(|(is, _, _)| is == "True")
        })
        .await?;
    lane.each_once(&[
        Intent::Failover,
        Intent::Commit,
        Intent::Failback,
        Intent::Cancel,
        Intent::Failback,
        Intent::Resume,
        Intent::Commit,
        Intent::Reprotect,
    ])
    .await
}

async fn target_is_inconsistent(world: &ServiceWorld, vm: &str) -> Result<()> {
    let told = world
        .cluster
        .until_vm(vm, "its target is inconsistent", |vm| {
            let conditions = vm.status.as_ref().map(|status| &status.conditions[..]);
            let found = conditions.and_then(|it| condition(it, "TargetConsistent"));
            found.is_some_and(|(is, _, _)| is == "False")
        })
        .await?;
    let status = told.status.context("it has a status")?;
    let words = condition(&status.conditions, "TargetConsistent").map(|(_, _, words)| words);
    ensure!(
        words.is_some_and(|words| words.contains("half written")),
        "{words:?}"
    );
    Ok(())
}

/// The name of the move that is made after this one.
pub fn next_of(failover: &str) -> Result<String> {
    let (vm, number) = failover.rsplit_once('-').context("a name has a number")?;
    Ok(format!("{vm}-{}", number.parse::<u64>()? + 1))
}
