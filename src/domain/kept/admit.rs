//! Which orders may be sent to a service, and what is stored before.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::fate::{self, Fate};
use super::{JOBS_KEPT, Limits, claim, is_old, mark, mark_of};
use crate::api::{DataSync, KeptOutcome, KeptRegister, KeptRequest, KeptResult, Site};
use crate::domain::action::{Action, ActionKind, Attempt, Mark, Submission};
use crate::domain::failure::ErrorClass;
use crate::domain::observation::{Job, JobState, Stage, VmObservation};

/// An order that may be acted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// The register to store first; none when the VM is let go.
    pub register: Option<KeptRegister>,
    /// What the request is sent with; none when nothing is to be sent.
    pub send: Option<Attempt>,
}

/// Why an order may not be acted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What follows from it.
    pub class: ErrorClass,
    /// In words a person can act on.
    pub message: String,
    /// It may have taken effect before.
    pub ambiguous: bool,
}

fn refuse<T>(class: ErrorClass, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        class,
        message: message.into(),
        ambiguous: false,
    })
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Whether the order may be acted on, and with what.
///
/// # Errors
/// [`Refusal`]: an older order, one of somebody else, one that the service cannot do, or any while it is not known what came of the last.
pub fn admit(
    register: Option<&KeptRegister>,
    look: &VmObservation,
    submission: &Submission,
    limits: Limits,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let action = &submission.action;
    if submission.mark.epoch == 0 || submission.mark.step == 0 {
        return refuse(ErrorClass::Invalid, "epochs and steps begin with 1");
    }
    let Some(register) = register else {
        return match action {
            Action::Adopt { .. } => Ok(adopted(submission, None)),
            _ => refuse(
                ErrorClass::Denied,
                "the VM is nobody's: it is to be taken on first",
            ),
        };
    };
    if let Some(known) = known(register, look, submission, limits, now)? {
        return Ok(known);
    }
    // S2: older is refused.
    if submission.mark <= mark(register) {
        return refuse(
            ErrorClass::Conflict,
            format!("{} is not newer than {}", submission.mark, mark(register)),
        );
    }
    check_claim(register, submission)?;
    check_failover(register, look, submission)?;
    match action {
        Action::Adopt { .. } => Ok(adopted(submission, Some(register))),
        Action::Detach => match &look.stage.known() {
            Some(stage) if stage.is_midway() => {
                refuse(ErrorClass::Conflict, "the VM is in the middle of a move")
            }
            _ => Ok(Admitted {
                register: None,
                send: None,
            }),
        },
        Action::Release => Ok(Admitted {
            register: Some(KeptRegister {
                failover: None,
                request: None,
                ..at(register, submission.mark)
            }),
            send: None,
        }),
        Action::StopSource { .. } | Action::FinalSync { .. } | Action::StartTarget { .. } => {
            refuse(
                ErrorClass::Invalid,
                "stop, last delta and start are one job of the service",
            )
        }
        Action::RetireSource { .. } => refuse(
            ErrorClass::Invalid,
            "the service retires the source by itself when it commits",
        ),
        Action::FenceTarget { .. } | Action::ResumeSource { .. } => refuse(
            ErrorClass::Invalid,
            "the service cannot take a move back once the source was stopped",
        ),
        // S5: the service takes one commit for another.
        Action::Commit { at } if matches!(look.stage.known(), Some(Stage::TargetStarted { to, .. }) if to != at) => {
            refuse(
                ErrorClass::Conflict,
                format!("what waits for its commit was not moved to {at}"),
            )
        }
        Action::Protect { from: Site::Azure } | Action::ReverseReplicate { from: Site::Azure } => {
            refuse(
                ErrorClass::Invalid,
                "the service protects nothing that runs in Azure",
            )
        }
        Action::Synchronize {
            from: Site::OnPremises,
        } => refuse(
            ErrorClass::Invalid,
            "the service cannot pause a failover to Azure before it stops the VM",
        ),
        Action::Protect { .. }
        | Action::Synchronize { .. }
        | Action::CompleteFailover { .. }
        | Action::Commit { .. }
        | Action::ReverseReplicate { .. }
        | Action::CancelSync { .. } => request(register, look, submission, limits, now),
    }
}

/// S2, S18: an equal step returns what is known of it; nothing else is sent before the last outcome is known.
fn known(
    register: &KeptRegister,
    look: &VmObservation,
    submission: &Submission,
    limits: Limits,
    now: Timestamp,
) -> Result<Option<Admitted>, Refusal> {
    let Some(last) = &register.request else {
        return Ok(None);
    };
    let same = mark_of(last) == submission.mark
        && last.action == submission.action.kind().as_str()
        && Some(last.site) == submission.action.site();
    if is_old(last, look, limits) {
        return refuse(
            ErrorClass::Conflict,
            format!("not before {}", fate::OLD_LOOK),
        );
    }
    let as_it_is = || {
        Some(Admitted {
            register: Some(register.clone()),
            send: None,
        })
    };
    match fate::of(last, look, limits, now) {
        Fate::Ended(outcome) if outcome.result == KeptResult::NoEffect => Ok(None),
        Fate::Running(_) | Fate::Ended(_) if same => Ok(as_it_is()),
        Fate::Ended(_) => Ok(None),
        Fate::Unresolved(_) if same && last.accepted => Ok(as_it_is()),
        Fate::Unresolved(why) => Err(Refusal {
            class: ErrorClass::Conflict,
            message: format!("not before it is known {why}"),
            ambiguous: same,
        }),
        Fate::Running(job) => {
            // What runs is only ever cut short by a cancel.
            if submission.action.kind() == ActionKind::CancelSync {
                return Ok(None);
            }
            refuse(
                ErrorClass::Conflict,
                format!("job {} of the service is under way", job.id),
            )
        }
    }
}

/// S1: a claim moves only by an explicit takeover.
fn check_claim(register: &KeptRegister, submission: &Submission) -> Result<(), Refusal> {
    let held = claim(register);
    if held == submission.claim {
        return Ok(());
    }
    match &submission.action {
        Action::Adopt {
            takeover: Some(named),
            ..
        } if *named == held => Ok(()),
        _ => refuse(ErrorClass::Denied, format!("the VM is claimed by {held}")),
    }
}

/// S1: another Failover is refused until the one before was released.
fn check_failover(
    register: &KeptRegister,
    look: &VmObservation,
    submission: &Submission,
) -> Result<(), Refusal> {
    let rests = matches!(look.stage.known(), Some(Stage::Settled { .. }));
    match (&register.failover, &submission.failover) {
        (Some(held), Some(named)) if held != named => refuse(
            ErrorClass::Conflict,
            format!("failover {held} is under way"),
        ),
        (Some(held), None) if !rests && submission.action.kind() != ActionKind::Adopt => refuse(
            ErrorClass::Conflict,
            format!("failover {held} is in the middle of its move"),
        ),
        _ => Ok(()),
    }
}

fn at(register: &KeptRegister, mark: Mark) -> KeptRegister {
    KeptRegister {
        epoch: to_i64(mark.epoch),
        step: to_i64(mark.step),
        ..register.clone()
    }
}

fn adopted(submission: &Submission, before: Option<&KeptRegister>) -> Admitted {
    let register = KeptRegister {
        cluster: submission.claim.cluster.clone(),
        vm_uid: submission.claim.vm_uid.clone(),
        epoch: to_i64(submission.mark.epoch),
        step: to_i64(submission.mark.step),
        failover: submission.failover.clone(),
        request: before.and_then(|before| before.request.clone()),
        inconsistent_because: before.and_then(|before| before.inconsistent_because.clone()),
    };
    Admitted {
        register: Some(register),
        send: None,
    }
}

/// The job under way that does what the action would.
fn live(look: &VmObservation, kind: ActionKind, site: Site) -> Option<&Job> {
    let does = fate::job_kind(kind, site)?;
    let jobs = look.jobs.as_ref()?;
    jobs.all
        .iter()
        .rev()
        .find(|job| job.does == does && !job.state.is_final())
}

fn request(
    register: &KeptRegister,
    look: &VmObservation,
    submission: &Submission,
    limits: Limits,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let kind = submission.action.kind();
    let Some(site) = submission.action.site() else {
        return refuse(ErrorClass::Invalid, format!("{kind} is for no site"));
    };
    let Some(jobs) = &look.jobs else {
        return refuse(
            ErrorClass::Transient,
            "the service's jobs cannot be seen now, and nothing is sent without",
        );
    };
    let data_sync = match &submission.action {
        Action::CompleteFailover { data_sync, .. } => Some(*data_sync),
        _ => None,
    };
    let live = live(look, kind, site);
    let waiting = live.filter(|job| job.state == JobState::Waiting);
    // S20: what other VMs move by as well is neither told to go on nor cancelled for this one.
    let steered = match kind {
        ActionKind::CancelSync => live,
        ActionKind::CompleteFailover => waiting,
        _ => None,
    };
    if let Some(plan) = steered.and_then(|job| job.plan.as_ref()) {
        return refuse(
            ErrorClass::Conflict,
            format!(
                "recovery plan {plan} of the service moves other VMs by the same job: complete or cancel it where it was begun"
            ),
        );
    }
    // Whose job it is does not matter: what it does is what is asked for.
    let (job, send, outcome) = match (kind, live) {
        (ActionKind::CancelSync, None) => (None, false, Some(KeptResult::Succeeded)),
        (ActionKind::CancelSync, Some(job)) => match job.state {
            // S20: only in phase 1, or while it waits.
            JobState::Running { cancellable: false } => {
                return refuse(
                    ErrorClass::Conflict,
                    format!(
                        "job {} has begun to stop the VM, and is not cancelled any more",
                        job.id
                    ),
                );
            }
            JobState::Cancelling => (Some(job), false, None),
            _ => (Some(job), true, None),
        },
        (ActionKind::CompleteFailover, _) if waiting.is_some() => (waiting, true, None),
        (ActionKind::CompleteFailover, None)
            if site == Site::Azure && data_sync == Some(DataSync::DeltaBeforeFailover) =>
        {
            return refuse(
                ErrorClass::Conflict,
                "no data sync waits at the service to be completed",
            );
        }
        (_, Some(job)) => (Some(job), false, None),
        (_, None) => (None, true, None),
    };
    // S18: the attempt, until when it may be sent, and all that was known before.
    let send_before = now.checked_add(limits.send_within).unwrap_or(now);
    let jobs_before: Vec<String> = jobs
        .all
        .iter()
        .rev()
        .take(JOBS_KEPT)
        .map(|job| job.id.clone())
        .collect();
    let attempt = register
        .request
        .as_ref()
        .filter(|last| mark_of(last) == submission.mark)
        .map_or(1, |last| last.attempt.saturating_add(1));
    let stored = KeptRequest {
        action: kind.as_str().into(),
        site,
        data_sync,
        epoch: to_i64(submission.mark.epoch),
        step: to_i64(submission.mark.step),
        attempt,
        send_before: MicroTime(send_before),
        job: job.map(|job| job.id.clone()),
        jobs_before: jobs_before.clone(),
        scenario_before: jobs.scenario.clone(),
        server_time: jobs.server_time.map(Time),
        accepted: !send,
        outcome: outcome.map(|result| KeptOutcome {
            result,
            job: None,
            class: None,
            message: None,
        }),
    };
    let taken = outcome.is_some();
    let mut next = if taken {
        at(register, submission.mark)
    } else {
        register.clone()
    };
    next.failover = match kind {
        // A move is over with the cancel that has ended it, and no sooner: one that had no effect is asked for again.
        ActionKind::CancelSync if taken => None,
        _ => submission.failover.clone(),
    };
    let attempt = send.then(|| Attempt {
        send_before,
        job: stored.job.clone(),
        jobs_before,
    });
    next.request = Some(stored);
    Ok(Admitted {
        register: Some(next),
        send: attempt,
    })
}
