//! Failover: says which ones are ignored, and lets those go that hold nothing.
//!
//! A move is led by the pass over its VM. Here only two things happen: a Failover that no controller made for a VM is told so, and
//! one that is being deleted and is not a move under way loses its finalizer.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;

use super::context::Context;
use super::feed::Guarded;
use super::key::Key;
use super::kubernetes::{ApiError, is_held, let_go};
use super::lease::LeadershipEnded;
use super::unreadable::UntoldError;
use crate::api::{Failover, FailoverPhase, ProtectedVirtualMachine};
use crate::domain::{ConditionType, ErrorClass, Event, Reason, Said, Truth, merge_conditions};

/// How long a Failover may stand before the VM's status has to name it.
const GRACE: Duration = Duration::from_secs(5);

/// Why a pass ended before it was through.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
    /// What cannot be read could not be told of.
    #[error(transparent)]
    Unreadable(#[from] UntoldError),
}

impl PassError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) => ErrorClass::Conflict,
            Self::Unreadable(error) => error.class(),
        }
    }
}

/// What a Failover is to its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// The move under way.
    Current,
    /// A move that has ended.
    Ended,
    /// Nobody made it for a VM, or nobody goes on with it.
    Ignored(String),
}

/// One pass.
pub async fn pass(
    guarded: Arc<Guarded<Failover>>,
    context: Arc<Context>,
) -> Result<Action, PassError> {
    if let Err(invalid) = &guarded.0 {
        context
            .unreadable
            .tell::<Failover>(
                &context.client,
                context.within,
                &context.announcer,
                &context.proof,
                invalid,
            )
            .await?;
        return Ok(Action::await_change());
    }
    let key = Key::of(kube::Resource::meta(guarded.as_ref()));
    let Some(failover) = context.failovers.newest(&key) else {
        return Ok(Action::await_change());
    };
    let vm_key = Key::new(&key.namespace, &failover.spec.virtual_machine.name);
    let standing = standing(&failover, context.vms.newest(&vm_key).as_deref());
    if standing == Standing::Current {
        return Ok(Action::await_change());
    }
    if failover.metadata.deletion_timestamp.is_some() {
        if is_held(failover.as_ref()) {
            context.proof.check()?;
            let api = context.failover_api(&key.namespace);
            let written = context
                .within
                .write_finalizers(
                    "let a Failover go",
                    &api,
                    failover.as_ref(),
                    &let_go(failover.as_ref()),
                )
                .await;
            match written {
                Ok(written) => {
                    context.failovers.recent.wrote(written);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        return Ok(Action::await_change());
    }
    let Standing::Ignored(why) = standing else {
        return Ok(Action::await_change());
    };
    // A Failover is made a moment before the VM's status names it.
    if let Some(left) = young(&failover) {
        return Ok(Action::requeue(left));
    }
    ignore(&context, &key, &failover, why).await?;
    Ok(Action::await_change())
}

fn standing(failover: &Failover, vm: Option<&ProtectedVirtualMachine>) -> Standing {
    let named = &failover.spec.virtual_machine;
    let phase = failover.status.as_ref().and_then(|status| status.phase);
    let ended = phase.is_some_and(FailoverPhase::is_final);
    let Some(vm) = vm.filter(|vm| vm.metadata.uid.as_deref() == Some(named.uid.as_str())) else {
        // A record is not made worthless by the end of its VM, and is collected with it.
        if ended {
            return Standing::Ended;
        }
        return Standing::Ignored(format!(
            "there is no ProtectedVirtualMachine {} of UID {}",
            named.name, named.uid
        ));
    };
    let status = vm.status.as_ref();
    let uid = failover.metadata.uid.as_deref();
    if status
        .and_then(|status| status.current_failover.as_ref())
        .is_some_and(|current| Some(current.uid.as_str()) == uid)
    {
        return Standing::Current;
    }
    if ended {
        return Standing::Ended;
    }
    Standing::Ignored(format!(
        "the status of ProtectedVirtualMachine {} does not name it",
        named.name
    ))
}

fn young(failover: &Failover) -> Option<Duration> {
    let created = failover.metadata.creation_timestamp.as_ref()?.0;
    let age = Duration::try_from(Timestamp::now().duration_since(created)).unwrap_or_default();
    GRACE.checked_sub(age).filter(|left| !left.is_zero())
}

async fn ignore(
    context: &Context,
    key: &Key,
    failover: &Failover,
    why: String,
) -> Result<(), PassError> {
    let before = failover.status.clone().unwrap_or_default();
    let message = format!(
        "this Failover is ignored: {why}. Failovers are made by Homeward; to move a VM, change spec.placement of its ProtectedVirtualMachine, and delete this one"
    );
    let said = |kind, truth| Said::new(kind, truth, Reason::NotMadeByController, message.clone());
    let mut status = before.clone();
    status.observed_generation = failover.metadata.generation;
    status.waiting_for =
        Some("nothing: it is ignored and can be deleted, see its conditions".into());
    status.conditions = merge_conditions(
        &before.conditions,
        vec![
            said(ConditionType::Ready, Truth::False),
            said(ConditionType::Stalled, Truth::True),
        ],
        failover.metadata.generation,
        Timestamp::now(),
    );
    if status == before {
        return Ok(());
    }
    context.proof.check()?;
    let mut next = failover.clone();
    next.status = Some(status);
    let api = context.failover_api(&key.namespace);
    let written = context
        .within
        .write_status("write the status of a Failover", &api, &next)
        .await?;
    context.metrics.status_write("Failover");
    tracing::warn!(failover = %written.name_any(), namespace = %key.namespace, why, "a Failover is ignored");
    let event = Event {
        warning: true,
        reason: Reason::NotMadeByController.as_str(),
        message,
    };
    context.announcer.tell(&written, "", &[event]).await;
    context.failovers.recent.wrote(written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        DataSyncRequest, FailoverReference, FailoverSpec, FailoverStatus, Placement,
        ProtectedVirtualMachineSpec, ProtectedVirtualMachineStatus, Site, VaultReference,
        VirtualMachineReference,
    };

    fn failover(phase: Option<FailoverPhase>) -> Failover {
        let mut failover = Failover::new(
            "web-1",
            FailoverSpec {
                virtual_machine: VirtualMachineReference {
                    name: "web".into(),
                    uid: "u".into(),
                },
                from: Site::OnPremises,
                to: Site::Azure,
                data_sync: DataSyncRequest::Auto,
                host: None,
                create_if_missing: None,
                start: None,
                cutover: None,
                commit: None,
                reverse_replicate: None,
                cancel: None,
            },
        );
        failover.metadata.uid = Some("f".into());
        failover.status = Some(FailoverStatus {
            phase,
            ..FailoverStatus::default()
        });
        failover
    }

    fn vm(uid: &str, current: Option<&str>) -> ProtectedVirtualMachine {
        let mut vm = ProtectedVirtualMachine::new(
            "web",
            ProtectedVirtualMachineSpec {
                vault_ref: VaultReference { name: "v".into() },
                virtual_machine_name: None,
                placement: Placement::Azure,
                failback: None,
                cutover: None,
                commit: None,
                reverse_replication: None,
                suspend: None,
                failover_history_limit: None,
                encryption_key_secret_ref: None,
            },
        );
        vm.metadata.uid = Some(uid.into());
        vm.status = Some(ProtectedVirtualMachineStatus {
            current_failover: current.map(|uid| FailoverReference {
                name: "web-1".into(),
                uid: uid.into(),
                start_held_because: None,
                taken_up: false,
            }),
            ..ProtectedVirtualMachineStatus::default()
        });
        vm
    }

    #[test]
    fn s06_a_failover_counts_only_with_the_uids_of_both() {
        let ignored = |standing| matches!(standing, Standing::Ignored(_));
        let running = failover(Some(FailoverPhase::CuttingOver));
        assert_eq!(
            standing(&running, Some(&vm("u", Some("f")))),
            Standing::Current
        );
        assert!(ignored(standing(&running, None)));
        assert!(ignored(standing(&running, Some(&vm("other", Some("f"))))));
        assert!(ignored(standing(&running, Some(&vm("u", Some("g"))))));
        assert!(ignored(standing(&running, Some(&vm("u", None)))));
        let ended = failover(Some(FailoverPhase::Succeeded));
        assert_eq!(standing(&ended, Some(&vm("u", None))), Standing::Ended);
        // What it says of a move that has ended stays, whatever became of its VM.
        assert_eq!(standing(&ended, Some(&vm("other", None))), Standing::Ended);
        assert_eq!(standing(&ended, None), Standing::Ended);
    }
}
