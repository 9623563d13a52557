//! A register, a look and an order to try rules on.

use homeward::api::{DataSync, KeptRegister, KeptRequest, Site};
use homeward::domain::kept::Limits;
use homeward::domain::{
    Action, ActionKind, Alternate, Claim, ErrorClass, Fact, Job, JobKind, JobState, Jobs, Mark,
    Stage, Submission, VmObservation,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use super::observed::nothing_of;

pub const FAILOVER: &str = "fo-1";

/// As they are when nothing else is set.
pub const LIMITS: Limits = Limits::DEFAULT;

pub fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

pub fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// When a request that is stored now can have no effect any more, in seconds from now.
pub fn over() -> i64 {
    LIMITS.send_within.as_secs() + LIMITS.longest_life.as_secs()
}

pub fn claim() -> Claim {
    Claim {
        cluster: "cluster".into(),
        vm_uid: "uid".into(),
    }
}

pub const fn mark(epoch: u64, step: u64) -> Mark {
    Mark { epoch, step }
}

pub fn order(action: Action, mark: Mark) -> Submission {
    Submission {
        action,
        mark,
        claim: claim(),
        failover: Some(FAILOVER.into()),
        alternate: Alternate::default(),
        encryption_key: None,
        attempt: None,
    }
}

/// An order of a move from Azure.
pub fn back(kind: ActionKind, mark: Mark) -> Submission {
    let delta = DataSync::DeltaBeforeFailover;
    order(Action::of_move(kind, Site::Azure, delta).unwrap(), mark)
}

/// An order of a move to Azure.
pub fn there(kind: ActionKind, mark: Mark) -> Submission {
    let delta = DataSync::DeltaBeforeFailover;
    order(
        Action::of_move(kind, Site::OnPremises, delta).unwrap(),
        mark,
    )
}

pub fn job(id: &str, does: JobKind, state: JobState) -> Job {
    Job {
        id: id.into(),
        does,
        unplanned: false,
        plan: None,
        missed: None,
        state,
        started: Some(later(1)),
        doing: None,
        remark: None,
        tasks: Vec::new(),
    }
}

pub const RUNS: JobState = JobState::Running { cancellable: true };
pub const STOPS: JobState = JobState::Running { cancellable: false };

pub fn failed() -> JobState {
    JobState::Failed {
        class: ErrorClass::Capacity,
        message: "no quota".into(),
    }
}

/// A look that ends at this many seconds from now.
pub fn look_at(seconds: i64, stage: Stage, jobs: Vec<Job>) -> VmObservation {
    VmObservation {
        stage: Fact::Known(stage),
        jobs: Some(Jobs {
            all: jobs,
            scenario: String::new(),
            server_time: Some(later(seconds)),
            looked: later(seconds),
            listed: later(seconds),
        }),
        ..nothing_of("vm-id")
    }
}

pub fn look(stage: Stage, jobs: Vec<Job>) -> VmObservation {
    look_at(5, stage, jobs)
}

pub const IN_AZURE: Stage = Stage::Settled { site: Site::Azure };
pub const ON_PREMISES: Stage = Stage::Settled {
    site: Site::OnPremises,
};

pub fn without_jobs(look: VmObservation) -> VmObservation {
    VmObservation { jobs: None, ..look }
}

/// A register at epoch 2 step 3 that nothing was asked for.
pub fn register() -> KeptRegister {
    KeptRegister {
        cluster: claim().cluster,
        vm_uid: claim().vm_uid,
        epoch: 2,
        step: 3,
        failover: Some(FAILOVER.into()),
        request: None,
        inconsistent_because: None,
    }
}

/// What was asked for at epoch 2 step 4, now.
pub fn request(kind: ActionKind, site: Site) -> KeptRequest {
    KeptRequest {
        action: kind.as_str().into(),
        site,
        data_sync: None,
        epoch: 2,
        step: 4,
        attempt: 1,
        send_before: MicroTime(now() + LIMITS.send_within),
        job: None,
        jobs_before: vec!["old".into()],
        scenario_before: String::new(),
        server_time: Some(Time(now())),
        accepted: false,
        outcome: None,
    }
}

pub fn asked(kind: ActionKind, site: Site) -> KeptRegister {
    KeptRegister {
        request: Some(request(kind, site)),
        ..register()
    }
}

/// The same, of a job that was there.
pub fn asked_of(kind: ActionKind, site: Site, job: &str) -> KeptRegister {
    KeptRegister {
        request: Some(KeptRequest {
            job: Some(job.into()),
            ..request(kind, site)
        }),
        ..register()
    }
}
