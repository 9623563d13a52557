//! Homeward.
