//! What the agents said, as an observation in words that no driver owns.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::answers::class_of_failure;
use super::look::{At, Look};
use super::stage::{self, Said};
use super::{obstacles, stale};
use crate::agent::api::{
    ContentKind, Operation as AgentOperation, OperationState as AgentOperationState, OrderKind,
    OrderResult, PassReport, Power as AgentPower, Problem, ProblemKind, Progress as AgentProgress,
    ProgressPhase, ReplicationActivity, ReplicationState, Role, StepId, StopProof,
};
use crate::api::Site;
use crate::domain::{
    ActionKind, BySite, Claim, Connection, ErrorClass, Fact, HostObservation, Mark, Operation,
    OperationState, Power, Progress, Protection, ProtectionState, Stage, VaultObservation,
    VmObservation, WholePass,
};

/// Passes shorter than this say more of latency than of rate.
const TELLING_MILLIS: u64 = 100;

pub(super) fn vault(look: &Look, interval_seconds: u64) -> VaultObservation {
    let hosts: Vec<HostObservation> = look
        .hosts
        .iter()
        .map(|host| HostObservation {
            name: host.name.clone(),
            site: host.site,
            connection: match &host.state {
                Ok(_) => Connection::Connected,
                Err(why) => Connection::Disconnected(why.clone()),
            },
            last_heartbeat: host.last_heartbeat,
            problems: host.state.as_ref().map_or_else(
                |_| Vec::new(),
                |state| {
                    state
                        .problems
                        .iter()
                        .map(|problem| problem.message.clone())
                        .collect()
                },
            ),
        })
        .collect();
    let mut vms = BTreeMap::new();
    for (name, id) in look.vms() {
        let mut vm = vm(look, id, interval_seconds);
        if let Some(VmObservation { id: other, .. }) = vms.get(&name) {
            let both = [id].into_iter().chain(other.parse());
            let found: Vec<String> = both.flat_map(|vm| strays(look, vm)).collect();
            let what = if found.is_empty() {
                "rename one of them".to_owned()
            } else {
                found.join("; ")
            };
            let seen = format!("two VMs are named {name}: {other} and {id}; {what}");
            vm.stage = Fact::Known(Stage::Contradiction { seen });
        }
        vms.insert(name, vm);
    }
    VaultObservation {
        missing_permissions: Vec::new(),
        sites: BySite::from_fn(|site| connection(look, site)),
        complete: look
            .hosts
            .iter()
            .find_map(|host| host.state.as_ref().err().map(|why| (host, why)))
            .map_or(Ok(()), |(host, why)| {
                Err(format!("host {}: {why}", host.name))
            }),
        hosts,
        vms,
    }
}

/// A site can be worked with while one of its hosts answers; what a silent one knows of is unknown by itself.
fn connection(look: &Look, site: Site) -> Connection {
    if look.answering(site).next().is_some() {
        return Connection::Connected;
    }
    let why: Vec<String> = look
        .hosts
        .iter()
        .filter(|host| host.site == site)
        .filter_map(|host| {
            Some(format!(
                "host {}: {}",
                host.name,
                host.state.as_ref().err()?
            ))
        })
        .collect();
    Connection::Disconnected(if why.is_empty() {
        format!("the vault names no host in {site}")
    } else {
        why.join("; ")
    })
}

fn said<'a>(at: &At<'a>) -> Said<'a> {
    Said {
        host: &at.host.name,
        register: at.vm.register.as_ref(),
        defined: at.vm.definition.is_some(),
        power: at.vm.power,
        power_reason: at.vm.power_reason.as_deref(),
        content: at
            .vm
            .content
            .roots
            .as_ref()
            .filter(|_| at.vm.content.kind == ContentKind::Whole),
    }
}

/// S3: where the guest of a VM may run on a host that knows nothing else of it, in words.
pub(super) fn strays(look: &Look, id: Uuid) -> Vec<String> {
    let hosts = Site::BOTH
        .into_iter()
        .flat_map(|site| look.all_at(site, id).map(move |at| (site, at)));
    hosts
        .filter(|(_, at)| said(at).is_stray())
        .map(|(site, at)| stage::tell(site, said(&at)))
        .collect()
}

pub(super) fn stage_of(look: &Look, id: Uuid) -> Fact<Stage> {
    let mut sides = BySite::<Option<At<'_>>>::default();
    for site in Site::BOTH {
        match look.at(site, id) {
            Fact::Known(at) => sides[site] = Some(at),
            Fact::Absent => {}
            // S7: both sides, or nothing.
            Fact::Unknown(why) => return Fact::Unknown(why),
        }
    }
    // S4, S8: a register that cannot be read says nothing, and is not one that is missing.
    let unread = Site::BOTH
        .into_iter()
        .flat_map(|site| look.all_at(site, id))
        .find_map(|at| {
            let problem = |problem: &&Problem| problem.kind == ProblemKind::Register;
            let found = at.vm.problems.iter().find(problem)?;
            Some(format!(
                "the register on host {} to be mended: {}",
                at.host.name, found.message
            ))
        });
    if let Some(why) = unread {
        return Fact::Known(Stage::Unreadable { why });
    }
    let (here, there) = (
        sides.on_premises.as_ref().map(said),
        sides.azure.as_ref().map(said),
    );
    // S3, S8: whatever the registers say, a guest that is started or taken on elsewhere would be a second one.
    let found = strays(look, id);
    if !found.is_empty() {
        let sides = stage::seen(here, there);
        // Another host may speak for its site.
        let others = found.into_iter().filter(|stray| !sides.contains(stray));
        let seen: Vec<String> = [sides.clone()].into_iter().chain(others).collect();
        return Fact::Known(Stage::Contradiction {
            seen: seen.join("; "),
        });
    }
    // S8: within a site, too, one host alone may hold the right.
    for site in Site::BOTH {
        let holders = look
            .all_at(site, id)
            .filter(|at| at.register().is_some_and(|own| own.role != Role::Replica))
            .count();
        if holders > 1 {
            return Fact::Known(stage::contradiction(here, there));
        }
        // Nor is one of two guessed that both define a VM which nobody has taken on yet.
        let defining: Vec<&str> = look
            .all_at(site, id)
            .filter(|at| at.vm.definition.is_some())
            .map(|at| at.host.name.as_str())
            .collect();
        let registered = Site::BOTH
            .into_iter()
            .any(|site| look.all_at(site, id).any(|at| at.register().is_some()));
        if defining.len() > 1 && !registered {
            return Fact::Known(Stage::Contradiction {
                seen: format!(
                    "{} each have a definition of the VM in {site}: take all but one out of definitionsDir",
                    defining.join(" and ")
                ),
            });
        }
    }
    stage::stage(here, there).map_or(Fact::Absent, Fact::Known)
}

pub(super) fn vm(look: &Look, id: Uuid, interval_seconds: u64) -> VmObservation {
    let sides = BySite::from_fn(|site| look.at(site, id));
    let stage = stage_of(look, id);
    let active = stage.known().and_then(Stage::active);
    let active_at = active.and_then(|site| sides[site].known());
    let passive = match active {
        Some(site) => sides[site.other()].as_ref().map(|at| *at),
        None => Fact::Unknown("which site is passive is not known".into()),
    };
    VmObservation {
        id: id.to_string(),
        claims: BySite::from_fn(|site| {
            of_register(&sides[site], |at| {
                let claim = at.register()?.claim.as_ref()?;
                Some(Claim {
                    cluster: claim.cluster.clone(),
                    vm_uid: claim.pvm.clone(),
                })
            })
        }),
        marks: BySite::from_fn(|site| {
            of_register(&sides[site], |at| at.register().map(|own| mark(own.id())))
        }),
        failovers: BySite::from_fn(|site| sides[site].known()?.register()?.failover.clone()),
        power: BySite::from_fn(|site| power(&sides[site])),
        protection: protection(&sides),
        operations: Site::BOTH
            .into_iter()
            .filter_map(|site| Some((site, sides[site].known()?)))
            .flat_map(|(site, at)| operations(site, at))
            .collect(),
        active_since: active_at
            .and_then(|at| at.register()?.start.as_ref())
            .map(|start| start.at),
        target_consistent: passive.clone().map(|at| match at.vm.content.kind {
            ContentKind::Whole => true,
            // S10: the journal, or the old files, bring the last whole content back.
            ContentKind::Partial | ContentKind::NewFiles => at.vm.content.roots.is_some(),
            ContentKind::Unknown => false,
        }),
        replica_present: passive.clone().map(|at| at.register().is_some()),
        written_since_start: match (&stage, active_at.and_then(|at| at.vm.written_since_start)) {
            // Tracking begins with the guest's first instruction there (S13), and no pass drops what it has seen before commit.
            (Fact::Known(Stage::TargetStarted { .. }), Some(bytes)) => Fact::Known(bytes),
            _ => Fact::Unknown("the host does not tell how much the guest has written".into()),
        },
        pending_delta: active_at.and_then(|at| at.vm.dirty_bytes),
        disk_bytes: active_at.map(|at| at.vm.disks.iter().map(|disk| disk.size_bytes).sum()),
        obstacles: obstacles::of_the_vm(&sides),
        protection_obstacles: obstacles::of_its_protection(look, &sides, active, &passive),
        host_silent: None,
        busy: None,
        full_download_obstacles: obstacles::of_a_full_download(&sides, active, &passive),
        protection_stale: active_at
            .and_then(|own| stale::why(look, own, &passive, interval_seconds)),
        down_because: active_at.and_then(down_because),
        encrypted: false,
        networks: Vec::new(),
        jobs: None,
        inconsistent_because: None,
        sync_ended: None,
        leaving: None,
        led_elsewhere: None,
        missing_job: None,
        perhaps_down: None,
        stage,
    }
}

fn down_because(at: &At<'_>) -> Option<String> {
    at.vm
        .problems
        .iter()
        .find(|problem| problem.kind == ProblemKind::NotStarted)
        .map(|problem| problem.message.clone())
}

fn of_register<'a, T>(at: &Fact<At<'a>>, get: impl FnOnce(&At<'a>) -> Option<T>) -> Fact<T> {
    match at {
        Fact::Known(at) => get(at).map_or(Fact::Absent, Fact::Known),
        Fact::Absent => Fact::Absent,
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

const fn mark(id: StepId) -> Mark {
    Mark {
        epoch: id.epoch,
        step: id.step,
    }
}

fn power(at: &Fact<At<'_>>) -> Fact<Power> {
    match at {
        Fact::Known(at) => match at.vm.power {
            AgentPower::Running | AgentPower::Paused => Fact::Known(Power::On),
            AgentPower::ShutDown | AgentPower::Off => Fact::Known(Power::Off),
            // S3: silent is not stopped.
            AgentPower::Unknown => Fact::Unknown(
                at.vm
                    .power_reason
                    .clone()
                    .unwrap_or_else(|| "the hypervisor does not say".into()),
            ),
        },
        Fact::Absent => Fact::Absent,
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

fn protection(sides: &BySite<Fact<At<'_>>>) -> Fact<Protection> {
    for site in Site::BOTH {
        let Some(at) = sides[site].known() else {
            continue;
        };
        let (Some(own), Some(replication)) = (at.register(), &at.vm.replication) else {
            continue;
        };
        if own.role == Role::Replica {
            continue;
        }
        // An order of this epoch was given in the name of the Failover that stands in the register: others leave none there.
        let failover = own
            .failover
            .clone()
            .filter(|_| replication.ordered.epoch == own.epoch);
        return Fact::Known(Protection {
            from: site,
            state: protection_state(replication),
            last_whole: replication.last.as_ref().map(|last| WholePass {
                point: last.point,
                // S17: only a pass that began after the order covers what the order is about.
                failover: failover
                    .clone()
                    .filter(|_| last.began_after >= replication.ordered),
                bytes_on_wire: last.bytes_sent,
                bytes_changed: last.bytes_changed,
                bytes_per_second: rate(last),
            }),
            progress: replication
                .pass
                .as_ref()
                .map(|pass| progress(&pass.progress)),
            failover,
            overdue: overdue(at, replication),
        });
    }
    Site::BOTH
        .into_iter()
        .find_map(|site| sides[site].why_unknown())
        .map_or(Fact::Absent, |why| Fact::Unknown(why.into()))
}

/// Passes that a host may be behind before people are told, beside a minute for the pass itself.
const LATE_PASSES: u64 = 2;

/// By the clock of the host that sends, which took the points too.
fn overdue(at: &At<'_>, replication: &ReplicationState) -> bool {
    let patience = replication
        .interval_seconds
        .saturating_mul(LATE_PASSES)
        .saturating_add(60);
    let waits = replication.activity != ReplicationActivity::Paused;
    replication.last.as_ref().is_some_and(|last| {
        let age = at.state.now.duration_since(last.point).as_secs();
        waits && u64::try_from(age).is_ok_and(|age| age > patience)
    })
}

fn protection_state(replication: &ReplicationState) -> ProtectionState {
    // A pass that got through to its peer is no attempt any more.
    let under_way = replication
        .pass
        .as_ref()
        .is_some_and(|pass| pass.progress.phase != ProgressPhase::Preparing);
    let failing = replication
        .last_error
        .as_ref()
        .filter(|_| replication.failures > 0 && !under_way);
    match (replication.activity, failing) {
        (ReplicationActivity::Paused, _) => ProtectionState::Paused,
        (_, Some(error)) => ProtectionState::Failing(error.message.clone()),
        (_, None) if replication.last.is_none() => ProtectionState::Seeding,
        (_, None) => ProtectionState::Replicating,
    }
}

fn rate(pass: &PassReport) -> Option<u64> {
    (pass.duration_millis >= TELLING_MILLIS && pass.bytes_sent > 0)
        .then(|| pass.bytes_sent.saturating_mul(1000) / pass.duration_millis)
}

fn progress(progress: &AgentProgress) -> Progress {
    let what = match progress.phase {
        ProgressPhase::Preparing => "getting ready",
        ProgressPhase::ShuttingDown => "the guest to shut down",
        ProgressPhase::ReadingManifest => "the source's last changes to be read",
        ProgressPhase::Comparing => "both sides to be compared",
        ProgressPhase::Transferring => "what differs to be sent",
        ProgressPhase::Verifying => "the target to read back what it wrote",
        ProgressPhase::Sealing => "the copy to be sealed",
        ProgressPhase::Starting => "the guest to start",
        ProgressPhase::Undoing => "the target to go back to its last point in time",
        ProgressPhase::Unknown => "a step that a newer agent tells of",
    };
    Progress {
        what: what.into(),
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        bytes_per_second: Some(progress.bytes_per_second).filter(|rate| *rate > 0),
    }
}

/// The actions that an order can belong to.
const fn kinds(order: OrderKind) -> &'static [ActionKind] {
    match order {
        OrderKind::Adopt => &[ActionKind::Adopt],
        OrderKind::Enroll => &[ActionKind::Protect],
        OrderKind::Replicate => &[
            ActionKind::Protect,
            ActionKind::Synchronize,
            ActionKind::ReverseReplicate,
        ],
        OrderKind::Pause | OrderKind::Undo => &[ActionKind::CancelSync],
        OrderKind::Stop => &[ActionKind::StopSource],
        OrderKind::Deliver => &[ActionKind::FinalSync],
        OrderKind::Start => &[ActionKind::StartTarget],
        OrderKind::Commit => &[ActionKind::Commit],
        OrderKind::Retire => &[ActionKind::RetireSource],
        OrderKind::Fence => &[ActionKind::FenceTarget],
        OrderKind::Resume => &[ActionKind::ResumeSource],
        OrderKind::Release => &[ActionKind::Release],
        OrderKind::Detach => &[ActionKind::Detach],
        OrderKind::Power => &[],
    }
}

fn operations(site: Site, at: &At<'_>) -> Vec<Operation> {
    let Some(operation) = &at.vm.operation else {
        return Vec::new();
    };
    let state = operation_state(operation);
    // The first part of an action with orders for both sides does not tell that the action is done.
    let part = matches!(operation.kind, OrderKind::Enroll | OrderKind::Undo);
    if part && state == OperationState::Succeeded {
        return Vec::new();
    }
    let pass = match &operation.result {
        Some(OrderResult::Delivered { pass }) => Some(pass),
        _ => None,
    };
    kinds(operation.kind)
        .iter()
        .map(|kind| Operation {
            job: None,
            site,
            mark: Mark {
                epoch: operation.epoch,
                step: operation.step,
            },
            kind: *kind,
            state: state.clone(),
            progress: operation.progress.as_ref().map(progress),
            bytes_on_wire: pass.map(|pass| pass.bytes_sent),
            bytes_changed: pass.map(|pass| pass.bytes_changed),
            remark: remark(at, operation),
        })
        .collect()
}

fn remark(at: &At<'_>, operation: &AgentOperation) -> Option<String> {
    let Some(OrderResult::Stopped { record }) = &operation.result else {
        return None;
    };
    (record.proof == StopProof::PowerTakenAway).then(|| {
        format!(
            "the guest did not shut down in time, and its power was taken away, as onShutdownDeadline on {} says: it comes up as after a power cut",
            at.host.name
        )
    })
}

fn operation_state(operation: &AgentOperation) -> OperationState {
    match operation.state {
        AgentOperationState::Running => OperationState::Running,
        AgentOperationState::Succeeded => OperationState::Succeeded,
        AgentOperationState::Interrupted => OperationState::Interrupted,
        AgentOperationState::Failed => {
            let (class, message) = operation.error.as_ref().map_or_else(
                || {
                    (
                        ErrorClass::Transient,
                        "the agent does not say why".to_owned(),
                    )
                },
                |error| (class_of_failure(error.kind), error.message.clone()),
            );
            OperationState::Failed { class, message }
        }
    }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
