//! What a large fleet costs: one operator, one vault of two hosts, many VMs (`FLEET`, 5000), on a real API server with real agents.
//!
//! The VMs are off and have small disks: what is measured is the operator. Once all are protected it prints processor time and memory of the
//! operator and of the agents while nothing happens, how many resources were written in that time, and how soon a changed placement is
//! acted on. Where this is going: 0.2 of a core, 150 MiB, no writes, one second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use homeward::api::Site;
use homeward_playground::usage;
use homeward_playground::world::{HypervisorKind, VmOptions, World, WorldOptions, is_settled};
use kube::ResourceExt as _;
use kube::api::ListParams;

/// How long nothing happens.
const QUIET: Duration = Duration::from_mins(2);
/// How often a placement is changed.
const MOVES: usize = 9;

#[tokio::main]
async fn main() -> Result<()> {
    let count: usize = match std::env::var("FLEET") {
        Ok(text) if !text.is_empty() => text.parse().context("FLEET is a number")?,
        _ => 5000,
    };
    let mut options = WorldOptions::new(HypervisorKind::Process);
    options.replication_interval = Duration::from_hours(24);
    options.looks = [10_000, 1_000, 200].map(Duration::from_millis);
    "info".clone_into(&mut options.log);
    let mut world = World::start(options).await?;
    let began = Instant::now();
    let mut vms = Vec::new();
    for number in 0..count {
        let mut vm = VmOptions::small(&format!("vm-{number:05}"));
        vm.disks = vec![64 << 10];
        vms.push(world.define(&vm)?);
    }
    stream::iter(&vms)
        .map(|vm| world.cluster.protect(vm, Site::OnPremises, |_| {}))
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    println!(
        "{count} VMs defined after {:.0} s",
        began.elapsed().as_secs_f64()
    );
    loop {
        let (settled, _) = look(&world).await?;
        println!(
            "{settled} of {count} protected after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        if settled == count {
            break;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }

    // What was written last is still being heard of.
    tokio::time::sleep(Duration::from_secs(20)).await;
    idle(&world).await?;
    moves(&world, count).await
}

async fn idle(world: &World) -> Result<()> {
    let (_, versions) = look(world).await?;
    let processes = world.processes();
    let before = usage::of(&processes)?;
    let began = Instant::now();
    tokio::time::sleep(QUIET).await;
    let (after, seconds) = (usage::of(&processes)?, began.elapsed().as_secs_f64());
    let (_, later) = look(world).await?;
    let written = later
        .iter()
        .filter(|(name, version)| versions.get(*name) != Some(*version))
        .count();
    println!("\n{seconds:.0} s in which nothing happens:\n");
    println!("| process | cores | resident MiB | most MiB |");
    println!("|---|---|---|---|");
    for (name, now) in &after {
        let cores = (now.seconds - before[name].seconds) / seconds;
        println!(
            "| {name} | {cores:.3} | {} | {} |",
            now.resident_kib / 1024,
            now.most_kib / 1024
        );
    }
    println!("\nVMs written: {written}");
    Ok(())
}

async fn moves(world: &World, count: usize) -> Result<()> {
    let mut delays = Vec::new();
    for number in (0..count).step_by(count.div_ceil(MOVES)) {
        let vm = format!("vm-{number:05}");
        let name = world.cluster.next_failover(&vm).await?;
        world.cluster.place(&vm, Site::Azure).await?;
        let placed = Instant::now();
        while world.cluster.failovers().get_opt(&name).await?.is_none() {
            ensure!(
                placed.elapsed() < Duration::from_mins(2),
                "{name} is not made"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let made = placed.elapsed();
        world.cluster.until_settled(&vm, Site::Azure).await?;
        delays.push((made, placed.elapsed()));
    }
    delays.sort();
    let middle = delays[delays.len() / 2].0;
    let slowest = delays.last().map_or(middle, |(made, _)| *made);
    let whole = delays.iter().map(|(_, whole)| *whole).max();
    println!(
        "A changed placement is acted on after {} ms (median of {}), {} ms at most; the whole move of a VM that is off took at most {:.1} s.",
        middle.as_millis(),
        delays.len(),
        slowest.as_millis(),
        whole.unwrap_or_default().as_secs_f64()
    );
    Ok(())
}

/// How many are at rest and protected, and the version of each.
async fn look(world: &World) -> Result<(usize, BTreeMap<String, String>)> {
    let mut params = ListParams::default().limit(500);
    let (mut settled, mut versions) = (0, BTreeMap::new());
    loop {
        let page = world.cluster.vms().list(&params).await?;
        for vm in &page.items {
            settled += usize::from(is_settled(vm, Site::OnPremises));
            versions.insert(vm.name_any(), vm.resource_version().unwrap_or_default());
        }
        match page.metadata.continue_ {
            Some(more) if !more.is_empty() => params = params.continue_token(&more),
            _ => return Ok((settled, versions)),
        }
    }
}
