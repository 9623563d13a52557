//! Follows one Failover from its making to its end, telling what it does.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use homeward::api::{Failover, FailoverPhase, TaskState, TaskStatus};
use homeward_playground::{
    narrator::{Narrator, Step},
    world::{Cluster, LIMIT, status_of},
};
use kube::runtime::{WatchStreamExt as _, watcher};

/// A move as it was seen from outside.
pub struct Followed {
    /// How it ended.
    pub failover: Failover,
    /// The phases in order and how long each lasted.
    pub phases: Vec<(FailoverPhase, Duration)>,
}

/// Follows the Failover `name`; `at` is called once at the beginning of each phase.
pub async fn follow(
    cluster: &Cluster,
    name: &str,
    narrator: &Narrator,
    mut at: impl AsyncFnMut(FailoverPhase) -> Result<()>,
) -> Result<Followed> {
    let selected = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = watcher(cluster.failovers(), selected)
        .default_backoff()
        .applied_objects();
    let mut stream = std::pin::pin!(stream);
    let mut step: Option<Step<'_>> = None;
    let mut phases: Vec<(FailoverPhase, Instant)> = Vec::new();
    let mut last = None;
    let mut jobs = Jobs::default();
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let seen = tokio::time::timeout_at(deadline, stream.next()).await;
        let failover = match seen {
            Ok(Some(Ok(failover))) => failover,
            Ok(Some(Err(error))) => {
                narrator.say(format!("  the API server does not answer: {error}"));
                continue;
            }
            Ok(None) => bail!("the watch of {name} has ended"),
            Err(_) => bail!(
                "{name} has not ended within {} s\n{}",
                LIMIT.as_secs(),
                last.as_ref()
                    .map_or_else(String::new, status_of::<Failover>)
            ),
        };
        let status = failover.status.clone().unwrap_or_default();
        last = Some(failover.clone());
        jobs.tell(&status.tasks, narrator);
        let Some(phase) = status.phase else {
            continue;
        };
        if phases.last().map(|(last, _)| *last) != Some(phase) {
            if let Some(step) = step.take() {
                step.done(result_of(phases.last().map(|(last, _)| *last), &failover));
            }
            phases.push((phase, Instant::now()));
            if phase.is_final() {
                return Ok(Followed {
                    failover,
                    phases: durations(&phases),
                });
            }
            step = Some(narrator.step(format!("{phase:?}")));
            at(phase)
                .await
                .with_context(|| format!("at {phase:?} of {name}"))?;
        }
        if let Some(step) = &step {
            tell(step, &failover);
        }
    }
}

/// What was told of the jobs of a service.
#[derive(Default)]
struct Jobs {
    begun: BTreeSet<String>,
    ended: BTreeSet<(String, String)>,
}

impl Jobs {
    /// Tells of what is new, as the portal lists it.
    fn tell(&mut self, tasks: &[TaskStatus], narrator: &Narrator) {
        for task in tasks {
            let Some(job) = &task.job else { continue };
            if self.begun.insert(task.name.clone()) {
                narrator.say(format!("    {}: job {job} of the service", task.name));
            }
            for step in &task.steps {
                let open = ["NotStarted", "InProgress"].contains(&step.state.as_str());
                let known = (job.clone(), step.name.clone());
                if open || !self.ended.insert(known) {
                    continue;
                }
                let words = step.message.as_ref();
                let words = words.map_or_else(String::new, |words| format!(": {words}"));
                narrator.say(format!("      {:<52} {}{words}", step.name, step.state));
            }
        }
    }
}

fn durations(phases: &[(FailoverPhase, Instant)]) -> Vec<(FailoverPhase, Duration)> {
    phases
        .windows(2)
        .map(|pair| (pair[0].0, pair[1].1 - pair[0].1))
        .collect()
}

fn tell(step: &Step<'_>, failover: &Failover) {
    let Some(status) = &failover.status else {
        return;
    };
    if let Some(progress) = &status.progress
        && let Some(total) = progress.bytes_total
    {
        step.bytes(unsigned(progress.bytes_done), unsigned(total));
    }
    let running = status
        .tasks
        .iter()
        .rev()
        .find(|task| task.state == TaskState::Running);
    if let Some(waiting) = &status.waiting_for {
        step.now(waiting.as_str());
    } else if let Some(task) = running {
        step.now(task.message.as_deref().unwrap_or(task.name.as_str()));
    }
}

/// What a phase has brought, as its status says it.
fn result_of(phase: Option<FailoverPhase>, failover: &Failover) -> String {
    let Some(status) = &failover.status else {
        return String::new();
    };
    match phase {
        Some(FailoverPhase::Preparing) => status
            .data_sync
            .as_ref()
            .map_or_else(String::new, |choice| {
                format!("{}, because {}", choice.chosen.as_str(), choice.reason)
            }),
        Some(FailoverPhase::CuttingOver) => status
            .downtime
            .as_ref()
            .and_then(|downtime| downtime.actual_milliseconds)
            .map_or_else(String::new, |actual| {
                format!(
                    "{} of downtime, and the guest boots",
                    homeward_playground::narrator::milliseconds(unsigned(actual))
                )
            }),
        _ => String::new(),
    }
}

/// A figure of a status, which is never negative.
pub fn unsigned(figure: i64) -> u64 {
    u64::try_from(figure).unwrap_or(0)
}
