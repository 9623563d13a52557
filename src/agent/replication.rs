//! Continuous replication of a VM that this host owns: pass after pass to the peer, until an order says otherwise.
//!
//! ```text
//!   Replicate ──> Waiting ──interval or order──> Running ──whole──> Waiting
//!                    ^                              │ failed
//!                    └────── BackingOff <───────────┘
//!   Pause, Stop, Power: the running pass is cancelled, and the next begins only when it may.
//! ```
//!
//! What has to be known after a restart is kept in `replication/<vm>.json`: the order, the bitmap generation that the
//! hypervisor tracks, and the content at its beginning.

mod kept;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use jiff::Timestamp;
use tokio::sync::{Notify, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::api::{
    OperationError, OperationErrorKind, PassReport, Progress, ReplicationActivity,
    ReplicationState, Role, RunningPass,
};
use super::host::{Host, Vm, blocking, cancelled, error, internal, lock};
use super::hypervisor::{
    Dirty, ErrorCategory, GuestDefinition, GuestPower, HypervisorError, PointOutcome,
};
use super::last_disks;
use super::register;
use super::room;
use super::store::{Kind, Store};
use super::transfer::{self, Candidates, Meter, Pass, Sources};
pub(crate) use kept::{Kept, KeptOrder, forget, mint, pause, set_order, standing, tally};
use kept::{Still, keep, stamps};

/// The first pause after a failed pass; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failed passes.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long a pass keeps others waiting. One that takes longer, or hangs at a disk, goes on beside them.
const TURN: Duration = Duration::from_mins(5);

#[derive(Default)]
struct Live {
    kept: Kept,
    task: bool,
    immediate: bool,
    pass: Option<(RunningPass, Arc<Meter>)>,
    failures: u32,
    last_error: Option<(OperationError, Timestamp)>,
    next: Option<Next>,
    cancel: Option<CancellationToken>,
    /// Who waits for quiet; no pass begins before them.
    waiting: u32,
}

impl Live {
    /// A pass has failed; gives how long until the next.
    fn fail(&mut self, failed: OperationError) -> Duration {
        (self.pass, self.cancel) = (None, None);
        self.failures = self.failures.saturating_add(1);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.saturating_sub(1).min(10))
            .min(LONGEST_PAUSE);
        self.last_error = Some((failed, Timestamp::now()));
        self.next = Some(Next::after(pause));
        pause
    }
}

/// Counts who waits for quiet, also when the waiting is given up.
struct Waiting<'a>(&'a Replication);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.live).waiting -= 1;
    }
}

/// When the next pass begins: by the clock that never jumps, and as people read it.
#[derive(Clone, Copy)]
struct Next {
    at: Instant,
    shown: Timestamp,
}

impl Next {
    fn after(wait: Duration) -> Self {
        let now = Timestamp::now();
        let shown = jiff::SignedDuration::try_from(wait)
            .ok()
            .and_then(|wait| now.checked_add(wait).ok())
            .unwrap_or(now);
        Self {
            at: Instant::now() + wait,
            shown,
        }
    }
}

/// The replication of one VM.
#[derive(Default)]
pub(crate) struct Replication {
    live: Mutex<Live>,
    /// Held while what is kept is written; nobody on a runtime thread waits for a disk.
    writing: Mutex<()>,
    wake: Notify,
    /// Held by the pass under way, and by whoever changes the guest's power.
    busy: tokio::sync::Mutex<()>,
}

impl Replication {
    /// Reads what was kept. A file that cannot be read only costs a pass over everything.
    pub(crate) fn load(&self, store: &Store, vm: Uuid) {
        match store.load(Kind::Replication, vm) {
            Ok(kept) => lock(&self.live).kept = kept.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%vm, %error, "what was known of replication cannot be read; the next pass compares everything");
            }
        }
    }

    /// What is kept now.
    pub(crate) fn kept(&self) -> Kept {
        lock(&self.live).kept.clone()
    }

    /// Changes what is kept, durably. Blocking.
    pub(crate) fn keep(
        &self,
        store: &Store,
        vm: Uuid,
        change: impl FnOnce(&mut Kept),
    ) -> Result<(), OperationError> {
        let _writing = lock(&self.writing);
        let mut kept = self.kept();
        change(&mut kept);
        store.save(Kind::Replication, vm, &kept)?;
        lock(&self.live).kept = kept;
        Ok(())
    }

    /// For the inventory.
    pub(crate) fn state(&self) -> Option<ReplicationState> {
        let live = lock(&self.live);
        let order = live.kept.order.clone()?;
        let activity = match (&live.pass, live.kept.paused, live.failures) {
            (Some(_), ..) => ReplicationActivity::Running,
            (None, true, _) => ReplicationActivity::Paused,
            (None, false, 0) => ReplicationActivity::Waiting,
            (None, false, _) => ReplicationActivity::BackingOff,
        };
        Some(ReplicationState {
            peer: order.peer,
            interval_seconds: order.interval_seconds,
            activity,
            ordered: order.ordered,
            pass: live.pass.as_ref().map(|(pass, meter)| RunningPass {
                progress: meter.progress(),
                ..pass.clone()
            }),
            last: live.kept.last.clone(),
            failures: live.failures,
            last_error: live.last_error.as_ref().map(|(error, _)| error.clone()),
            last_error_at: live.last_error.as_ref().map(|(_, at)| *at),
            next_at: if live.kept.paused {
                None
            } else {
                live.next.map(|next| next.shown)
            },
        })
    }

    /// Cancels the pass under way and keeps the next from beginning while the guard lives.
    pub(crate) async fn quiet(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let waiting = {
            let mut live = lock(&self.live);
            live.waiting += 1;
            if let Some(cancel) = &live.cancel {
                cancel.cancel();
            }
            Waiting(self)
        };
        let quiet = self.busy.lock().await;
        drop(waiting);
        quiet
    }

    /// Looks again, now.
    pub(crate) fn wake(&self, immediate: bool) {
        let mut live = lock(&self.live);
        live.immediate |= immediate;
        drop(live);
        self.wake.notify_one();
    }
}

/// Starts the loop of a VM, if it does not run yet.
pub(crate) fn ensure(host: &Arc<Host>, vm: &Arc<Vm>) {
    {
        let mut live = lock(&vm.replication.live);
        if live.task {
            return;
        }
        live.task = true;
    }
    tokio::spawn(supervise(Arc::clone(host), Arc::clone(vm)));
}

/// A panic in the loop ends a pass, not replication: the next pass begins as after any other failure.
async fn supervise(host: Arc<Host>, vm: Arc<Vm>) {
    while let Err(failed) = tokio::spawn(run(Arc::clone(&host), Arc::clone(&vm))).await {
        if failed.is_cancelled() {
            return;
        }
        tracing::error!(vm = %vm.uuid, error = %failed, "the replication loop broke off; it begins again");
        let told = internal(format!("the agent's replication task failed: {failed}"));
        lock(&vm.replication.live).fail(told);
    }
}

/// Whether the register lets this host send (S1): it owns the VM, and no start waits for its commit.
fn owns(vm: &Vm) -> bool {
    vm.register()
        .is_some_and(|register| register.role == Role::Owner && !register::uncommitted(&register))
}

/// Whether a pass may begin.
fn wanted(vm: &Vm) -> bool {
    let live = lock(&vm.replication.live);
    let ordered = live.kept.order.is_some() && !live.kept.paused;
    drop(live);
    ordered && owns(vm)
}

async fn run(host: Arc<Host>, vm: Arc<Vm>) {
    while !host.shutdown.is_cancelled() {
        if wanted(&vm) && due(&vm) {
            let Some(permit) = permit(&host, &vm).await else {
                continue;
            };
            let _busy = vm.replication.busy.lock().await;
            let pass = pin!(one_pass(&host, &vm));
            if let Either::Right(((), pass)) = select(pass, pin!(tokio::time::sleep(TURN))).await {
                drop(permit);
                pass.await;
            }
            continue;
        }
        let wait = {
            let live = lock(&vm.replication.live);
            live.next
                .filter(|_| !live.kept.paused)
                .map(|next| next.at.saturating_duration_since(Instant::now()))
        };
        let sleep = async {
            match wait {
                Some(wait) if wanted(&vm) => tokio::time::sleep(wait).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = vm.replication.wake.notified() => {}
            () = host.shutdown.cancelled() => {}
        }
    }
}

/// Passes that come round by themselves take turns, so that a host with many VMs does not read them all at once. One that a move waits for
/// does not queue. None: something has changed meanwhile.
async fn permit<'a>(host: &'a Host, vm: &Vm) -> Option<Option<SemaphorePermit<'a>>> {
    if lock(&vm.replication.live).immediate {
        return Some(None);
    }
    tokio::select! {
        permit = host.passes.acquire() => permit.ok().map(Some),
        () = vm.replication.wake.notified() => None,
        () = host.shutdown.cancelled() => None,
    }
}

fn due(vm: &Vm) -> bool {
    let live = lock(&vm.replication.live);
    live.immediate || live.next.is_none_or(|next| next.at <= Instant::now())
}

async fn one_pass(host: &Arc<Host>, vm: &Arc<Vm>) {
    let owns = owns(vm);
    let (began, began_at) = (Instant::now(), Timestamp::now());
    let cancel = host.shutdown.child_token();
    let meter = Meter::new();
    let pass = Uuid::new_v4();
    let order = {
        let mut live = lock(&vm.replication.live);
        // The order and the wish for a pass right now are read together, so that the pass covers both.
        let order = live
            .kept
            .order
            .clone()
            .filter(|_| owns && !live.kept.paused && live.waiting == 0);
        let Some(order) = order else { return };
        live.immediate = false;
        live.cancel = Some(cancel.clone());
        let running = RunningPass {
            pass,
            began_after: order.ordered,
            began_at,
            progress: Progress::default(),
        };
        live.pass = Some((running, Arc::clone(&meter)));
        order
    };
    tracing::info!(vm = %vm.uuid, %pass, peer = %order.peer.host, began_after = %order.ordered, "pass began");
    let outcome = pass_once(host, vm, &order, pass, &cancel, &meter).await;
    let mut live = lock(&vm.replication.live);
    live.pass = None;
    live.cancel = None;
    match outcome {
        Ok(report) => {
            tracing::info!(
                vm = %vm.uuid, %pass, bytes_changed = report.bytes_changed, bytes_sent = report.bytes_sent,
                candidates = ?report.candidates, why = %report.candidates_reason, millis = report.duration_millis, "pass is whole"
            );
            live.failures = 0;
            live.last_error = None;
            let interval = Duration::from_secs(order.interval_seconds);
            live.next = Some(Next::after(interval.saturating_sub(began.elapsed())));
        }
        Err(failed) if failed.kind == OperationErrorKind::Cancelled => {
            tracing::info!(vm = %vm.uuid, %pass, "pass was cancelled");
            // Whoever cancelled it has the word now; if replication goes on after it, it does so soon.
            live.next = Some(Next::after(FIRST_PAUSE));
        }
        Err(failed) => {
            let (kind, message) = (failed.kind, failed.message.clone());
            let pause = live.fail(failed);
            tracing::warn!(
                vm = %vm.uuid, %pass, peer = %order.peer.host, ?kind, error = %message,
                failures = live.failures, retry_in_seconds = pause.as_secs(), "pass failed"
            );
        }
    }
}

async fn pass_once(
    host: &Arc<Host>,
    vm: &Arc<Vm>,
    order: &KeptOrder,
    pass: Uuid,
    cancel: &CancellationToken,
    meter: &Arc<Meter>,
) -> Result<PassReport, OperationError> {
    let (definition, guest) = host.guest(vm.uuid)?;
    let kept = vm.replication.kept();
    let register = vm.register().ok_or_else(cancelled)?;
    let make = |candidates, reason: String, point: Timestamp| Pass {
        name: pass,
        id: register.id(),
        began_after: order.ordered,
        peer: order.peer.clone(),
        full: false,
        candidates,
        reason,
        point,
    };
    let mut power = host.hypervisor.power(&guest).await;
    if matches!(
        power,
        GuestPower::Paused { .. } | GuestPower::Unknown { .. }
    ) {
        // It may stand still for a point in time that could not be ended: nobody else would let it go on.
        recover(host, vm, &guest).await;
        power = host.hypervisor.power(&guest).await;
    }
    // What would be read is not what the register's right to run is about.
    if let Some(other) = host.other_disks(vm, &guest).await? {
        return Err(error(OperationErrorKind::DiskWithoutTarget, other));
    }
    match power {
        GuestPower::Running => {
            if let Err(failed) = last_disks::found(host, vm).await {
                tracing::warn!(vm = %vm.uuid, error = %failed.message, "which disks the guest runs on could not be written down");
            }
        }
        // A guest that is off is read directly. Nobody starts it meanwhile: whoever does waits for this pass.
        GuestPower::Gone | GuestPower::ShutDown => {
            let sources = Sources::files(&definition);
            let point = Timestamp::now();
            let disks = definition.disks.clone();
            let stamps = blocking(move || Ok(stamps(&disks))).await?;
            let still = kept
                .still
                .filter(|still| Some(&still.stamps) == stamps.as_ref());
            let (candidates, reason) = match still {
                Some(still) => (
                    Candidates::Ranges {
                        base: still.roots,
                        ranges: definition
                            .disks
                            .iter()
                            .map(|disk| (disk.id.clone(), Vec::new()))
                            .collect(),
                    },
                    "the guest is off, and its disks have not been written to",
                ),
                None => (Candidates::All, "the guest is off; its disks are compared"),
            };
            let pass = make(candidates, reason.into(), point);
            let report = transfer::send(host, vm, pass, sources, cancel, meter).await?;
            let last = report.clone();
            keep(host, vm, move |kept| {
                kept.tracking = None;
                kept.base = None;
                kept.still = stamps.map(|stamps| Still {
                    stamps,
                    roots: last.roots.clone(),
                });
                kept.last = Some(last);
            })
            .await?;
            return Ok(report);
        }
        other => {
            return Err(error(
                OperationErrorKind::Hypervisor,
                format!("the guest is {other}; a pass needs it running or off"),
            ));
        }
    }
    room::check(host).await?;
    let new = Uuid::new_v4();
    let point = match host
        .hypervisor
        .begin_point(&guest, kept.tracking, new)
        .await
    {
        Ok(point) => point,
        Err(failed) => {
            // A point that is still open was left by a pass that could not end it; no other pass is under way.
            if failed.category() == ErrorCategory::Unknown
                || matches!(failed, HypervisorError::WrongPoint(_))
            {
                recover(host, vm, &guest).await;
            }
            return Err(failed.into());
        }
    };
    let (candidates, reason) = match (&point.dirty, &kept.base) {
        (Dirty::Known(ranges), Some(base)) => (
            Candidates::Ranges {
                base: base.clone(),
                ranges: ranges.clone(),
            },
            "a trusted bitmap".to_owned(),
        ),
        (Dirty::Known(_), None) => (
            Candidates::All,
            "the content at the bitmap's beginning is not known".to_owned(),
        ),
        (Dirty::Lost(why), _) => (Candidates::All, why.to_string()),
    };
    let ticket = point.ticket.clone();
    let taken_at = point.taken_at;
    let sources = Sources::point(point);
    let watch = room::Watch::begin(host, cancel);
    let sent = transfer::send(
        host,
        vm,
        make(candidates, reason, taken_at),
        sources,
        cancel,
        meter,
    )
    .await;
    let sent = watch.end(host, sent).await;
    // S13: bits are dropped only after the target's durable acknowledgement, and after we have written down what it holds.
    let written = match &sent {
        Ok(report) => {
            let (roots, report) = (report.roots.clone(), report.clone());
            keep(host, vm, move |kept| {
                kept.tracking = Some(new);
                kept.base = Some(roots);
                kept.last = Some(report);
            })
            .await
        }
        Err(_) => Ok(()),
    };
    host.failpoints.pass("pass:acknowledged").await;
    let outcome = if sent.is_ok() && written.is_ok() {
        PointOutcome::Delivered
    } else {
        PointOutcome::Failed
    };
    match host.hypervisor.end_point(&guest, &ticket, outcome).await {
        Ok(tracking) => {
            let believed = vm.replication.kept().tracking;
            if believed.is_some_and(|believed| !tracking.held.contains(&believed)) {
                tracing::warn!(vm = %vm.uuid, "the bitmap generation is lost; the next pass compares everything");
                forget(host, vm).await?;
            }
        }
        Err(failed) => {
            tracing::warn!(vm = %vm.uuid, error = %failed, "the point in time could not be ended");
            recover(host, vm, &guest).await;
        }
    }
    written?;
    sent
}

/// Mends what a dead agent or a silent hypervisor has left, and believes only generations that hold.
pub(crate) async fn recover(host: &Arc<Host>, vm: &Arc<Vm>, guest: &GuestDefinition) {
    match host.hypervisor.recover(guest).await {
        Ok(recovered) => {
            for mended in &recovered.mended {
                tracing::warn!(vm = %vm.uuid, "{mended}");
            }
            // Its process has ended as it was told to: what it changed until then is written down, and the disks stand still.
            let stopped = vm
                .register()
                .is_some_and(|register| register.role == Role::Fenced && register.stop.is_some());
            let believed = vm.replication.kept().tracking.filter(|_| !stopped);
            let lost =
                believed.is_some_and(|believed| !recovered.tracking.held.contains(&believed));
            if lost && let Err(failed) = forget(host, vm).await {
                tracing::error!(vm = %vm.uuid, error = %failed.message, "that a bitmap is lost could not be written down");
            }
        }
        Err(failed) => {
            tracing::warn!(vm = %vm.uuid, error = %failed, "the guest could not be recovered yet");
        }
    }
}
