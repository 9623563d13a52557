//! Two clusters that know the same hosts claim one VM: the first has it, the other waits and says so.

use anyhow::ensure;
use homeward::api::{ProtectedVirtualMachine, Site};
use homeward_playground::world::{LIMIT, VmOptions, is_true, until};
use kube::ResourceExt as _;

use crate::lane::{Lane, processes, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_has_one_cluster() {
    run(async {
        let mut lane = Lane::start(processes(), &VmOptions::small("claimed")).await?;
        let vm = lane.vm.clone();
        let other = lane.world.add_cluster().await?;
        // It would have it at the other site.
        other.protect(&vm, Site::Azure, |_| {}).await?;
        let stalled = |vm: &ProtectedVirtualMachine| {
            vm.status
                .as_ref()
                .is_some_and(|status| is_true(&status.conditions, "Stalled"))
        };
        let vms = other.vms();
        let told = until(
            &vms,
            &vm.name,
            LIMIT,
            "Stalled: somebody else has it",
            stalled,
        )
        .await?;
        let reason = reason(&told);
        ensure!(reason == "ClaimedElsewhere", "it says {reason}");
        lane.travel(Site::Azure).await?;
        lane.travel(Site::OnPremises).await?;
        let other = &lane.world.others[0];
        let moves = other.failovers_of(&vm.name).await?;
        ensure!(
            moves.is_empty(),
            "the other one made {}",
            moves[0].name_any()
        );
        let told = until(&vms, &vm.name, LIMIT, "still Stalled", stalled).await?;
        ensure!(told.status.is_some(), "it says nothing");
        lane.finish(0).await
    })
    .await;
}

fn reason(vm: &ProtectedVirtualMachine) -> String {
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|condition| condition.type_ == "Stalled")
        .map(|condition| condition.reason.clone())
        .collect()
}
