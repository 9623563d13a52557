//! How the emulator behaves: time a task takes, pages, headers, limits. What is not known is in `assumptions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::assumptions::Assumptions;

/// How long things take, in milliseconds of the emulator's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Timings {
    /// From the accepted request to the begin of its job: the time of the placeholder.
    pub placeholder: u64,
    /// A task that `tasks` does not name.
    pub task: u64,
    /// Tasks by name.
    pub tasks: BTreeMap<String, u64>,
    /// From the end of a reverse replication to its automatic completion job.
    pub initial_replication: u64,
    /// From a cancel to the end of the job.
    pub cancel: u64,
    /// Between heartbeats of a provider that is connected.
    pub heartbeat: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            placeholder: 500,
            task: 1_000,
            tasks: BTreeMap::from([("MonitorDataSync".into(), 5_000)]),
            initial_replication: 3_000,
            cancel: 2_000,
            heartbeat: 60_000,
        }
    }
}

impl Timings {
    /// How long the task takes.
    #[must_use]
    pub fn of(&self, task: &str) -> u64 {
        self.tasks.get(task).copied().unwrap_or(self.task)
    }
}

/// Token buckets as the resource manager has them for one principal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Throttle {
    /// The bucket of reads.
    pub reads: u32,
    /// Its refill each second.
    pub reads_per_second: u32,
    /// The bucket of writes, and that of deletes.
    pub writes: u32,
    /// Its refill each second.
    pub writes_per_second: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            reads: 250,
            reads_per_second: 25,
            writes: 200,
            writes_per_second: 10,
        }
    }
}

/// How the emulator behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// How long things take.
    pub timings: Timings,
    /// What is not known of the service.
    pub assumptions: Assumptions,
    /// Entries of a list before it goes on at `nextLink`.
    pub page_size: usize,
    /// Whether a list that fills its last page is followed by an empty one.
    pub empty_last_page: bool,
    /// `Retry-After` of an accepted request, in seconds; none by default, as newer traffic has it.
    pub retry_after: Option<u32>,
    /// How long an access token lives, in seconds.
    pub token_lifetime: u32,
    /// Property names as the versions of 2016 wrote them.
    pub legacy_casing: bool,
    /// Request limits; off by default.
    pub throttle: Option<Throttle>,
    /// Requests that are remembered; the oldest go first.
    pub remembered_requests: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timings: Timings::default(),
            assumptions: Assumptions::default(),
            page_size: 1_000,
            empty_last_page: false,
            retry_after: None,
            token_lifetime: 3_599,
            legacy_casing: false,
            throttle: None,
            remembered_requests: 50_000,
        }
    }
}
