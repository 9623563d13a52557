//! The contract: what follows from each action, whatever the driver.

use std::collections::BTreeSet;

use async_trait::async_trait;
use homeward::api::{DataSync, Site};
use homeward::domain::{
    Action, ActionKind, Alternate, Claim, DirectionCapabilities, Fact, Mark, Operation,
    OperationState, Stage, Submission, VmObservation,
};
use homeward::driver::{DriverError, ReplicationDriver};

/// A driver with a VM that is known on-premises, unclaimed and switched off, and what surrounds it.
#[async_trait]
pub trait Bench: Send + Sync {
    fn driver(&self) -> &dyn ReplicationDriver;
    fn vm(&self) -> &'static str;
    /// Some time passes.
    async fn wait(&mut self);
    /// A person starts the guest where it may run.
    async fn switch_on(&mut self, site: Site);
    /// Whether the guest runs, as somebody beside the host sees it.
    async fn runs(&self, site: Site) -> bool;
    /// Azure does not answer any more.
    async fn disconnect(&mut self);
}

pub struct Subject {
    bench: Box<dyn Bench>,
    failover: Option<String>,
}

const WAITS: usize = 1500;

pub fn claim(vm: &str) -> Claim {
    Claim {
        cluster: "cluster".into(),
        vm_uid: vm.into(),
    }
}

impl Subject {
    pub fn new(bench: Box<dyn Bench>) -> Self {
        Self {
            bench,
            failover: None,
        }
    }

    fn can(&self, to: Site) -> DirectionCapabilities {
        self.bench.driver().capabilities().towards[to].clone()
    }

    async fn look(&self) -> VmObservation {
        let seen = self.bench.driver().observe().await.unwrap();
        match seen.vm(self.bench.vm()) {
            Fact::Known(vm) => vm.clone(),
            other => panic!("the VM is {other:?}"),
        }
    }

    async fn stage(&self) -> Stage {
        match self.look().await.stage {
            Fact::Known(stage) => stage,
            other => panic!("the stage is {other:?}"),
        }
    }

    async fn next(&self, action: Action) -> Submission {
        let vm = self.look().await;
        let newest = vm.newest_mark().unwrap_or_default();
        let raises = matches!(
            action.kind(),
            ActionKind::StopSource | ActionKind::CompleteFailover | ActionKind::FenceTarget
        );
        let mark = if raises {
            Mark {
                epoch: newest.epoch + 1,
                step: 1,
            }
        } else {
            Mark {
                epoch: newest.epoch.max(1),
                step: newest.step + 1,
            }
        };
        Submission {
            action,
            mark,
            claim: claim("pvm"),
            failover: self.failover.clone(),
            alternate: Alternate::default(),
            encryption_key: None,
            attempt: None,
        }
    }

    async fn submit(&self, submission: &Submission) -> Result<(), DriverError> {
        self.bench
            .driver()
            .submit(self.bench.vm(), submission)
            .await
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&VmObservation) -> bool) {
        let mut last = None;
        for _ in 0..WAITS {
            let vm = self.look().await;
            if holds(&vm) {
                return;
            }
            last = Some(vm);
            self.bench.wait().await;
        }
        panic!("{what}: not after a long while; {last:#?}");
    }

    /// Asks for an action and waits for the end of its operation.
    async fn act(&mut self, action: Action) {
        let submission = self.next(action).await;
        self.submit(&submission).await.unwrap();
        // A service may take a request and show no job of it yet; until then where the VM stands is not known.
        self.until(&format!("{:?} ends", submission.action), |vm| {
            vm.stage.why_unknown().is_none()
                && vm
                    .operations
                    .iter()
                    .all(|op| op.state != OperationState::Running)
        })
        .await;
        let vm = self.look().await;
        let failed: Vec<&Operation> = vm
            .operations
            .iter()
            .filter(|op| op.mark == submission.mark && op.state != OperationState::Succeeded)
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
    }

    async fn refused(&self, submission: &Submission) -> DriverError {
        let error = self.submit(submission).await.unwrap_err();
        assert!(!error.ambiguous, "{error:?}");
        error
    }

    /// Taken on, switched on, protected with a first point in time.
    async fn protected(&mut self) {
        let at = Site::OnPremises;
        self.act(Action::Adopt { at, takeover: None }).await;
        self.bench.switch_on(at).await;
        // A service may hold VMs only that it protects.
        if !matches!(self.look().await.protection, Fact::Known(_)) {
            self.act(Action::Protect { from: at }).await;
        }
        self.until("the first pass", |vm| {
            vm.protection
                .known()
                .is_some_and(|protection| protection.last_whole.is_some())
        })
        .await;
    }

    async fn synchronized(&mut self, from: Site) {
        if !self.can(from.other()).pause_before_cutover {
            return;
        }
        self.act(Action::Synchronize { from }).await;
        let failover = self.failover.clone();
        self.until("phase 1", |vm| {
            vm.protection.known().is_some_and(|protection| {
                protection.failover == failover
                    && protection
                        .last_whole
                        .as_ref()
                        .is_some_and(|whole| whole.failover == failover)
            })
        })
        .await;
    }

    async fn cut_over(&mut self, from: Site) {
        let data_sync = DataSync::DeltaBeforeFailover;
        if self.can(from.other()).separate_stop {
            self.act(Action::StopSource { from }).await;
            assert!(!self.bench.runs(from).await);
            assert!(matches!(
                self.stage().await,
                Stage::SourceStopped { .. } | Stage::TargetWhole { .. }
            ));
            self.act(Action::FinalSync { from, data_sync }).await;
            assert_eq!(self.stage().await, Stage::TargetWhole { from });
            self.act(Action::StartTarget { to: from.other() }).await;
        } else {
            self.act(Action::CompleteFailover { from, data_sync }).await;
        }
        let to = from.other();
        assert_eq!(
            self.stage().await,
            Stage::TargetStarted { to, as_left: true }
        );
        assert!(self.bench.runs(to).await && !self.bench.runs(from).await);
    }

    async fn committed(&mut self, to: Site) {
        self.act(Action::Commit { at: to }).await;
        let stage = self.stage().await;
        // S5: nothing rolls back after the commit.
        let back = self.next(Action::FenceTarget { to }).await;
        self.refused(&back).await;
        assert!(self.bench.runs(to).await);
        // A service may retire the source with the same step.
        if stage != (Stage::Settled { site: to }) {
            assert_eq!(stage, Stage::Committed { to });
            self.act(Action::RetireSource { at: to.other() }).await;
        }
        assert_eq!(self.stage().await, Stage::Settled { site: to });
    }

    async fn turned_back(&mut self, from: Site) {
        self.act(Action::FenceTarget { to: from.other() }).await;
        assert!(!self.bench.runs(from.other()).await);
        assert_eq!(self.stage().await, Stage::TargetFenced { from });
        self.act(Action::ResumeSource { from }).await;
        assert_eq!(self.stage().await, Stage::Settled { site: from });
        assert!(self.bench.runs(from).await);
    }

    async fn released(&mut self) {
        self.failover = None;
        self.act(Action::Release).await;
        assert_eq!(self.look().await.failover(), None);
    }

    fn begin(&mut self, failover: &str) {
        self.failover = Some(failover.into());
    }
}

pub async fn asking_twice_is_asking_once(mut subject: Subject) {
    subject.protected().await;
    subject.begin("one");
    subject.synchronized(Site::OnPremises).await;
    let from = Site::OnPremises;
    let action = if subject.can(Site::Azure).separate_stop {
        Action::StopSource { from }
    } else {
        Action::CompleteFailover {
            from,
            data_sync: DataSync::DeltaBeforeFailover,
        }
    };
    let submission = subject.next(action).await;
    subject.submit(&submission).await.unwrap();
    subject.submit(&submission).await.unwrap();
    subject
        .until("its end", |vm| {
            vm.operations
                .iter()
                .all(|op| op.state != OperationState::Running)
                && vm.stage.known().is_some_and(Stage::is_midway)
        })
        .await;
    subject.submit(&submission).await.unwrap();
    let vm = subject.look().await;
    assert_eq!(vm.marks[from], Fact::Known(submission.mark));
    assert!(
        vm.operations
            .iter()
            .all(|op| op.state == OperationState::Succeeded)
    );
}

pub async fn a_look_tells_of_the_operation(mut subject: Subject) {
    subject.protected().await;
    subject.begin("one");
    subject.synchronized(Site::OnPremises).await;
    let from = Site::OnPremises;
    let action = if subject.can(Site::Azure).separate_stop {
        Action::StopSource { from }
    } else {
        Action::CompleteFailover {
            from,
            data_sync: DataSync::DeltaBeforeFailover,
        }
    };
    let submission = subject.next(action).await;
    subject.submit(&submission).await.unwrap();
    for state in [None, Some(OperationState::Succeeded)] {
        let (mark, kind) = (submission.mark, submission.action.kind());
        subject
            .until("the operation", |vm| {
                vm.operations.iter().any(|op| {
                    op.mark == mark
                        && op.kind == kind
                        && op.site == from
                        && state.as_ref().is_none_or(|state| op.state == *state)
                })
            })
            .await;
    }
}

pub async fn stale_marks_are_refused(mut subject: Subject) {
    subject.protected().await;
    let mut old = subject
        .next(Action::Protect {
            from: Site::OnPremises,
        })
        .await;
    old.mark.step = 1;
    subject.refused(&old).await;
}

pub async fn there_and_back(mut subject: Subject) {
    subject.protected().await;
    for (round, from) in [Site::OnPremises, Site::Azure, Site::OnPremises]
        .into_iter()
        .enumerate()
    {
        subject.begin(&format!("round-{round}"));
        subject.synchronized(from).await;
        subject.cut_over(from).await;
        let to = from.other();
        subject.committed(to).await;
        if subject.can(to).protects_after_commit.is_ok() {
            subject.act(Action::ReverseReplicate { from: to }).await;
            let failover = subject.failover.clone();
            subject
                .until("reverse replication", |vm| {
                    vm.protection.known().is_some_and(|protection| {
                        protection.from == to
                            && protection
                                .last_whole
                                .as_ref()
                                .is_some_and(|whole| whole.failover == failover)
                    })
                })
                .await;
        }
        subject.released().await;
    }
}

pub async fn cancelled_in_each_phase(mut subject: Subject) {
    subject.protected().await;
    let from = Site::OnPremises;
    if subject.can(Site::Azure).pause_before_cutover {
        subject.begin("in-phase-1");
        subject.synchronized(from).await;
        subject.act(Action::CancelSync { from }).await;
        assert_eq!(subject.stage().await, Stage::Settled { site: from });
        assert_eq!(subject.look().await.failover(), None);
        assert_eq!(subject.look().await.target_consistent, Fact::Known(true));
    }
    if !subject.can(Site::Azure).cancel_after_stop {
        let fence = subject.next(Action::FenceTarget { to: Site::Azure }).await;
        subject.refused(&fence).await;
        return;
    }
    for phase in 0..2 {
        subject.failover = None;
        subject.act(Action::Protect { from }).await;
        subject.begin(&format!("after-stop-{phase}"));
        subject.synchronized(from).await;
        subject.act(Action::StopSource { from }).await;
        if phase > 0 {
            let data_sync = DataSync::DeltaBeforeFailover;
            subject.act(Action::FinalSync { from, data_sync }).await;
        }
        subject.turned_back(from).await;
        subject.released().await;
    }
}

pub async fn rolled_back(mut subject: Subject) {
    subject.protected().await;
    let from = Site::OnPremises;
    subject.begin("one");
    subject.synchronized(from).await;
    subject.cut_over(from).await;
    if subject.can(Site::Azure).rollback {
        subject.turned_back(from).await;
        subject.released().await;
        subject.act(Action::Protect { from }).await;
        subject.begin("two");
        subject.synchronized(from).await;
        subject.cut_over(from).await;
    } else {
        let fence = subject.next(Action::FenceTarget { to: Site::Azure }).await;
        subject.refused(&fence).await;
    }
    subject.committed(Site::Azure).await;
}

pub async fn commit_needs_a_started_target(mut subject: Subject) {
    subject.protected().await;
    let from = Site::OnPremises;
    subject.begin("one");
    let early = subject.next(Action::Commit { at: Site::Azure }).await;
    subject.refused(&early).await;
    let retire = subject.next(Action::RetireSource { at: from }).await;
    subject.refused(&retire).await;
    if subject.can(Site::Azure).separate_stop {
        subject.act(Action::StopSource { from }).await;
        let early = subject.next(Action::Commit { at: Site::Azure }).await;
        subject.refused(&early).await;
        let retire = subject.next(Action::RetireSource { at: from }).await;
        subject.refused(&retire).await;
        let start = subject.next(Action::StartTarget { to: Site::Azure }).await;
        let whole = matches!(subject.stage().await, Stage::TargetWhole { .. });
        if !whole {
            // S3: not without a verified copy of what the source left.
            subject.refused(&start).await;
        }
    }
}

pub async fn a_late_start_is_refused(mut subject: Subject) {
    if !subject.can(Site::Azure).separate_stop {
        return;
    }
    subject.protected().await;
    let from = Site::OnPremises;
    subject.begin("one");
    subject.synchronized(from).await;
    subject.act(Action::StopSource { from }).await;
    let data_sync = DataSync::DeltaBeforeFailover;
    subject.act(Action::FinalSync { from, data_sync }).await;
    let late = subject.next(Action::StartTarget { to: Site::Azure }).await;
    subject.act(Action::FenceTarget { to: Site::Azure }).await;
    subject.refused(&late).await;
    subject.act(Action::ResumeSource { from }).await;
    subject.refused(&late).await;
    assert!(subject.bench.runs(from).await && !subject.bench.runs(Site::Azure).await);
}

pub async fn unknown_when_disconnected(mut subject: Subject) {
    subject.protected().await;
    subject.begin("one");
    let from = Site::OnPremises;
    let protect = subject.next(Action::Protect { from }).await;
    subject.bench.disconnect().await;
    let registers = subject.bench.driver().capabilities().registers;
    let seen = match subject.bench.driver().observe().await {
        Err(error) if !registers => {
            // Of a service that does not answer nothing at all can be said.
            assert!(!error.message.is_empty() && !error.ambiguous);
            subject.refused(&protect).await;
            return;
        }
        seen => seen.unwrap(),
    };
    assert!(!seen.sites[Site::Azure].is_connected() && seen.sites[from].is_connected());
    assert!(seen.complete.is_err());
    assert!(matches!(seen.vm("another"), Fact::Unknown(_)));
    let vm = subject.look().await;
    assert!(matches!(vm.stage, Fact::Unknown(_)), "{:?}", vm.stage);
    assert!(matches!(vm.marks[Site::Azure], Fact::Unknown(_)));
    assert!(matches!(vm.power[Site::Azure], Fact::Unknown(_)));
    assert!(matches!(vm.power[from], Fact::Known(_)));
    assert!(matches!(vm.target_consistent, Fact::Unknown(_)));
    subject.refused(&protect).await;
}

pub async fn another_claim_is_refused(mut subject: Subject) {
    subject.protected().await;
    let from = Site::OnPremises;
    let mut foreign = subject.next(Action::Protect { from }).await;
    foreign.claim = claim("another");
    subject.refused(&foreign).await;
    let mut takeover = subject
        .next(Action::Adopt {
            at: from,
            takeover: Some(claim("pvm")),
        })
        .await;
    takeover.claim = claim("another");
    subject.submit(&takeover).await.unwrap();
    assert!(subject.look().await.is_claimed_by(&claim("another")));
}

pub async fn another_failover_is_refused(mut subject: Subject) {
    if !subject.can(Site::Azure).pause_before_cutover {
        return;
    }
    subject.protected().await;
    let from = Site::OnPremises;
    subject.begin("one");
    subject.synchronized(from).await;
    subject.begin("another");
    let foreign = subject.next(Action::Synchronize { from }).await;
    subject.refused(&foreign).await;
    subject.released().await;
    subject.begin("another");
    subject.synchronized(from).await;
}

pub async fn a_look_at_some_is_as_good(mut subject: Subject) {
    subject.protected().await;
    let from = Site::OnPremises;
    let names: BTreeSet<String> = [subject.bench.vm().to_owned()].into();
    let (name, vm) = (subject.bench.vm().to_owned(), subject.look().await);
    let seen = subject.bench.driver().observe_some(&names).await.unwrap();
    let Fact::Known(some) = seen.vm(&name) else {
        panic!("{seen:?}")
    };
    assert_eq!(
        (&some.stage, &some.marks, &some.claims, &some.power),
        (&vm.stage, &vm.marks, &vm.claims, &vm.power)
    );
    assert!(seen.sites[Site::Azure].is_connected() && seen.sites[from].is_connected());
    // A name that nobody has told of yet is looked for everywhere.
    let others = ["another".to_owned()].into();
    let seen = subject.bench.driver().observe_some(&others).await.unwrap();
    assert!(matches!(seen.vm("another"), Fact::Absent));
    subject.bench.disconnect().await;
    let registers = subject.bench.driver().capabilities().registers;
    let seen = match subject.bench.driver().observe_some(&names).await {
        Err(_) if !registers => return,
        seen => seen.unwrap(),
    };
    assert!(!seen.sites[Site::Azure].is_connected() && seen.sites[from].is_connected());
    assert!(seen.complete.is_err());
    let Fact::Known(some) = seen.vm(&name) else {
        panic!("{seen:?}")
    };
    assert!(matches!(some.stage, Fact::Unknown(_)), "{:?}", some.stage);
}
