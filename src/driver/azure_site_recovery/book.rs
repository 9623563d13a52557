//! What is known of the vault's jobs: lists tell of no tasks and no direction, so that each job of interest is read by itself, and one that has
//! ended only once.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::wire::item::Item;
use super::wire::job::{Child, Job};
use super::wire::value::same_id;
use crate::api::Site;

/// For how long an ended job is remembered: a move that has waited that long for a person is told of by where its VM stands.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24 * 14);
/// How many ended jobs are remembered of all VMs together.
const MOST: usize = 50_000;
/// For how long a job that goes on must be unknown to the service before it is believed to have ended: parts of the service may lag behind others.
pub(super) const LOST_AFTER: SignedDuration = SignedDuration::from_mins(3);

/// The jobs of a vault.
#[derive(Debug, Default)]
pub struct Book {
    jobs: BTreeMap<String, Job>,
    /// Other names under which jobs were asked for.
    names: BTreeMap<String, String>,
}

impl Book {
    /// Takes in what a list told. A job that was read by itself keeps what the list does not tell.
    pub fn listed(&mut self, listed: Vec<Job>) {
        for job in listed {
            let key = job.name.to_ascii_lowercase();
            match self.jobs.get_mut(&key) {
                Some(known) if known.detailed && known.is_final() && !known.lost => {}
                Some(known) => {
                    let detail = std::mem::replace(known, job);
                    known.tasks = detail.tasks;
                    known.fabrics = known.fabrics.take().or(detail.fabrics);
                    if known.errors.is_empty() {
                        known.errors = detail.errors;
                    }
                }
                None => {
                    self.jobs.insert(key, job);
                }
            }
        }
    }

    /// Takes in what was read of one job.
    pub fn read(&mut self, mut job: Job) {
        job.detailed = true;
        self.jobs.insert(job.name.to_ascii_lowercase(), job);
    }

    /// As [`Book::read`], when it was asked for by a name that may be another than its own: that of an operation, for example.
    pub fn read_as(&mut self, asked: &str, job: Job) {
        let asked = asked.to_ascii_lowercase();
        let own = job.name.to_ascii_lowercase();
        if asked != own {
            // Under that name nothing would ever be told of it again.
            self.jobs.remove(&asked);
            self.names.insert(asked, own);
        }
        self.read(job);
    }

    /// The service was asked for a job that goes on, and does not know it. One that was never told of is known by the items that name it: a
    /// process that has just begun must not take their VMs for free.
    pub fn missed(&mut self, name: &str, items: &[Item], now: Timestamp) {
        let asked = name.to_ascii_lowercase();
        let key = self.names.get(&asked).cloned().unwrap_or(asked);
        if let Some(job) = self.jobs.get_mut(&key) {
            if !job.is_final() {
                job.missed = job.missed.or(Some(now));
            }
            return;
        }
        let names_it = |item: &&Item| {
            let job = item.scenario.job.as_deref();
            job.is_some_and(|job| job.eq_ignore_ascii_case(name))
        };
        let held: Vec<&Item> = items.iter().filter(names_it).collect();
        if let Some(first) = held.first() {
            let told = Job {
                scenario: Some(first.scenario.name.clone()),
                started: first.scenario.started,
                target_name: Some(first.friendly_name.clone()),
                // While it goes on it leaves the site where the VM is; afterwards nothing tells.
                fabrics: match first.active {
                    Some(Site::Azure) => Some(("Azure".into(), "HyperV".into())),
                    Some(Site::OnPremises) => Some(("HyperV".into(), "Azure".into())),
                    None => None,
                },
                missed: Some(now),
                holds: held.iter().map(|item| item.identity()).collect(),
                ..Job::nothing_of(name)
            };
            self.jobs.insert(key, told);
        }
    }

    /// S19: a job that the service has not known for a while has ended, once each VM that it works on is free of it: the items were read after it
    /// was first missed, and before it was missed again now. One that comes back is taken in as it is.
    pub fn give_up(&mut self, items: &[Item], now: Timestamp) {
        let long = |since: Timestamp| now.duration_since(since) >= LOST_AFTER;
        let live = self.jobs.values_mut().filter(|job| !job.is_final());
        for job in live.filter(|job| job.missed.is_some_and(long)) {
            let concerned = |item: &&Item| is_of(job, item.vm_id.as_deref(), &item.friendly_name);
            if items.iter().filter(concerned).all(Item::is_free) {
                tracing::warn!(job = %job.name, "the service does not know a job any more that went on, and holds no VM by it");
                job.lost = true;
                job.detailed = true;
                job.ended = Some(now);
            }
        }
    }

    /// Whether more is to be read of a job: it goes on, or was never read by itself.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.get(name)
            .is_none_or(|job| !(job.detailed && job.is_final()))
    }

    /// The job of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Job> {
        let key = name.to_ascii_lowercase();
        self.jobs.get(self.names.get(&key).unwrap_or(&key))
    }

    /// The jobs of a VM, oldest first, those of plans that it takes part in included.
    #[must_use]
    pub fn of_vm(&self, vm_id: Option<&str>, name: &str) -> Vec<&Job> {
        let mut found: Vec<&Job> = self
            .jobs
            .values()
            .filter(|job| is_of(job, vm_id, name))
            .collect();
        found.sort_by(|one, other| (one.started, &one.name).cmp(&(other.started, &other.name)));
        found
    }

    /// Names of the jobs that go on.
    #[must_use]
    pub fn live(&self) -> Vec<String> {
        self.jobs
            .values()
            .filter(|job| !job.is_final())
            .map(|job| job.name.clone())
            .collect()
    }

    /// Forgets what has ended long ago.
    pub fn forget(&mut self, now: Timestamp) {
        let over = now.checked_sub(REMEMBERED).unwrap_or(Timestamp::MIN);
        self.jobs.retain(|_, job| {
            !job.is_final() || job.ended.or(job.started).is_none_or(|at| at > over)
        });
        self.names.retain(|_, key| self.jobs.contains_key(key));
        if self.jobs.len() > MOST {
            let mut ended: Vec<(Option<Timestamp>, String)> = self
                .jobs
                .iter()
                .filter(|(_, job)| job.is_final())
                .map(|(key, job)| (job.ended, key.clone()))
                .collect();
            ended.sort();
            for (_, key) in ended.into_iter().take(self.jobs.len() - MOST) {
                self.jobs.remove(&key);
            }
        }
    }
}

/// Whether a job works on the VM: by itself, or as a member of a plan.
fn is_of(job: &Job, vm_id: Option<&str>, name: &str) -> bool {
    if let (false, Some(id)) = (job.holds.is_empty(), vm_id) {
        return job.holds.iter().any(|held| same_id(held, id));
    }
    if job.is_of_plan() {
        let member = |child: &Child| match (&child.target, vm_id) {
            (Some(target), Some(id)) => same_id(target, id),
            _ => false,
        };
        return job.children().any(member);
    }
    // A refresh of a provider, for example, works on a host, which may have the name of a VM.
    let kind = job.target_type.as_deref().unwrap_or_default();
    let elsewhere = ["Server", "ProtectionProfile", "Network", "Vault"];
    if elsewhere.iter().any(|it| it.eq_ignore_ascii_case(kind)) {
        return false;
    }
    match (&job.target, vm_id) {
        (Some(target), Some(id)) => same_id(target, id),
        _ => job
            .target_name
            .as_deref()
            .is_some_and(|target| target == name),
    }
}

#[cfg(test)]
mod tests;
