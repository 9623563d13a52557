//! Homeward keeps each virtual machine at the site its resource names, on-premises or in Azure.

pub mod api;
pub mod controllers;
pub mod domain;
pub mod driver;
pub mod telemetry;
