//! The loop of looks at one vault, for all of its VMs.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::controllers::context::Context;
use crate::controllers::hub::{Blind, Look};
use crate::controllers::key::Key;
use crate::domain::{ErrorClass, Pace};
use crate::driver::ReplicationDriver;

/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// More VMs than this are not looked at one by one.
const MOST: usize = 64;

/// Looks until `stop`, as often as the most urgent VM wishes. Between looks at the whole vault, which come at the steady pace, only those VMs are
/// looked at that are in a hurry, where the driver can: a VM that moves does not wait for thousands that rest.
pub async fn look_again_and_again(
    context: Arc<Context>,
    vault: Key,
    driver: Arc<dyn ReplicationDriver>,
    stop: CancellationToken,
) {
    let mut turn = 0u64;
    let mut whole_due: Option<Instant> = None;
    loop {
        let began = Instant::now();
        let early = whole_due.filter(|due| began < *due && driver.observes_some());
        let wanted = context.hub.wanted(&vault);
        if let Some(due) = early.filter(|_| wanted.hurried.is_empty()) {
            // Whoever was in a hurry has been served meanwhile.
            tokio::select! {
                () = stop.cancelled() => return,
                () = wanted.nudge.notified() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
            continue;
        }
        let only = early
            .map(|_| wanted.hurried)
            .filter(|names| names.len() <= MOST);
        let look = tokio::select! {
            () = stop.cancelled() => return,
            look = look(&context, &vault, &driver, began, only.as_ref()) => look,
        };
        let took = began.elapsed();
        let succeeded = if look.seen.is_ok() { "ok" } else { "failed" };
        context.metrics.look(succeeded, took);
        context.hub.publish(&vault, &driver, look, only.as_ref());
        turn += 1;
        if only.is_none() {
            note_recovery_points(&context, &vault);
            let steady = context.settings.paces.of(Pace::Steady);
            whole_due = Some(began + jittered(steady, &vault, turn));
        }
        // Half of the time at most is spent looking, however much is asked for.
        let at_least = took.max(SHORTEST_PAUSE).max(driver.shortest_pause());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(at_least) => {}
        }
        let wanted = context.hub.wanted(&vault);
        let pause = jittered(context.settings.paces.of(wanted.pace), &vault, turn);
        let next =
            (Instant::now() + pause.saturating_sub(at_least)).min(whole_due.unwrap_or(began));
        tokio::select! {
            () = stop.cancelled() => return,
            () = wanted.nudge.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

fn note_recovery_points(context: &Context, vault: &Key) {
    for (vm, point) in context.hub.recovery_points(vault) {
        context
            .metrics
            .fleet
            .note(&vm.namespace, &vm.name, |figures| {
                figures.recovery_point = point;
            });
    }
}

async fn look(
    context: &Context,
    vault: &Key,
    driver: &Arc<dyn ReplicationDriver>,
    began: Instant,
    only: Option<&BTreeSet<String>>,
) -> Look {
    let limit = context.settings.timeouts.look;
    let looking = async {
        match only {
            Some(names) => driver.observe_some(names).await,
            None => driver.observe().await,
        }
    };
    let seen = match tokio::time::timeout(limit, looking).await {
        Ok(Ok(observation)) => Ok(Arc::new(observation)),
        Ok(Err(error)) => Err(Blind {
            class: error.class,
            message: error.message,
        }),
        Err(_) => Err(Blind {
            class: ErrorClass::Transient,
            message: format!("the vault did not answer within {} s", limit.as_secs()),
        }),
    };
    if let Err(blind) = &seen {
        tracing::warn!(%vault, class = blind.class.as_str(), error = %blind.message, "a look at the vault showed nothing");
    }
    Look { began, seen }
}

/// Up to a tenth shorter, so that many vaults do not look in step.
fn jittered(pause: Duration, vault: &Key, turn: u64) -> Duration {
    let mut hasher = DefaultHasher::new();
    (vault, turn).hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 100).unwrap_or(0);
    pause.saturating_sub(pause * part / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let pause = Duration::from_secs(10);
        let vault = Key::new("ns", "v");
        let all: Vec<_> = (0..50).map(|turn| jittered(pause, &vault, turn)).collect();
        assert!(
            all.iter()
                .all(|one| *one <= pause && *one >= pause * 9 / 10)
        );
        assert!(all.iter().any(|one| *one != all[0]));
    }
}
