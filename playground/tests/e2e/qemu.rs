//! A sample on QEMU: bitmaps, power and boot are real.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::{
    agent::api::{Power, PowerSwitch},
    api::{Failover, FailoverOutcome, FailoverPhase, Site},
};
use homeward_playground::{
    accelerator,
    world::{HypervisorKind, VmOptions, WorldOptions},
};
use serde_json::json;

use crate::{
    cancel::{content, old_state_boots, until_bytes},
    lane::{FAR_APART, Lane, STEPS, Victim, pending, phase, run},
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
        let old = content(&lane, Site::OnPremises).await?;
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
        let middle = old_state_boots(&lane, Site::OnPremises, &old).await?;
        println!("qemu: the pass was in its middle: {middle}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_taken_back_at_both_ends_of_its_cutover_and_moves_switched_off() {
    run(async {
        let kvm = accelerator::kvm_works().await?;
        let mut options = WorldOptions::new(HypervisorKind::Qemu { kvm });
        options.replication_interval = FAR_APART;
        let manual = |spec: &mut serde_json::Value| spec["commit"] = json!({"approval": "Manual"});
        let mut lane = Lane::start_with(options, &vm("back"), manual).await?;
        lane.until_writing(Site::OnPremises).await?;

        // A target that has lost its QEMU is told of before anything is stopped, and the move goes on once it is there again.
        let file = lane.world.host(Site::Azure).config_file();
        let good = std::fs::read_to_string(&file)?;
        let qemu = good
            .lines()
            .find(|line| line.trim_start().starts_with("binary:"))
            .context("the configuration names no program")?;
        let bad = good.replace(qemu, &format!("{qemu}-that-is-gone"));
        configure(&mut lane, Site::Azure, &bad).await?;
        let failover = lane.begin(Site::Azure).await?;
        lane.until(&failover, "held", |it| {
            let status = it.status.as_ref();
            let held = status.and_then(|status| status.waiting_for.as_deref());
            held.is_some_and(|why| {
                why.contains("could not start the VM") && why.contains("that-is-gone")
            })
        })
        .await?;
        lane.until_writing(Site::OnPremises).await?;
        configure(&mut lane, Site::Azure, &good).await?;
        lane.until(&failover, "AwaitingCommit", |it| {
            phase(it) == Some(FailoverPhase::AwaitingCommit)
        })
        .await?;
        let cluster = &lane.world.cluster;
        cluster
            .answer(&failover, json!({"commit": "Approved"}))
            .await?;
        lane.until_ended(&failover, FailoverOutcome::Succeeded)
            .await?;
        lane.until_settled(Site::Azure).await?;
        let failover = lane.begin(Site::OnPremises).await?;
        lane.until(&failover, "AwaitingCommit", |it| {
            phase(it) == Some(FailoverPhase::AwaitingCommit)
        })
        .await?;
        cluster
            .answer(&failover, json!({"commit": "Approved"}))
            .await?;
        lane.until_ended(&failover, FailoverOutcome::Succeeded)
            .await?;
        lane.until_settled(Site::OnPremises).await?;
        lane.until_writing(Site::OnPremises).await?;

        // While it shuts down: whichever of the two is first, it runs at home in the end.
        let failover = lane.begin(Site::Azure).await?;
        lane.until(&failover, "StopSource", |it| {
            pending(it) == Some("StopSource")
        })
        .await?;
        cluster.place(&lane.vm.name, Site::OnPremises).await?;
        let ended = lane.until(&failover, "ended", |it| {
            phase(it).is_some_and(FailoverPhase::is_final)
        });
        let outcome = ended.await?.status.and_then(|status| status.outcome);
        ensure!(
            matches!(
                outcome,
                Some(FailoverOutcome::Cancelled | FailoverOutcome::RolledBack)
            ),
            "{outcome:?}"
        );
        lane.until_settled(Site::OnPremises).await?;
        lane.until_writing(Site::OnPremises).await?;
        println!("qemu: changed back during the shutdown, it ended {outcome:?}");

        // After it has worked at the target: what it wrote there is dropped, by a person's answer.
        let failover = lane.begin(Site::Azure).await?;
        let at_commit = lane
            .until(&failover, "AwaitingCommit", |it| {
                phase(it) == Some(FailoverPhase::AwaitingCommit)
            })
            .await?;
        ensure!(
            at_commit
                .status
                .is_some_and(|status| status.downtime.is_some())
        );
        lane.until_writing(Site::Azure).await?;
        let would_drop = |it: &Failover| {
            let uncommitted = it.status.as_ref()?.uncommitted.as_ref()?;
            uncommitted.bytes.filter(|bytes| *bytes > 0)
        };
        lane.until(&failover, "what a rollback would drop", |it| {
            would_drop(it).is_some()
        })
        .await?;
        cluster
            .answer(&failover, json!({"commit": "Rollback"}))
            .await?;
        let back = lane
            .until_ended(&failover, FailoverOutcome::RolledBack)
            .await?;
        ensure!(
            would_drop(&back).is_some(),
            "the record does not say what was dropped"
        );
        lane.until_writing(Site::OnPremises).await?;
        cluster.place(&lane.vm.name, Site::OnPremises).await?;
        lane.until_settled(Site::OnPremises).await?;

        // Switched off, it is moved and left off.
        cluster
            .patch_vm(&lane.vm.name, json!({"commit": {"approval": "Automatic"}}))
            .await?;
        lane.world.power(&lane.vm, PowerSwitch::Off).await?;
        lane.travel(Site::Azure).await?;
        let there = lane.world.host(Site::Azure).vm(lane.vm.uuid).await?;
        ensure!(there.is_some_and(|vm| vm.power == Power::Off));
        lane.world.power(&lane.vm, PowerSwitch::On).await?;
        lane.until_writing(Site::Azure).await?;
        let taken_back = lane.count(FailoverOutcome::RolledBack).await?;
        lane.finish(taken_back).await
    })
    .await;
}

/// The agent of a site is started again with another configuration.
async fn configure(lane: &mut Lane, site: Site, text: &str) -> Result<()> {
    let host = lane.world.host_mut(site);
    std::fs::write(host.config_file(), text)?;
    host.kill();
    host.start().await
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
