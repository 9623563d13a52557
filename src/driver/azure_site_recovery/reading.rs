//! From what the service tells to what an observation says. Pure.
//!
//! What may be done is read from `allowedOperations`, and where the VM is from what may be done, from the job under way and from
//! `activeLocation`; names of states are only words for people. Where these contradict each other, that is said, and nothing is guessed.

mod held;
mod providers;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::book::Book;
use super::jobs;
use super::wire::fabric::Provider;
use super::wire::item::Item;
use crate::api::Site;
use crate::domain::{
    BySite, Connection, Fact, HostObservation, Job, JobKind, JobState, Jobs, Power, Protection,
    ProtectionState, Stage, VaultObservation, VmObservation, WholePass,
};
use held::{
    busy, health, led_elsewhere, missing_job, obstacles, perhaps_down, protection_obstacles,
};
use providers::on_premises;
pub use providers::{connection, host_silent, is_one_silent};

/// All that one look told.
pub struct Told<'a> {
    /// The items of the vault.
    pub items: &'a [Item],
    /// The providers.
    pub providers: &'a [Provider],
    /// The jobs.
    pub book: &'a Book,
    /// What the service does not let Homeward do.
    pub missing_permissions: &'a [String],
    /// When the look began, by the clock here.
    pub looked: Timestamp,
    /// When the jobs were last listed, by the clock here.
    pub listed: Timestamp,
    /// The service's clock.
    pub server_time: Option<Timestamp>,
    /// Only this fabric counts.
    pub fabric: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

impl Told<'_> {
    fn counts(&self, fabric: Option<&str>) -> bool {
        match (self.fabric, fabric) {
            (None, _) => true,
            (Some(wanted), Some(fabric)) => wanted.eq_ignore_ascii_case(fabric),
            (Some(_), None) => false,
        }
    }
}

/// The observation of a vault.
#[must_use]
pub fn vault(told: &Told<'_>) -> VaultObservation {
    let providers: Vec<&Provider> = told
        .providers
        .iter()
        .filter(|provider| told.counts(provider.fabric()))
        .collect();
    let mut by_name: BTreeMap<String, Vec<&Item>> = BTreeMap::new();
    for item in told.items.iter().filter(|item| told.counts(item.fabric())) {
        by_name
            .entry(item.friendly_name.clone())
            .or_default()
            .push(item);
    }
    let vms = by_name
        .into_iter()
        .map(|(name, items)| {
            let mut seen = vm(told, items[0], &providers);
            if items.len() > 1 {
                let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
                let words = format!(
                    "the vault holds {} items named {name}: {}; name the fabric in spec.azureSiteRecovery.fabricName, or rename one of the VMs",
                    items.len(),
                    ids.join(", ")
                );
                seen.stage = Fact::Known(Stage::Contradiction { seen: words });
            }
            (name, seen)
        })
        .collect();
    VaultObservation {
        missing_permissions: told.missing_permissions.to_vec(),
        sites: BySite {
            on_premises: on_premises(&providers, told.fabric, told.now),
            // That it answered is all that can be known of the other side.
            azure: Connection::Connected,
        },
        hosts: providers
            .iter()
            .map(|provider| HostObservation {
                name: provider.host.clone(),
                site: Site::OnPremises,
                connection: connection(provider, told.now),
                last_heartbeat: provider.last_heartbeat,
                problems: Vec::new(),
            })
            .collect(),
        vms,
        complete: Ok(()),
    }
}

/// The observation of one VM.
fn vm(told: &Told<'_>, item: &Item, providers: &[&Provider]) -> VmObservation {
    let known = told.book.of_vm(item.vm_id.as_deref(), &item.friendly_name);
    let jobs: Vec<Job> = jobs::of_vm(&known, item);
    let stage = stage(item, &jobs);
    let active = stage.active();
    let live = live(item, &jobs);
    let (busy, led) = (busy(live), led_elsewhere(live));
    let missing = missing_job(item, &jobs, told.now);
    let down = perhaps_down(&jobs, &stage);
    let broken = broken_sync(&jobs, active).or_else(|| missed_sync(&jobs, active));
    VmObservation {
        id: item.identity(),
        claims: BySite::from_fn(|_| Fact::Absent),
        marks: BySite::from_fn(|_| Fact::Absent),
        failovers: BySite::default(),
        power: power(&stage),
        protection: protection(item, &jobs, &stage),
        operations: Vec::new(),
        active_since: item.last_failover,
        target_consistent: match (&broken, active) {
            (Some(_), _) => Fact::Known(false),
            (None, Some(Site::OnPremises)) => {
                Fact::Known(item.last_recovery_point.or(item.last_replicated).is_some())
            }
            (None, _) => Fact::Known(true),
        },
        // The service says nothing of the VM on the premises, and its being gone is not guessed.
        replica_present: Fact::Known(true),
        written_since_start: Fact::Unknown("the service does not tell".into()),
        pending_delta: None,
        disk_bytes: item.disk_bytes,
        encrypted: item.encrypted,
        networks: item.networks.clone(),
        obstacles: obstacles(item),
        protection_obstacles: protection_obstacles(item, &stage, live),
        host_silent: host_silent(item, providers, told.now),
        busy,
        full_download_obstacles: Vec::new(),
        protection_stale: None,
        down_because: None,
        jobs: Some(Jobs {
            scenario: item.scenario.name.clone(),
            server_time: told.server_time,
            looked: told.looked,
            listed: told.listed,
            all: jobs,
        }),
        inconsistent_because: broken,
        sync_ended: None,
        leaving: None,
        led_elsewhere: led,
        missing_job: missing,
        perhaps_down: down,
        stage: Fact::Known(stage),
    }
}

/// The job under way. A move has side jobs of its own, such as the one that completes its data synchronisation; and one that was asked for while
/// another held the VM is accepted at first, and fails.
fn live<'a>(item: &Item, jobs: &'a [Job]) -> Option<&'a Job> {
    let under_way = || jobs.iter().rev().filter(|job| !job.state.is_final());
    let named = |job: &&Job| {
        let held_by = item.scenario.job.as_deref();
        held_by.is_some_and(|held_by| held_by.eq_ignore_ascii_case(&job.id))
    };
    // A job that holds the VM leaves nothing else to be done with it.
    let commits = ["Failback", "PlannedFailover", "ReverseReplicate"]
        .iter()
        .all(|other| !item.allows(other));
    let possible = |job: &&Job| {
        let to = match job.does {
            JobKind::Failover => Some(Site::Azure),
            JobKind::Failback => Some(Site::OnPremises),
            _ => None,
        };
        let stands = to.is_none() || item.active != to || jobs::has_stopped_the_source(job);
        stands && (commits || job.does != JobKind::Commit)
    };
    under_way()
        .filter(|job| job.does != JobKind::Other)
        .find(named)
        .or_else(|| {
            under_way()
                .filter(|job| job.does != JobKind::Other)
                .find(possible)
        })
        .or_else(|| under_way().find(|job| job.does == JobKind::Other))
}

/// Where the right to run the VM stands (safety rule S8: the service's own state).
fn stage(item: &Item, jobs: &[Job]) -> Stage {
    let moves = |job: &&Job| matches!(job.does, JobKind::Failover | JobKind::Failback);
    if let Some(live) = live(item, jobs) {
        let from = match live.does {
            JobKind::Failover => Some(Site::OnPremises),
            JobKind::Failback => Some(Site::Azure),
            _ => None,
        };
        if let Some(from) = from {
            return if jobs::has_stopped_the_source(live) {
                Stage::SourceFenced { from }
            } else {
                Stage::Settled { site: from }
            };
        }
        if live.does == JobKind::Commit {
            if let Some(to) = direction(item, jobs) {
                return Stage::TargetStarted { to, as_left: true };
            }
        }
    }
    let uncommitted = item.allows("Commit") || item.allows("FinalizeFailback");
    if uncommitted {
        return match direction(item, jobs) {
            Some(to) => Stage::TargetStarted { to, as_left: true },
            None => contradiction(item),
        };
    }
    if item.allows("Failback") {
        return Stage::Settled { site: Site::Azure };
    }
    if item.allows("ReverseReplicate") {
        return Stage::Settled {
            site: Site::OnPremises,
        };
    }
    // What has just ended may be ahead of the item.
    let newest = jobs.iter().rev().find(moves);
    match (item.active, newest) {
        (Some(site), _) => Stage::Settled { site },
        (None, _) => contradiction(item),
    }
}

fn contradiction(item: &Item) -> Stage {
    Stage::Contradiction {
        seen: format!(
            "the service calls the VM {} ({}), lets be done: {}, and does not say where it runs: look where it does, and if that is where it shall stay, commit the move in the portal",
            item.protection_state,
            item.protection_state_description,
            if item.allowed.is_empty() {
                "nothing".to_owned()
            } else {
                item.allowed.join(", ")
            }
        ),
    }
}

/// Where an uncommitted move went.
fn direction(item: &Item, jobs: &[Job]) -> Option<Site> {
    if item.allows("FinalizeFailback") {
        return Some(Site::OnPremises);
    }
    // The newest move that has come to its end says it, whatever the item's location is called meanwhile.
    let lost = |job: &Job| job.state == JobState::Lost || job.missed.is_some();
    let newest = jobs.iter().rev().find(|job| {
        matches!(job.does, JobKind::Failover | JobKind::Failback)
            && (job.state == JobState::Succeeded || lost(job))
    });
    let to = match newest.map(|job| job.does) {
        Some(JobKind::Failover) => Some(Site::Azure),
        Some(JobKind::Failback) => Some(Site::OnPremises),
        _ => None,
    };
    if newest.is_some_and(lost) {
        // Nobody knows how it ended: it is believed only where the item says the same, and the moves before it say nothing any more.
        return to.filter(|to| item.active == Some(*to));
    }
    if to.is_some() {
        return to;
    }
    // A failover leaves the item at the recovery side; a failback is only known to be one where the item is back.
    let to_azure = ["PlannedFailover", "UnplannedFailover"]
        .iter()
        .any(|word| item.protection_state.starts_with(word));
    match item.active {
        Some(Site::Azure) if to_azure => Some(Site::Azure),
        Some(Site::OnPremises) => Some(Site::OnPremises),
        _ => None,
    }
}

/// A VM that the service has just started runs; of others it says nothing.
fn power(stage: &Stage) -> BySite<Fact<Power>> {
    let unknown = || Fact::Unknown("the service does not tell".to_owned());
    let mut power = BySite::from_fn(|_| unknown());
    if let Stage::TargetStarted { to, .. } = stage {
        power[*to] = Fact::Known(Power::On);
    }
    power
}

/// A data sync towards the premises that was begun and did not come to its end (invariant 4).
fn broken_sync(jobs: &[Job], active: Option<Site>) -> Option<String> {
    // What failed before it had touched anything says nothing of what the job before it had left.
    // Of one that was lost before its tasks were read, the worst is believed.
    let unread = |job: &Job| job.state == JobState::Lost && job.tasks.is_empty();
    let touched = |job: &&Job| {
        job.state == JobState::Succeeded
            || unread(job)
            || jobs::has_stopped_the_source(job)
            || jobs::has_written_the_target(job)
    };
    let newest = jobs
        .iter()
        .rev()
        .filter(|job| matches!(job.does, JobKind::Failback | JobKind::Failover))
        .find(touched)?;
    let broken = matches!(
        newest.state,
        JobState::Cancelled | JobState::Failed { .. } | JobState::Lost
    );
    (newest.does == JobKind::Failback
        && broken
        && active == Some(Site::Azure)
        && (jobs::has_written_the_target(newest) || unread(newest)))
    .then(|| {
        format!(
            "a data sync from Azure was broken off (job {}): the disks of the VM on-premises are half written, and it must not be started there; bring the VM back to completion first",
            newest.id
        )
    })
}

/// A data sync towards the premises that goes on, as far as is known, and that the service does not know: it may have ended at any moment.
fn missed_sync(jobs: &[Job], active: Option<Site>) -> Option<String> {
    let sync = jobs
        .iter()
        .filter(|job| job.does == JobKind::Failback && !job.state.is_final())
        .find(|job| job.missed.is_some())?;
    (active == Some(Site::Azure)).then(|| {
        format!(
            "the service does not know job {} any more, by which data was synchronised from Azure: the disks of the VM on-premises may be half written, and it must not be started there; bring the VM back to completion first",
            sync.id
        )
    })
}

fn protection(item: &Item, jobs: &[Job], stage: &Stage) -> Fact<Protection> {
    let live = jobs
        .iter()
        .rev()
        .find(|job| !job.state.is_final() && job.does == JobKind::Failback);
    if let (Some(job), Stage::Settled { site: Site::Azure }) = (live, stage) {
        if matches!(job.state, JobState::Cancelling) {
            return Fact::Absent;
        }
        let waits = job.state == JobState::Waiting;
        return Fact::Known(Protection {
            from: Site::Azure,
            state: if waits {
                ProtectionState::Replicating
            } else {
                ProtectionState::Seeding
            },
            failover: None,
            last_whole: waits.then(|| WholePass {
                point: job.started.unwrap_or(Timestamp::UNIX_EPOCH),
                failover: None,
                bytes_on_wire: 0,
                bytes_changed: 0,
                bytes_per_second: None,
            }),
            progress: None,
            overdue: false,
        });
    }
    if !matches!(
        stage,
        Stage::Settled {
            site: Site::OnPremises
        }
    ) {
        return Fact::Absent;
    }
    // RestoreFinalized: brought back, and protected by nothing until it is reverse replicated.
    if item.allows("ReverseReplicate") {
        return Fact::Absent;
    }
    let steady =
        item.allows("PlannedFailover") || item.protection_state.eq_ignore_ascii_case("Protected");
    let state = if item.replication_health.eq_ignore_ascii_case("Critical") {
        ProtectionState::Failing(health(item))
    } else if steady {
        ProtectionState::Replicating
    } else {
        ProtectionState::Seeding
    };
    Fact::Known(Protection {
        from: Site::OnPremises,
        state,
        failover: None,
        last_whole: item
            .last_recovery_point
            .or(item.last_replicated)
            .filter(|_| steady)
            .map(|point| WholePass {
                point,
                failover: None,
                bytes_on_wire: 0,
                bytes_changed: 0,
                bytes_per_second: None,
            }),
        progress: None,
        overdue: false,
    })
}

#[cfg(test)]
mod tests;
