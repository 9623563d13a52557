//! The operator against a real API server, with a driver in memory.
#![allow(missing_docs, dead_code)]

#[path = "../common/mod.rs"]
mod common;

mod claims;
mod events;
mod kept;
mod letting_go;
mod looks;
mod moves;
mod world;

use common::{Bench, condition};
use homeward::api::{Failover, FailoverPhase, ProtectedVirtualMachine};

fn phase(failover: &homeward::api::Failover) -> Option<FailoverPhase> {
    failover.status.as_ref()?.phase
}

fn waiting_for(failover: &homeward::api::Failover) -> String {
    failover
        .status
        .as_ref()
        .and_then(|status| status.waiting_for.clone())
        .unwrap_or_default()
}

async fn protected(bench: &Bench, name: &str) -> ProtectedVirtualMachine {
    bench
        .vm_is(name, "protected", |vm| {
            condition(vm, "Ready") == "True/AsDeclared"
                && condition(vm, "Protected") == "True/Replicating"
        })
        .await
}

fn succeeded(failover: &Failover) -> bool {
    phase(failover) == Some(FailoverPhase::Succeeded)
}
