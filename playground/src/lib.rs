//! The real parts that the playground, the demo and the tests are made of: a control plane, guests, and what proves
//! that neither a write nor a VM was lost.
//!
//! Nothing here is linked into the product.
#![deny(missing_docs)]

pub mod accelerator;
pub mod asked;
pub mod child;
pub mod control_plane;
pub mod driver;
pub mod guest_image;
pub mod narrator;
pub mod process_hypervisor;
pub mod processes;
pub mod proofs;
pub mod records;
pub mod tools;
pub mod usage;
pub mod world;

/// Returns once somebody asks this process to stop: Ctrl-C, or a request to end.
///
/// # Panics
///
/// Never; where signals cannot be heard it waits for ever.
pub async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
