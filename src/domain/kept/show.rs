//! A look at a VM of a service, as if the service kept registers.

use jiff::Timestamp;

use super::fate::{self, Fate};
use super::{Limits, claim, is_old, mark, mark_of};
use crate::api::{KeptOutcome, KeptRegister, KeptRequest, KeptResult, Site};
use crate::domain::action::ActionKind;
use crate::domain::fact::Fact;
use crate::domain::failure::ErrorClass;
use crate::domain::observation::{
    BySite, Job, JobKind, JobState, Operation, OperationState, Stage, VmObservation,
};

/// What the look shows with the register beside it.
#[must_use]
pub fn show(
    register: Option<&KeptRegister>,
    look: &VmObservation,
    limits: Limits,
    now: Timestamp,
) -> VmObservation {
    let mut shown = look.clone();
    let nobodys = BySite::from_fn(|_| Fact::Absent);
    let Some(register) = register else {
        shown.claims = nobodys;
        shown.marks = BySite::from_fn(|_| Fact::Absent);
        shown.failovers = BySite::default();
        if let Fact::Known(Stage::Settled { site }) = look.stage {
            shown.stage = Fact::Known(Stage::Unclaimed { site });
        }
        shown.leaving = leaving(look);
        return shown;
    };
    shown.claims = BySite::from_fn(|_| Fact::Known(claim(register)));
    shown.marks = BySite::from_fn(|_| Fact::Known(mark(register)));
    shown.failovers = BySite::from_fn(|_| register.failover.clone());
    if let Some(protection) = shown.protection.known_mut() {
        protection.failover.clone_from(&register.failover);
        if let Some(whole) = &mut protection.last_whole {
            whole.failover.clone_from(&register.failover);
        }
    }
    if let Some(why) = &register.inconsistent_because {
        shown.target_consistent = Fact::Known(false);
        shown.inconsistent_because = Some(why.clone());
    }
    shown.operations = Vec::new();
    if let Some(request) = &register.request {
        let fate = fate::of(request, look, limits, now);
        match &fate {
            Fate::Unresolved(why) => {
                // S7, S18: nothing follows until its outcome is known.
                shown.marks = BySite::from_fn(|_| Fact::Unknown(why.clone()));
                shown.stage = Fact::Unknown(why.clone());
            }
            Fate::Running(_) | Fate::Ended(_) if is_old(request, look, limits) => {
                shown.marks = BySite::from_fn(|_| Fact::Unknown(fate::OLD_LOOK.into()));
                shown.stage = Fact::Unknown(fate::OLD_LOOK.into());
            }
            Fate::Running(_) | Fate::Ended(_) => {
                // One that had no effect leaves the register where it stood.
                if let Some(operation) = operation(request, &fate, look) {
                    let newest = mark(register).max(operation.mark);
                    shown.marks = BySite::from_fn(|_| Fact::Known(newest));
                    shown.operations.push(operation);
                }
            }
        }
    }
    shown.sync_ended = sync_ended(register, look);
    shown.leaving = leaving(look);
    shown
}

fn operation(request: &KeptRequest, fate: &Fate<'_>, look: &VmObservation) -> Option<Operation> {
    let kind = ActionKind::parse(&request.action)?;
    let find = |id: &Option<String>| -> Option<&Job> {
        let id = id.as_deref()?;
        let jobs = look.jobs.as_ref()?;
        jobs.all.iter().find(|job| job.id.eq_ignore_ascii_case(id))
    };
    let (state, job) = match fate {
        Fate::Running(job) => (OperationState::Running, Some(*job)),
        Fate::Ended(outcome) => (state_of(outcome)?, find(&outcome.job)),
        Fate::Unresolved(_) => return None,
    };
    Some(Operation {
        site: request.site,
        mark: mark_of(request),
        kind,
        state,
        progress: None,
        job: job.cloned(),
        bytes_on_wire: None,
        bytes_changed: None,
        remark: job.and_then(|job| job.remark.clone()),
    })
}

fn state_of(outcome: &KeptOutcome) -> Option<OperationState> {
    match outcome.result {
        KeptResult::Succeeded => Some(OperationState::Succeeded),
        KeptResult::Failed => Some(OperationState::Failed {
            class: ErrorClass::parse(outcome.class.as_deref().unwrap_or_default()),
            message: outcome.message.clone().unwrap_or_default(),
        }),
        KeptResult::NoEffect => None,
    }
}

/// The job by which the sync of this move was reached, when it was.
fn synchronised_by(register: &KeptRegister) -> Option<&str> {
    let request = register.request.as_ref()?;
    let outcome = request.outcome.as_ref()?;
    let synchronised = ActionKind::parse(&request.action) == Some(ActionKind::Synchronize)
        && outcome.result == KeptResult::Succeeded;
    outcome.job.as_deref().filter(|_| synchronised)
}

/// The job of the sync that this move had reached, of which whoever looks now was never told. While it went on, the VM would be held by it.
pub(super) fn vanished_sync<'a>(
    register: &'a KeptRegister,
    look: &VmObservation,
) -> Option<&'a str> {
    let id = synchronised_by(register)?;
    let jobs = look.jobs.as_ref()?;
    let told = jobs.all.iter().any(|job| job.id.eq_ignore_ascii_case(id));
    let rests = matches!(
        look.stage.known(),
        Some(Stage::Settled { site: Site::Azure })
    );
    (!told && rests && fate::none(&jobs.scenario)).then_some(id)
}

/// The sync of this move had been reached, and its job has ended since by no request of ours.
fn sync_ended(register: &KeptRegister, look: &VmObservation) -> Option<String> {
    let gone = "the service does not know the job of the data sync any more, and has nothing under way on the VM";
    if vanished_sync(register, look).is_some() {
        return Some(gone.to_owned());
    }
    let id = synchronised_by(register)?;
    let jobs = look.jobs.as_ref()?;
    let job = jobs
        .all
        .iter()
        .find(|job| job.id.eq_ignore_ascii_case(id))?;
    match &job.state {
        JobState::Cancelling | JobState::Cancelled => {
            Some("somebody else cancelled the data sync at the service".to_owned())
        }
        JobState::Failed { message, .. } => Some(format!("the data sync broke off: {message}")),
        JobState::Lost => Some(gone.to_owned()),
        JobState::Running { .. } | JobState::Waiting | JobState::Succeeded => None,
    }
}

/// The site that the VM leaves by the job that moves it, whoever began that. One that the service does not know now is followed by nobody: the VM may
/// have been free of it for long, where this process has not looked for a while.
fn leaving(look: &VmObservation) -> Option<Site> {
    let jobs = look.jobs.as_ref()?;
    let job = jobs.all.iter().rev().find(|job| {
        let moves = matches!(job.does, JobKind::Failover | JobKind::Failback);
        moves && !job.state.is_final() && job.missed.is_none()
    })?;
    Some(match job.does {
        JobKind::Failback => Site::Azure,
        _ => Site::OnPremises,
    })
}

/// A data sync that was broken off leaves a passive copy that must not be started, until another one has completed (invariant 4).
pub(super) fn note_consistency(register: &mut KeptRegister, look: &VmObservation) {
    match &look.target_consistent {
        Fact::Known(false) => {
            register
                .inconsistent_because
                .clone_from(&look.inconsistent_because);
        }
        Fact::Known(true) if look.is_whole_again() => register.inconsistent_because = None,
        Fact::Known(true) | Fact::Absent | Fact::Unknown(_) => {}
    }
}

impl VmObservation {
    /// Whether the passive copy of before was started, or made anew, since.
    fn is_whole_again(&self) -> bool {
        match &self.stage {
            Fact::Known(Stage::TargetStarted { .. } | Stage::Committed { .. }) => true,
            Fact::Known(Stage::Settled { site }) => *site == Site::OnPremises,
            _ => false,
        }
    }
}
