//! What came of a request, from the jobs that the service tells of and from where the VM stands (safety rule S19).

use jiff::{SignedDuration, Timestamp};

use super::{Limits, is_old, mark_of, over_at};
use crate::api::{KeptOutcome, KeptRequest, KeptResult, Site};
use crate::domain::action::ActionKind;
use crate::domain::failure::ErrorClass;
use crate::domain::observation::{Job, JobKind, JobState, Jobs, Stage, VmObservation};

/// The service tells of whole seconds, and its clock is read a moment before it acts.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(2);

/// The words for a look that cannot show it.
pub(super) const OLD_LOOK: &str = "a look that begins after the last request was written down";

/// What came of a request.
pub(super) enum Fate<'a> {
    /// It took effect, and goes on as this job.
    Running(&'a Job),
    /// That is known for good.
    Ended(KeptOutcome),
    /// Not known yet; the words say what is waited for.
    Unresolved(String),
}

/// The kind of job that an action of this kind, for this site, results in.
pub(super) fn job_kind(kind: ActionKind, site: Site) -> Option<JobKind> {
    Some(match (kind, site) {
        (ActionKind::Synchronize | ActionKind::CancelSync, _)
        | (ActionKind::CompleteFailover, Site::Azure) => JobKind::Failback,
        (ActionKind::CompleteFailover, Site::OnPremises) => JobKind::Failover,
        (ActionKind::Commit, _) => JobKind::Commit,
        (ActionKind::Protect | ActionKind::ReverseReplicate, _) => JobKind::Reprotect,
        _ => return None,
    })
}

pub(super) fn of<'a>(
    request: &KeptRequest,
    look: &'a VmObservation,
    limits: Limits,
    now: Timestamp,
) -> Fate<'a> {
    if let Some(outcome) = &request.outcome {
        return Fate::Ended(outcome.clone());
    }
    let Some(kind) = ActionKind::parse(&request.action) else {
        return ended(KeptResult::NoEffect, None);
    };
    let Some(jobs) = &look.jobs else {
        return unresolved(
            request,
            kind,
            limits,
            "the service's jobs cannot be seen now",
        );
    };
    if is_old(request, look, limits) {
        return unresolved(request, kind, limits, OLD_LOOK);
    }
    let job = result(request, kind, jobs);
    if let Some(job) = job {
        if job.state == JobState::Lost {
            return lost(request, kind, job, look);
        }
        if let Some(fate) = by_job(request, kind, job) {
            return fate;
        }
    }
    // S18: nothing else is started while it may still have an effect, or may have had one since the jobs were listed. Where the VM stands by
    // then may be somebody else's doing, unless the service has said that it took the request.
    let over = now.min(jobs.listed) >= over_at(&request.send_before, limits);
    if (over || request.accepted) && shows_in_the_vm(request, kind, look) {
        return ended(KeptResult::Succeeded, None);
    }
    if !over {
        let what = if request.accepted {
            "the service took it and shows no job of it yet"
        } else {
            "no answer came, and no job shows that it took effect"
        };
        return unresolved(request, kind, limits, what);
    }
    // S7: that it stood unchanged when it was last told of proves nothing of what became of it since.
    if let Some(job) = job.filter(|job| job.missed.is_some()) {
        let what = format!("the service does not know job {} now", job.id);
        return unresolved(request, kind, limits, &what);
    }
    if !none(&jobs.scenario) && jobs.scenario != request.scenario_before {
        let what = format!("the service has {} under way on the VM", jobs.scenario);
        return unresolved(request, kind, limits, &what);
    }
    ended(KeptResult::NoEffect, None)
}

/// Whether nothing is under way.
pub(super) fn none(scenario: &str) -> bool {
    scenario.is_empty() || scenario.eq_ignore_ascii_case("none")
}

fn unresolved<'a>(request: &KeptRequest, kind: ActionKind, limits: Limits, what: &str) -> Fate<'a> {
    Fate::Unresolved(format!(
        "whether {kind} ({}) took effect: {what}; it is asked for again only once it can have no effect any more, after {}",
        mark_of(request),
        over_at(&request.send_before, limits).strftime("%H:%M:%S UTC")
    ))
}

fn ended<'a>(result: KeptResult, job: Option<&Job>) -> Fate<'a> {
    Fate::Ended(KeptOutcome {
        result,
        job: job.map(|job| job.id.clone()),
        class: None,
        message: None,
    })
}

fn failed<'a>(job: &Job, class: ErrorClass, message: &str) -> Fate<'a> {
    Fate::Ended(KeptOutcome {
        result: KeptResult::Failed,
        job: Some(job.id.clone()),
        class: Some(class.as_str().into()),
        message: Some(message.into()),
    })
}

/// S19: that it has ended is proved; where the VM stands says how.
fn lost<'a>(
    request: &KeptRequest,
    kind: ActionKind,
    job: &'a Job,
    look: &VmObservation,
) -> Fate<'a> {
    // However it came to its end, nothing is synchronised any more.
    if kind == ActionKind::CancelSync || shows_in_the_vm(request, kind, look) {
        return ended(KeptResult::Succeeded, Some(job));
    }
    let message = format!(
        "the service does not know job {} any more and has nothing under way on the VM, which is where it was; whether it runs there is not known",
        job.id
    );
    failed(job, ErrorClass::Transient, &message)
}

/// S19: the job that it acts on, or the newest one that does the same and was not known before.
fn result<'a>(request: &KeptRequest, kind: ActionKind, jobs: &'a Jobs) -> Option<&'a Job> {
    if let Some(id) = &request.job {
        return jobs.all.iter().find(|job| job.id.eq_ignore_ascii_case(id));
    }
    let does = job_kind(kind, request.site)?;
    let known = |job: &Job| {
        let same = |id: &String| id.eq_ignore_ascii_case(&job.id);
        request.jobs_before.iter().any(same)
    };
    let newer = |job: &Job| match (&job.started, &request.server_time) {
        (Some(started), Some(before)) => {
            *started >= before.0.checked_sub(CLOCK_SLACK).unwrap_or(Timestamp::MIN)
        }
        _ => true,
    };
    let new = || {
        let all = jobs.all.iter().rev();
        all.filter(|job| job.does == does && !job.unplanned && !known(job) && newer(job))
    };
    // Somebody may have asked for the same: of the two the one that came second fails, and says nothing of the other.
    let came_second = |job: &&Job| {
        matches!(
            &job.state,
            JobState::Failed {
                class: ErrorClass::Conflict,
                ..
            }
        )
    };
    new().find(|job| !came_second(job)).or_else(|| new().next())
}

/// What the job says; none when it has not heard of the request yet.
fn by_job<'a>(request: &KeptRequest, kind: ActionKind, job: &'a Job) -> Option<Fate<'a>> {
    let acts_on_it = request.job.is_some();
    Some(match (kind, &job.state) {
        (ActionKind::CancelSync, state) => match state {
            JobState::Running { .. } | JobState::Waiting => return None,
            JobState::Cancelling => Fate::Running(job),
            // However it came to its end, nothing is synchronised any more.
            JobState::Cancelled | JobState::Failed { .. } | JobState::Lost => {
                ended(KeptResult::Succeeded, Some(job))
            }
            JobState::Succeeded => failed(
                job,
                ErrorClass::Conflict,
                "the service had completed the failover before it was cancelled",
            ),
        },
        // Once told to go on, it waits no longer.
        (ActionKind::CompleteFailover, JobState::Waiting) if acts_on_it => return None,
        (_, JobState::Waiting | JobState::Succeeded) => ended(KeptResult::Succeeded, Some(job)),
        (_, JobState::Running { .. } | JobState::Cancelling) => Fate::Running(job),
        (_, JobState::Failed { class, message }) => failed(job, *class, message),
        // Where the VM stands is asked first.
        (_, JobState::Lost) => return None,
        (_, JobState::Cancelled) => failed(
            job,
            ErrorClass::Denied,
            "somebody else cancelled it at the service",
        ),
    })
}

/// Where the VM stands says so, though no job tells of it.
fn shows_in_the_vm(request: &KeptRequest, kind: ActionKind, look: &VmObservation) -> bool {
    let Some(stage) = look.stage.known() else {
        return false;
    };
    match kind {
        ActionKind::CompleteFailover => {
            let to = request.site.other();
            matches!(
                stage,
                Stage::TargetStarted { to: at, .. } | Stage::Committed { to: at } | Stage::Settled { site: at }
                    if *at == to
            )
        }
        ActionKind::Commit => matches!(stage, Stage::Settled { site } if *site == request.site),
        ActionKind::Protect | ActionKind::ReverseReplicate => look
            .protection
            .known()
            .is_some_and(|protection| protection.from == request.site),
        _ => false,
    }
}
