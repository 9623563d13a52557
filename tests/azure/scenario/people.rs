//! People: one in the portal, and one who reads what is said and does it.

use homeward_asr_emulator as emulator;
use homeward_asr_emulator::Button;

use homeward::api::SEEN_RUNNING_ANNOTATION;
use homeward::domain::Alternate;

use super::super::store::{Answer, Key};
use super::super::view::VM;
use super::{PLAN, World};

/// A button in the portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Press {
    PlannedFailover,
    Failback {
        full: bool,
    },
    /// The VM on the premises is switched off before.
    UnplannedFailover,
    Commit,
    Reprotect,
    /// Of the newest job that goes on.
    Cancel,
    /// Of the newest job that waits.
    Resume,
    Repair,
    TestFailover,
    TestFailoverCleanup,
    PlanFailover,
    PlanFailback {
        full: bool,
    },
    PlanCommit,
    PlanReprotect,
    Disable,
}

impl World {
    pub(super) fn press(&mut self, press: Press) {
        let item = || VM.to_owned();
        let plan = || PLAN.to_owned();
        let sync = |full| {
            if full {
                emulator::DataSync::ForSynchronization
            } else {
                emulator::DataSync::ForDownTime
            }
        };
        let newest = |state: &[emulator::JobState]| {
            let service = self.wire.service();
            let jobs = service.jobs();
            jobs.iter()
                .rev()
                .find(|job| state.contains(&job.state))
                .map(|job| job.name.clone())
                .unwrap_or_default()
        };
        let button = match press {
            Press::PlannedFailover => Button::PlannedFailover { item: item() },
            Press::Failback { full } => Button::Failback {
                item: item(),
                data_sync: sync(full),
                create: false,
            },
            Press::UnplannedFailover => {
                // A dead host: whoever fails over from one that lives makes the VM run twice.
                self.wire.press(&Button::Power {
                    vm: VM.into(),
                    site: emulator::Site::OnPremises,
                    on: false,
                });
                Button::UnplannedFailover {
                    item: item(),
                    stop: true,
                }
            }
            Press::Commit => Button::Commit { item: item() },
            Press::Reprotect => Button::Reprotect { item: item() },
            Press::Cancel => Button::Cancel {
                job: newest(&[
                    emulator::JobState::InProgress,
                    emulator::JobState::Suspended,
                ]),
            },
            Press::Resume => Button::Resume {
                job: newest(&[emulator::JobState::Suspended]),
            },
            Press::Repair => Button::Repair { item: item() },
            Press::TestFailover => Button::TestFailover { item: item() },
            Press::TestFailoverCleanup => Button::TestFailoverCleanup { item: item() },
            Press::PlanFailover => Button::PlanFailover { plan: plan() },
            Press::PlanFailback { full } => Button::PlanFailback {
                plan: plan(),
                data_sync: sync(full),
            },
            Press::PlanCommit => Button::PlanCommit { plan: plan() },
            Press::PlanReprotect => Button::PlanReprotect { plan: plan() },
            Press::Disable => {
                self.disabled = true;
                Button::Disable { item: item() }
            }
        };
        self.wire.press(&button);
    }

    /// Does what the words ask a person to do.
    pub(super) fn give(&mut self, words: &str) {
        if self.trace {
            println!("== a person reads: {words}");
        }
        if words.contains("spec.suspend ") {
            self.store().change(|spec| spec.suspend = false);
        } else if words.contains("spec.start: Approved") {
            self.store().answer(Answer::Start);
        } else if words.contains("spec.cutover: Approved") {
            self.store().answer(Answer::Cutover);
        } else if words.contains("spec.commit: Approved") {
            self.store().answer(Answer::Commit);
        } else if words.contains("spec.reverseReplicate: Approved") {
            self.store().answer(Answer::ReverseReplicate);
        } else if words.contains("spec.encryptionKeySecretRef") {
            self.store().change(|spec| spec.key = Key::Usable);
        } else if words.contains("cancel this Failover, and start the next one") {
            self.store()
                .change(|spec| spec.alternate = Alternate::default());
            self.store().answer(Answer::Cancel);
        } else if words.contains("clean it up in the portal") {
            self.press(Press::TestFailoverCleanup);
        } else if words.contains("\"Complete failover\", or a cancel, of recovery plan") {
            self.press(Press::Resume);
        } else if words.contains("commit the move in the portal") {
            self.press(Press::Commit);
        } else if words.contains("a cancel of recovery plan")
            || words.contains("complete or cancel the job where it is shown")
        {
            self.press(Press::Cancel);
        } else if let Some((_, job)) = words.split_once(&format!("{SEEN_RUNNING_ANNOTATION}: ")) {
            let site = if words.contains("told the VM in Azure to stop") {
                emulator::Site::Azure
            } else {
                emulator::Site::OnPremises
            };
            self.wire.press(&Button::Power {
                vm: VM.into(),
                site,
                on: true,
            });
            let job = job.split(' ').next().unwrap_or_default().to_owned();
            self.store().change(|spec| spec.seen_running = Some(job));
        } else if words.contains("lets no planned failover be done now") {
            self.press(Press::Repair);
        }
    }
}
