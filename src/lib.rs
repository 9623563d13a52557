//! Homeward keeps each virtual machine at the site its resource names, on-premises or in Azure.

pub mod agent;
pub mod api;
pub mod domain;
pub mod driver;
pub mod pki;
