//! What becomes of data at the target: three stages in threads of their own, and the receiving thread's ends of the lines to them.

use std::sync::mpsc::{Receiver as Chan, Sender as ChanTx, SyncSender, TrySendError};

use crate::dataplane::io::apply::{
    Batch, JournalStage, ProveStage, StageError, WriteStage, Written,
};
use crate::dataplane::wire::FailureKind;

pub(super) enum Work {
    Batch(Batch),
    Checkpoint,
}

pub(super) enum Note {
    Durable(u64),
    Failed(StageError),
}

/// The receiving thread's ends of the lines to the stages.
pub(super) struct Lines {
    pub(super) work: Option<SyncSender<Work>>,
    pub(super) pool: Chan<Batch>,
    pub(super) heard: Chan<Note>,
    batch: Option<Batch>,
    pub(super) failed: Option<StageError>,
}

impl Lines {
    pub(super) fn new(work: SyncSender<Work>, pool: Chan<Batch>, heard: Chan<Note>) -> Self {
        Self {
            work: Some(work),
            pool,
            heard,
            batch: None,
            failed: None,
        }
    }

    /// The first failure has the words; which syncs have failed is kept of all (S12).
    pub(super) fn fail(&mut self, error: StageError) {
        self.failed = Some(match self.failed.take() {
            None => error,
            Some(first) => StageError {
                disk_sync: first.disk_sync || error.disk_sync,
                journal_sync: first.journal_sync || error.journal_sync,
                ..first
            },
        });
    }

    /// A batch with room for one more run; `None` when a stage has failed.
    pub(super) fn room(&mut self) -> Option<&mut Batch> {
        if self.batch.as_ref().is_some_and(Batch::is_full) {
            self.submit();
        }
        if self.batch.is_none() {
            self.batch = self.pool.recv().ok();
        }
        self.batch.as_mut()
    }

    pub(super) fn submit(&mut self) {
        if let (Some(work), Some(batch)) =
            (&self.work, self.batch.take_if(|batch| !batch.is_empty()))
        {
            let _ = work.send(Work::Batch(batch));
        }
    }

    pub(super) fn checkpoint(&mut self) {
        self.submit();
        if let Some(work) = &self.work {
            let _ = work.try_send(Work::Checkpoint);
        }
    }
}

pub(super) fn journal(
    mut stage: JournalStage<'_>,
    work: &Chan<Work>,
    next: &SyncSender<Work>,
    notes: &ChanTx<Note>,
) {
    for item in work {
        if let Work::Batch(batch) = &item
            && let Err(error) = stage.cover(batch)
        {
            let _ = notes.send(Note::Failed(error));
            return;
        }
        if next.send(item).is_err() {
            return;
        }
    }
}

pub(super) fn write(
    stage: &WriteStage,
    work: &Chan<Work>,
    free: &ChanTx<Batch>,
    next: &SyncSender<Written>,
    notes: &ChanTx<Note>,
) {
    let mut written = Written::default();
    for item in work {
        let wanted = match item {
            Work::Batch(mut batch) => {
                if let Err(error) = stage.write(&mut batch, &mut written) {
                    // What had its room is made durable, so that it is not sent again when there is more.
                    if error.failure.kind == FailureKind::NoSpace && !written.is_empty() {
                        let _ = next.send(written);
                    }
                    let _ = notes.send(Note::Failed(error));
                    return;
                }
                batch.clear();
                let _ = free.send(batch);
                written.is_due()
            }
            Work::Checkpoint => !written.is_empty(),
        };
        if !wanted {
            continue;
        }
        // While an earlier stretch is being proven, this one grows, up to a bound.
        match next.try_send(std::mem::take(&mut written)) {
            Ok(()) => {}
            Err(TrySendError::Full(back)) if !back.is_full() => written = back,
            Err(TrySendError::Full(back)) => {
                if next.send(back).is_err() {
                    return;
                }
            }
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
    if !written.is_empty() {
        let _ = next.send(written);
    }
}

pub(super) fn prove(mut stage: ProveStage, work: &Chan<Written>, notes: &ChanTx<Note>) {
    for written in work {
        match stage.prove(&written) {
            Ok(blocks) => drop(notes.send(Note::Durable(blocks))),
            Err(error) => {
                let _ = notes.send(Note::Failed(error));
                return;
            }
        }
    }
}
