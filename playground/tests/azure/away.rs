//! Somebody is away right before a request is sent, and comes back late: an operator that died, one that stood still, the service itself.

use anyhow::Result;
use homeward::api::{FailoverPhase, RecoveryVault, Site};
use homeward_asr_emulator::{FabricKind, Fault, Rule};
use homeward_playground::{
    asked::THERE_AND_BACK,
    world::{LIMIT, ServiceWorld, VAULT, eventually, is_true, until},
};
use serde_json::json;

use crate::lane::{LIMITS, Lane, finish, quick, run, world};

/// Leads a move to the moment when its commit is on record and not sent yet: the item is read anew right before. The answer comes after
/// `millis` of the service's time.
async fn about_to_commit(lane: &Lane<'_>, millis: u64) -> Result<String> {
    let failover = lane.begin(Site::Azure).await?;
    lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
        .await?;
    lane.answer(&failover, json!({"cutover": "Approved"}))
        .await?;
    lane.until_phase(&failover, FailoverPhase::AwaitingCommit)
        .await?;
    let path = format!(r"{}\?", lane.item());
    let emulator = &lane.world.emulator;
    let rule = Rule::next("GET", &path, Fault::Delay { millis });
    emulator.befall_any(&rule).await?;
    lane.answer(&failover, json!({"commit": "Approved"}))
        .await?;
    eventually(LIMIT, "the item is read", async || {
        Ok((emulator.faults_left().await? == 0).then_some(()))
    })
    .await?;
    Ok(failover)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_operator_had_not_sent_is_sent() {
    run(async {
        let mut options = quick(FabricKind::HyperVSite, 1);
        options.limits = Some(LIMITS);
        let mut world = world(options).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let failover = about_to_commit(&lane, 3_600_000).await?;
        world.cluster.kill_operator(0);
        world.cluster.start_operator(0)?;
        there_and_back(&world, &failover).await?;
        finish(world).await
    })
    .await;
}

/// S18: it is sent within its time or not at all, whoever has acted since.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_stood_still_sends_nothing_late() {
    run(async {
        let mut options = quick(FabricKind::HyperVSite, 1);
        options.limits = Some(LIMITS);
        options.operators = 2;
        let mut world = world(options).await?;
        // Which of them acts is known once there is one only.
        world.cluster.kill_operator(1);
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let speed = u64::from(world.emulator.speed());
        let failover = about_to_commit(&lane, 1_000 * speed).await?;
        world.cluster.freeze_operator(0)?;
        world.cluster.start_operator(1)?;
        let lane = Lane {
            world: &world,
            vm: "vm-1",
        };
        lane.until_phase(&failover, FailoverPhase::Succeeded)
            .await?;
        let log = world.cluster.operator_log(0);
        let size = || std::fs::metadata(&log).map(|log| log.len());
        let before = size()?;
        world.cluster.thaw_operator(0)?;
        eventually(LIMIT, "it goes on", async || {
            Ok((size()? > before).then_some(()))
        })
        .await?;
        there_and_back(&world, &failover).await?;
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_waited_for() {
    run(async {
        let mut options = quick(FabricKind::HyperVSite, 1);
        // Faster than the world's, its clock would be behind itself when it comes back.
        options.speed = 1;
        // A request that was on its way is waited for.
        options.limits = Some(LIMITS);
        let mut world = world(options).await?;
        Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        for to in [Site::Azure, Site::OnPremises] {
            let lane = Lane {
                world: &world,
                vm: "vm-1",
            };
            let failover = lane.begin(to).await?;
            lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
                .await?;
            lane.answer(&failover, json!({"cutover": "Approved"}))
                .await?;
            lane.until_phase(&failover, FailoverPhase::CuttingOver)
                .await?;
            world.emulator.kill();
            let away = |vault: &RecoveryVault| {
                let conditions = vault.status.iter().flat_map(|status| &status.conditions);
                !is_true(conditions, "Ready")
            };
            until(&world.cluster.vaults(), VAULT, LIMIT, "not Ready", away).await?;
            world.emulator.start_again().await?;
            let lane = Lane {
                world: &world,
                vm: "vm-1",
            };
            lane.lead(&failover, to).await?;
            lane.runs_only_at(to).await?;
        }
        finish(world).await
    })
    .await;
}

/// The move ends well, the VM comes home, and all was done once.
async fn there_and_back(world: &ServiceWorld, failover: &str) -> Result<()> {
    let lane = Lane { world, vm: "vm-1" };
    lane.lead(failover, Site::Azure).await?;
    lane.runs_only_at(Site::Azure).await?;
    lane.travel(Site::OnPremises).await?;
    lane.runs_only_at(Site::OnPremises).await?;
    lane.each_once(&THERE_AND_BACK).await
}
