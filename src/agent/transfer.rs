//! One pass to a peer: from the data plane's blocking call to a report.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use jiff::Timestamp;
use rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{
    CandidatesUsed, OperationError, OperationErrorKind, PassReport, PeerAddress, Progress,
    ProgressPhase, Roots, StepId, VmDefinition,
};
use super::host::{Host, Vm, blocking, cancelled, error, internal, lock};
use super::hypervisor;
use super::manifest::Changed;
use super::volume::{from_api, to_api};
use crate::dataplane::{
    self, BlockSource, DiskId, Endpoint, FileSource, Mode, PassControl, PassDisk, PassError,
    PassPhase, PassSpec, RefusalKind, UsedCandidates, WhyAll,
};

/// What may differ at the peer.
pub(crate) enum Candidates {
    /// Everything.
    All,
    /// Only these ranges since that content.
    Ranges {
        /// The content at the bitmap's beginning.
        base: Roots,
        /// What changed since.
        ranges: Changed,
    },
}

/// What to send.
pub(crate) struct Pass {
    pub name: Uuid,
    /// The register's epoch and step: what the peer's admission judges.
    pub id: StepId,
    pub began_after: StepId,
    pub peer: PeerAddress,
    /// Everything, into new files.
    pub full: bool,
    pub candidates: Candidates,
    /// Why those candidates.
    pub reason: String,
    pub point: Timestamp,
}

/// Where the content is read.
pub(crate) enum Sources {
    /// The disks themselves; nothing writes to them.
    Files(Vec<(String, std::path::PathBuf)>),
    /// A point in time of a running guest (S15).
    Point(Vec<(String, Box<dyn BlockSource>)>),
}

impl Sources {
    pub(crate) fn files(definition: &VmDefinition) -> Self {
        Self::Files(
            definition
                .disks
                .iter()
                .map(|disk| (disk.id.clone(), disk.path.clone()))
                .collect(),
        )
    }

    pub(crate) fn point(point: hypervisor::Point) -> Self {
        Self::Point(
            point
                .disks
                .into_iter()
                .map(|disk| (disk.id, disk.source))
                .collect(),
        )
    }

    fn open(self) -> Result<Vec<PassDisk>, OperationError> {
        let id = |id: String| {
            DiskId::new(id.clone()).map_err(|wrong| internal(format!("disk {id}: {wrong}")))
        };
        match self {
            Self::Files(files) => files
                .into_iter()
                .map(|(name, path)| {
                    let source = FileSource::open(&path).map_err(|failed| {
                        error(
                            OperationErrorKind::SourceRead,
                            format!("disk {name}: {}: {failed}", path.display()),
                        )
                    })?;
                    Ok(PassDisk {
                        id: id(name)?,
                        source: Box::new(source),
                    })
                })
                .collect(),
            Self::Point(disks) => disks
                .into_iter()
                .map(|(name, source)| {
                    Ok(PassDisk {
                        id: id(name)?,
                        source,
                    })
                })
                .collect(),
        }
    }
}

/// Reads how far a pass is.
pub(crate) struct Meter {
    control: PassControl,
}

impl Meter {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            control: PassControl::new(),
        })
    }

    pub(crate) fn progress(&self) -> Progress {
        let seen = self.control.progress();
        let (phase, done, total) = match seen.phase {
            PassPhase::Connecting => (ProgressPhase::Preparing, 0, 0),
            PassPhase::Comparing => (
                ProgressPhase::Comparing,
                seen.bytes_compared,
                seen.bytes_to_compare,
            ),
            PassPhase::Transferring => (
                ProgressPhase::Transferring,
                seen.bytes_done,
                seen.bytes_total,
            ),
            PassPhase::Verifying => (ProgressPhase::Verifying, seen.bytes_done, seen.bytes_total),
        };
        Progress {
            phase,
            bytes_done: done,
            bytes_total: (total > 0).then_some(total),
            bytes_per_second: seen.bytes_per_second.unwrap_or(0),
        }
    }
}

/// The passes under way share the host's bandwidth.
#[derive(Default)]
pub(crate) struct Bandwidth {
    passes: Mutex<Vec<Weak<Meter>>>,
}

impl Bandwidth {
    fn share(&self, limit: Option<u64>, new: Option<&Arc<Meter>>) {
        let Some(limit) = limit else { return };
        let mut passes = lock(&self.passes);
        passes.extend(new.map(Arc::downgrade));
        passes.retain(|pass| pass.strong_count() > 0);
        let share = limit / u64::try_from(passes.len().max(1)).unwrap_or(1);
        for pass in passes.iter().filter_map(Weak::upgrade) {
            pass.control.set_bandwidth_cap(share.max(1));
        }
    }

    fn leave(&self, limit: Option<u64>, pass: &Arc<Meter>) {
        lock(&self.passes).retain(|held| !std::ptr::eq(held.as_ptr(), Arc::as_ptr(pass)));
        self.share(limit, None);
    }
}

/// Where a peer takes data, and how it proves that it is the one.
pub(crate) fn endpoint(host: &Host, peer: &PeerAddress) -> Result<Endpoint, OperationError> {
    let name = ServerName::try_from(peer.host.clone()).map_err(|_| {
        error(
            OperationErrorKind::Protocol,
            format!("{} is not a host's name", peer.host),
        )
    })?;
    let client = host.identity.configs().client;
    Ok(Endpoint::tls(peer.data.clone(), client, name))
}

/// Sends one pass and waits for the peer's durable acknowledgement.
pub(crate) async fn send(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    pass: Pass,
    sources: Sources,
    cancel: &CancellationToken,
    meter: &Arc<Meter>,
) -> Result<PassReport, OperationError> {
    let volume = host.volume(vm).await?;
    let endpoint = endpoint(host, &pass.peer)?;
    let candidates = match pass.candidates {
        Candidates::All => dataplane::Candidates::All,
        Candidates::Ranges { base, ranges } => dataplane::Candidates::Ranges {
            base: from_api(&base)?,
            ranges: named(ranges)?,
        },
    };
    let spec = PassSpec {
        epoch: pass.id.epoch,
        step: pass.id.step,
        pass: pass.name,
        mode: if pass.full {
            Mode::NewFiles
        } else {
            Mode::InPlace
        },
        point: pass.point.to_string(),
        candidates,
    };
    let limit = host.config.bandwidth_limit_bytes_per_second;
    host.bandwidth.share(limit, Some(meter));
    let work = {
        let meter = Arc::clone(meter);
        let volume = Arc::clone(&volume);
        blocking(move || {
            let disks = sources.open()?;
            let mut set = lock(&volume.set);
            dataplane::send_pass(&endpoint, spec, disks, &mut set, &meter.control)
                .map_err(OperationError::from)
        })
    };
    tokio::pin!(work);
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        () = cancel.cancelled() => {
            meter.control.cancel();
            // The thread lets go of the disks before anybody else is told that the pass is over.
            match work.await {
                Ok(outcome) => Ok(outcome),
                Err(_) => Err(cancelled()),
            }
        }
    };
    host.bandwidth.leave(limit, meter);
    let outcome = outcome?;
    let (candidates, reason) = match outcome.used_candidates {
        UsedCandidates::Ranges => (CandidatesUsed::Ranges, pass.reason),
        UsedCandidates::All(why) => (CandidatesUsed::All, why_all(why, pass.reason)),
    };
    Ok(PassReport {
        pass: pass.name,
        began_after: pass.began_after,
        point: pass.point,
        roots: to_api(&outcome.roots),
        bytes_changed: outcome.bytes_changed,
        bytes_sent: outcome.bytes_sent,
        bytes_received: outcome.bytes_received,
        bytes_resumed: outcome.bytes_resumed,
        candidates,
        candidates_reason: reason,
        duration_millis: u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
        ended_at: Timestamp::now(),
    })
}

fn named(ranges: Changed) -> Result<BTreeMap<DiskId, Vec<Range<u64>>>, OperationError> {
    ranges
        .into_iter()
        .map(|(id, ranges)| {
            let name =
                DiskId::new(id.clone()).map_err(|wrong| internal(format!("disk {id}: {wrong}")))?;
            Ok((name, ranges))
        })
        .collect()
}

fn why_all(why: WhyAll, asked: String) -> String {
    match why {
        WhyAll::Asked => asked,
        WhyAll::FullCopy => "a full copy takes everything".into(),
        WhyAll::NoJournal => {
            "the peer has no room for an undo journal, so that everything goes to new files".into()
        }
        WhyAll::TargetBase => "the peer does not hold the content at which the bitmap began".into(),
        WhyAll::SourceBase => {
            "the digests here are not of the content at which the bitmap began".into()
        }
        WhyAll::Shape => "the disks, or their sizes, have changed".into(),
    }
}

impl From<PassError> for OperationError {
    fn from(failed: PassError) -> Self {
        let kind = match &failed {
            PassError::Cancelled => OperationErrorKind::Cancelled,
            PassError::Disconnected(_) | PassError::Tls(_) => OperationErrorKind::Disconnected,
            PassError::Refused(refused) if refused.kind == RefusalKind::Shape => {
                OperationErrorKind::DiskWithoutTarget
            }
            // Of the moment: another use of the disks has not ended yet, or the receiver is still coming up.
            PassError::Refused(refused)
                if matches!(refused.kind, RefusalKind::Busy | RefusalKind::Internal) =>
            {
                OperationErrorKind::TargetWrite
            }
            PassError::Refused(_) | PassError::Barred(_) => OperationErrorKind::PeerRefused,
            PassError::NoSpace { .. } => OperationErrorKind::NoSpace,
            PassError::SourceRead { .. } => OperationErrorKind::SourceRead,
            PassError::SourceState(_) => OperationErrorKind::Storage,
            // Corrupt: what was trusted is trusted no more, and the next pass compares everything.
            PassError::TargetIo(_) | PassError::Corrupt(_) => OperationErrorKind::TargetWrite,
            PassError::Protocol { .. } => OperationErrorKind::Protocol,
        };
        let message = match &failed {
            PassError::NoSpace {
                needed,
                available,
                message,
            } if *needed > 0 => {
                format!(
                    "the target has too little space: {needed} bytes are needed, {available} are there ({message})"
                )
            }
            other => other.to_string(),
        };
        error(kind, message)
    }
}
