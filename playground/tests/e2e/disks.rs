//! Disks that are not as one would like them: of odd sizes, grown, added, and too large for the target.

use std::fs::File;

use anyhow::{Context as _, Result, ensure};
use homeward::{
    agent::api::PowerSwitch,
    api::{ProtectedVirtualMachine, Site},
};
use homeward_playground::{
    proofs,
    world::{Vm, VmOptions, World},
};

use crate::{
    lane::{Lane, processes, run},
    sampler::Sampler,
};

const KIB: u64 = 1024;

async fn sizes(world: &World, vm: &Vm, site: Site) -> Result<Vec<u64>> {
    let disks = world.disks(vm, site).await?;
    disks
        .iter()
        .map(|disk| Ok(std::fs::metadata(disk)?.len()))
        .collect()
}

/// Both sites hold the same, byte for byte, once the VM is off and has travelled.
async fn same_at_both(lane: &Lane) -> Result<()> {
    let here = lane.world.disks(&lane.vm, Site::OnPremises).await?;
    let there = lane.world.disks(&lane.vm, Site::Azure).await?;
    let differ = proofs::changed_bytes(&here, &there)?;
    ensure!(differ == 0, "{differ} bytes differ");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_of_odd_sizes_travel() {
    let mut sampler = Sampler::new("odd");
    run(async {
        let mut options = VmOptions::small("odd");
        options.disks = vec![
            2048 * KIB + 512,
            // One block and a bit, one sector short of a block, and a size by chance.
            64 * KIB * 9 + 512,
            64 * KIB * 12 - 512,
            512 * (1500 + sampler.below(3000)),
        ];
        println!("odd: {:?}", options.disks);
        let lane = Lane::start(processes(), &options).await?;
        lane.travel(Site::Azure).await?;
        ensure!(
            sizes(&lane.world, &lane.vm, Site::Azure).await? == options.disks,
            "sizes changed"
        );
        lane.travel(Site::OnPremises).await?;
        lane.finish(0).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_grew_travels_whole() {
    run(async {
        let lane = Lane::start(processes(), &VmOptions::small("grown")).await?;
        for (to, more) in [
            (Site::Azure, 1024 * KIB + 512),
            (Site::OnPremises, 64 * KIB),
        ] {
            let disks = lane.world.disks(&lane.vm, to.other()).await?;
            let file = File::options().write(true).open(&disks[1])?;
            let grown = file.metadata()?.len() + more;
            file.set_len(grown)?;
            // Growth is content as well: something stands at the new end.
            std::os::unix::fs::FileExt::write_all_at(&file, b"the end", grown - 7)?;
            lane.travel(to)
                .await
                .with_context(|| format!("grown by {more}, to {to}"))?;
            let found = sizes(&lane.world, &lane.vm, to).await?;
            ensure!(found[1] == grown, "it has {} bytes, not {grown}", found[1]);
            let mut end = [0; 7];
            let file = File::open(&lane.world.disks(&lane.vm, to).await?[1])?;
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut end, grown - 7)?;
            ensure!(&end == b"the end", "the new end is {end:?}");
        }
        lane.finish(0).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_added_travels_too() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("added")).await?;
        lane.world.power(&lane.vm, PowerSwitch::Off).await?;
        lane.vm = lane.world.add_disk(&lane.vm, 1024 * KIB)?;
        let added = File::options().write(true).open(&lane.vm.disks[2])?;
        std::os::unix::fs::FileExt::write_all_at(&added, b"added", 5000)?;
        lane.travel(Site::Azure).await?;
        ensure!(
            sizes(&lane.world, &lane.vm, Site::Azure).await?.len() == 3,
            "it was left behind"
        );
        same_at_both(&lane).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_room_is_told_of_before_anything_is_stopped() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("small")).await?;
        let mut options = VmOptions::small("huge");
        // Sparse here; counted whole there.
        options.disks.push(15 << 40);
        let vm = lane.world.define(&options)?;
        lane.world
            .cluster
            .protect(&vm, Site::OnPremises, |_| {})
            .await?;
        let told = lane
            .world
            .cluster
            .until_vm(&vm.name, "it says that there is no room", |vm| {
                message(vm).contains("free")
            })
            .await?;
        println!("full target: {}", message(&told));
        lane.world.power(&vm, PowerSwitch::On).await?;
        let huge = lane.world.owner(&vm).await?;
        ensure!(
            huge.is_some_and(|(site, _)| site == Site::OnPremises),
            "it is not where it was"
        );
        // The other one on the same hosts is not held up.
        lane.travel(Site::Azure).await?;
        lane.finish(0).await
    })
    .await;
}

fn message(vm: &ProtectedVirtualMachine) -> String {
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let said: Vec<&str> = conditions.map(|it| it.message.as_str()).collect();
    said.join("\n")
}
