//! Every process of a world is killed from outside while a VM moves; a service manager starts it again, and the move goes on.

use anyhow::{Context as _, ensure};
use homeward::api::{FailoverOutcome, Site};
use homeward_playground::world::VmOptions;
use rustix::process::{Pid, Signal, kill_process};

use crate::lane::{Lane, processes, run};

#[tokio::test(flavor = "multi_thread")]
async fn every_process_is_killed_in_turn_during_a_move() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("mended")).await?;
        for to in [Site::Azure, Site::OnPremises] {
            lane.world.cluster.place(&lane.vm.name, to).await?;
            let before = lane.world.processes();
            ensure!(before.len() == 5, "who is there? {before:?}");
            for (name, id) in before {
                let pid = Pid::from_raw(i32::try_from(id)?).context("a process has a number")?;
                kill_process(pid, Signal::KILL)?;
                // The kernel has yet to tell its parent.
                let mut mended = Vec::new();
                while !mended.contains(&name) {
                    mended.extend(lane.world.mend().await?);
                    tokio::task::yield_now().await;
                }
            }
            // By whatever name: one that was made, and not named in the VM's status before the operator was killed, is followed by the next number.
            lane.until_settled(to).await?;
        }
        ensure!(
            lane.count(FailoverOutcome::Succeeded).await? == 2,
            "there and back, each once"
        );
        lane.finish(0).await
    })
    .await;
}
