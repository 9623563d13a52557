//! There and back, with a person at both gates.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{Failover, FailoverPhase, Site, TaskState};
use homeward_asr_emulator::FabricKind;
use homeward_playground::world::{ServiceWorld, status_of};

use crate::lane::{Lane, condition, finish, quick, run, world};
use homeward_playground::asked::{Intent, THERE_AND_BACK};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hyper_v_site() {
    run(there_and_back(FabricKind::HyperVSite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_vmm_server() {
    run(there_and_back(FabricKind::Vmm)).await;
}

async fn there_and_back(kind: FabricKind) -> Result<()> {
    let world = world(quick(kind, 2)).await?;
    tokio::try_join!(
        with(&world, "vm-1", "DeltaBeforeFailover"),
        with(&world, "vm-2", "FullDuringFailover")
    )?;
    finish(world).await
}

async fn with(world: &ServiceWorld, vm: &str, data_sync: &str) -> Result<()> {
    let delta = data_sync == "DeltaBeforeFailover";
    let lane = Lane::start(world, vm, data_sync).await?;
    let failover = lane.begin(Site::Azure).await?;
    let (ended, phases) = lane.lead(&failover, Site::Azure).await?;
    told_in_order(
        &phases,
        &[
            FailoverPhase::AwaitingCutover,
            FailoverPhase::CuttingOver,
            FailoverPhase::AwaitingCommit,
            FailoverPhase::Committing,
            FailoverPhase::Succeeded,
        ],
        &ended,
    )?;
    steps_are_told(
        &ended,
        &["Shut down the virtual machine", "Start failover", "Commit"],
    )?;
    lane.runs_only_at(Site::Azure).await?;

    // The service protects nothing there, and that is no fault.
    let vm = lane.until_rests(Site::Azure).await?;
    let status = vm.status.context("it has a status")?;
    let protected = condition(&status.conditions, "Protected");
    let (is, reason, _) = protected.context("it says whether it is protected")?;
    ensure!(
        (is, reason) == ("False", "ServiceDoesNotProtectFromAzure"),
        "{protected:?}"
    );

    let failover = lane.begin(Site::OnPremises).await?;
    let (ended, phases) = lane.lead(&failover, Site::OnPremises).await?;
    let mut expected = vec![
        FailoverPhase::Synchronizing,
        FailoverPhase::AwaitingCutover,
        FailoverPhase::CuttingOver,
        FailoverPhase::AwaitingCommit,
        FailoverPhase::Committing,
        FailoverPhase::ReverseReplicating,
        FailoverPhase::Succeeded,
    ];
    if !delta {
        // Nothing is copied before the VM is down.
        expected.remove(0);
    }
    told_in_order(&phases, &expected, &ended)?;
    steps_are_told(
        &ended,
        &[
            "Failback / Shut down the virtual machine in Azure",
            "Failback / Start the on-premises virtual machine",
            "Finalize on the primary site",
            "Start initial replication",
        ],
    )?;
    let chosen = ended
        .status
        .as_ref()
        .and_then(|status| status.data_sync.as_ref())
        .map(|choice| choice.chosen.as_str());
    ensure!(chosen == Some(data_sync), "{chosen:?}");
    lane.runs_only_at(Site::OnPremises).await?;

    let mut intents = THERE_AND_BACK.to_vec();
    if !delta {
        intents.retain(|it| *it != Intent::Resume);
    }
    lane.each_once(&intents).await?;
    let asked = lane.asked().await?;
    ensure!(asked.len() == intents.len(), "asked for twice: {asked:#?}");
    Ok(())
}

/// The move went through these phases in this order and no others. The first ones may be over before the watch begins.
fn told_in_order(
    seen: &[FailoverPhase],
    expected: &[FailoverPhase],
    failover: &Failover,
) -> Result<()> {
    let first = |phase: &&FailoverPhase| {
        !matches!(
            phase,
            FailoverPhase::AwaitingStart | FailoverPhase::Preparing
        )
    };
    let seen: Vec<FailoverPhase> = seen.iter().filter(first).copied().collect();
    ensure!(
        seen == expected,
        "{seen:?} is not {expected:?}\n{}",
        status_of(failover)
    );
    Ok(())
}

/// The tasks were done, each by a job of the service whose steps stand there.
fn steps_are_told(failover: &Failover, expected: &[&str]) -> Result<()> {
    let status = failover.status.as_ref().context("it has a status")?;
    let steps: Vec<&str> = status
        .tasks
        .iter()
        .flat_map(|task| &task.steps)
        .map(|step| step.name.as_str())
        .collect();
    for name in expected {
        ensure!(
            steps.iter().any(|step| step.ends_with(name)),
            "no step {name}\n{}",
            status_of(failover)
        );
    }
    for task in status.tasks.iter().filter(|task| !task.steps.is_empty()) {
        ensure!(
            task.state == TaskState::Succeeded && task.job.is_some(),
            "{}\n{}",
            task.name,
            status_of(failover)
        );
    }
    Ok(())
}
