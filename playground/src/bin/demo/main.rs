//! A VM is moved to Azure and home again, before your eyes, and every claim is proven from outside.

mod follow;
mod service;
mod table;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use homeward::{
    agent::api::PowerSwitch,
    api::{FailoverOutcome, FailoverPhase, Site},
};
use homeward_playground::{
    accelerator,
    driver::Driver,
    guest_image::{GuestSettings, highest_acknowledged},
    narrator::{Narrator, bytes, milliseconds},
    proofs::{self, History},
    world::{HypervisorKind, LIMIT, Vm, VmOptions, World, WorldOptions, eventually},
};
use serde_json::json;

use follow::follow;
use table::{Move, table};

const MIB: u64 = 1 << 20;
/// How long the guest works before it is moved on, or accepted.
const WORK: Duration = Duration::from_secs(4);

/// Moves a VM to Azure and home again, and proves that nothing was lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// What moves the VM.
    #[arg(long, value_enum, default_value_t = Driver::Agents)]
    driver: Driver,
    /// Take plain processes as guests instead of QEMU's: quick, and without change tracking.
    #[arg(long)]
    processes: bool,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let narrator = Narrator::new();
    let told = tokio::select! {
        told = tell(&arguments, &narrator) => told,
        () = homeward_playground::stop_asked() => Err(anyhow::anyhow!("interrupted")),
    };
    match told {
        Ok(()) => {
            narrator.print(format!(
                "\nEvery proof holds. {:.0} s in all.",
                narrator.elapsed().as_secs_f64()
            ));
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn tell(arguments: &Arguments, narrator: &Narrator) -> Result<()> {
    match arguments.driver {
        Driver::Agents => by_agents(arguments, narrator).await,
        Driver::AzureSiteRecovery => service::tell(narrator).await,
    }
}

async fn by_agents(arguments: &Arguments, narrator: &Narrator) -> Result<()> {
    narrator.print("Homeward: a VM goes to Azure and comes home\n");
    let hypervisor = if arguments.processes {
        HypervisorKind::Process
    } else {
        let step = narrator.step("Looking for virtualisation");
        let kvm = accelerator::kvm_works().await?;
        step.done(if kvm {
            "KVM"
        } else {
            "none that works, so QEMU emulates"
        });
        HypervisorKind::Qemu { kvm }
    };

    let mut options = WorldOptions::new(hypervisor);
    // Far apart, so that between the end of a move and the next recovery point the replica can be looked at.
    options.replication_interval = Duration::from_secs(30);
    let step = narrator.step("Starting a cluster and two sites");
    let mut world = World::start_with(options, |at| step.now(at)).await?;
    step.done(format!("everything is in {}", world.folder().display()));

    let step = narrator.step("Booting a guest on the premises, and protecting it");
    let mut guest = GuestSettings::new("web", "{site}");
    guest.dirty_kib_per_second = 512;
    guest.dirty_area_mib = Some(24);
    let vm = VmOptions {
        name: "web".into(),
        disks: vec![256 * MIB, 64 * MIB],
        guest,
        memory_mib: 192,
    };
    let manual = |spec: &mut serde_json::Value| spec["commit"] = json!({"approval": "Manual"});
    let vm = world.add_with(&vm, manual).await?;
    step.done("its first replica is whole");
    narrator.say("  web keeps writing numbered, synced records to its two disks; each is acknowledged on its console");

    let mut moves = Vec::new();
    work(&world, &vm, Site::OnPremises, narrator).await?;
    for to in [Site::Azure, Site::OnPremises] {
        moves.push(move_to(&world, &vm, to, narrator).await?);
        work(&world, &vm, to, narrator).await?;
    }
    let step = narrator.step("Switching web off, to look at its disks");
    world.power(&vm, PowerSwitch::Off).await?;
    step.done("");
    prove(&world, &vm, &mut moves, narrator).await?;
    narrator.print(format!("\n{}", table(&moves)));
    Ok(())
}

/// Lets the guest write for a while.
async fn work(world: &World, vm: &Vm, site: Site, narrator: &Narrator) -> Result<()> {
    let step = narrator.step(format!("{} works at {site}", vm.name));
    let last = || highest_acknowledged(&world.console(vm, site));
    let elsewhere = highest_acknowledged(&world.console(vm, site.other()));
    let before = eventually(LIMIT, "the guest has written a record", async || {
        let last = last();
        Ok((last > elsewhere).then_some(last))
    })
    .await?;
    let begun = std::time::Instant::now();
    while begun.elapsed() < WORK {
        tokio::time::sleep(Duration::from_millis(250)).await;
        step.now(format!("record {}", last()));
    }
    let after = last();
    ensure!(after > before, "{} does not write at {site}", vm.name);
    step.done(format!("{} records more, {after} in all", after - before));
    Ok(())
}

async fn move_to(world: &World, vm: &Vm, to: Site, narrator: &Narrator) -> Result<Move> {
    let from = to.other();
    let cluster = &world.cluster;
    narrator.print("");
    narrator.say(format!(
        "kubectl patch pvm {} --type merge -p '{{\"spec\":{{\"placement\":\"{to}\"}}}}'",
        vm.name
    ));
    let name = cluster.next_failover(&vm.name).await?;
    cluster.place(&vm.name, to).await?;
    let mut baseline: Vec<PathBuf> = Vec::new();
    let mut passed_before = 0;
    let followed = follow(cluster, &name, narrator, async |phase| {
        if phase == FailoverPhase::AwaitingCommit {
            // The source has stopped and its disks are still: what reverse replication starts from.
            let disks = world.disks(vm, from).await?;
            baseline = proofs::copy_disks(&disks, &world.folder().join(format!("baseline-{to}")))?;
            passed_before = proofs::bytes_passed(&world.host(to).log(), vm.uuid)?;
            work(world, vm, to, narrator).await?;
            narrator.say(format!(
                "  kubectl patch fo {name} --type merge -p '{{\"spec\":{{\"commit\":\"Approved\"}}}}'"
            ));
            cluster.answer(&name, json!({"commit": "Approved"})).await?;
        }
        Ok(())
    })
    .await?;
    let outcome = followed
        .failover
        .status
        .as_ref()
        .and_then(|status| status.outcome);
    ensure!(
        outcome == Some(FailoverOutcome::Succeeded),
        "{name} ended {outcome:?}\n{}",
        homeward_playground::world::status_of(&followed.failover)
    );
    let passed = proofs::bytes_passed(&world.host(to).log(), vm.uuid)?;
    let replica = world.disks(vm, from).await?;
    let reverse_counted = proofs::changed_bytes(&baseline, &replica)?;
    for copy in baseline {
        std::fs::remove_file(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    cluster.until_settled(&vm.name, to).await?;
    Ok(Move {
        followed,
        reverse_sent: passed - passed_before,
        reverse_counted,
        silence: None,
    })
}

async fn prove(world: &World, vm: &Vm, moves: &mut [Move], narrator: &Narrator) -> Result<()> {
    narrator.print("\nProofs, from consoles, disks and the agents' logs:");
    let consoles = Site::BOTH.map(|site| (site, world.console(vm, site)));
    let history = History::of_consoles(&consoles)?;
    let report = world.records(vm, Site::OnPremises).await?;

    let found = history.records_are_there(&report, &BTreeSet::new())?;
    ensure!(found > 0, "no record was acknowledged");
    narrator.print(format!(
        "  every acknowledged record is there: {} of {} on the disks, in one unbroken history",
        found,
        history.acknowledged()
    ));

    history.never_two_at_once()?;
    let sites = [Site::OnPremises, Site::Azure, Site::OnPremises];
    ensure!(history.sites() == sites, "it ran at {:?}", history.sites());
    history.nothing_was_lost(&BTreeSet::new())?;
    let logs = Site::BOTH.map(|site| (site, world.host(site).log()));
    let starts = proofs::agents_never_two_at_once(&logs, vm.uuid)?;
    ensure!(
        starts == sites.len(),
        "the agents started it {starts} times"
    );
    narrator.print(
        "  it never ran at both sites: neither the consoles nor the agents' logs show two at once",
    );
    for (it, pair) in moves.iter_mut().zip(history.runs.windows(2)) {
        let ends = pair[0].span().zip(pair[1].span());
        it.silence = ends.map(|((_, last), (first, _))| first.saturating_sub(last));
    }

    for it in moves.iter() {
        proofs::sent_matches_changed(it.reverse_sent, it.reverse_counted)?;
        narrator.print(format!(
            "  reverse replication after {} sent {} for {} that differ on the disks",
            it.followed
                .failover
                .metadata
                .name
                .as_deref()
                .unwrap_or_default(),
            bytes(it.reverse_sent),
            bytes(it.reverse_counted)
        ));
    }
    let longest = moves.iter().filter_map(|it| it.silence).max();
    if let Some(longest) = longest {
        narrator.print(format!(
            "  the guest was silent for {} at most",
            milliseconds(longest)
        ));
    }
    Ok(())
}
