//! The way home by the full download: the guest is stopped first, and whole disks are sent with no look at what the target holds.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::{
    agent::api::{Power, PowerSwitch},
    api::{DataSync, Failover, FailoverOutcome, FailoverPhase, Site},
};
use homeward_playground::world::VmOptions;
use serde_json::json;

use crate::lane::{FAR_APART, Lane, Victim, pending, phase, processes, run};

fn chosen(failover: &Failover) -> Option<DataSync> {
    Some(failover.status.as_ref()?.data_sync.as_ref()?.chosen)
}

/// What was sent after the stop, in bytes.
fn sent_while_down(failover: &Failover) -> Result<u64> {
    let status = failover.status.as_ref().context("no status")?;
    let transfer = status.transfer.as_ref().context("no transfer")?;
    Ok(u64::try_from(transfer.final_bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_download_comes_home_whole_whoever_dies_and_however_often_it_is_taken_back() {
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        options.bandwidth_limit = Some(4 << 20);
        let full = |spec: &mut serde_json::Value| {
            spec["failback"] = json!({"dataSync": "FullDuringFailover"});
        };
        let mut vm = VmOptions::small("full");
        vm.disks = vec![4 << 20, 4 << 20];
        // All of it differs from zeros, so that all of it travels.
        vm.guest.dirty_kib_per_second = 4096;
        vm.guest.dirty_area_mib = Some(2);
        let mut lane = Lane::start_with(options, &vm, full).await?;

        // Only the way home knows it.
        let there = lane.travel(Site::Azure).await?;
        ensure!(chosen(&there) == Some(DataSync::DeltaBeforeFailover));
        lane.until_writing(Site::Azure).await?;
        let delta = sent_while_down(&there)?;

        // Taken back in the middle of the copy: the guest runs on where it was, with all that it had.
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until(&failover, "FinalSync", |it| pending(it) == Some("FinalSync"))
            .await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        lane.world.cluster.place(&lane.vm.name, Site::Azure).await?;
        let back = lane.until_ended(&failover, FailoverOutcome::Cancelled).await?;
        ensure!(chosen(&back) == Some(DataSync::FullDuringFailover));
        lane.until_settled(Site::Azure).await?;
        lane.until_writing(Site::Azure).await?;
        lane.check(0)?;

        // Each of the three dies in the middle of it.
        for victim in [Victim::SourceAgent, Victim::TargetAgent, Victim::Operator] {
            let failover = lane.begin(Site::OnPremises).await?;
            let stopped = lane
                .until(&failover, "FinalSync", |it| pending(it) == Some("FinalSync"))
                .await?;
            ensure!(
                phase(&stopped) == Some(FailoverPhase::Synchronizing),
                "with a full download the copy comes after the stop"
            );
            tokio::time::sleep(Duration::from_millis(400)).await;
            lane.kill(victim, Site::Azure);
            tokio::time::sleep(Duration::from_millis(200)).await;
            lane.restart(victim, Site::Azure).await?;
            let ended = lane.until_ended(&failover, FailoverOutcome::Succeeded).await?;
            ensure!(chosen(&ended) == Some(DataSync::FullDuringFailover));
            let sent = sent_while_down(&ended)?;
            println!("full: {victim:?} died; {sent} bytes were sent while it was down, {delta} by the delta before");
            lane.until_settled(Site::OnPremises).await?;
            lane.until_writing(Site::OnPremises).await?;
            lane.check(0)?;
            lane.travel(Site::Azure).await?;
            lane.until_writing(Site::Azure).await?;
        }

        // Undisturbed: what the target holds is not looked at, and all that is not zeros travels.
        let ended = lane.travel(Site::OnPremises).await?;
        let sent = sent_while_down(&ended)?;
        ensure!(sent > 4 << 20, "{sent} bytes were sent");
        let log = lane.world.host(Site::Azure).log();
        ensure!(
            log.lines().any(|line| line.contains("the stopped content is delivered")
                && line.contains("a full copy takes everything")),
            "the agent that sent says nothing of a full copy"
        );
        lane.until_writing(Site::OnPremises).await?;
        lane.finish(0).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_off_is_moved_and_left_off() {
    run(async {
        let lane = Lane::start(processes(), &VmOptions::small("off")).await?;
        lane.until_writing(Site::OnPremises).await?;
        lane.world.power(&lane.vm, PowerSwitch::Off).await?;
        for to in [Site::Azure, Site::OnPremises] {
            lane.travel(to).await?;
            let vm = lane
                .world
                .host(to)
                .vm(lane.vm.uuid)
                .await?
                .context("gone")?;
            ensure!(vm.power == Power::Off, "{:?}", vm.power);
            let said = lane.world.cluster.vms().get(&lane.vm.name).await?;
            let text = serde_json::to_string(&said.status)?;
            ensure!(text.contains("is switched off in"), "{text}");
        }
        lane.world.power(&lane.vm, PowerSwitch::On).await?;
        lane.finish(0).await
    })
    .await;
}
