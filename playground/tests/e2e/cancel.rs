//! A move is cancelled, or its source dies, after some random byte: the passive site can be brought to the whole old state, and
//! a guest boots from it.

use std::{path::PathBuf, process::Command as Program, time::Duration};

use anyhow::{Context as _, Result, ensure};
use homeward::{
    agent::api::{Command, ContentKind, Order, OrderResult, Roots},
    api::{FailoverOutcome, Site},
};
use homeward_playground::{
    child::Child,
    guest_image::{ConsoleLine, GuestSettings, console_lines},
    proofs::copy_disks,
    records::read_disks,
    tools::{self, Tool},
    world::{LIMIT, VmOptions, eventually},
};
use serde_json::json;

use crate::{
    lane::{FAR_APART, Lane, pending, processes, run},
    sampler::Sampler,
};

#[derive(Clone, Debug)]
struct Case {
    from: Site,
    /// A person cancels; else the source's agent is killed.
    cancel: bool,
    /// How much has travelled by then.
    bytes: u64,
}

/// Much is scribbled, so that there is something to send.
pub fn busy(name: &str) -> VmOptions {
    let mut vm = VmOptions::small(name);
    vm.disks = vec![8 << 20, 8 << 20];
    vm.guest.dirty_kib_per_second = 4096;
    vm.guest.dirty_area_mib = Some(5);
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_breaks_off_at_any_byte_leaves_the_old_state() {
    let mut sampler = Sampler::new("cancel");
    let mut cases = Vec::new();
    for from in Site::BOTH {
        for cancel in [true, false, true, false] {
            let bytes = sampler.below(4 << 20);
            cases.push(Case {
                from,
                cancel,
                bytes,
            });
        }
    }
    let mut cases = sampler.choose(cases, 4, |case| (case.from, case.cancel));
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        options.bandwidth_limit = Some(2 << 20);
        let mut lane = Lane::start(options, &busy("cancel")).await?;
        // The first replica was made of blank disks; the old state is to hold something.
        for to in [Site::Azure, Site::OnPremises] {
            lane.travel(to).await?;
            lane.until_writing(to).await?;
        }
        let mut in_the_middle = 0;
        while !cases.is_empty() {
            let at = lane.site().await?;
            let Some(next) = cases.iter().position(|case| case.from == at) else {
                lane.travel(at.other()).await?;
                continue;
            };
            let case = cases.swap_remove(next);
            let middle = one(&mut lane, &case).await;
            in_the_middle += usize::from(middle.with_context(|| format!("{case:?}"))?);
        }
        ensure!(in_the_middle > 0, "no pass broke off in its middle");
        lane.finish(0).await
    })
    .await;
}

/// Whether the pass broke off in its middle, so that there was something to be undone.
async fn one(lane: &mut Lane, case: &Case) -> Result<bool> {
    let (from, to) = (case.from, case.from.other());
    let old = content(lane, to).await?;
    // So much is scribbled meanwhile that the pass has something to carry.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let failover = lane.begin(to).await?;
    lane.until(&failover, "Synchronize", |it| {
        pending(it) == Some("Synchronize")
    })
    .await?;
    let reached = until_bytes(lane, from, case.bytes).await?;
    let mut cancelled = false;
    if case.cancel {
        // It may be too late by now, and is then refused: the move goes well.
        let answered = lane
            .world
            .cluster
            .answer(&failover, json!({"cancel": true}))
            .await;
        cancelled = answered.is_ok();
        println!("{case:?}: at {reached} bytes, cancelled: {cancelled}");
    } else {
        lane.world.host_mut(from).kill();
        println!("{case:?}: at {reached} bytes, killed");
    }
    lane.world.cluster.kill_operator(0);
    lane.world.host_mut(from).kill();
    let middle = old_state_boots(lane, to, &old).await?;
    lane.world.host_mut(from).start().await?;
    lane.world.cluster.start_operator(0)?;
    if cancelled {
        lane.until_ended(&failover, FailoverOutcome::Cancelled)
            .await?;
        lane.world.cluster.place(&lane.vm.name, from).await?;
        lane.until_settled(from).await?;
        lane.until_writing(from).await?;
    } else {
        lane.until_ended(&failover, FailoverOutcome::Succeeded)
            .await?;
        lane.until_settled(to).await?;
        lane.until_writing(to).await?;
    }
    lane.check(0)?;
    Ok(middle)
}

/// The digests of the whole content of a site's disks.
pub async fn content(lane: &Lane, site: Site) -> Result<Roots> {
    let found = lane.world.host(site).vm(lane.vm.uuid).await?;
    let content = found.context("the site does not know it")?.content;
    ensure!(content.kind == ContentKind::Whole, "{:?}", content.kind);
    content.roots.context("whole, and of no content")
}

/// Waits until a pass has sent so much, or has ended.
pub async fn until_bytes(lane: &Lane, from: Site, bytes: u64) -> Result<u64> {
    let mut begun = 0;
    eventually(LIMIT, "the pass has got so far", async || {
        let found = lane.world.host(from).vm(lane.vm.uuid).await?;
        let replication = found.and_then(|vm| vm.replication);
        let running = replication.as_ref().and_then(|it| it.pass.as_ref());
        match running {
            Some(pass) => {
                begun = begun.max(pass.progress.bytes_done.max(1));
                Ok((pass.progress.bytes_done >= bytes).then_some(pass.progress.bytes_done))
            }
            None => Ok((begun > 0).then_some(begun)),
        }
    })
    .await
}

/// Brings the passive site to its whole old state, as the operator would, and boots a guest from a copy of it. Whether a pass had broken off in its
/// middle there.
pub async fn old_state_boots(lane: &Lane, site: Site, old: &Roots) -> Result<bool> {
    let host = lane.world.host(site);
    let found = host
        .vm(lane.vm.uuid)
        .await?
        .context("the passive site does not know it")?;
    let register = found.register.context("the passive site has no register")?;
    // What it says of its content may be from before the pass that has just broken off.
    let order = Order {
        vm: lane.vm.uuid,
        epoch: register.epoch,
        step: register.step + 1,
        claim: register.claim,
        failover: register.failover,
        command: Command::Undo {},
    };
    let answer = host.client().order(lane.vm.uuid, &order).await?;
    ensure!(
        answer.operation.error.is_none(),
        "{:?}",
        answer.operation.error
    );
    let whole = eventually(LIMIT, "the passive site is whole", async || {
        let found = host.vm(lane.vm.uuid).await?;
        Ok(found.filter(|vm| vm.content.kind == ContentKind::Whole))
    })
    .await?;
    let undone = eventually(LIMIT, "the undo tells what it did", async || {
        let found = host.vm(lane.vm.uuid).await?;
        let result = found.and_then(|vm| vm.operation?.result);
        Ok(match result {
            Some(OrderResult::Undone { blocks }) => Some(blocks),
            _ => None,
        })
    })
    .await?;
    println!(
        "  {undone} blocks undone; whole as of {:?}",
        whole.content.point
    );
    // A pass that had ended left a new whole state; one that was in its middle leaves the very old one, and no third.
    let middle = undone > 0;
    ensure!(
        !middle || whole.content.roots.as_ref() == Some(old),
        "what was undone is not what was there before"
    );
    let disks = lane.world.disks(&lane.vm, site).await?;
    let folder = tempfile::tempdir()?;
    let copies = copy_disks(&disks, folder.path())?;
    let report = read_disks(&copies)?;
    report.ensure_consistent()?;
    let last = boot(&lane.vm.name, &copies).await?;
    ensure!(
        last == report.last && last > 0,
        "it found {last} records, not {}",
        report.last
    );
    Ok(middle)
}

/// Boots a guest as a process from these disks; the highest record that it found whole.
async fn boot(name: &str, disks: &[PathBuf]) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console");
    let mut command = Program::new(tools::find(Tool::Recorder)?);
    command
        .args(GuestSettings::new(name, "OnPremises").recorder_arguments())
        .args(disks)
        .stdout(std::fs::File::create(&console)?);
    let _guest = Child::spawn(command)?;
    eventually(LIMIT, "the guest boots the old state", async || {
        let said = console_lines(&std::fs::read_to_string(&console)?);
        for line in said {
            match line {
                ConsoleLine::Verified { last } => return Ok(Some(last)),
                ConsoleLine::NotVerified { reason } | ConsoleLine::Error { reason } => {
                    anyhow::bail!("the old state does not boot: {reason}")
                }
                _ => {}
            }
        }
        Ok(None)
    })
    .await
}
