//! The loop of looks at one vault, for all of its VMs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::controllers::context::Context;
use crate::controllers::hub::{Blind, Look};
use crate::controllers::key::Key;
use crate::domain::ErrorClass;
use crate::driver::ReplicationDriver;

/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Looks until `stop`, as often as the most urgent VM wishes.
pub async fn look_again_and_again(
    context: Arc<Context>,
    vault: Key,
    driver: Arc<dyn ReplicationDriver>,
    stop: CancellationToken,
) {
    let mut turn = 0u64;
    loop {
        let began = Instant::now();
        let look = tokio::select! {
            () = stop.cancelled() => return,
            look = look(&context, &vault, &driver, began) => look,
        };
        let took = began.elapsed();
        context
            .metrics
            .look(if look.seen.is_ok() { "ok" } else { "failed" }, took);
        context.hub.publish(&vault, &driver, look);
        for (vm, point) in context.hub.recovery_points(&vault) {
            context
                .metrics
                .fleet
                .note(&vm.namespace, &vm.name, |figures| {
                    figures.recovery_point = point;
                });
        }
        turn += 1;
        // Half of the time at most is spent looking, however much is asked for.
        let at_least = took.max(SHORTEST_PAUSE);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(at_least) => {}
        }
        let (pace, nudge) = context.hub.pace(&vault);
        let pause = jittered(context.settings.paces.of(pace), &vault, turn);
        tokio::select! {
            () = stop.cancelled() => return,
            () = nudge.notified() => {}
            () = tokio::time::sleep(pause.saturating_sub(at_least)) => {}
        }
    }
}

async fn look(
    context: &Context,
    vault: &Key,
    driver: &Arc<dyn ReplicationDriver>,
    began: Instant,
) -> Look {
    let limit = context.settings.timeouts.look;
    let seen = match tokio::time::timeout(limit, driver.observe()).await {
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
