//! Step 4: brings the one effect about. It makes no choices.
//!
//! Every effect checks first that this replica may still act. An action of a move is stored in the Failover's status, by
//! compare-and-swap, before it is asked for (safety rule S2).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::api::{DeleteParams, ObjectMeta, Preconditions};
use kube::{Resource as _, ResourceExt as _};

use super::encryption::EncryptionKey;
use super::fetch::{Current, Fetched};
use super::observe::Observed;
use super::publish::{self, PublishError};
use crate::api::{
    FINALIZER, Failover, FailoverReference, FailoverSpec, FailoverStatus, ProtectedVirtualMachine,
    ProtectedVirtualMachineStatus, VM_LABEL, VirtualMachineReference,
};
use crate::controllers::context::Context;
use crate::controllers::feed::Guarded;
use crate::controllers::hub::Sight;
use crate::controllers::key::Key;
use crate::controllers::kubernetes::{ApiError, is_held, let_go, post_parameters};
use crate::controllers::lease::LeadershipEnded;
use crate::domain::kept::Admitted;
use crate::domain::{
    self, ActionKind, Decision, Effect, ErrorClass, Event, NewFailover, Submission,
};
use crate::driver::{DriverError, ReplicationDriver};

/// How many names are tried for a new Failover in one pass.
const NAMES: i64 = 50;

/// Why the effect was not brought about.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// This replica may not act any more.
    #[error(transparent)]
    Leadership(#[from] LeadershipEnded),
    /// The record that must come first was not written.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The resource has changed since it was read.
    #[error("{0} has changed since it was read; decided anew")]
    Changed(Key),
    /// No name was free for a Failover.
    #[error("{NAMES} names for the next Failover of {0} were taken, one after the other")]
    NamesTaken(Key),
    /// The driver refused, or did not answer.
    #[error(transparent)]
    Refused(DriverError),
}

impl ActError {
    /// What follows from it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Api(error) => error.class(),
            Self::Leadership(_) | Self::Changed(_) => ErrorClass::Conflict,
            Self::Publish(error) => error.class(),
            Self::NamesTaken(_) => ErrorClass::Transient,
            Self::Refused(error) => error.class,
        }
    }
}

/// What was brought about. Statuses are written from this and from nothing else.
pub struct Acted {
    /// What to write of the VM: the resource to write it on, and the status; none when it was let go.
    pub vm: Option<(Arc<ProtectedVirtualMachine>, ProtectedVirtualMachineStatus)>,
    /// What to write of the Failover: the resource to write it on, and the status.
    pub failover: Option<(Arc<Failover>, FailoverStatus)>,
    /// A Failover that was made and that only counts once the VM's status names it.
    pub made: Option<Failover>,
    /// What to tell.
    pub events: Vec<Event>,
    /// The driver refused an action that belongs to no move.
    pub refused: Option<DriverError>,
}

/// Acts.
pub async fn act(
    context: &Context,
    fetched: &Fetched,
    observed: &Observed,
    encryption_key: &EncryptionKey,
    decision: Decision,
) -> Result<Acted, ActError> {
    let Decision {
        effect,
        status,
        failover,
        wake_after: _,
        pace: _,
        events,
    } = decision;
    let failover = match (failover, &fetched.failover) {
        (Some(status), Current::Known(resource, _)) => Some((resource.clone(), status)),
        (Some(_) | None, _) => None,
    };
    let mut acted = Acted {
        vm: Some((fetched.vm.clone(), status)),
        failover,
        made: None,
        events,
        refused: None,
    };
    match effect {
        None => {}
        Some(Effect::Submit(submission)) => {
            let submission = with_key(submission, encryption_key);
            submit(context, fetched, observed, &submission, &mut acted).await?;
        }
        Some(Effect::CreateFailover(new)) => create(context, fetched, new, &mut acted).await?,
        Some(Effect::ReleaseFailover { name }) => release(context, fetched, &name).await?,
        Some(Effect::DeleteFailover { name }) => delete(context, fetched, &name).await?,
        Some(Effect::ReleaseVm) => {
            context.proof.check()?;
            let api = context.vm_api(&fetched.key.namespace);
            let vm = fetched.vm.as_ref();
            let written = context
                .within
                .write_finalizers("let a VM go", &api, vm, &let_go(vm))
                .await;
            match written {
                Ok(vm) => {
                    context.vms.recent.wrote(vm);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
            acted.vm = None;
        }
    }
    Ok(acted)
}

/// A move to Azure takes the key certificate along.
fn with_key(submission: Submission, key: &EncryptionKey) -> Submission {
    match (key, submission.action.kind()) {
        (EncryptionKey::Usable(key), ActionKind::CompleteFailover) => Submission {
            encryption_key: Some(key.clone()),
            ..submission
        },
        _ => submission,
    }
}

async fn submit(
    context: &Context,
    fetched: &Fetched,
    observed: &Observed,
    submission: &Submission,
    acted: &mut Acted,
) -> Result<(), ActError> {
    let Sight::Seen { driver, .. } = &observed.sight else {
        // Nothing is decided to be submitted without a look.
        return Err(ActError::Changed(fetched.key.clone()));
    };
    // S18: what the service is asked for is taken down with all that was known before, in the same breath.
    let admitted = match &observed.kept {
        Some(kept) => {
            let now = Timestamp::now();
            let limits = context.settings.service;
            domain::kept::admit(kept.register.as_ref(), &kept.look, submission, limits, now)
                .map(Some)
        }
        None => Ok(None),
    };
    if let (Ok(Some(admitted)), Some((_, status))) = (&admitted, &mut acted.vm) {
        status.register.clone_from(&admitted.register);
    }
    // S2: stored before it is asked for, and only if nobody else wrote since it was read.
    context.proof.check()?;
    match (&mut acted.failover, &mut acted.vm) {
        (Some((resource, status)), vm) => {
            *resource = publish::failover(context, resource.clone(), status).await?;
            if let (Some((resource, status)), Ok(Some(_))) = (vm, &admitted) {
                *resource = publish::vm(context, resource.clone(), status).await?;
            }
        }
        (None, Some((resource, status))) => {
            let before = resource.status.clone().unwrap_or_default();
            let refused = domain::still_refused(&before, status);
            let stored = refused.as_ref().unwrap_or(status);
            if before == *stored {
                unchanged(context, fetched).await?;
            }
            *resource = publish::vm(context, resource.clone(), stored).await?;
        }
        (None, None) => {}
    }
    context.proof.check()?;
    let kind = submission.action.kind();
    tracing::info!(vm = %fetched.key, action = %kind, mark = %submission.mark, "asks the driver");
    let answer = match admitted {
        Ok(None) => ask(context, fetched, driver, submission).await,
        // What is for the register alone, or under way already, is not sent.
        Ok(Some(Admitted { send: None, .. })) => Ok(()),
        Ok(Some(Admitted { send, .. })) => {
            let sent = Submission {
                attempt: send,
                ..submission.clone()
            };
            let answer = ask(context, fetched, driver, &sent).await;
            note_answer(acted, &answer);
            answer
        }
        Err(refusal) => Err(DriverError {
            class: refusal.class,
            message: refusal.message,
            ambiguous: refusal.ambiguous,
        }),
    };
    let outcome = match &answer {
        Ok(()) => "accepted",
        Err(error) if error.ambiguous => "ambiguous",
        Err(error) => error.class.as_str(),
    };
    context.metrics.driver_call(kind.as_str(), outcome);
    let Err(error) = answer else { return Ok(()) };
    tracing::warn!(vm = %fetched.key, action = %kind, mark = %submission.mark, class = error.class.as_str(), ambiguous = error.ambiguous, %error, "the driver did not accept it");
    let now = Timestamp::now();
    let mut news = true;
    match &mut acted.failover {
        Some((_, status)) => {
            *status =
                domain::record_refusal(status, error.class, &error.message, error.ambiguous, now);
        }
        None => {
            if let Some((resource, status)) = &mut acted.vm {
                let before = resource.status.clone().unwrap_or_default();
                *status = domain::record_vm_refusal(
                    &before,
                    status,
                    error.class,
                    &format!("{kind}: {}", error.message),
                    resource.metadata.generation,
                    now,
                );
                // Refused again in the same words: that was told.
                news = *status != before;
            }
        }
    }
    // Somebody was first, a person's switch for example: the next look decides anew, and there is nothing to be done about it.
    if news && (error.ambiguous || error.class != ErrorClass::Conflict) {
        acted.events.push(Event {
            warning: true,
            reason: "ActionRefused",
            message: format!("{kind}: {error}"),
        });
    }
    if acted.failover.is_none() {
        acted.refused = Some(error);
    }
    Ok(())
}

/// Asks the driver.
async fn ask(
    context: &Context,
    fetched: &Fetched,
    driver: &Arc<dyn ReplicationDriver>,
    submission: &Submission,
) -> Result<(), DriverError> {
    let kind = submission.action.kind();
    let acting = context.hub.acting(&fetched.vault, &fetched.intent.vm_name);
    let limit = context.settings.timeouts.submit;
    let answer = tokio::time::timeout(limit, driver.submit(&fetched.intent.vm_name, submission))
        .await
        .unwrap_or_else(|_| {
            Err(DriverError::ambiguous(format!(
                "{kind} was not answered within {} s",
                limit.as_secs()
            )))
        });
    // S7: what is known of the VM counts again once a look begins after this.
    drop(acting);
    answer
}

/// S19: an answer that says that nothing was done is the proof that another attempt needs.
fn note_answer(acted: &mut Acted, answer: &Result<(), DriverError>) {
    let Some((_, status)) = &mut acted.vm else {
        return;
    };
    let Some(register) = &status.register else {
        return;
    };
    match answer {
        Ok(()) => status.register = Some(domain::kept::accepted(register)),
        Err(error) if error.ambiguous => {}
        Err(_) => status.register = Some(domain::kept::refused(register)),
    }
}

/// Makes sure that the resource is still the one that was read: the store may be behind.
async fn unchanged(context: &Context, fetched: &Fetched) -> Result<(), ActError> {
    let api = context.vm_api(&fetched.key.namespace);
    let live = context
        .within
        .call("read a VM", api.get_metadata(&fetched.key.name))
        .await?;
    let (live, read) = (&live.metadata, &fetched.vm.metadata);
    if live.resource_version == read.resource_version && live.uid == read.uid {
        Ok(())
    } else {
        Err(ActError::Changed(fetched.key.clone()))
    }
}

async fn create(
    context: &Context,
    fetched: &Fetched,
    new: NewFailover,
    acted: &mut Acted,
) -> Result<(), ActError> {
    let NewFailover {
        number,
        from,
        to,
        data_sync,
        alternate,
        start_held_because,
        taken_up,
    } = new;
    let namespace = &fetched.key.namespace;
    // Another replica may have made one: only the newest resource is followed by a new move.
    unchanged(context, fetched).await?;
    let api = context.failover_api(namespace);
    let spec = FailoverSpec {
        virtual_machine: VirtualMachineReference {
            name: fetched.key.name.clone(),
            uid: fetched.intent.uid.clone(),
        },
        from,
        to,
        data_sync,
        host: alternate.host,
        create_if_missing: alternate.create_if_missing.then_some(true),
        start: None,
        cutover: None,
        commit: None,
        reverse_replicate: None,
        cancel: None,
    };
    let mut number = number;
    for _ in 0..NAMES {
        context.proof.check()?;
        let failover = new_failover(&fetched.vm, &fetched.key, number, spec.clone());
        let made = context
            .within
            .call("make a Failover", api.create(&post_parameters(), &failover))
            .await;
        let made = match made {
            Ok(made) => made,
            // S6: whatever has this name is not this move; nothing of it is inherited.
            Err(error) if error.is_already_exists() => {
                number = highest_number(context, &fetched.key)
                    .max(number)
                    .saturating_add(1);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        tracing::info!(vm = %fetched.key, failover = %made.name_any(), %from, %to, "a move is begun");
        if let Some((_, status)) = &mut acted.vm {
            status.current_failover = Some(FailoverReference {
                name: made.name_any(),
                uid: made.uid().unwrap_or_default(),
                start_held_because,
                taken_up,
            });
            status.next_start_held_because = None;
            status.failover_counter = Some(number);
        }
        acted.made = Some(made);
        return Ok(());
    }
    Err(ActError::NamesTaken(fetched.key.clone()))
}

/// Numbers from here on were made by hand; what follows them would not be a number for long.
const MOST_NUMBERS: i64 = 1 << 40;

/// The highest number that a Failover of this name has, whosever it is; 0 when there is none.
fn highest_number(context: &Context, vm: &Key) -> i64 {
    let of_this = |failover: &Arc<Guarded<Failover>>| {
        let meta = failover.meta();
        let (name, number) = meta.name.as_deref()?.rsplit_once('-')?;
        let here = meta.namespace.as_deref() == Some(&vm.namespace) && name == vm.name;
        here.then(|| number.parse().ok())
            .flatten()
            .filter(|number| *number < MOST_NUMBERS)
    };
    let all = context.failovers.store.state();
    all.iter().filter_map(of_this).max().unwrap_or(0)
}

fn new_failover(
    vm: &ProtectedVirtualMachine,
    key: &Key,
    number: i64,
    spec: FailoverSpec,
) -> Failover {
    Failover {
        metadata: ObjectMeta {
            name: Some(format!("{}-{number}", key.name)),
            namespace: Some(key.namespace.clone()),
            labels: Some(BTreeMap::from([(VM_LABEL.to_owned(), key.name.clone())])),
            owner_references: vm.controller_owner_ref(&()).map(|owner| vec![owner]),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

async fn release(context: &Context, fetched: &Fetched, name: &str) -> Result<(), ActError> {
    let key = Key::new(&fetched.key.namespace, name);
    let Some(failover) = context.failovers.newest(&key) else {
        return Ok(());
    };
    if !is_held(failover.as_ref()) {
        return Ok(());
    }
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
        Ok(failover) => {
            context.failovers.recent.wrote(failover);
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn delete(context: &Context, fetched: &Fetched, name: &str) -> Result<(), ActError> {
    let key = Key::new(&fetched.key.namespace, name);
    let Some(failover) = context.failovers.newest(&key) else {
        return Ok(());
    };
    context.proof.check()?;
    let parameters = DeleteParams::background().preconditions(Preconditions {
        uid: failover.uid(),
        resource_version: None,
    });
    let api = context.failover_api(&key.namespace);
    match context
        .within
        .call("delete a Failover", api.delete(name, &parameters))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes back a Failover that was made but that the VM's status does not name: it was never begun.
pub async fn unmake(context: &Context, failover: &Failover) {
    let Some(namespace) = failover.namespace() else {
        return;
    };
    let api = context.failover_api(&namespace);
    let name = failover.name_any();
    if context.proof.check().is_err() {
        return;
    }
    let released = context
        .within
        .write_finalizers("take a Failover back", &api, failover, &let_go(failover))
        .await;
    let parameters = DeleteParams::background().preconditions(Preconditions {
        uid: failover.uid(),
        resource_version: None,
    });
    let deleted = context
        .within
        .call("take a Failover back", api.delete(&name, &parameters))
        .await;
    if released.is_err() || deleted.is_err() {
        tracing::warn!(failover = %name, %namespace, "a Failover that was never begun is left behind; it is ignored");
    }
}
