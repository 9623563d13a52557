//! A world's parts can be killed and come back, and nothing outlives it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use homeward::{
    agent::api::{Command, Order, Power, PowerSwitch},
    api::Site,
};
use homeward_playground::{
    guest_image::highest_acknowledged,
    processes,
    proofs::History,
    records::read_disks,
    world::{HypervisorKind, LIMIT, Vm, VmOptions, World, WorldOptions, eventually},
};

async fn world() -> Result<(World, Vm)> {
    let mut options = WorldOptions::new(HypervisorKind::Process);
    options.operators = 0;
    let mut world = World::start(options).await?;
    let vm = world.define(&VmOptions::small("web"))?;
    let order = Order {
        vm: vm.uuid,
        epoch: 1,
        step: 1,
        claim: None,
        failover: None,
        command: Command::Adopt { takeover: None },
    };
    world
        .host(Site::OnPremises)
        .client()
        .order(vm.uuid, &order)
        .await?;
    world.power(&vm, PowerSwitch::On).await?;
    Ok((world, vm))
}

async fn until_writing(world: &World, vm: &Vm) -> Result<()> {
    let last = || highest_acknowledged(&world.console(vm, Site::OnPremises));
    let before = last();
    eventually(LIMIT, "the guest writes", async || {
        Ok((last() > before + 3).then_some(()))
    })
    .await
}

fn inhabitants(folder: &Path) -> usize {
    let mark = format!("HOMEWARD_WORLD={}", folder.display());
    processes::with_environment(&mark).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_outlive_their_agent_and_nothing_outlives_the_world() -> Result<()> {
    let (mut world, vm) = world().await?;
    until_writing(&world, &vm).await?;
    // Two agents and a guest.
    ensure!(inhabitants(world.folder()) == 3, "who is there?");

    world.host_mut(Site::OnPremises).kill();
    until_writing(&world, &vm).await?;
    world.host_mut(Site::OnPremises).start().await?;
    let found = world.host(Site::OnPremises).state().await?.found;
    ensure!(found.running == [vm.uuid] && !found.rebooted, "{found:?}");

    world.host_mut(Site::OnPremises).lose_power()?;
    ensure!(inhabitants(world.folder()) == 1, "a guest without power");
    world.host_mut(Site::OnPremises).start().await?;
    let state = world.host(Site::OnPremises).state().await?;
    ensure!(state.found.rebooted, "{:?}", state.found);
    until_writing(&world, &vm).await?;
    let found = world.host(Site::OnPremises).vm(vm.uuid).await?;
    ensure!(
        found.is_some_and(|vm| vm.power == Power::Running),
        "it does not run"
    );

    world.power(&vm, PowerSwitch::Off).await?;
    let consoles = Site::BOTH.map(|site| (site, world.console(&vm, site)));
    let history = History::of_consoles(&consoles)?;
    ensure!(history.sites().len() == 2, "{:?}", history.sites());
    history.never_two_at_once()?;
    let report = read_disks(&vm.disks)?;
    history.records_are_there(&report, &std::collections::BTreeSet::new())?;

    world.power(&vm, PowerSwitch::On).await?;
    let folder = world.folder().to_owned();
    drop(world);
    ensure!(inhabitants(&folder) == 0, "somebody was left");
    ensure!(!folder.exists(), "{} was left", folder.display());
    Ok(())
}

/// Plays the process that is killed in the test below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below, in a process of its own"]
async fn world_that_will_be_killed() -> Result<()> {
    let (world, _) = world().await?;
    println!("folder={}", world.folder().display());
    tokio::time::sleep(Duration::from_mins(2)).await;
    Ok(())
}

#[test]
fn nothing_outlives_a_killed_world() {
    use std::io::{BufRead as _, BufReader};
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact"])
        .arg("world_that_will_be_killed")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let folder = output
        .lines()
        .find_map(|line| Some(PathBuf::from(line.unwrap().rsplit_once("folder=")?.1)))
        .expect("the world comes up");
    assert!(inhabitants(&folder) >= 3);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while inhabitants(&folder) > 0 || folder.exists() {
        assert!(Instant::now() < deadline, "{} was left", folder.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}
