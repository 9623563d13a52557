//! Counters and histograms of the operator.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::fleet::Fleet;

/// A lock whose holder panicked is taken all the same: what it guards is replaced as a whole or not at all.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pass {
    controller: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    action: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Figures of the VMs.
    pub fleet: Fleet,
    passes: Family<Pass, Counter>,
    calls: Family<Call, Counter>,
    looks: Family<Outcome, Counter>,
    look_seconds: Histogram,
    decision_seconds: Histogram,
    status_writes: Family<Kind, Counter>,
    lease_held: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let passes = Family::default();
        registry.register(
            "homeward_reconcile",
            "Passes over a resource, by controller and by how they ended: ok, or the class of the error",
            passes.clone(),
        );
        let calls = Family::default();
        registry.register(
            "homeward_driver_calls",
            "Actions asked of drivers, by how they were answered: accepted, refused (by class), or ambiguous",
            calls.clone(),
        );
        let looks = Family::default();
        registry.register(
            "homeward_vault_observations",
            "Looks at vaults",
            looks.clone(),
        );
        let look_seconds = Histogram::new(exponential_buckets(0.001, 4.0, 8));
        registry.register_with_unit(
            "homeward_vault_observation_duration",
            "How long a look at a vault took",
            Unit::Seconds,
            look_seconds.clone(),
        );
        let decision_seconds = Histogram::new(exponential_buckets(0.000_01, 4.0, 8));
        registry.register_with_unit(
            "homeward_decision_duration",
            "How long a decision took",
            Unit::Seconds,
            decision_seconds.clone(),
        );
        let status_writes = Family::default();
        registry.register(
            "homeward_status_writes",
            "Writes of status, by kind of resource; none while nothing changes",
            status_writes.clone(),
        );
        let lease_held = Gauge::default();
        registry.register(
            "homeward_lease_held",
            "1 while this process is the one that acts",
            lease_held.clone(),
        );
        let fleet = Fleet::default();
        registry.register_collector(Box::new(fleet.clone()));
        Self {
            registry,
            fleet,
            passes,
            calls,
            looks,
            look_seconds,
            decision_seconds,
            status_writes,
            lease_held,
        }
    }
}

impl Metrics {
    /// A pass over a resource ended: `ok`, or the class of its error.
    pub fn pass(&self, controller: &'static str, outcome: &'static str) {
        self.passes
            .get_or_create(&Pass {
                controller,
                outcome,
            })
            .inc();
    }

    /// A driver answered, or did not.
    pub fn driver_call(&self, action: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&Call { action, outcome }).inc();
    }

    /// A look at a vault ended.
    pub fn look(&self, outcome: &'static str, took: Duration) {
        self.looks.get_or_create(&Outcome { outcome }).inc();
        self.look_seconds.observe(took.as_secs_f64());
    }

    /// A decision was made.
    pub fn decision(&self, took: Duration) {
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// A status was written.
    pub fn status_write(&self, kind: &'static str) {
        self.status_writes.get_or_create(&Kind { kind }).inc();
    }

    /// Whether this process is the one that acts.
    pub fn lease_held(&self, held: bool) {
        self.lease_held.set(if held { 1.0 } else { 0.0 });
    }

    /// All of them, as OpenMetrics text.
    ///
    /// # Errors
    /// When a figure cannot be written down.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::VmFigures;
    use super::*;
    use crate::api::FailoverPhase;

    #[test]
    fn tells_what_was_counted() {
        let metrics = Metrics::default();
        metrics.pass("virtual_machines", "ok");
        metrics.driver_call("Adopt", "accepted");
        metrics.look("ok", Duration::from_millis(3));
        metrics.decision(Duration::from_micros(30));
        metrics.lease_held(true);
        metrics.fleet.note("shop", "web", |figures| {
            *figures = VmFigures {
                recovery_point: Some(jiff::Timestamp::now()),
                failover: Some(FailoverPhase::AwaitingCutover),
                standing: Some("AwaitingApproval".into()),
            };
        });
        let text = metrics.text().unwrap();
        for line in [
            "homeward_reconcile_total{controller=\"virtual_machines\",outcome=\"ok\"} 1",
            "homeward_driver_calls_total{action=\"Adopt\",outcome=\"accepted\"} 1",
            "homeward_vault_observations_total{outcome=\"ok\"} 1",
            "homeward_lease_held 1.0",
            "homeward_failover_phase{phase=\"AwaitingCutover\"} 1.0",
            "homeward_vm_standing{reason=\"AwaitingApproval\"} 1.0",
            "homeward_vm_recovery_point_age_seconds{namespace=\"shop\",vm=\"web\"}",
            "homeward_decision_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
