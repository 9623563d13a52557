//! A deterministic driver with a fault schedule; only for tests, never in a custom resource.
