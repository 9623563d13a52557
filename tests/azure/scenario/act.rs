//! The steps: what people do, what befalls requests, and the passes of an operator.

use super::check::words;
use super::*;

pub(super) fn at(site: Site) -> emulator::Site {
    match site {
        Site::OnPremises => emulator::Site::OnPremises,
        Site::Azure => emulator::Site::Azure,
    }
}

/// The tasks of a kind of job, in one of which it can be made to fail.
pub(super) fn tasks_of(scenario: Scenario) -> &'static [&'static str] {
    match scenario {
        Scenario::PlannedFailover => &[
            "VmPfoPrerequisitesCheck",
            "VmShutdownVmOnPrimary",
            "VmPrepareForFailover",
            "VmFailover",
            "VmFoStartVmOnSecondary",
        ],
        Scenario::Failback => &[
            "AzureVmFailbackPrerequisitesCheck",
            "PrepareVmOnPremForFailback",
            "InitiateDataSync",
            "MonitorDataSync",
            "ShutdownVmOnAzure",
            "PrepareForFinalizeRestore",
            "StartVmOnPrimary",
        ],
        Scenario::CommitFailover => &["VmCommitPrerequisitesCheck", "VmCommit"],
        Scenario::FinalizeFailback => &["FinalizeRestoreOnRecovery", "FinalizeRestoreOnPrimary"],
        Scenario::Reprotect => &[
            "CreateProtectionTarget",
            "EnableProtection",
            "VmStartInitialReplication",
        ],
        _ => &[""],
    }
}

impl World {
    pub(super) async fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Run {
                operator,
                passes,
                seconds,
            } => {
                for _ in 0..*passes {
                    self.pass(*operator, Disturbance::default()).await?;
                    self.wait(u64::from(*seconds)).await;
                    self.check()?;
                }
            }
            Step::Pass {
                operator,
                disturbance,
            } => {
                self.pass(*operator, *disturbance).await?;
            }
            Step::Wait { seconds } => self.wait(u64::from(*seconds)).await,
            Step::Die(operator) => {
                if let Ok(mut operator) = self.operators[*operator].try_lock() {
                    operator.die();
                }
            }
            Step::Place(site) => self.store().change(|spec| spec.placement = *site),
            Step::Suspend(on) => self.store().change(|spec| spec.suspend = *on),
            Step::Cutover(approval) => self.store().change(|spec| spec.cutover = *approval),
            Step::Commit(approval) => self.store().change(|spec| spec.commit = *approval),
            Step::Reverse(approval) => {
                self.store()
                    .change(|spec| spec.reverse_replication = *approval);
            }
            Step::DataSync(asked) => self.store().change(|spec| spec.data_sync = *asked),
            Step::Answer(answer) => {
                self.store().answer(*answer);
            }
            Step::DeleteFailover => self.store().delete_current(),
            Step::LoseFailover => self.store().lose_current(),
            Step::DeletePvm => self.store().delete_pvm(),
            Step::Rebuild(placement) => self.rebuild(*placement),
            Step::Meets(way) => self.meets(*way),
            Step::ReadsFail { status, times } => {
                let fault = if *status == 429 {
                    Fault::Throttle {
                        retry_after: Some(3),
                    }
                } else {
                    Fault::Status { status: *status }
                };
                let rule = Rule {
                    times: Some(u32::from(*times)),
                    ..Rule::next("GET", "", fault)
                };
                self.wire.service().add_rule(rule).unwrap();
            }
            Step::JobFails(scenario, task) => {
                self.jobs_failed = true;
                let tasks = tasks_of(*scenario);
                self.wire.service().fail_job(JobFailure {
                    scenario: *scenario,
                    item: Some(VM.into()),
                    task: tasks[usize::from(*task) % tasks.len()].into(),
                    error: JobError::new("28031", "it was made to fail", "a test", "try again"),
                });
            }
            Step::Silent(silent) => self.silent(*silent),
            Step::HostSilent {
                host,
                minutes,
                unnoticed,
            } => {
                let since = self.wire.now.now() - SignedDuration::from_mins((*minutes).into());
                let (mut service, host) = (self.wire.service(), HOSTS[host % HOSTS.len()]);
                if *unnoticed {
                    service.silence_unnoticed(host, Some(since));
                } else {
                    service.silence(host, Some(since));
                }
            }
            Step::Alternate { host, create } => self.store().change(|spec| {
                spec.alternate = Alternate {
                    host: host.map(|host| HOSTS[host % HOSTS.len()].to_owned()),
                    create_if_missing: *create || host.is_some(),
                };
            }),
            Step::Key(key) => self.store().change(|spec| spec.key = *key),
            Step::Revoke => self.wire.service().revoke_tokens(),
            Step::SignIn(may) => self.wire.let_in(*may),
            Step::Press(press) => self.press(*press),
            Step::Purge => {
                self.purged = true;
                let mut service = self.wire.service();
                for job in service.jobs().iter().filter(|job| !job.state.over()) {
                    service.purge_job(&job.name);
                }
            }
        }
        self.check()
    }

    pub(super) fn rebuild(&mut self, placement: Site) {
        // What was on its way, or was asked for a moment ago, is known to nobody any more.
        self.wire
            .orphaned
            .store(true, std::sync::atomic::Ordering::Relaxed);
        self.store().lose_everything();
        self.store().apply(spec(placement));
        for operator in &self.operators {
            if let Ok(mut operator) = operator.try_lock() {
                operator.die();
            }
        }
    }

    pub(super) fn meets(&self, way: Way) {
        let fault = match way {
            Way::NoConnection => return self.wire.trouble(Trouble::NoConnection),
            Way::ActsAndFails(status) => return self.wire.trouble(Trouble::ActsAndFails(status)),
            Way::Lost => Fault::DropBefore,
            Way::AnswerLost => Fault::DropAfter,
            Way::Throttled => Fault::Throttle {
                retry_after: Some(7),
            },
            Way::Fails(status) => Fault::Status { status },
            Way::Held(seconds) => Fault::Hold {
                millis: Some(u64::from(seconds) * 1000),
            },
            Way::Slow(seconds) => Fault::Delay {
                millis: u64::from(seconds) * 1000,
            },
        };
        self.wire
            .service()
            .add_rule(Rule::next("POST", "", fault))
            .unwrap();
    }

    pub(super) fn silent(&self, silent: bool) {
        let since = silent.then(|| self.wire.now.now());
        let mut service = self.wire.service();
        for host in HOSTS {
            service.silence(host, since);
        }
    }

    /// One pass; returns what it decided, if there was anything to decide on.
    pub(super) async fn pass(
        &mut self,
        operator: usize,
        disturbance: Disturbance,
    ) -> Result<Option<Decision>, String> {
        let Ok(mut turn) = self.operators[operator].clone().try_lock_owned() else {
            // It still stands where it stood.
            return Ok(None);
        };
        let trace = self.trace;
        let now = self.wire.now;
        let pass = async move {
            let passed = turn.pass(disturbance).await;
            if let (true, Some(passed)) = (trace, &passed) {
                let decision = &passed.decision;
                println!(
                    "   {} by {operator}: {:?} -> {:?} {:?} | {:?} {:?} | pending {:?} failure {:?}{}",
                    now.now(),
                    passed.shown.as_ref().map(|vm| &vm.stage),
                    (decision.failover.as_ref()).and_then(|failover| failover.phase),
                    decision.effect,
                    decision.status.phase,
                    (decision.failover.as_ref())
                        .and_then(|failover| failover.waiting_for.clone())
                        .or_else(|| words(decision)),
                    (decision.failover.as_ref())
                        .and_then(|failover| failover.pending_action.clone()),
                    (decision.failover.as_ref()).and_then(|failover| failover.failure.clone()),
                    if passed.whole { "" } else { " (cut short)" },
                );
            }
            passed
        };
        if disturbance.stands_still > 0 {
            tokio::spawn(pass);
            self.wait(1).await;
            self.check()?;
            return Ok(None);
        }
        let passed = pass.await;
        self.check()?;
        let Some(passed) = passed else {
            return Ok(None);
        };
        if let (Some(shown), true) = (&passed.shown, disturbance == Disturbance::default()) {
            self.check_consistency(shown, &passed.decision)?;
        }
        Ok(Some(passed.decision))
    }
}
