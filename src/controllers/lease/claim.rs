//! The right to act, with an end.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// This process may not act any more, or cannot tell that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not hold the lease any more; another one goes on")]
pub struct LeadershipEnded;

#[derive(Clone, Copy, Debug)]
struct Held {
    term: u64,
    until: Instant,
}

/// Where the keeper writes down until when this process may act.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    held: Arc<RwLock<Option<Held>>>,
}

impl Claim {
    pub(super) fn set(&self, term: u64, until: Option<Instant>) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) =
            until.map(|until| Held { term, until });
    }

    pub(super) fn proof(&self, term: u64) -> LeadershipProof {
        LeadershipProof {
            claim: self.clone(),
            term,
        }
    }
}

/// Shows that this process may act. It says so for one term only: a lease that was lost and got again does not revive what was
/// begun before.
#[derive(Clone, Debug)]
pub struct LeadershipProof {
    claim: Claim,
    term: u64,
}

impl LeadershipProof {
    /// Whether this process may act now.
    ///
    /// # Errors
    /// [`LeadershipEnded`] when the lease may have ended.
    pub fn check(&self) -> Result<(), LeadershipEnded> {
        self.check_at(Instant::now())
    }

    fn check_at(&self, now: Instant) -> Result<(), LeadershipEnded> {
        let held = *self
            .claim
            .held
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        match held {
            Some(held) if held.term == self.term && now < held.until => Ok(()),
            Some(_) | None => Err(LeadershipEnded),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_proof_ends_with_its_time_and_with_its_term() {
        let claim = Claim::default();
        let now = Instant::now();
        let first = claim.proof(1);
        assert_eq!(first.check_at(now), Err(LeadershipEnded));
        claim.set(1, Some(now + Duration::from_secs(1)));
        assert_eq!(first.check_at(now), Ok(()));
        assert_eq!(
            first.check_at(now + Duration::from_secs(1)),
            Err(LeadershipEnded)
        );
        claim.set(2, Some(now + Duration::from_secs(9)));
        assert_eq!(
            first.check_at(now),
            Err(LeadershipEnded),
            "an old term does not revive"
        );
        assert_eq!(claim.proof(2).check_at(now), Ok(()));
    }
}
