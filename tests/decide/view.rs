//! The resources as decisions are given them.

use homeward::api::{FailoverPhase, FailoverReference, ProtectedVirtualMachineStatus};
use homeward::domain::{
    Claim, CurrentFailover, DEFAULT_HISTORY_LIMIT, Effect, FailoverView, FinishedFailover, Intent,
    NewFailover,
};
use jiff::SignedDuration;

use super::store::{Failover, Key, Pvm, Store};

pub const VM: &str = "vm";
pub const CLUSTER: &str = "cluster";

pub fn intent(pvm: &Pvm) -> Intent {
    Intent {
        name: VM.into(),
        uid: pvm.uid.clone(),
        vm_name: VM.into(),
        vault: "vault".into(),
        placement: pvm.spec.placement,
        data_sync: pvm.spec.data_sync,
        alternate: pvm.spec.alternate.clone(),
        encryption_key: (pvm.spec.key != Key::None).then(|| "key".into()),
        full_download_after: SignedDuration::from_hours(720),
        cutover: pvm.spec.cutover,
        commit: pvm.spec.commit,
        reverse_replication: pvm.spec.reverse_replication,
        suspend: pvm.spec.suspend,
        history_limit: DEFAULT_HISTORY_LIMIT.min(3),
        deleting: pvm.deleting,
        takeover: None,
        seen_running: pvm.spec.seen_running.clone(),
    }
}

pub fn claim(pvm: &Pvm) -> Claim {
    Claim {
        cluster: CLUSTER.into(),
        vm_uid: pvm.uid.clone(),
    }
}

/// Whether who holds the VM is a resource that is no more. Asked of the API server itself, not of a cache.
pub fn is_gone(holder: &Claim, store: &Store) -> bool {
    let left = store.pvm.as_ref().map(|pvm| &pvm.uid);
    holder.cluster == CLUSTER && left != Some(&holder.vm_uid)
}

pub fn current<'a>(pvm: &'a Pvm, failover: Option<&'a Failover>) -> CurrentFailover<'a> {
    match (pvm.status.current_failover.as_ref(), failover) {
        (None, _) => CurrentFailover::None,
        (Some(_), None) => CurrentFailover::Missing,
        (Some(reference), Some(failover)) => CurrentFailover::Known(FailoverView {
            name: &failover.name,
            uid: &failover.uid,
            generation: Some(1),
            spec: &failover.spec,
            status: &failover.status,
            start_held_because: reference.start_held_because.as_deref(),
            taken_up: reference.taken_up,
            deleting: failover.deleting,
        }),
    }
}

pub fn history(view: &Store, pvm: &Pvm) -> Vec<FinishedFailover> {
    let current = view.current();
    view.failovers
        .values()
        .filter(|failover| {
            failover.spec.virtual_machine.uid == pvm.uid
                && failover.status.phase.is_some_and(FailoverPhase::is_final)
                && current.is_none_or(|current| current.uid != failover.uid)
        })
        .map(|failover| FinishedFailover {
            name: failover.name.clone(),
            finalizer: failover.finalizer,
        })
        .collect()
}

/// Brings about an effect that the driver has no part in; the number of a Failover that was made by it, and that the status now names.
pub fn bring_about(
    store: &mut Store,
    pvm: &Pvm,
    status: &mut ProtectedVirtualMachineStatus,
    effect: &Effect,
) -> Option<i64> {
    match effect {
        Effect::Submit(_) => panic!("this one is for the driver"),
        Effect::CreateFailover(new) => return Some(begin(store, pvm, status, new)),
        Effect::ReleaseFailover { name } => store.release_failover(name),
        Effect::DeleteFailover { name } => {
            let named = |failover: &&Failover| failover.name == *name;
            let number = store.failovers.values().find(named).map(|it| it.number);
            if let Some(number) = number {
                store.delete_failover(number);
                store.writes += 1;
            }
        }
        Effect::ReleaseVm => store.release_pvm(),
    }
    None
}

fn begin(
    store: &mut Store,
    pvm: &Pvm,
    status: &mut ProtectedVirtualMachineStatus,
    new: &NewFailover,
) -> i64 {
    let (number, name, uid) = store.create_failover(&pvm.uid, new);
    status.failover_counter = Some(number);
    status.next_start_held_because = None;
    status.current_failover = Some(FailoverReference {
        name,
        uid,
        start_held_because: new.start_held_because.clone(),
        taken_up: new.taken_up,
    });
    number
}
