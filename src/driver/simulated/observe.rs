//! What a look shows: the two registers of each VM as one observation.

use std::collections::BTreeMap;

use super::register::{Register, Role};
use super::{RECORD_BYTES, Side, Simulation, Vm};
use crate::api::Site;
use crate::domain::{
    BySite, Connection, Fact, HostObservation, Operation, Power, Progress, Protection,
    ProtectionState, Stage, VaultObservation, VmObservation, WholePass,
};

pub(super) fn observe(simulation: &Simulation) -> VaultObservation {
    let connected = &simulation.connected;
    let sites = BySite::from_fn(|site| {
        if connected[site] {
            Connection::Connected
        } else {
            Connection::Disconnected(silent(site))
        }
    });
    let hosts = Site::BOTH
        .into_iter()
        .map(|site| HostObservation {
            name: format!("host-{site}").to_lowercase(),
            site,
            connection: sites[site].clone(),
            last_heartbeat: connected[site].then_some(simulation.now),
            problems: Vec::new(),
        })
        .collect();
    let complete = match Site::BOTH.into_iter().find(|site| !connected[*site]) {
        None => Ok(()),
        Some(site) => Err(silent(site)),
    };
    let mut vms = BTreeMap::new();
    for (name, vm) in &simulation.vms {
        let seen = Site::BOTH
            .into_iter()
            .any(|site| connected[site] && vm.sides[site].defined);
        if seen {
            vms.insert(name.clone(), look(simulation, vm));
        }
    }
    VaultObservation {
        missing_permissions: Vec::new(),
        sites,
        hosts,
        vms,
        complete,
    }
}

fn silent(site: Site) -> String {
    format!("{site} does not answer")
}

fn sides<'a>(simulation: &Simulation, vm: &'a Vm) -> BySite<Fact<&'a Side>> {
    BySite::from_fn(|site| {
        if simulation.connected[site] {
            Fact::Known(&vm.sides[site])
        } else {
            Fact::Unknown(silent(site))
        }
    })
}

/// The passive site first: where a claim or a Failover is let go of, the active site tells of it until all of it is done.
pub(super) fn passive_first(simulation: &Simulation, vm: &Vm) -> [Site; 2] {
    let stage = stage(&sides(simulation, vm));
    let active = stage
        .known()
        .and_then(Stage::active)
        .unwrap_or(Site::OnPremises);
    [active.other(), active]
}

fn look(simulation: &Simulation, vm: &Vm) -> VmObservation {
    let sides = sides(simulation, vm);
    let stage = stage(&sides);
    let active = stage.known().and_then(Stage::active);
    let on_active = |fact: &dyn Fn(&Side) -> Fact<u64>| match active {
        Some(site) => match &sides[site] {
            Fact::Known(side) => fact(side),
            Fact::Absent => Fact::Absent,
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        },
        None => Fact::Unknown("which site is active is not known".into()),
    };
    let passive = |fact: &dyn Fn(&Side) -> bool| match active.map(|site| &sides[site.other()]) {
        Some(Fact::Known(side)) => Fact::Known(fact(side)),
        Some(Fact::Absent) => Fact::Absent,
        Some(Fact::Unknown(why)) => Fact::Unknown(why.clone()),
        None => Fact::Unknown("which site is passive is not known".into()),
    };
    VmObservation {
        id: vm.id.clone(),
        claims: BySite::from_fn(|site| of_register(&sides[site], |own| own.claim.clone())),
        marks: BySite::from_fn(|site| of_register(&sides[site], |own| Some(own.mark))),
        failovers: BySite::from_fn(|site| sides[site].known()?.register.as_ref()?.failover.clone()),
        power: BySite::from_fn(|site| {
            sides[site]
                .clone()
                .map(|side| if side.running { Power::On } else { Power::Off })
        }),
        protection: protection(&sides),
        operations: operations(&sides),
        active_since: active
            .and_then(|site| sides[site].known())
            .and_then(|side| side.active_since),
        target_consistent: passive(&|side| side.disk.whole || side.disk.before.is_some()),
        replica_present: passive(&|side| side.register.is_some()),
        written_since_start: on_active(&|side| {
            let written = side
                .disk
                .records
                .len()
                .saturating_sub(side.records_at_start);
            Fact::Known(written as u64 * RECORD_BYTES)
        }),
        pending_delta: pending_delta(&sides, active),
        disk_bytes: active
            .and_then(|site| sides[site].known())
            .map(|side| side.disk.records.len() as u64 * RECORD_BYTES),
        obstacles: Vec::new(),
        protection_obstacles: vm.obstacles.clone(),
        host_silent: None,
        busy: None,
        full_download_obstacles: vm.full_download_obstacles.clone(),
        protection_stale: stale(simulation, &sides, active),
        down_because: active
            .and_then(|site| sides[site].known())
            .filter(|side| side.is_left_down() && side.running_order().is_none())
            .map(|_| "it did not come up, and is tried again".to_owned()),
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

fn of_register<T>(side: &Fact<&Side>, get: impl FnOnce(&Register) -> Option<T>) -> Fact<T> {
    match side {
        Fact::Known(side) => side
            .register
            .as_ref()
            .and_then(get)
            .map_or(Fact::Absent, Fact::Known),
        Fact::Absent => Fact::Absent,
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

/// S8: the stage comes from the registers, not from power; S7: from both of them or not at all.
pub(super) fn stage(sides: &BySite<Fact<&Side>>) -> Fact<Stage> {
    for site in Site::BOTH {
        if let Fact::Unknown(why) = &sides[site] {
            return Fact::Unknown(why.clone());
        }
    }
    let register = |site: Site| sides[site].known().and_then(|side| side.register.as_ref());
    let contradiction = || {
        let say = |site: Site| {
            register(site).map_or_else(
                || format!("{site} has no register"),
                |own| format!("{site} is {:?} at {}", own.role, own.mark),
            )
        };
        Stage::Contradiction {
            seen: format!("{}; {}", say(Site::OnPremises), say(Site::Azure)),
        }
    };
    for site in Site::BOTH {
        let other = site.other();
        let (Some(own), peer) = (register(site), register(other)) else {
            continue;
        };
        let stage = match (own.role, peer.map(|peer| peer.role)) {
            (Role::Owner, None | Some(Role::Replica)) if !own.uncommitted() => {
                // S4: a register older than the peer's means fenced.
                match peer {
                    Some(peer) if peer.mark.epoch > own.mark.epoch => contradiction(),
                    _ => Stage::Settled { site },
                }
            }
            (Role::Owner, Some(Role::Fenced)) if own.start.is_some() => {
                if own.commit.is_some() {
                    Stage::Committed { to: site }
                } else {
                    let as_left = own
                        .start
                        .as_ref()
                        .is_some_and(|start| start.left_off && !own.should_run);
                    let runs = sides[site].known().is_some_and(|side| side.running);
                    Stage::TargetStarted {
                        to: site,
                        as_left: runs || as_left,
                    }
                }
            }
            (Role::Fenced, None | Some(Role::Replica)) => fenced(site, own, peer, sides),
            (Role::Replica, Some(Role::Owner | Role::Fenced))
            | (Role::Fenced, Some(Role::Owner)) => continue,
            _ => contradiction(),
        };
        return Fact::Known(stage);
    }
    let defined = |site: Site| sides[site].known().is_some_and(|side| side.defined);
    match (defined(Site::OnPremises), defined(Site::Azure)) {
        (true, false) => Fact::Known(Stage::Unclaimed {
            site: Site::OnPremises,
        }),
        (false, true) => Fact::Known(Stage::Unclaimed { site: Site::Azure }),
        (false, false) => Fact::Absent,
        (true, true) => Fact::Known(contradiction()),
    }
}

fn fenced(
    from: Site,
    own: &Register,
    peer: Option<&Register>,
    sides: &BySite<Fact<&Side>>,
) -> Stage {
    let turned_back = peer
        .and_then(|peer| peer.fence)
        .is_some_and(|fence| fence > own.mark.epoch);
    if turned_back {
        return Stage::TargetFenced { from };
    }
    let Some(stop) = &own.stop else {
        return Stage::SourceFenced { from };
    };
    let whole = peer.is_some_and(|peer| !peer.fencing)
        && sides[from.other()]
            .known()
            .is_some_and(|side| side.disk.whole && side.disk.records == stop.records);
    if whole {
        Stage::TargetWhole { from }
    } else {
        Stage::SourceStopped {
            from,
            was_running: stop.was_running,
        }
    }
}

fn protection(sides: &BySite<Fact<&Side>>) -> Fact<Protection> {
    for site in Site::BOTH {
        let Some(side) = sides[site].known() else {
            continue;
        };
        if side.role() == Some(Role::Replica) {
            continue;
        }
        let Some(replication) = &side.replication else {
            continue;
        };
        let state = if replication.paused {
            ProtectionState::Paused
        } else if let Some(why) = &replication.failing {
            ProtectionState::Failing(why.clone())
        } else if replication.last.is_none() {
            ProtectionState::Seeding
        } else {
            ProtectionState::Replicating
        };
        return Fact::Known(Protection {
            from: site,
            state,
            failover: replication.failover.clone(),
            last_whole: replication.last.as_ref().map(|whole| WholePass {
                point: whole.point,
                failover: whole.failover.clone(),
                bytes_on_wire: replication.sent,
                bytes_changed: replication.changed,
                bytes_per_second: Some(100 * RECORD_BYTES),
            }),
            overdue: false,
            progress: replication.pass.as_ref().map(|pass| Progress {
                what: "a pass".into(),
                bytes_done: 0,
                bytes_total: Some(pass.records.len() as u64 * RECORD_BYTES),
                bytes_per_second: None,
            }),
        });
    }
    Site::BOTH
        .into_iter()
        .find_map(|site| sides[site].why_unknown())
        .map_or(Fact::Absent, |why| Fact::Unknown(why.into()))
}

/// The peer has lost its register, or never had one: it must be enrolled again (S4).
fn stale(
    simulation: &Simulation,
    sides: &BySite<Fact<&Side>>,
    active: Option<Site>,
) -> Option<String> {
    let site = active?;
    let here = sides[site].known()?;
    let there = sides[site.other()].known()?;
    let by_itself = !simulation.capabilities.towards[site.other()].separate_stop;
    (!by_itself && here.replication.is_some() && there.register.is_none())
        .then(|| format!("{} has lost its replica", site.other()))
}

fn operations(sides: &BySite<Fact<&Side>>) -> Vec<Operation> {
    Site::BOTH
        .into_iter()
        .filter_map(|site| {
            let last = sides[site].known()?.register.as_ref()?.last.as_ref()?;
            // Of an action with orders for both sides, the one that makes it take effect tells.
            let tells = matches!(
                last.message.order,
                super::orders::Order::Enroll | super::orders::Order::Undo
            );
            (!tells).then(|| Operation {
                job: None,
                site,
                mark: last.message.mark,
                kind: last.message.kind,
                state: last.state.clone(),
                progress: None,
                bytes_on_wire: (last.sent > 0).then_some(last.sent),
                remark: None,
                bytes_changed: (last.changed > 0).then_some(last.changed),
            })
        })
        .collect()
}

fn pending_delta(sides: &BySite<Fact<&Side>>, active: Option<Site>) -> Option<u64> {
    let site = active?;
    let (here, there) = (sides[site].known()?, sides[site.other()].known()?);
    let base = there.disk.before.as_ref().unwrap_or(&there.disk.records);
    let same = here
        .disk
        .records
        .iter()
        .zip(base)
        .take_while(|(new, old)| new == old)
        .count();
    Some((here.disk.records.len() - same) as u64 * RECORD_BYTES)
}
