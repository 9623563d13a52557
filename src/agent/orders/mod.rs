//! Executes what the register has admitted.
//!
//! ```text
//!   order -> validate -> admit (pure) -> sync the register -> effect -> sync the result
//!                          |  known step: the recorded result
//!                          |  refused: nothing has changed
//! ```
//!
//! An order runs in a task of its own: whoever gave it may go away. One VM executes one order at a time; a newer one that is
//! admissible cuts the older short.

mod deliver;
mod enroll;
mod fence;
mod power;
mod start;
mod stop;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::api::{
    Command, Operation, OperationError, OperationErrorKind, OperationState, Order, OrderAnswer,
    OrderKind, OrderResult, PowerSwitch, Progress, Refusal, RefusalKind, Role, Roots, StepId,
};
use super::definitions::{self, refusal};
use super::growth::Promise;
use super::host::{Ended, Gathered, Host, Running, Vm, Work, internal, lock};
use super::last_disks;
use super::manifest;
use super::register::{self, Admission, Ending};
use super::replication;

pub(super) use start::run;

/// How long an answer waits for the order's end.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a newer order waits for the one before it to let go.
const LET_GO: Duration = Duration::from_secs(10);

/// Takes an order: admits it, begins it, waits a little for its end.
pub(crate) async fn take(host: &Arc<Host>, order: Order) -> Result<OrderAnswer, Refusal> {
    order
        .validate()
        .map_err(|wrong| refusal(RefusalKind::Invalid, wrong))?;
    // Reading the folder blocks. Where it hangs, what was read before counts.
    let refreshed = Arc::clone(host);
    let _ = host
        .probe
        .ask(PATIENCE, move || refreshed.definitions.refresh())
        .await;
    let vm = match (&order.command, host.known(order.vm)) {
        (_, Some(vm)) => vm,
        // S4: these two make a register where there was none.
        (Command::Enroll { .. } | Command::Fence {}, None) => host.vm(order.vm),
        (_, None) => {
            return Err(refusal(
                RefusalKind::NoRegister,
                "this host knows no VM of that uuid: adopt it where it is defined, enroll it elsewhere",
            ));
        }
    };
    let turn = tokio::time::timeout(LET_GO, vm.turn.lock()).await;
    let turn = turn.map_err(|_| {
        refusal(
            RefusalKind::Busy,
            "another order for this VM is being judged, or its guest or disks have not answered since the agent began; try again",
        )
    })?;
    let (step, ended) = match begin(host, &vm, order).await? {
        Begun::Known(operation) => {
            let register = vm
                .register()
                .ok_or_else(|| refusal(RefusalKind::NoRegister, "the register is gone"))?;
            return Ok(OrderAnswer {
                operation: live(&vm, *operation),
                register,
            });
        }
        Begun::Started(step, ended) => (step, ended),
    };
    drop(turn);
    let _ended_or_not = tokio::time::timeout(PATIENCE, ended.wait()).await;
    answer(&vm, step)
}

fn live(vm: &Vm, operation: Operation) -> Operation {
    match vm.operation() {
        Some(now) if now.epoch == operation.epoch && now.step == operation.step => now,
        _ => operation,
    }
}

fn answer(vm: &Vm, step: StepId) -> Result<OrderAnswer, Refusal> {
    let (Some(operation), Some(register)) = (vm.operation(), vm.register()) else {
        return Err(refusal(RefusalKind::Storage, "the register is gone"));
    };
    if register.id() != step {
        return Err(refusal(
            RefusalKind::Stale,
            format!("{step} was overtaken by {}", register.id()),
        ));
    }
    Ok(OrderAnswer {
        operation,
        register,
    })
}

enum Begun {
    Known(Box<Operation>),
    Started(StepId, Arc<Ended>),
}

async fn begin(host: &Arc<Host>, vm: &Arc<Vm>, order: Order) -> Result<Begun, Refusal> {
    // First with what can be read at once: an order that is stale or illegal must not cut anything short.
    let gathered = gather(host, vm, &order, Content::OnTrust).await;
    if let Admission::Known(operation) = judge(host, vm, &order, &gathered)? {
        return Ok(Begun::Known(operation));
    }
    let promise = check(host, vm, &order).await?;
    let before = lock(&vm.running).clone();
    if let Some(running) = before {
        // What a person switches by hand is not cut short by what would then be moved as it was before.
        let by_hand = vm.operation().is_some_and(|operation| {
            operation.kind == OrderKind::Power
                && (operation.epoch, operation.step) == (running.step.epoch, running.step.step)
        });
        if by_hand && order.command.kind() != OrderKind::Power {
            let message = "the guest is being switched on or off by hand (`homeward vm`), which is brought to its end first; try again";
            return Err(refusal(RefusalKind::Busy, message));
        }
        tracing::info!(vm = %vm.uuid, epoch = order.epoch, step = order.step, kind = %order.command.kind(), cut_short = %running.step, "a newer order cuts the one under way short");
        running.cancel.cancel();
        if tokio::time::timeout(LET_GO, running.ended.wait())
            .await
            .is_err()
        {
            let message = format!(
                "the order of {} is still at something that cannot be cut short; try again",
                running.step
            );
            return Err(refusal(RefusalKind::Busy, message));
        }
    }
    if !matches!(order.command, Command::Adopt { .. }) {
        remember(host, vm, &order).await?;
    }
    let starts = matches!(order.command, Command::Start { .. })
        && vm
            .register()
            .is_some_and(|register| register.role == Role::Replica);
    let content = if starts {
        Content::Read(bar(host, vm).await?)
    } else {
        Content::OnTrust
    };
    let gathered = gather(host, vm, &order, content).await;
    let admitted = {
        let (host_in, order) = (Arc::clone(host), order.clone());
        host.change(vm, move |register| {
            let before = register.cloned();
            match register::admit(register, &order, &host_in.facts(&gathered))? {
                Admission::Known(operation) => Ok((None, Err(operation))),
                Admission::Accepted(next) => Ok((Some(*next), Ok(before))),
            }
        })
        .await
    };
    let before = match admitted {
        Ok(Ok(before)) => before,
        Ok(Err(known)) => return Ok(Begun::Known(known)),
        Err(refusal) => {
            if starts {
                unbar(host, vm).await;
            }
            return Err(refusal);
        }
    };
    tracing::info!(vm = %vm.uuid, epoch = order.epoch, step = order.step, kind = %order.command.kind(), "order admitted");
    let running = Running {
        step: order.id(),
        cancel: host.shutdown.child_token(),
        progress: Arc::new(Mutex::new(Progress::default())),
        ended: Arc::new(Ended::default()),
    };
    *lock(&vm.running) = Some(running.clone());
    let (step, ended) = (order.id(), Arc::clone(&running.ended));
    let work = Work {
        host: Arc::clone(host),
        vm: Arc::clone(vm),
        order,
        before,
        running,
    };
    tokio::spawn(async move {
        execute(work).await;
        drop(promise);
    });
    Ok(Begun::Started(step, ended))
}

/// The pure part, against the register as it stands; nothing is changed.
fn judge(host: &Host, vm: &Vm, order: &Order, gathered: &Gathered) -> Result<Admission, Refusal> {
    register::admit(vm.register().as_ref(), order, &host.facts(gathered))
}

/// What the person's definition says now stays known to this host, should its file break while the guest runs.
async fn remember(host: &Arc<Host>, vm: &Arc<Vm>, order: &Order) -> Result<(), Refusal> {
    let meant = matches!(order.command, Command::Power { on_other_disks, .. } if on_other_disks);
    if let Some(definition) = host.definitions.get(vm.uuid)
        && !meant
        && last_disks::objection(vm, &definitions::disks(&definition))
            .await
            .is_some()
    {
        // One that leaves out what the guest ran on is to be gone when its file is taken away.
        return Ok(());
    }
    let (host, uuid) = (Arc::clone(host), vm.uuid);
    let kept =
        tokio::task::spawn_blocking(move || host.definitions.remember(&host.store, uuid)).await;
    match kept {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failed)) => Err(refusal(RefusalKind::Storage, failed.to_string())),
        Err(failed) => Err(refusal(RefusalKind::Storage, failed.to_string())),
    }
}

/// What a `Start` is judged by.
enum Content {
    /// Not looked at yet; taken as the order wants it.
    OnTrust,
    /// Read, with all sessions barred.
    Read(Option<Roots>),
}

/// The facts. The content of a `Start` is taken on trust until the sessions are barred and it can be read.
async fn gather(host: &Arc<Host>, vm: &Arc<Vm>, order: &Order, content: Content) -> Gathered {
    let definition = host.definitions.get(vm.uuid);
    let (power, power_reason) = host.power(vm.uuid).await;
    let content = match (&order.command, content) {
        (Command::Start { stop }, Content::OnTrust) => Some(stop.roots.clone()),
        (_, Content::OnTrust) => None,
        (_, Content::Read(content)) => content,
    };
    let unsettled = vm
        .register()
        .filter(|_| vm.boot_unsettled.load(std::sync::atomic::Ordering::SeqCst));
    Gathered {
        boot_id: unsettled.map_or_else(|| host.boot_id.clone(), |register| register.boot_id),
        definition,
        power,
        power_reason,
        content,
    }
}

/// S9: before a start all sessions are barred, so that what is then read is what is started.
async fn bar(host: &Arc<Host>, vm: &Arc<Vm>) -> Result<Option<Roots>, Refusal> {
    let storage = |failed: OperationError| refusal(RefusalKind::Storage, failed.message);
    let volume = host.volume(vm).await.map_err(storage)?;
    let gate = Arc::clone(&volume.gate);
    volume
        .with_closed(
            move || gate.close_all(),
            |set| Ok(manifest::ready_to_start(set)),
        )
        .await
        .map_err(storage)
}

async fn unbar(host: &Arc<Host>, vm: &Arc<Vm>) {
    if let Ok(volume) = host.volume(vm).await {
        volume.gate.reopen();
    }
}

/// What the register cannot see: room, networks, the shape of the disks.
async fn check(host: &Arc<Host>, vm: &Arc<Vm>, order: &Order) -> Result<Option<Promise>, Refusal> {
    match &order.command {
        Command::Enroll {
            definition,
            owner: _,
        } => enroll::check(host, vm, definition).await.map(Some),
        Command::Stop { target, force: _ } => stop::check(host, vm, target).await.map(|()| None),
        Command::Power {
            state: PowerSwitch::On,
            force: _,
            on_other_disks: false,
        } => power::check(host, vm).await.map(|()| None),
        _ => Ok(None),
    }
}

async fn execute(work: Work) {
    let (host, vm, step, kind) = (
        Arc::clone(&work.host),
        Arc::clone(&work.vm),
        work.order.id(),
        work.order.command.kind(),
    );
    let running = work.running.clone();
    work.place("admitted").await;
    // A panic in an effect ends the order, not the agent.
    let outcome = match tokio::spawn(effect(work.clone())).await {
        Ok(outcome) => outcome,
        // The process is ending: the order stands as under way, and the next start of the agent tells that it was interrupted.
        Err(failed) if failed.is_cancelled() => return,
        Err(failed) => Err(internal(format!("the agent's order task failed: {failed}"))),
    };
    let ending = match outcome {
        Ok(result) => {
            tracing::info!(vm = %vm.uuid, epoch = step.epoch, step = step.step, %kind, "order succeeded");
            Ending::Succeeded(result)
        }
        Err(failed) if failed.kind == OperationErrorKind::Cancelled => {
            tracing::warn!(vm = %vm.uuid, epoch = step.epoch, step = step.step, %kind, "order was interrupted");
            Ending::Interrupted(failed.message)
        }
        Err(failed) => {
            tracing::warn!(vm = %vm.uuid, epoch = step.epoch, step = step.step, %kind, error_kind = ?failed.kind, error = %failed.message, "order failed");
            Ending::Failed(failed)
        }
    };
    work.place("done").await;
    host.complete(&vm, step, ending).await;
    if matches!(kind, OrderKind::Start | OrderKind::Fence) {
        // From here the register decides who may write.
        if let Some(volume) = vm.volume.lock().await.as_ref() {
            volume.gate.reopen();
        }
    }
    *lock(&vm.running) = None;
    running.ended.set();
    vm.replication.wake(false);
}

async fn effect(work: Work) -> Result<OrderResult, OperationError> {
    let (host, vm) = (&work.host, &work.vm);
    match work.order.command.clone() {
        Command::Adopt { takeover: _ } => {
            if work.before.is_none() {
                last_disks::read_again(host, vm).await?;
            }
            last_disks::found(host, vm).await?;
            // Only now it is known whether the definition is to be remembered.
            remember(host, vm, &work.order)
                .await
                .map_err(|refused| internal(refused.message))?;
            Ok(OrderResult::Adopted {})
        }
        Command::Enroll {
            definition,
            owner: _,
        } => enroll::enroll(&work, *definition).await,
        Command::Replicate {
            peer,
            interval_seconds,
            immediate,
        } => {
            let order = replication::KeptOrder {
                peer,
                interval_seconds,
                ordered: work.order.id(),
            };
            replication::set_order(host, vm, order).await?;
            replication::ensure(host, vm);
            vm.replication.wake(immediate);
            Ok(OrderResult::Replicating {})
        }
        Command::Pause {} => {
            replication::pause(host, vm).await?;
            drop(vm.replication.quiet().await);
            // No pass comes any more that would let a guest go on which was left standing in a point in time.
            stop::awake(host, vm, &host.process(vm.uuid)).await;
            Ok(OrderResult::Paused {})
        }
        Command::Stop { target, force } => stop::stop(&work, &target, force).await,
        Command::Deliver { peer, mode } => deliver::deliver(&work, peer, mode).await,
        Command::Start { stop } => start::start(&work, &stop).await,
        Command::Commit {} => {
            // S5: the record took effect with the register that was synced before this.
            let record = vm
                .register()
                .and_then(|register| register.commit)
                .ok_or_else(|| internal("the commit is not in the register"))?;
            Ok(OrderResult::Committed { record })
        }
        Command::Retire { commit: _ } => retire(&work).await,
        Command::Fence {} => fence::fence(&work).await,
        Command::Resume { fence: _ } => start::resume(&work).await,
        Command::Undo {} => fence::undo(&work).await,
        Command::Power {
            state,
            force,
            on_other_disks,
        } => power::power(&work, state, force, on_other_disks).await,
        Command::Release {} => Ok(OrderResult::Released {}),
        Command::Detach {} => {
            let (host, uuid) = (Arc::clone(host), vm.uuid);
            super::host::blocking(move || Ok(host.definitions.forget(&host.store, uuid)?)).await?;
            Ok(OrderResult::Detached {})
        }
    }
}

/// The stopped disks become the replica's base; nothing is deleted.
async fn retire(work: &Work) -> Result<OrderResult, OperationError> {
    let stop = work.before.as_ref().and_then(|before| before.stop.clone());
    if let Some(stop) = stop
        && work.host.definitions.get(work.vm.uuid).is_some()
    {
        let volume = work.host.volume(&work.vm).await?;
        let known = volume
            .with(move |set| manifest::adopt(set, &stop.roots))
            .await?;
        if !known {
            // S11: what a start was once sealed on does not stand for what the guest has left.
            volume.with(|set| Ok(set.void()?)).await?;
            tracing::warn!(vm = %work.vm.uuid, "the digests of the stopped disks are not at hand; the first pass back compares everything");
        }
    }
    last_disks::forget(&work.host, &work.vm).await;
    Ok(OrderResult::Retired {})
}

/// Whether an order was to bring the guest up here, and it has not been seen up since.
pub(crate) fn owes_a_start(vm: &Vm) -> bool {
    may_run(vm) && vm.register().is_some_and(|register| register.start_owed)
}

/// Orders that had not ended when the agent did. None is begun again by itself; a guest that one of them was to bring up is another matter.
pub(crate) async fn interrupt(host: &Arc<Host>, vm: &Arc<Vm>) -> bool {
    let Some(operation) = vm
        .register()
        .and_then(|register| register.last)
        .map(|last| last.operation)
    else {
        return false;
    };
    if operation.state != OperationState::Running {
        return false;
    }
    let step = StepId {
        epoch: operation.epoch,
        step: operation.step,
    };
    tracing::warn!(vm = %vm.uuid, epoch = step.epoch, step = step.step, kind = %operation.kind, "an order had not ended when the agent did");
    let message =
        "the agent ended before the order did; order it again with a newer step".to_owned();
    host.complete(vm, step, Ending::Interrupted(message)).await;
    true
}

/// Whether this host's register lets the guest run.
pub(crate) fn may_run(vm: &Vm) -> bool {
    register::may_run(vm.register().as_ref())
}

/// Whether something runs here that must not.
pub(crate) fn runs_without_right(vm: &Vm) -> bool {
    // A fenced host without a stop record is stopping; a VM without a register is nobody's business yet.
    vm.register().is_some_and(|register| match register.role {
        Role::Owner => false,
        Role::Fenced => register.stop.is_some(),
        Role::Replica => !register::fence_unfinished(&register),
    })
}
