//! What is known of the vault's jobs: lists tell of no tasks and no direction, so that each job of interest is read by itself, and one that has
//! ended only once.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::wire::job::{Child, Job};
use super::wire::value::same_id;

/// For how long an ended job is remembered: a move that has waited that long for a person is told of by where its VM stands.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24 * 14);
/// How many ended jobs are remembered of all VMs together.
const MOST: usize = 50_000;

/// The jobs of a vault.
#[derive(Debug, Default)]
pub struct Book {
    jobs: BTreeMap<String, Job>,
}

impl Book {
    /// Takes in what a list told. A job that was read by itself keeps what the list does not tell.
    pub fn listed(&mut self, listed: Vec<Job>) {
        for job in listed {
            let key = job.name.to_ascii_lowercase();
            match self.jobs.get_mut(&key) {
                Some(known) if known.detailed && known.is_final() => {}
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

    /// Whether more is to be read of a job: it goes on, or was never read by itself.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.jobs
            .get(&name.to_ascii_lowercase())
            .is_none_or(|job| !(job.detailed && job.is_final()))
    }

    /// The job of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Job> {
        self.jobs.get(&name.to_ascii_lowercase())
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
    if job.is_of_plan() {
        let member = |child: &Child| match (&child.target, vm_id) {
            (Some(target), Some(id)) => same_id(target, id),
            _ => false,
        };
        return job.children().any(member);
    }
    match (&job.target, vm_id) {
        (Some(target), Some(id)) => same_id(target, id),
        _ => job
            .target_name
            .as_deref()
            .is_some_and(|target| target == name),
    }
}
