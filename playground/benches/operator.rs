//! What a large vault of Azure Site Recovery costs: one operator, many VMs (`FLEET`, 5000) in the emulator, on a real API server.
//!
//! Once all are taken on it prints, and writes as JSON into `target/bench/operator.json`: processor time and memory of the operator while nothing
//! happens; requests to the service and status writes a minute; from a changed placement to the request at the service (half of them, and all
//! but one in a hundred); many moves at once (`MOVES`, 500). Where this is going: 0.2 of a core, 150 MiB, no writes, one list for each look, one
//! second.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use homeward::api::Site;
use homeward_asr_emulator::{FabricKind, Record, SeedVm};
use homeward_playground::usage;
use homeward_playground::world::{ServiceOptions, ServiceWorld, is_settled, rests_in_azure};
use jiff::Timestamp;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long nothing happens.
const QUIET: Duration = Duration::from_mins(2);
/// Placements that are changed one after the other.
const SINGLE: usize = 40;

fn number(name: &str, default: usize) -> Result<usize> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name} is a number")),
        _ => Ok(default),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let count = number("FLEET", 5000)?;
    let at_once = number("MOVES", 500)?.min(count.saturating_sub(SINGLE));
    let mut options = ServiceOptions::new(FabricKind::HyperVSite, count);
    // As it is installed: the operator's own paces, and the service's own time.
    options.speed = 1;
    options.looks = [10_000, 1_000, 200].map(Duration::from_millis);
    options.shortest_pause = Duration::from_secs(5);
    options.settings.remembered_requests = 1_000_000;
    options.settings.throttle = Some(homeward_asr_emulator::Throttle::default());
    "info".clone_into(&mut options.log);
    let world = ServiceWorld::start(options).await?;
    let began = Instant::now();
    stream::iter(1..=count)
        .map(|vm| {
            let name = format!("vm-{vm}");
            let cluster = &world.cluster;
            async move { cluster.protect_named(&name, Site::OnPremises, |_| {}).await }
        })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    loop {
        let settled = resting(&world, Site::OnPremises).await?;
        println!(
            "{settled} of {count} taken on after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        if settled == count {
            break;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let idle = idle(&world).await?;
    let single = one_by_one(&world).await?;
    let many = all_at_once(&world, at_once).await?;
    let result = json!({"vms": count, "idle": idle, "placement": single, "movesAtOnce": many});
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("operator.json"),
        serde_json::to_vec_pretty(&result)?,
    )?;
    let violations = world.emulator.violations().await?;
    ensure!(violations.is_empty(), "{violations:?}");
    Ok(())
}

fn operator(world: &ServiceWorld) -> Result<Vec<(String, u32)>> {
    let mut all = world.processes();
    all.retain(|(name, _)| name.starts_with("operator"));
    ensure!(all.len() == 1, "one operator runs: {all:?}");
    Ok(all)
}

async fn idle(world: &ServiceWorld) -> Result<Value> {
    let process = operator(world)?;
    let name = process[0].0.clone();
    let (before, writes) = (usage::of(&process)?, status_writes(world).await?);
    let (from, began) = (Timestamp::now(), Instant::now());
    tokio::time::sleep(QUIET).await;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let (after, later) = (usage::of(&process)?, status_writes(world).await?);
    let requests = since(world.emulator.requests().await?, from);
    let cores = (after[&name].seconds - before[&name].seconds) / (minutes * 60.0);
    let mib = after[&name].resident_kib / 1024;
    let most = after[&name].most_kib / 1024;
    let reads = per_minute(requests.len(), minutes);
    let written = per_minute(later.saturating_sub(writes), minutes);
    println!("\n| while nothing happens | |\n|---|---|");
    println!("| cores | {cores:.3} |\n| resident MiB | {mib} |\n| most MiB | {most} |");
    println!("| requests to the service a minute | {reads:.1} |");
    println!("| status writes a minute | {written:.1} |");
    Ok(json!({
        "cores": cores, "residentMib": mib, "mostMib": most,
        "requestsPerMinute": reads, "statusWritesPerMinute": written,
    }))
}

fn per_minute(count: usize, minutes: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / minutes
}

fn since(records: Vec<Record>, from: Timestamp) -> Vec<Record> {
    records
        .into_iter()
        .filter(|record| record.at >= from)
        .collect()
}

/// From a changed placement to the request that the service took, one VM after the other.
async fn one_by_one(world: &ServiceWorld) -> Result<Value> {
    let mut delays = Vec::new();
    for vm in 1..=SINGLE {
        delays.push(place_and_wait(world, &format!("vm-{vm}")).await?);
    }
    for vm in 1..=SINGLE {
        let name = format!("vm-{vm}");
        let there = |vm: &_| rests_in_azure(vm);
        world
            .cluster
            .until_vm(&name, "it rests in Azure", there)
            .await?;
    }
    let (half, most) = (percentile(&mut delays, 50), percentile(&mut delays, 99));
    println!(
        "\nA changed placement reaches the service after {half} ms (half of {SINGLE}), {most} ms (99 of 100)."
    );
    Ok(json!({"count": SINGLE, "p50Milliseconds": half, "p99Milliseconds": most}))
}

async fn place_and_wait(world: &ServiceWorld, vm: &str) -> Result<i64> {
    let from = Timestamp::now();
    world.cluster.place(vm, Site::Azure).await?;
    let began = Instant::now();
    loop {
        let taken = since(world.emulator.requests().await?, from)
            .into_iter()
            .find(|record| moved(record).is_some());
        if let Some(taken) = taken {
            return Ok(milliseconds(from, taken.at));
        }
        ensure!(
            began.elapsed() < Duration::from_mins(2),
            "{vm} is not moved"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn milliseconds(from: Timestamp, to: Timestamp) -> i64 {
    i64::try_from(to.duration_since(from).as_millis()).unwrap_or(i64::MAX)
}

fn percentile(values: &mut [i64], percent: usize) -> i64 {
    values.sort_unstable();
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}

/// Many placements are changed in one breath. The delay of each VM counts from its own change.
async fn all_at_once(world: &ServiceWorld, count: usize) -> Result<Value> {
    let process = operator(world)?;
    let (before, writes) = (usage::of(&process)?, status_writes(world).await?);
    let (from, began) = (Timestamp::now(), Instant::now());
    let names: Vec<String> = (SINGLE + 1..=SINGLE + count)
        .map(|vm| format!("vm-{vm}"))
        .collect();
    let changed: HashMap<String, Timestamp> = stream::iter(&names)
        .map(|name| async move {
            let at = Timestamp::now();
            world.cluster.place(name, Site::Azure).await?;
            anyhow::Ok((SeedVm::named(name).item_name(), at))
        })
        .buffer_unordered(32)
        .try_collect()
        .await?;
    let asking = began.elapsed().as_secs_f64();
    let wanted = SINGLE + count;
    loop {
        let there = resting(world, Site::Azure).await?;
        println!(
            "{there} of {wanted} rest in Azure after {:.0} s",
            began.elapsed().as_secs_f64()
        );
        if there == wanted {
            break;
        }
        ensure!(
            began.elapsed() < Duration::from_mins(30),
            "not all have moved"
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let whole = began.elapsed().as_secs_f64();
    let requests = since(world.emulator.requests().await?, from);
    let taken: HashMap<&str, Timestamp> = requests
        .iter()
        .filter_map(|record| Some((moved(record)?, record.at)))
        .collect();
    let delays: Option<Vec<i64>> = changed
        .iter()
        .map(|(item, at)| Some(milliseconds(*at, *taken.get(item.as_str())?)))
        .collect();
    let mut delays = delays.context("a move that the service was not asked for")?;
    let asked = requests.iter().filter(|it| moved(it).is_some()).count();
    ensure!(asked == count, "{asked} requests for {count} moves");
    let last = taken.values().max().copied().unwrap_or(from);
    let throttled = requests.iter().filter(|it| it.status == Some(429)).count();
    let (half, most) = (percentile(&mut delays, 50), percentile(&mut delays, 99));
    let (used, written) = (usage::of(&process)?, status_writes(world).await?);
    let (used, before) = (used.values().next(), before.values().next());
    let memory = used.map_or(0, |it| it.most_kib / 1024);
    let cores = used.zip(before).map_or(0.0, |(used, before)| {
        (used.seconds - before.seconds) / whole
    });
    let written = (written - writes) / count;
    let all_asked = milliseconds(from, last);
    println!(
        "\n{count} moves at once, their placements changed within {asking:.1} s: the service was asked after {half} ms (half) and {most} ms (99 of 100), for the last of them {all_asked} ms after the first change; done after {whole:.0} s, with {} requests, {throttled} of them refused as too many; the operator used {cores:.2} of a core and at most {memory} MiB, and wrote {written} statuses for each move.",
        requests.len()
    );
    println!(
        "The service itself takes 200 writes at once and 10 a second from then on; the operator leaves a fifth of that to others."
    );
    Ok(json!({
        "count": count, "secondsToChange": asking, "seconds": whole, "p50Milliseconds": half, "p99Milliseconds": most,
        "allAskedMilliseconds": all_asked, "requests": requests.len(), "throttled": throttled, "mostMib": memory,
        "cores": cores, "statusWritesPerMove": written,
    }))
}

/// The item that a request, which was acted upon, asked to be moved.
fn moved(record: &Record) -> Option<&str> {
    let (before, asked) = record.path.rsplit_once('/')?;
    let moves = record.acted && asked.eq_ignore_ascii_case("plannedFailover");
    moves.then(|| before.rsplit('/').next()).flatten()
}

/// How many VMs are at rest at a site.
async fn resting(world: &ServiceWorld, site: Site) -> Result<usize> {
    let mut params = ListParams::default().limit(500);
    let mut count = 0;
    loop {
        let page = world.cluster.vms().list(&params).await?;
        count += page
            .items
            .iter()
            .filter(|vm| match site {
                Site::OnPremises => is_settled(vm, Site::OnPremises),
                Site::Azure => rests_in_azure(vm),
            })
            .count();
        match page.metadata.continue_ {
            Some(more) if !more.is_empty() => params = params.continue_token(&more),
            _ => return Ok(count),
        }
    }
}

/// Statuses that the operator has written so far.
async fn status_writes(world: &ServiceWorld) -> Result<usize> {
    let mut stream = tokio::net::TcpStream::connect(world.cluster.operator_listens(0)).await?;
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nHost: operator\r\n\r\n")
        .await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page
        .lines()
        .filter(|line| line.starts_with("homeward_status_writes_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
        .sum())
}
