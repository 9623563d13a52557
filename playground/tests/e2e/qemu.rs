//! A sample on QEMU: bitmaps, power and boot are real.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverOutcome, Site};
use homeward_playground::{
    accelerator,
    world::{HypervisorKind, VmOptions, WorldOptions},
};
use serde_json::json;

use crate::{
    cancel::{old_state_boots, until_bytes},
    lane::{FAR_APART, Lane, STEPS, Victim, pending, run},
    sampler::Sampler,
};

pub fn vm(name: &str) -> VmOptions {
    let mut vm = VmOptions::small(name);
    vm.disks = vec![64 << 20, 32 << 20];
    vm.guest.records_per_second = 20;
    vm.guest.dirty_kib_per_second = 512;
    vm.guest.dirty_area_mib = Some(8);
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_travels_whoever_is_killed_and_stays_when_cancelled() {
    let mut sampler = Sampler::new("qemu");
    run(async {
        let kvm = accelerator::kvm_works().await?;
        let mut options = WorldOptions::new(HypervisorKind::Qemu { kvm });
        options.replication_interval = FAR_APART;
        options.bandwidth_limit = Some(2 << 20);
        let mut lane = Lane::start(options, &vm("real")).await?;
        lane.until_writing(Site::OnPremises).await?;

        let step = sampler.one(&STEPS);
        println!("qemu: the source's agent is killed at {step} on the way to Azure");
        killed(&mut lane, Victim::SourceAgent, step, Site::Azure).await?;
        let step = sampler.one(&STEPS);
        println!("qemu: the target's agent is killed at {step} on the way home");
        killed(&mut lane, Victim::TargetAgent, step, Site::OnPremises).await?;

        lane.travel(Site::Azure).await?;
        bitmaps_were_used(&lane, Site::OnPremises)?;
        lane.until_writing(Site::Azure).await?;

        // Cancelled on the way home: the old state on the premises still boots.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until(&failover, "Synchronize", |it| {
            pending(it) == Some("Synchronize")
        })
        .await?;
        let bytes = until_bytes(&lane, Site::Azure, sampler.below(1 << 20)).await?;
        println!("qemu: cancelled on the way home at {bytes} bytes");
        lane.world
            .cluster
            .answer(&failover, json!({"cancel": true}))
            .await?;
        lane.world.cluster.kill_operator(0);
        lane.world.host_mut(Site::Azure).kill();
        old_state_boots(&lane, Site::OnPremises).await?;
        lane.world.host_mut(Site::Azure).start().await?;
        lane.world.cluster.start_operator(0)?;
        lane.until_ended(&failover, FailoverOutcome::Cancelled)
            .await?;
        lane.world.cluster.place(&lane.vm.name, Site::Azure).await?;
        lane.until_settled(Site::Azure).await?;
        lane.until_writing(Site::Azure).await?;

        lane.travel(Site::OnPremises).await?;
        lane.finish(0).await
    })
    .await;
}

async fn killed(lane: &mut Lane, victim: Victim, step: &str, to: Site) -> Result<()> {
    let from = to.other();
    let failover = lane.begin(to).await?;
    lane.until(&failover, step, |it| pending(it) == Some(step))
        .await?;
    lane.kill(victim, from);
    lane.restart(victim, from).await?;
    lane.until_ended(&failover, FailoverOutcome::Succeeded)
        .await
        .with_context(|| format!("{victim:?} killed at {step}"))?;
    lane.until_settled(to).await?;
    lane.until_writing(to).await?;
    lane.check(0)
}

/// With intact bitmaps the last delta is what the guest wrote since, and not more than it wrote in all.
/// The last delta came from QEMU's bitmaps: the agent says which blocks it looked at, and why.
fn bitmaps_were_used(lane: &Lane, from: Site) -> Result<()> {
    let log = lane.world.host(from).log();
    let mark = format!("vm={}", lane.vm.uuid);
    let delivered = log
        .lines()
        .rfind(|line| line.contains(": the stopped content is delivered ") && line.contains(&mark))
        .context("the source's agent tells of no delivery")?;
    ensure!(delivered.contains("candidates=Ranges"), "{delivered}");
    Ok(())
}
