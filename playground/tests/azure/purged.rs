//! A job that pauses, and that the service then does not know any more: nobody here can see its end, and what is to be looked at is said.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{Failover, FailoverOutcome, FailoverPhase, ProtectedVirtualMachine, Site};
use homeward_asr_emulator::{Button, FabricKind};
use homeward_playground::{asked::Intent, world::status_of};
use serde_json::json;

use crate::lane::{Lane, condition, finish, phase, quick, run, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_failback_that_waits_and_is_purged_is_left_to_people() {
    run(until_it_is_cancelled(FabricKind::HyperVSite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failback_that_waits_and_is_purged_is_left_to_people_under_vmm() {
    run(until_it_is_cancelled(FabricKind::Vmm)).await;
}

async fn until_it_is_cancelled(kind: FabricKind) -> Result<()> {
    let mut options = quick(kind, 1);
    // What the service does not know is waited for by its own clock.
    options.speed = 60;
    let mut world = world(options).await?;
    let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
    lane.travel(Site::Azure).await?;
    let failover = lane.begin(Site::OnPremises).await?;
    let waits = lane
        .until_phase(&failover, FailoverPhase::AwaitingCutover)
        .await?;
    let tasks = waits.status.iter().flat_map(|status| &status.tasks);
    let job = tasks
        .filter(|task| task.name == "Synchronize")
        .find_map(|task| task.job.clone())
        .with_context(|| format!("no job synchronised\n{}", status_of(&waits)))?;
    world.emulator.purge(&job).await?;
    left_to_people(&lane, &failover, &job).await?;
    lane.answer(&failover, json!({"cutover": "Approved"}))
        .await?;

    // A process that has never been told of the job finds the VM held by it all the same.
    world.cluster.kill_operator(0);
    world.cluster.start_operator(0)?;
    let lane = Lane {
        world: &world,
        vm: "vm-1",
    };
    lane.until(&failover, "it has looked, and waits", |it| {
        let status = it.status.as_ref();
        let found = status.and_then(|it| condition(&it.conditions, "Reconciling"));
        found.is_some_and(|(is, reason, _)| (is, reason) == ("True", "JobMissing"))
    })
    .await?;
    left_to_people(&lane, &failover, &job).await?;
    lane.runs_only_at(Site::Azure).await?;
    let before = [Intent::Failover, Intent::Commit, Intent::Failback];
    lane.each_once(&before).await?;

    // What a person, or the service's support, brings to its end is followed.
    world.emulator.press(&Button::Cancel { job }).await?;
    lane.until_ended(&failover, FailoverOutcome::Failed).await?;
    let next = world
        .cluster
        .until_vm("vm-1", "the next move is made", |vm| {
            current(vm).is_some_and(|name| name != failover)
        })
        .await?;
    let next = current(&next).context("it is")?.to_owned();
    lane.until_phase(&next, FailoverPhase::AwaitingStart)
        .await?;
    lane.answer(&next, json!({"start": "Approved"})).await?;
    lane.lead(&next, Site::OnPremises).await?;
    lane.runs_only_at(Site::OnPremises).await?;
    finish(world).await
}

fn current(vm: &ProtectedVirtualMachine) -> Option<&str> {
    let current = vm.status.as_ref()?.current_failover.as_ref()?;
    Some(&current.name)
}

/// The move is `Stalled`, names the job, and says what is not to be done meanwhile.
async fn left_to_people(lane: &Lane<'_>, failover: &str, job: &str) -> Result<()> {
    let stalled = |it: &Failover| {
        let conditions = it.status.as_ref().map(|status| &status.conditions[..]);
        let (is, reason, words) = conditions.and_then(|it| condition(it, "Stalled"))?;
        ((is, reason) == ("True", "JobMissing")).then(|| words.to_owned())
    };
    let told = lane
        .until(failover, "it is left to people", |it| stalled(it).is_some())
        .await?;
    let words = stalled(&told).context("it is")?;
    ensure!(
        words.contains(job) && words.contains("Do not start the VM on-premises"),
        "{words}"
    );
    ensure!(
        phase(&told) == Some(FailoverPhase::AwaitingCutover),
        "{}",
        status_of(&told)
    );
    Ok(())
}
