//! Which of the replicas acts: leader election over a `Lease`, small and careful.
//!
//! ```text
//!   elector (pure)   what to ask next, and until when this process may act, from records, answers and instants
//!   keeper           asks the API server, with a client of its own that does not retry
//!   claim            what every effect checks right before it acts
//! ```
//!
//! The lease saves work: two replicas that both act would refuse each other's marks (safety rule S2), but they would waste each
//! other's time. So the claim is on the cautious side: it is counted on the local monotonic clock from before the request that
//! renewed it, and ends a margin before the lease does. Every write is a compare-and-swap by `resourceVersion`.

mod claim;
mod elector;
mod keeper;

pub use claim::{LeadershipEnded, LeadershipProof};
pub use keeper::{Keeper, LeaseSettings};
