//! Recovery plans of the service that people start in the portal: what they move is followed, never led on or broken off for one VM of several,
//! and Homeward goes on with moves of its own afterwards.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{Failover, FailoverOutcome, FailoverPhase, Site};
use homeward_asr_emulator::{Button, DataSync, FabricKind};
use homeward_playground::{
    asked::Intent,
    world::{ServiceOptions, ServiceWorld},
};
use serde_json::json;

use crate::lane::{Lane, condition, finish, phase, quick, run, world};

const PLAN: &str = "plan-1";

/// A vault whose plan has these VMs; its jobs take long enough to be seen on their way.
fn planned(vms: &[&str]) -> ServiceOptions {
    let mut options = quick(FabricKind::HyperVSite, vms.len());
    options.seed = options.seed.plan(PLAN, &[vms]);
    let check = ("RpSrsPrerequisitesCheck".into(), 20_000);
    options.settings.timings.tasks.extend([check]);
    options
}

/// Has it kept, with every gate waiting for a person.
async fn keep<'a>(world: &'a ServiceWorld, vm: &'a str) -> Result<Lane<'a>> {
    world
        .keep(vm, |spec| {
            spec["cutover"] = json!({"approval": "Manual"});
            spec["commit"] = json!({"approval": "Manual"});
            spec["reverseReplication"] = json!("Manual");
            spec["failback"] = json!({"dataSync": "DeltaBeforeFailover"});
        })
        .await?;
    Ok(Lane { world, vm })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_there_and_back_is_followed() {
    run(there_and_back(planned(&["vm-1", "vm-2"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_items_name_its_job_is_followed() {
    let mut options = planned(&["vm-1", "vm-2"]);
    options.settings.assumptions.item_names_plan_job = true;
    options.settings.assumptions.job_listed_before_start = true;
    run(there_and_back(options)).await;
}

async fn there_and_back(options: ServiceOptions) -> Result<()> {
    let world = world(options).await?;
    let lanes = [keep(&world, "vm-1").await?, keep(&world, "vm-2").await?];
    let press = async |button: Button| world.emulator.press(&button).await;
    let plan = || PLAN.to_owned();

    press(Button::PlanFailover { plan: plan() }).await?;
    for lane in &lanes {
        let failover = format!("{}-1", lane.vm);
        until_told_of(lane, &failover, PLAN).await?;
    }
    for lane in &lanes {
        lane.until_phase(&format!("{}-1", lane.vm), FailoverPhase::AwaitingCommit)
            .await?;
        lane.runs_only_at(Site::Azure).await?;
        // Git follows.
        world.cluster.place(lane.vm, Site::Azure).await?;
    }
    press(Button::PlanCommit { plan: plan() }).await?;
    for lane in &lanes {
        lane.until_ended(&format!("{}-1", lane.vm), FailoverOutcome::Succeeded)
            .await?;
        lane.until_rests(Site::Azure).await?;
    }

    let job = press(Button::PlanFailback {
        plan: plan(),
        data_sync: DataSync::ForDownTime,
    })
    .await?
    .context("it has a job")?;
    for lane in &lanes {
        let failover = format!("{}-2", lane.vm);
        until_told_of(lane, &failover, "Complete failover").await?;
        lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
            .await?;
    }
    // Who approves the cutover of one VM has not approved that of the other.
    lanes[0]
        .answer("vm-1-2", json!({"cutover": "Approved"}))
        .await?;
    let told = until_heard(&lanes[0], "vm-1-2").await?;
    let words = told.status.and_then(|status| status.waiting_for);
    ensure!(
        words.is_some_and(|words| words.contains(PLAN)),
        "it goes on"
    );
    lanes[0].runs_only_at(Site::Azure).await?;
    press(Button::Resume { job }).await?;
    for lane in &lanes {
        lane.until_phase(&format!("{}-2", lane.vm), FailoverPhase::AwaitingCommit)
            .await?;
        lane.runs_only_at(Site::OnPremises).await?;
        world.cluster.place(lane.vm, Site::OnPremises).await?;
    }
    press(Button::PlanCommit { plan: plan() }).await?;
    for lane in &lanes {
        let failover = format!("{}-2", lane.vm);
        lane.until_phase(&failover, FailoverPhase::AwaitingReverseReplication)
            .await?;
    }
    press(Button::PlanReprotect { plan: plan() }).await?;
    for lane in &lanes {
        lane.until_ended(&format!("{}-2", lane.vm), FailoverOutcome::Succeeded)
            .await?;
        lane.until_rests(Site::OnPremises).await?;
        let asked = lane.asked().await?;
        ensure!(asked.is_empty(), "asked for by nobody: {asked:?}");
    }
    // Homeward's own move of one of them leaves the other where it is.
    lanes[0].travel(Site::Azure).await?;
    lanes[0].runs_only_at(Site::Azure).await?;
    lanes[1].runs_only_at(Site::OnPremises).await?;
    lanes[0]
        .each_once(&[Intent::Failover, Intent::Commit])
        .await?;
    finish(world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failback_of_a_plan_is_not_cancelled_for_one_of_its_vms() {
    run(async {
        let world = world(planned(&["vm-1", "vm-2"])).await?;
        let lanes = [keep(&world, "vm-1").await?, keep(&world, "vm-2").await?];
        for lane in &lanes {
            lane.travel(Site::Azure).await?;
        }
        let plan = PLAN.to_owned();
        let data_sync = DataSync::ForDownTime;
        let job = world
            .emulator
            .press(&Button::PlanFailback { plan, data_sync })
            .await?
            .context("it has a job")?;
        let lane = &lanes[0];
        let failover = "vm-1-2";
        until_told_of(lane, failover, "Complete failover").await?;
        lane.answer(failover, json!({"cancel": true})).await?;
        until_told_of(lane, failover, "a cancel of recovery plan plan-1").await?;
        let before = [Intent::Failover, Intent::Commit];
        lane.each_once(&before).await?;
        no_job_was_steered(&world).await?;

        world.emulator.press(&Button::Cancel { job }).await?;
        lane.until_ended(failover, FailoverOutcome::Cancelled)
            .await?;
        lanes[1]
            .until_ended("vm-2-2", FailoverOutcome::Failed)
            .await?;
        for lane in &lanes {
            lane.runs_only_at(Site::Azure).await?;
            let vm = lane.until_rests(Site::Azure).await?;
            let status = vm.status.context("it has a status")?;
            let (is, _, words) = condition(&status.conditions, "TargetConsistent")
                .context("it says whether it could be started")?;
            ensure!(is == "False" && words.contains("half written"), "{words}");
        }
        // Both come home by moves of their own.
        for lane in &lanes {
            let next = lane.begin(Site::OnPremises).await?;
            lane.until(&next, "it is made", |it| phase(it).is_some())
                .await?;
            lane.answer(
                &next,
                json!({"start": "Approved", "reverseReplicate": "Approved"}),
            )
            .await?;
            lane.lead(&next, Site::OnPremises).await?;
            lane.runs_only_at(Site::OnPremises).await?;
        }
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_with_one_vm_is_led_on_like_any_move_of_that_vm() {
    run(async {
        let world = world(planned(&["vm-1"])).await?;
        let lane = keep(&world, "vm-1").await?;
        lane.travel(Site::Azure).await?;
        let plan = PLAN.to_owned();
        let data_sync = DataSync::ForDownTime;
        let job = world
            .emulator
            .press(&Button::PlanFailback { plan, data_sync })
            .await?
            .context("it has a job")?;
        let failover = "vm-1-2";
        lane.until_phase(failover, FailoverPhase::AwaitingCutover)
            .await?;
        world.cluster.place("vm-1", Site::OnPremises).await?;
        lane.answer(failover, json!({"reverseReplicate": "Approved"}))
            .await?;
        lane.lead(failover, Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
        // The plan's job goes by its own name, not by that of the VM's part of it or of the operation.
        let steered = steered(&world).await?;
        ensure!(
            steered.len() == 1 && steered[0].contains(&format!("/{job}/resume")),
            "{steered:?}"
        );
        finish(world).await
    })
    .await;
}

/// What was asked of jobs.
async fn steered(world: &ServiceWorld) -> Result<Vec<String>> {
    let requests = world.emulator.requests().await?;
    let of_jobs = requests
        .into_iter()
        .filter(|it| it.method == "POST" && it.path.contains("/replicationJobs/"));
    Ok(of_jobs.map(|it| it.path).collect())
}

async fn no_job_was_steered(world: &ServiceWorld) -> Result<()> {
    let steered = steered(world).await?;
    ensure!(steered.is_empty(), "{steered:?}");
    Ok(())
}

async fn until_told_of(lane: &Lane<'_>, failover: &str, words: &str) -> Result<Failover> {
    let what = format!("it tells of {words}");
    lane.until(failover, &what, |it| {
        let told = it.status.as_ref().and_then(|it| it.waiting_for.as_deref());
        told.is_some_and(|told| told.contains(words))
    })
    .await
}

/// Waits until what was answered last has been taken up.
async fn until_heard(lane: &Lane<'_>, failover: &str) -> Result<Failover> {
    let generation = lane
        .world
        .cluster
        .failovers()
        .get(failover)
        .await?
        .metadata
        .generation;
    lane.until(failover, "the answer is taken up", |it| {
        let seen = it.status.as_ref().and_then(|it| it.observed_generation);
        seen >= generation
    })
    .await
}
