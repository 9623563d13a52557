//! Asks storage that may never answer: a share whose server is gone hangs whoever touches it, and must not hang the agent with it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

use super::host::lock;

/// At most one piece of work is under way; whoever asks waits for a bounded time.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    turn: Arc<tokio::sync::Mutex<()>>,
    since: Mutex<Option<Timestamp>>,
}

impl Probe {
    /// Does `work` where blocking is allowed, and waits for it no longer than `patience`. Work that hangs goes on hanging on its thread, one
    /// for each probe, and nothing is begun beside it.
    ///
    /// # Errors
    /// Since when it has not answered, in words that stay the same while it hangs.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let asked = Timestamp::now();
        let Ok(turn) = tokio::time::timeout(patience, Arc::clone(&self.turn).lock_owned()).await
        else {
            let since = lock(&self.since).unwrap_or(asked);
            return Err(silence(since));
        };
        *lock(&self.since) = Some(asked);
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        match tokio::time::timeout(patience, working).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failed)) => Err(failed.to_string()),
            Err(_) => Err(silence(asked)),
        }
    }
}

fn silence(since: Timestamp) -> String {
    format!(
        "it has not answered since {}: check the disk, or the server of the share, that it lies on",
        since.strftime("%FT%TZ")
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Nobody waits for it to pass.
    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn what_hangs_is_told_of_and_not_asked_twice() {
        let probe = Probe::default();
        let (let_go, held) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel::<u32>();
        let first = tell.clone();
        let hung = probe
            .ask(Duration::ZERO, move || {
                let _ = held.recv();
                let _ = first.send(1);
            })
            .await;
        let hung = hung.unwrap_err();
        assert!(hung.contains("has not answered since"));
        let second = tell.clone();
        let beside = probe
            .ask(Duration::ZERO, move || {
                let _ = second.send(2);
            })
            .await;
        assert_eq!(
            beside.unwrap_err(),
            hung,
            "a status that says it changes no more"
        );
        drop(let_go);
        assert_eq!(probe.ask(LONG, || 3).await, Ok(3));
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), [1]);
    }
}
