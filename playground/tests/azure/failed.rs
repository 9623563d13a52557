//! Jobs that fail at the service: its words reach the Failover, and the VM stays where it may run.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{
    Failover, FailoverOutcome, FailoverPhase, ProtectedVirtualMachine, SEEN_RUNNING_ANNOTATION,
    Site,
};
use homeward_asr_emulator::{FabricKind, JobError, JobFailure, Scenario};
use homeward_playground::asked::Intent;
use homeward_playground::world::{ServiceWorld, status_of};
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::lane::{Lane, condition, finish, quick, run, world};

const CODE: &str = "28031";
const MESSAGE: &str = "The virtual machine could not be created in Azure";
const CAUSES: &str = "The quota of the subscription is used up";
const REMEDY: &str = "Ask for more cores in the region";

fn failure(scenario: Scenario, task: &str) -> JobFailure {
    JobFailure {
        scenario,
        item: None,
        task: task.into(),
        error: JobError::new(CODE, MESSAGE, CAUSES, REMEDY),
    }
}

/// What the service said stands in the Failover.
fn tells(failover: &Failover) -> Result<()> {
    let status = status_of(failover);
    // YAML may break lines.
    let flat = status.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [CODE, MESSAGE, CAUSES, REMEDY] {
        ensure!(flat.contains(words), "it does not say {words}\n{status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_fails_before_the_stop_leaves_the_vm() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let failed = fails_at(&world, &lane, "VmPfoPrerequisitesCheck").await?;
        ensure!(!status_of(&failed).contains("had been told to stop"));
        lane.runs_only_at(Site::OnPremises).await?;
        finish(world).await
    })
    .await;
}

/// The service has shut the VM down by then. What becomes of it is for people to say: who starts it on its host must not find it shut down again.
#[tokio::test(flavor = "multi_thread")]
async fn s20_a_failover_that_fails_after_the_stop_is_not_asked_for_again_unasked() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let failed = fails_at(&world, &lane, "VmFailover").await?;
        let flat = status_of(&failed)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        ensure!(flat.contains("had been told to stop"), "{flat}");
        let next = lane.after(&failed.name_any()).await?;
        lane.until_phase(&next, FailoverPhase::AwaitingStart)
            .await?;
        lane.each_once(&[Intent::Failover]).await?;
        // It is told of until a person has looked, for nothing else tells that it is down: while the next move is held, and at rest.
        let ready = |vm: &ProtectedVirtualMachine| {
            let (_, reason, words) = condition(&vm.status.as_ref()?.conditions, "Ready")?;
            (reason == "GuestNotRunning").then(|| words.to_owned())
        };
        let told = world
            .cluster
            .until_vm(lane.vm, "told to be down", |vm| ready(vm).is_some());
        let words = ready(&told.await?).context("it is told")?;
        ensure!(words.contains("spec.start: Approved"), "{words}");
        world.cluster.place(lane.vm, Site::OnPremises).await?;
        let told = world
            .cluster
            .until_vm(lane.vm, "told to be down at rest", |vm| {
                ready(vm).is_some_and(|words| !words.contains("spec.start: Approved"))
            });
        let words = ready(&told.await?).context("it is told")?;
        let annotation = format!("{SEEN_RUNNING_ANNOTATION}: ");
        let (_, job) = words.split_once(&annotation).context("it says which")?;
        let job = job.split(' ').next().unwrap_or_default();
        let seen = json!({"metadata": {"annotations": {SEEN_RUNNING_ANNOTATION: job}}});
        let vms = world.cluster.vms();
        vms.patch(lane.vm, &PatchParams::default(), &Patch::Merge(seen))
            .await?;
        lane.until_rests(Site::OnPremises).await?;
        lane.travel(Site::Azure).await?;
        lane.runs_only_at(Site::Azure).await?;
        lane.each_once(&[Intent::Failover, Intent::Failover, Intent::Commit])
            .await?;
        finish(world).await
    })
    .await;
}

/// A move to Azure whose one operation fails at this task, and how it ended.
async fn fails_at(world: &ServiceWorld, lane: &Lane<'_>, task: &str) -> Result<Failover> {
    world
        .emulator
        .fail_job(&failure(Scenario::PlannedFailover, task))
        .await?;
    let failover = lane.begin(Site::Azure).await?;
    lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
        .await?;
    lane.answer(&failover, json!({"cutover": "Approved"}))
        .await?;
    let ended = lane.until_ended(&failover, FailoverOutcome::Failed).await?;
    tells(&ended)?;
    Ok(ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failback_that_breaks_off_leaves_the_vm_in_azure() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;
        world
            .emulator
            .fail_job(&failure(Scenario::Failback, "MonitorDataSync"))
            .await?;
        let failover = lane.begin(Site::OnPremises).await?;
        let seen = lane
            .until(&failover, "it has failed once", |it| {
                it.status.as_ref().is_some_and(|status| {
                    status.failure.is_some() || status.turned_back_because.is_some()
                })
            })
            .await?;
        tells(&seen)?;
        lane.runs_only_at(Site::Azure).await?;
        // The failure was one: the sync that is asked for again comes to its end.
        lane.lead(&failover, Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
        let asked = lane.asked().await?;
        let failbacks = asked.iter().filter(|it| it.intent == Intent::Failback);
        ensure!(failbacks.count() == 2, "{asked:#?}");
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_is_asked_for_again() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        world
            .emulator
            .fail_job(&failure(Scenario::CommitFailover, ""))
            .await?;
        let failover = lane.begin(Site::Azure).await?;
        let (ended, _) = lane.lead(&failover, Site::Azure).await?;
        let status = ended.status.as_ref().context("it has a status")?;
        ensure!(status.failure.is_none(), "{}", status_of(&ended));
        lane.runs_only_at(Site::Azure).await?;
        lane.each_once(&[Intent::Failover, Intent::Commit, Intent::Commit])
            .await?;
        finish(world).await
    })
    .await;
}
