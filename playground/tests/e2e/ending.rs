//! Agents that are told to end while data travels do so within a minute, and say that all went well.

use anyhow::{Context as _, Result, ensure};
use homeward::{agent::api::VmState, api::Site};
use homeward_playground::world::{LIMIT, Vm, VmOptions, World, eventually};

use crate::lane::{processes, run};

const DISK: u64 = 48 << 20;

async fn state(world: &World, vm: &Vm, site: Site) -> Result<VmState> {
    let found = world.host(site).vm(vm.uuid).await?;
    found.with_context(|| format!("{} is not known at {site}", vm.name))
}

/// The first pass takes longer than anybody waits here: whoever ends only with it is found out.
async fn in_a_long_pass() -> Result<(World, Vm)> {
    let mut options = processes();
    options.bandwidth_limit = Some(256 << 10);
    let mut world = World::start(options).await?;
    let mut guest = VmOptions::small("slow");
    guest.disks = vec![DISK];
    let vm = world.define(&guest)?;
    let content: Vec<u8> = (0..DISK / 8)
        .flat_map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_le_bytes())
        .collect();
    std::fs::write(&vm.disks[0], content)?;
    world.cluster.protect(&vm, Site::OnPremises, |_| {}).await?;
    eventually(LIMIT, "data travels", async || {
        let sender = state(&world, &vm, Site::OnPremises).await?;
        let pass = sender.replication.and_then(|sends| sends.pass);
        Ok(pass.filter(|pass| pass.progress.bytes_done > 0).map(|_| ()))
    })
    .await?;
    Ok((world, vm))
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_end_when_told_to_in_the_middle_of_a_pass() {
    run(async {
        let (mut world, _vm) = in_a_long_pass().await?;
        for site in [Site::Azure, Site::OnPremises] {
            let host = world.host_mut(site);
            host.terminate()?;
            let mut ended = None;
            for _ in 0..600 {
                ended = host.exit_status()?;
                if ended.is_some() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            let ended = ended.with_context(|| format!("the agent in {site} does not end"))?;
            ensure!(ended.success(), "the agent in {site} ended with {ended}");
        }
        Ok(())
    })
    .await;
}
