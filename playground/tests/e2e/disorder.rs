//! Everything at once, at random moments: places changed back and forth, every process killed. When it is quiet again the VM runs where it
//! was last wanted, and no acknowledged record is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use homeward::api::{FailoverOutcome, FailoverPhase, Site};
use homeward_playground::accelerator;
use homeward_playground::world::{HypervisorKind, LIMIT, VmOptions, WorldOptions, is_settled};
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::lane::{Lane, phase, processes, run};
use crate::qemu;
use crate::sampler::Sampler;

/// How long a round of disorder is before it becomes quiet: within one move of plain processes, over some, with passes between them.
const ROUNDS: [Duration; 3] = [
    Duration::from_millis(700),
    Duration::from_secs(2),
    Duration::from_secs(8),
];

#[derive(Clone, Copy, Debug)]
enum Event {
    Place(Site),
    Kill,
}

async fn rounds(
    mut sampler: Sampler,
    name: &str,
    options: WorldOptions,
    vm: VmOptions,
    rounds: u64,
) -> Result<()> {
    let mut lane = Lane::start(options, &vm).await?;
    for round in 1..=rounds {
        let began = Instant::now();
        let long = sampler.one(&ROUNDS);
        let mut events: Vec<(Duration, Event)> = (0..2 + sampler.below(4))
            .map(|_| {
                let event = match sampler.below(2) {
                    0 => Event::Place(sampler.one(&Site::BOTH)),
                    _ => Event::Kill,
                };
                (sampler.time(long), event)
            })
            .collect();
        events.sort_by_key(|(at, _)| *at);
        println!("{name}: round {round}: {events:?}");
        let last = disturb(&mut lane, &mut sampler, &events).await?;
        quiet(&mut lane, last)
            .await
            .with_context(|| format!("{name}: round {round}: {events:?}"))?;
        let rolled_back = lane.count(FailoverOutcome::RolledBack).await?;
        lane.until_writing(last).await?;
        lane.check(rolled_back)
            .with_context(|| format!("{name}: round {round}: {events:?}"))?;
        println!(
            "{name}: round {round} took {:.1} s, {} processes killed so far, {rolled_back} moves rolled back so far",
            began.elapsed().as_secs_f64(),
            lane.killed
        );
    }
    let rolled_back = lane.count(FailoverOutcome::RolledBack).await?;
    lane.finish(rolled_back).await
}

/// Plays the events at their times; the place that was wanted last.
async fn disturb(
    lane: &mut Lane,
    sampler: &mut Sampler,
    events: &[(Duration, Event)],
) -> Result<Site> {
    let began = Instant::now();
    let mut wanted = lane.site().await?;
    for (at, event) in events {
        while began.elapsed() < *at {
            lane.world.mend().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match event {
            Event::Place(site) => {
                wanted = *site;
                place(lane, wanted).await?;
            }
            Event::Kill => {
                let (_, id) = sampler.one(&lane.world.processes());
                let pid = Pid::from_raw(i32::try_from(id)?).context("a process has a number")?;
                // It may have ended a moment ago.
                let _gone = kill_process(pid, Signal::KILL);
                lane.killed += 1;
            }
        }
    }
    Ok(wanted)
}

/// The API server may be one of those that were killed.
async fn place(lane: &mut Lane, site: Site) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(()) = answered(lane.world.cluster.place(&lane.vm.name, site)).await {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{site} could not be asked for within {} s",
            LIMIT.as_secs()
        );
        lane.world.mend().await?;
    }
}

/// Whoever asks an API server without its etcd waits for long, and must go on starting again what was killed.
async fn answered<T, E>(ask: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(2), ask)
        .await
        .ok()?
        .ok()
}

/// An agent may have been killed a moment ago, after all that was wanted had been done.
async fn all_answer(lane: &Lane) -> bool {
    for site in Site::BOTH {
        if lane.world.host(site).state().await.is_err() {
            return false;
        }
    }
    true
}

/// Waits until it is settled where it is wanted, approving the starts that are held because a move before was taken back.
async fn quiet(lane: &mut Lane, wanted: Site) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut seen = String::new();
    while Instant::now() < deadline {
        lane.world.mend().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Some(vm) = answered(lane.world.cluster.vms().get(&lane.vm.name)).await else {
            continue;
        };
        if is_settled(&vm, wanted) && all_answer(lane).await {
            return Ok(());
        }
        seen = serde_json::to_string(&vm.status)?;
        let Some(failovers) = answered(lane.world.cluster.failovers_of(&lane.vm.name)).await else {
            continue;
        };
        for failover in failovers {
            ensure!(
                phase(&failover) != Some(FailoverPhase::Failed),
                "{} failed: {}",
                failover.name_any(),
                serde_json::to_string(&failover.status)?
            );
            if phase(&failover) == Some(FailoverPhase::AwaitingStart)
                && failover.spec.start.is_none()
            {
                let name = failover.name_any();
                let approved = json!({"start": "Approved"});
                let _or_again = answered(lane.world.cluster.answer(&name, approved)).await;
            }
        }
    }
    bail!(
        "not settled in {wanted} within {} s: {seen}",
        LIMIT.as_secs()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_processes_in_disorder() {
    let name = "disorder";
    let sampler = Sampler::new(name);
    let many = sampler.how_many(3, 100);
    run(rounds(
        sampler,
        name,
        processes(),
        VmOptions::small(name),
        many,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn real_guests_in_disorder() {
    let name = "real-disorder";
    let sampler = Sampler::new(name);
    let many = sampler.how_many(1, 20);
    run(async {
        let kvm = accelerator::kvm_works().await?;
        let mut options = WorldOptions::new(HypervisorKind::Qemu { kvm });
        // Most of what is disturbed is a pass.
        options.replication_interval = Duration::from_secs(2);
        rounds(sampler, name, options, qemu::vm(name), many).await
    })
    .await;
}
