//! The register that Homeward keeps for a service that keeps none: each rule of what may be sent, what came of it, and what is shown of it.

mod admit;
mod bench;
#[path = "../common/observed.rs"]
mod observed;
mod settle;
mod show;
