//! What is written of a move: phases, tasks, bytes, downtime, progress, conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::api::{
    FailoverOutcome, FailoverPhase, ProgressStatus, TaskState, TransferStatus, UncommittedStatus,
};
use crate::domain::action::ActionKind;
use crate::domain::decide::wait::Wait;
use crate::domain::decide::{LOOK_AGAIN, event, last_failover, report, tasks, to_i64, until};
use crate::domain::decision::{Decision, Effect, Pace};
use crate::domain::downtime;
use crate::domain::observation::{Operation, Protection, VmObservation};

use super::Move;

/// How often a Failover's progress is written at most: every 5 seconds.
const PROGRESS_INTERVAL_SECONDS: i64 = 5;
/// How often the bytes that a rollback would drop are written while commit waits: every 15 seconds, after the first half minute.
const UNCOMMITTED_INTERVAL_SECONDS: i64 = 15;

impl Move<'_> {
    pub(super) fn enter(&mut self, phase: FailoverPhase) {
        self.status.phase = Some(phase);
        self.progress = None;
    }

    pub(super) fn finish(&mut self, outcome: FailoverOutcome) {
        let now = self.now();
        self.status.phase = Some(match outcome {
            FailoverOutcome::Succeeded => FailoverPhase::Succeeded,
            FailoverOutcome::Cancelled => FailoverPhase::Cancelled,
            FailoverOutcome::RolledBack => FailoverPhase::RolledBack,
            FailoverOutcome::Failed => FailoverPhase::Failed,
        });
        self.status.outcome = Some(outcome);
        self.status.completion_time = Some(Time(now));
        self.status.pending_action = None;
        self.status.failure = None;
        self.progress = None;
        tasks::close_open(
            &mut self.status,
            if outcome == FailoverOutcome::Succeeded {
                TaskState::Succeeded
            } else {
                TaskState::Skipped
            },
            now,
        );
    }

    /// What the move's passes sent while the VM ran; written when it is synchronised and again when cutover begins.
    pub(super) fn note_synchronized(&mut self, protection: &Protection) {
        if let Some(whole) = &protection.last_whole {
            let transfer = self.status.transfer.get_or_insert_default();
            transfer.synchronized_bytes = to_i64(whole.bytes_on_wire);
            transfer.changed_bytes = to_i64(whole.bytes_changed);
        }
    }

    pub(super) fn count_bytes(&mut self, operation: &Operation) {
        if matches!(
            operation.kind,
            ActionKind::FinalSync | ActionKind::CompleteFailover
        ) {
            if let (Some(wire), Some(changed)) = (operation.bytes_on_wire, operation.bytes_changed)
            {
                let transfer: &mut TransferStatus = self.status.transfer.get_or_insert_default();
                transfer.final_bytes += to_i64(wire);
                transfer.changed_bytes += to_i64(changed);
            }
        }
    }

    pub(super) fn predict(&mut self, vm: &VmObservation) {
        let rate = vm
            .protection
            .known()
            .and_then(|protection| protection.last_whole.as_ref())
            .and_then(|whole| whole.bytes_per_second);
        let mut measured = self.world.status.measured_downtime.clone();
        if self.full() {
            // What a delta took says nothing of a whole disk.
            if let Some(measured) = &mut measured {
                measured.last_delta_milliseconds = None;
            }
        }
        let prediction = downtime::predict(&downtime::Basis {
            measured: measured.as_ref(),
            bytes: if self.full() {
                vm.disk_bytes
            } else {
                vm.pending_delta
            },
            bytes_per_second: rate,
        });
        let downtime = self.status.downtime.get_or_insert_default();
        downtime.predicted_milliseconds = prediction.milliseconds;
        downtime.prediction = Some(prediction.parts);
    }

    pub(super) fn saw_stopped(&mut self) {
        let now = self.now();
        let downtime = self.status.downtime.get_or_insert_default();
        if downtime.stopped_time.is_none() {
            downtime.stopped_time = Some(MicroTime(now));
        }
    }

    /// Whether the guest has been seen running at the target.
    pub(super) fn has_started(&self) -> bool {
        let downtime = self.status.downtime.as_ref();
        downtime.is_some_and(|downtime| downtime.started_time.is_some())
    }

    pub(super) fn saw_started(&mut self, vm: &VmObservation) {
        let now = self.now();
        let downtime = self.status.downtime.get_or_insert_default();
        if downtime.started_time.is_none() {
            downtime.started_time = Some(MicroTime(now));
            downtime.actual_milliseconds = downtime
                .stop_ordered_time
                .as_ref()
                .map(|stop| super::super::milliseconds_between(stop, &MicroTime(now)));
        }
        let since = Time(
            downtime
                .started_time
                .as_ref()
                .map_or(now, |started| started.0),
        );
        // At first a person may be about to decide; later the figure matters less than the number of writes.
        let young = now.duration_since(since.0).as_secs() < 2 * UNCOMMITTED_INTERVAL_SECONDS;
        let interval = if young {
            PROGRESS_INTERVAL_SECONDS
        } else {
            UNCOMMITTED_INTERVAL_SECONDS
        };
        let fresh = self.status.uncommitted.as_ref().is_some_and(|before| {
            before.bytes.is_some()
                && (0..interval).contains(&now.duration_since(before.observed_time.0).as_secs())
        });
        let bytes = vm.written_since_start.known().map(|bytes| to_i64(*bytes));
        // As it stands in the resource, a `Time` has whole seconds.
        let same = |before: &UncommittedStatus| {
            before.bytes == bytes && before.since.0.as_second() == since.0.as_second()
        };
        if !fresh && !self.status.uncommitted.as_ref().is_some_and(same) {
            self.status.uncommitted = Some(UncommittedStatus {
                bytes,
                since,
                observed_time: Time(now),
            });
        }
    }

    /// A Failover that has ended: the VM's status lets go of it.
    pub(super) fn close(self) -> Decision {
        let outcome = self.status.outcome.unwrap_or(FailoverOutcome::Failed);
        report::closed(
            self.world,
            last_failover(self.world, self.fo, outcome),
            &self.status,
        )
    }

    pub(super) fn publish(mut self, effect: Option<Effect>, wait: Option<&Wait>) -> Decision {
        let now = self.now();
        let phase = self.phase();
        if phase != self.fo.status.phase.unwrap_or(FailoverPhase::AwaitingStart) {
            let text = wait
                .as_ref()
                .map_or_else(String::new, |wait| format!("; waits for {}", wait.text));
            self.events.push(event(
                matches!(phase, FailoverPhase::Failed),
                "PhaseChanged",
                format!("{} to {}: {phase:?}{text}", self.from(), self.to()),
            ));
        }
        self.status.waiting_for = wait.map(|wait| wait.text.clone());
        self.status.progress = self.progress_status();
        self.status.conditions = report::failover_conditions(
            &self.status,
            &self.fo.status.conditions,
            wait,
            self.fo.generation,
            now,
        );
        self.events.extend(report::newly_stalled(
            &self.fo.status.conditions,
            &self.status.conditions,
        ));
        let pace = match phase {
            FailoverPhase::CuttingOver
            | FailoverPhase::Committing
            | FailoverPhase::Cancelling
            | FailoverPhase::RollingBack => Pace::Urgent,
            // What a rollback would drop grows while a person decides.
            FailoverPhase::AwaitingCommit => Pace::Busy,
            _ => super::super::pace_of(wait, effect.is_some() || wait.is_some()),
        };
        let wake_after = wait
            .as_ref()
            .map(|wait| wait.until.map_or(LOOK_AGAIN, |then| until(now, then)));
        let status = report::moving(self.world, self.fo, &self.status, wait);
        Decision {
            effect,
            status,
            failover: Some(self.status),
            wake_after,
            pace,
            events: self.events,
        }
    }

    pub(super) fn progress_status(&self) -> Option<ProgressStatus> {
        let before = self.fo.status.progress.as_ref();
        report::progress(
            self.progress.as_ref()?,
            before.filter(|_| self.fo.status.phase == self.status.phase),
            self.now(),
            PROGRESS_INTERVAL_SECONDS,
        )
    }
}
