//! Disks that are not as one would like them: of odd sizes, grown, without a counterpart, and too large for the target.

use std::{fs::File, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use homeward::agent::api::PowerSwitch;
use homeward::api::{FailoverOutcome, ProtectedVirtualMachine, Site};
use homeward_playground::world::{LIMIT, Vm, VmOptions, World, eventually};

use crate::{
    lane::{Lane, pending, processes, run},
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
async fn an_added_disk_is_enrolled_by_itself_and_one_taken_out_holds_nothing_up() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("added")).await?;
        let as_before = lane.vm.clone();
        lane.vm = lane.world.add_disk(&lane.vm, 1024 * KIB)?;
        let added = lane.vm.disks.last().context("it has disks")?.clone();
        let content: Vec<u8> = (1..=u8::MAX)
            .flat_map(|byte| [byte; 4096])
            .chain([7; 4096])
            .collect();
        std::fs::write(&added, &content)?;
        eventually(LIMIT, "the added disk is at the other site", async || {
            let there = lane.world.disks(&lane.vm, Site::Azure).await?;
            let file = there.get(2).and_then(|disk| std::fs::read(disk).ok());
            Ok((file.as_ref() == Some(&content)).then_some(()))
        })
        .await?;
        lane.until_writing(Site::OnPremises).await?;
        lane.world.remove_last_disk(&lane.vm)?;
        lane.vm = as_before;
        lane.travel(Site::Azure).await?;
        ensure!(
            lane.world.disks(&lane.vm, Site::Azure).await?.len() == 2,
            "the disk that was taken out has moved"
        );
        lane.finish(0).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passive_host_that_was_made_anew_is_enrolled_again() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("anew")).await?;
        make_anew(&mut lane, Site::Azure).await?;
        lane.travel(Site::Azure).await?;
        lane.travel(Site::OnPremises).await?;
        lane.finish(0).await
    })
    .await;
}

/// The host is lost with all that it had, and another has its name.
async fn make_anew(lane: &mut Lane, site: Site) -> Result<()> {
    let host = lane.world.host_mut(site);
    host.kill();
    for folder in ["state", "storage"] {
        std::fs::remove_dir_all(host.folder().join(folder))
            .with_context(|| format!("cannot remove {folder}"))?;
    }
    host.start().await
}

/// The way back for a VM that was stopped for a target that will never answer again.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_lost_after_the_stop_is_made_anew_and_the_source_runs_again() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("lost")).await?;
        let failover = lane.begin(Site::Azure).await?;
        lane.until(&failover, "FinalSync", |it| {
            pending(it) == Some("FinalSync")
        })
        .await?;
        lane.world.host_mut(Site::Azure).kill();
        lane.until(&failover, "it says what it waits for", |it| {
            let status = it.status.as_ref();
            let waits = status.and_then(|status| status.waiting_for.as_deref());
            waits.is_some_and(|words| words.contains("az01"))
        })
        .await?;
        make_anew(&mut lane, Site::Azure).await?;
        lane.until_ended(&failover, FailoverOutcome::Failed).await?;
        lane.until_writing(Site::OnPremises).await?;
        lane.world
            .cluster
            .place(&lane.vm.name, Site::OnPremises)
            .await?;
        lane.until_settled(Site::OnPremises).await?;
        lane.finish(0).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_room_is_told_of_before_anything_is_stopped() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("small")).await?;
        let mut options = VmOptions::small("huge");
        let free = lane.world.host(Site::Azure).state().await?.free_bytes;
        // Sparse here; counted whole there.
        options.disks.push((free / 512 + (4 << 20)) * 512);
        let vm = lane.world.define(&options)?;
        lane.world
            .cluster
            .protect(&vm, Site::OnPremises, |_| {})
            .await?;
        let told = lane
            .world
            .cluster
            .until_vm(&vm.name, "it says that there is no room", |vm| {
                message(vm).contains("make room")
            })
            .await?;
        println!("full target: {}", message(&told));
        // It is taken on all the same: it runs here, and can be switched off and on.
        lane.world.power(&vm, PowerSwitch::Off).await?;
        lane.world.power(&vm, PowerSwitch::On).await?;
        lane.world.cluster.place(&vm.name, Site::Azure).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let owner = lane.world.owner(&vm).await?.map(|(site, _)| site);
        ensure!(owner != Some(Site::Azure), "it has moved");
        let left = lane.world.folder().join("az01/storage");
        ensure!(
            !holds_disk_of(&left, &vm.name)?,
            "disks were made where there is no room"
        );
        // The other one on the same hosts is not held up.
        lane.travel(Site::Azure).await?;
        lane.finish(0).await
    })
    .await;
}

fn holds_disk_of(folder: &Path, vm: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let inside = entry.file_type()?.is_dir() && holds_disk_of(&entry.path(), vm)?;
        if inside || entry.file_name().to_string_lossy().starts_with(vm) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn message(vm: &ProtectedVirtualMachine) -> String {
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let said: Vec<&str> = conditions.map(|it| it.message.as_str()).collect();
    said.join("\n")
}
