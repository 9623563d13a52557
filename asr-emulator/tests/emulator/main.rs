//! The emulator's own tests. Time is theirs alone, and everything listens on the loopback address.

mod answers;
mod assumptions;
mod cancel;
mod client;
mod faults;
mod identity;
mod lists;
mod over_tls;
mod plans;
mod restart;
mod round_trip;
mod walk;
mod wrong_states;
