//! What people do in the portal meanwhile.

use anyhow::{Context as _, ensure};
use homeward::api::{FailoverPhase, Site};
use homeward_asr_emulator::{Button, FabricKind};
use homeward_playground::world::status_of;
use serde_json::json;

use crate::lane::{Lane, condition, finish, quick, run, world};
use homeward_playground::asked::Intent;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_pressed_there_moves_homeward_on() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        for to in [Site::Azure, Site::OnPremises] {
            let failover = lane.begin(to).await?;
            lane.until_phase(&failover, FailoverPhase::AwaitingCutover)
                .await?;
            lane.answer(&failover, json!({"cutover": "Approved"}))
                .await?;
            lane.until_phase(&failover, FailoverPhase::AwaitingCommit)
                .await?;
            let item = lane.item();
            world.emulator.press(&Button::Commit { item }).await?;
            // Nobody approves it in Homeward.
            lane.until_phase(&failover, FailoverPhase::Succeeded)
                .await?;
            lane.until_rests(to).await?;
            lane.runs_only_at(to).await?;
        }
        // Homeward asked for everything but the commits.
        lane.each_once(&[
            Intent::Failover,
            Intent::Failback,
            Intent::Resume,
            Intent::Reprotect,
        ])
        .await?;
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_that_is_pressed_there_moves_homeward_on() {
    run(async {
        let world = world(quick(FabricKind::Vmm, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;
        let failover = lane.begin(Site::OnPremises).await?;
        let waits = lane
            .until_phase(&failover, FailoverPhase::AwaitingCutover)
            .await?;
        let job = waits
            .status
            .iter()
            .flat_map(|status| &status.tasks)
            .find(|task| task.name == "Synchronize")
            .and_then(|task| task.job.clone())
            .with_context(|| format!("no job synchronised\n{}", status_of(&waits)))?;
        world.emulator.press(&Button::Resume { job }).await?;
        lane.until_phase(&failover, FailoverPhase::AwaitingCommit)
            .await?;
        lane.lead(&failover, Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
        lane.each_once(&[
            Intent::Failover,
            Intent::Commit,
            Intent::Failback,
            Intent::Commit,
            Intent::Reprotect,
        ])
        .await?;
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_is_pressed_there_is_followed() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 1)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let item = lane.item();
        world
            .emulator
            .press(&Button::PlannedFailover { item })
            .await?;
        // Where it runs is told, and the move is not undone by itself.
        world
            .cluster
            .until_vm("vm-1", "told to be in Azure", |vm| {
                let status = vm.status.as_ref();
                status.is_some_and(|status| status.active_site == Some(Site::Azure))
            })
            .await?;
        lane.runs_only_at(Site::Azure).await?;
        let asked = lane.asked().await?;
        ensure!(asked.is_empty(), "asked for by nobody: {asked:?}");
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_gone_from_the_vault_is_stalled() {
    run(async {
        let world = world(quick(FabricKind::HyperVSite, 2)).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        let other = Lane::start(&world, "vm-2", "DeltaBeforeFailover").await?;
        let item = lane.item();
        world.emulator.press(&Button::Disable { item }).await?;
        let told = world
            .cluster
            .until_vm("vm-1", "Stalled, for it is not protected", |vm| {
                let conditions = vm.status.as_ref().map(|status| &status.conditions[..]);
                let found = conditions.and_then(|it| condition(it, "Stalled"));
                // While its protection is taken away the job that does it is named.
                found.is_some_and(|(is, reason, _)| (is, reason) == ("True", "NotProtected"))
            })
            .await?;
        let status = told.status.context("it has a status")?;
        let (_, _, words) = condition(&status.conditions, "Stalled").context("it is")?;
        ensure!(words.contains("vm-1 is not in the vault"), "{words}");
        // The others of the vault go on.
        other.travel(Site::Azure).await?;
        finish(world).await
    })
    .await;
}
