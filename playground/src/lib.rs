//! The real parts that the playground, the demo and the tests are made of: a control plane, guests, and what proves
//! that neither a write nor a VM was lost.
//!
//! Nothing here is linked into the product.
#![deny(missing_docs)]

pub mod child;
pub mod control_plane;
pub mod guest_image;
pub mod process_hypervisor;
pub mod processes;
pub mod proofs;
pub mod records;
pub mod tools;
pub mod world;
