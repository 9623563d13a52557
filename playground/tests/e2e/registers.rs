//! A register that is lost, at rest and in a move, and a definition of stale disks that is put back when the VM has long come home to others.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::agent::api::{Command, Order, PowerSwitch, VmState};
use homeward::api::{ProtectedVirtualMachine, Site, VirtualMachinePhase};
use homeward_playground::world::{LIMIT, VmOptions, eventually};
use kube::api::DeleteParams;
use serde_json::json;

use crate::lane::{Lane, Victim, pending, processes, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_definition_put_back_after_a_lost_register_costs_no_record() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("stale")).await?;
        lane.travel(Site::Azure).await?;
        let by_hand = lane
            .world
            .host(Site::OnPremises)
            .definitions()
            .join("stale.yaml");
        let written = fs::read_to_string(&by_hand)?;
        lose_the_register(&mut lane, Site::Azure).await?;
        lane.until_settled(Site::Azure).await?;
        lane.travel(Site::OnPremises).await?;
        lane.vm.disks = arrived(&lane).await?;
        ensure!(
            lane.vm
                .disks
                .iter()
                .all(|disk| !written.contains(&*disk.to_string_lossy())),
            "it came back to where it was"
        );
        lane.until_writing(Site::OnPremises).await?;
        fs::write(&by_hand, &written)?;
        let told = until_said(&lane, "--on-other-disks").await?;
        println!("stale: {told}");
        lane.world.power(&lane.vm, PowerSwitch::Off).await?;
        let refused = start(&lane).await?;
        ensure!(
            refused.contains("Put the definition back"),
            "it was not refused: {refused}"
        );
        let replica = lane.world.disks(&lane.vm, Site::Azure).await?;
        let before: Vec<_> = replica.iter().map(fs::read).collect::<Result<_, _>>()?;
        until_said(&lane, "last ran on").await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after: Vec<_> = replica.iter().map(fs::read).collect::<Result<_, _>>()?;
        ensure!(before == after, "the replica was written to");
        fs::remove_file(&by_hand)?;
        lane.world.power(&lane.vm, PowerSwitch::On).await?;
        lane.until_settled(Site::OnPremises).await?;
        lane.travel(Site::Azure).await?;
        lane.finish(0).await
    })
    .await;
}

/// The operator died before it saw the start that it had asked for, and the register of the target went with that host's agent. The guest there has
/// written what is nowhere else: nobody fences it off, and the source stays down until the runbook was followed to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lost_its_register_before_commit_is_not_fenced_off() {
    run(async {
        let commit = json!({"approval": "Manual"});
        let change = |spec: &mut serde_json::Value| spec["commit"] = commit;
        let mut lane = Lane::start_with(processes(), &VmOptions::small("gone"), change).await?;
        let name = lane.begin(Site::Azure).await?;
        let uuid = lane.vm.uuid;
        eventually(LIMIT, "the target has taken the start", async || {
            let found = lane.world.host(Site::Azure).vm(uuid).await?;
            let register = found.and_then(|found| found.register);
            Ok(register.and_then(|register| register.start))
        })
        .await?;
        lane.kill(Victim::Operator, Site::OnPremises);
        let seen = lane.world.cluster.failovers().get(&name).await?;
        // It may have looked in that very moment; what follows holds either way.
        println!(
            "gone: asked for, and not seen to be done: {:?}",
            pending(&seen)
        );
        lane.until_writing(Site::Azure).await?;
        let target = lane.world.host_mut(Site::Azure);
        target.kill();
        fs::remove_file(target.folder().join(format!("state/registers/{uuid}.json")))?;
        target.start().await?;
        lane.restart(Victim::Operator, Site::OnPremises).await?;
        lane.until(&name, "it says that the register is gone", |it| {
            it.status
                .as_ref()
                .and_then(|status| status.waiting_for.as_deref())
                .is_some_and(|words| {
                    words.contains("the register of the VM in Azure, which is gone")
                })
        })
        .await?;
        lane.until_writing(Site::Azure).await?;
        lane.check(0)?;

        // The runbook, case 4.
        let suspend = json!({"suspend": true});
        lane.world.cluster.patch_vm("gone", suspend).await?;
        forget(&mut lane, Site::Azure).await?;
        let vms = lane.world.cluster.vms();
        vms.delete("gone", &DeleteParams::default()).await?;
        eventually(LIMIT, "it is deleted", async || {
            Ok(vms.get_opt("gone").await?.is_none().then_some(()))
        })
        .await?;
        let anew = |spec: &mut serde_json::Value| spec["suspend"] = json!(true);
        let cluster = &lane.world.cluster;
        cluster.protect(&lane.vm, Site::Azure, anew).await?;
        cluster
            .until_vm("gone", "Suspended in Azure", |vm| {
                let status = vm.status.as_ref();
                status.is_some_and(|status| {
                    status.phase == Some(VirtualMachinePhase::Suspended)
                        && status.active_site == Some(Site::Azure)
                })
            })
            .await?;
        cluster.patch_vm("gone", json!({"suspend": false})).await?;
        lane.until_settled(Site::Azure).await?;
        // The number of the move that ended with the resource of before is taken.
        lane.world.cluster.place("gone", Site::OnPremises).await?;
        lane.until_settled(Site::OnPremises).await?;
        lane.vm.disks = arrived(&lane).await?;
        lane.finish_by_consoles(0).await
    })
    .await;
}

async fn lose_the_register(lane: &mut Lane, lives_at: Site) -> Result<()> {
    forget(lane, lives_at).await?;
    let uuid = lane.vm.uuid;
    // The status of before would look settled.
    eventually(LIMIT, "it is taken on again", async || {
        let found = lane.world.host(lives_at).vm(uuid).await?;
        Ok(found.and_then(|found| found.register))
    })
    .await?;
    eventually(LIMIT, "the other host is enrolled again", async || {
        let found = lane.world.host(lives_at.other()).vm(uuid).await?;
        Ok(found.and_then(|found| found.register))
    })
    .await?;
    Ok(())
}

/// What the runbook says: on the host where the VM lives the register goes, on the other one all that makes it know the VM.
async fn forget(lane: &mut Lane, lives_at: Site) -> Result<()> {
    let (uuid, name) = (lane.vm.uuid, lane.vm.name.clone());
    for site in Site::BOTH {
        let host = lane.world.host_mut(site);
        host.kill();
        let kinds: &[&str] = if site == lives_at {
            &["registers"]
        } else {
            fs::remove_file(host.definitions().join(format!("{name}.yaml")))?;
            &["registers", "definitions", "remembered"]
        };
        for kind in kinds {
            let file = host.folder().join(format!("state/{kind}/{uuid}.json"));
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
    }
    for site in Site::BOTH {
        lane.world.host_mut(site).start().await?;
    }
    Ok(())
}

async fn defined(lane: &Lane) -> Result<VmState> {
    let host = lane.world.host(Site::OnPremises);
    host.vm(lane.vm.uuid).await?.context("the host knows it")
}

/// The disks on the premises, where the VM has come to new ones.
async fn arrived(lane: &Lane) -> Result<Vec<PathBuf>> {
    let definition = defined(lane).await?.definition;
    let disks = definition.context("it has arrived")?.disks;
    Ok(disks.into_iter().map(|disk| disk.path).collect())
}

async fn until_said(lane: &Lane, words: &str) -> Result<String> {
    let told = lane
        .world
        .cluster
        .until_vm(&lane.vm.name, &format!("it says {words}"), |vm| {
            message(vm).contains(words)
        })
        .await?;
    Ok(message(&told))
}

fn message(vm: &ProtectedVirtualMachine) -> String {
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let said: Vec<&str> = conditions
        .filter(|it| it.type_ == "Ready")
        .map(|it| it.message.as_str())
        .collect();
    said.join("\n")
}

/// As `homeward vm start`; what the agent says to it.
async fn start(lane: &Lane) -> Result<String> {
    let register = defined(lane).await?.register.context("it owns the VM")?;
    let order = Order {
        vm: lane.vm.uuid,
        epoch: register.epoch,
        step: register.step + 1000,
        claim: None,
        failover: None,
        command: Command::Power {
            state: PowerSwitch::On,
            force: false,
            on_other_disks: false,
        },
    };
    let host = lane.world.host(Site::OnPremises);
    Ok(match host.client().order(lane.vm.uuid, &order).await {
        Ok(answer) => format!("{answer:?}"),
        Err(refused) => refused.to_string(),
    })
}
