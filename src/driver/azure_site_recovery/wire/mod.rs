//! What the service says, read with tolerance: names without regard to case, numbers that come as text, nulls and members that are missing,
//! enumeration values that nobody knows yet. Pure: no client, no clock.
//!
//! Only what is used is read. Whatever is of another shape than expected counts as missing; nothing here panics or refuses a whole answer
//! for one member.

pub mod fabric;
pub mod item;
pub mod job;
pub mod page;
pub mod permission;
pub mod problem;
pub mod value;

#[cfg(test)]
mod tests;
