//! Homeward.

pub mod agent;
