//! The world of the demo, left running for you to play with.

mod service;

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use homeward_playground::{
    accelerator,
    driver::Driver,
    guest_image::GuestSettings,
    narrator::Narrator,
    stop_asked,
    tools::{self, Tool},
    world::{HypervisorKind, ServiceWorld, VmOptions, World, WorldOptions},
};

/// Starts a cluster, two sites and VMs, and leaves them running until Ctrl-C.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many VMs.
    #[arg(long, env = "VMS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=50))]
    vms: u16,
    /// What moves the VMs.
    #[arg(long, value_enum, default_value_t = Driver::Agents)]
    driver: Driver,
    /// Take plain processes as guests instead of QEMU's.
    #[arg(long)]
    processes: bool,
}

/// What runs.
#[derive(Default)]
struct Running {
    agents: Option<World>,
    service: Option<ServiceWorld>,
}

impl Running {
    async fn mend(&mut self) -> Result<Vec<String>> {
        let mut mended = Vec::new();
        if let Some(world) = &mut self.agents {
            mended.extend(world.mend().await?);
        }
        if let Some(world) = &mut self.service {
            mended.extend(world.mend().await?);
        }
        Ok(mended)
    }

    fn process(&self, name: &str) -> Option<u32> {
        let agents = self.agents.iter().flat_map(World::processes);
        let service = self.service.iter().flat_map(ServiceWorld::processes);
        let mut all = agents.chain(service);
        all.find(|(one, _)| one == name).map(|(_, id)| id)
    }
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let narrator = Narrator::new();
    let mut running = Running::default();
    let told = tokio::select! {
        told = start(&arguments, &narrator, &mut running) => told.map(|()| true),
        () = stop_asked() => Ok(false),
    };
    if matches!(told, Ok(true)) {
        tokio::select! {
            () = stop_asked() => {}
            () = keep_up(&mut running, &narrator) => {}
        }
    }
    narrator.print("\nStopping everything");
    drop(running);
    match told {
        Ok(_) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("playground: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Whatever is killed from outside is started again, and that is said.
async fn keep_up(running: &mut Running, narrator: &Narrator) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match running.mend().await {
            Ok(mended) => {
                for name in mended {
                    let id = running.process(&name);
                    let id = id.map_or_else(String::new, |id| format!(" as {id}"));
                    narrator.print(format!("{name} had ended and was started again{id}"));
                }
            }
            // What it needs may have ended with it, and is being started again as well.
            Err(error) => {
                let why = format!("{error:#}");
                let first = why.lines().next().unwrap_or_default();
                narrator.print(format!("not up again yet, and tried again: {first}"));
            }
        }
    }
}

async fn start(arguments: &Arguments, narrator: &Narrator, running: &mut Running) -> Result<()> {
    match arguments.driver {
        Driver::Agents => with_agents(arguments, narrator, &mut running.agents).await,
        Driver::AzureSiteRecovery => {
            service::start(arguments.vms, narrator, &mut running.service).await
        }
    }
}

async fn with_agents(
    arguments: &Arguments,
    narrator: &Narrator,
    place: &mut Option<World>,
) -> Result<()> {
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
    options.replication_interval = Duration::from_secs(10);
    let step = narrator.step("Starting a cluster and two sites");
    let world = World::start_with(options, |at| step.now(at)).await?;
    step.done(format!("everything is in {}", world.folder().display()));
    let world = place.insert(world);
    for number in 1..=arguments.vms {
        let name = format!("vm-{number}");
        let step = narrator.step(format!("Booting and protecting {name}"));
        let mut guest = GuestSettings::new(&name, "{site}");
        guest.dirty_kib_per_second = 128;
        guest.dirty_area_mib = Some(16);
        world
            .add(&VmOptions {
                name,
                disks: vec![128 << 20, 64 << 20],
                guest,
                memory_mib: 192,
            })
            .await?;
        step.done("");
    }
    narrator.print(commands(world)?);
    Ok(())
}

fn commands(world: &World) -> Result<String> {
    let kubeconfig = world.cluster.plane.kubeconfig();
    let kubectl = tools::find(Tool::Kubectl)?;
    let (homeward, agent) = world.by_hand(homeward::api::Site::OnPremises)?;
    let processes: Vec<String> = world
        .processes()
        .into_iter()
        .map(|(name, id)| format!("    {id:<8} {name}"))
        .collect();
    Ok(format!(
        r#"
The playground is running. In another terminal:

  export KUBECONFIG={kubeconfig}
  alias kubectl={kubectl}

  kubectl get rv,pvm,fo                      what there is
  kubectl get fo -w -o wide                  watch moves

  kubectl patch pvm vm-1 --type merge -p '{{"spec":{{"placement":"Azure"}}}}'         move it
  kubectl patch pvm vm-1 --type merge -p '{{"spec":{{"placement":"OnPremises"}}}}'    and home

  kubectl patch pvm vm-1 --type merge -p '{{"spec":{{"cutover":{{"approval":"Manual"}},"commit":{{"approval":"Manual"}}}}}}'
                                             from now on, ask before cutover and commit; change the placement again, and then:
  fo() {{ kubectl get pvm vm-1 -o jsonpath='{{.status.currentFailover.name}}'; }}       the move under way
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"cutover":"Approved"}}}}'        stop it here, start it there
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"commit":"Approved"}}}}'         accept, or "Rollback"
  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"cancel":true}}}}'               stay where it is (before it was started there)

  kubectl patch fo $(fo) --type merge -p '{{"spec":{{"start":"Approved"}}}}'          begin, where it waits for that: after a cancel or a rollback

  {homeward} vm list {agent}
                                             what a host itself says; `vm console vm-1` instead shows the guest's console

  tail -f {folder}/*/agent.log {folder}/cluster/operator-0.log

  kill -9 PID                                 it is started again, and moves go on:
{processes}

Ctrl-C ends everything, and leaves nothing behind."#,
        processes = processes.join("\n"),
        kubeconfig = kubeconfig.display(),
        kubectl = kubectl.display(),
        folder = world.folder().display(),
        homeward = homeward.display(),
    ))
}
