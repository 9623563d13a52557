//! Figures of the VMs, worked out when they are asked for: they change all the time, so they are metrics and not status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::metrics::locked;
use crate::api::FailoverPhase;

/// What is told of one VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmFigures {
    /// The last point in time that became whole at the passive site.
    pub recovery_point: Option<Timestamp>,
    /// Where its move stands, while one is under way.
    pub failover: Option<FailoverPhase>,
    /// The reason of its `Ready` condition: what it waits for.
    pub standing: Option<String>,
}

/// The figures of all VMs, by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    vms: Arc<Mutex<BTreeMap<(String, String), VmFigures>>>,
}

impl Fleet {
    /// Takes down what has changed of a VM.
    pub fn note(&self, namespace: &str, name: &str, change: impl FnOnce(&mut VmFigures)) {
        let mut vms = locked(&self.vms);
        change(vms.entry((namespace.into(), name.into())).or_default());
    }

    /// A VM is not there any more.
    pub fn forget(&self, namespace: &str, name: &str) {
        locked(&self.vms).remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Nothing is known any more, because another process looks after the VMs now.
    pub fn clear(&self) {
        locked(&self.vms).clear();
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let now = Timestamp::now();
        let vms = locked(&self.vms);
        let mut phases: BTreeMap<String, f64> = BTreeMap::new();
        let mut standings: BTreeMap<String, f64> = BTreeMap::new();
        let mut ages = encoder.encode_descriptor(
            "homeward_vm_recovery_point_age_seconds",
            "Age of the newest whole point in time at the passive site",
            None,
            MetricType::Gauge,
        )?;
        for ((namespace, name), figures) in vms.iter() {
            if let Some(point) = figures.recovery_point {
                let age = now.duration_since(point).as_secs_f64().max(0.0);
                let labels = [("namespace", namespace.as_str()), ("vm", name.as_str())];
                ages.encode_family(&labels)?.encode_gauge(&age)?;
            }
            if let Some(phase) = figures.failover {
                *phases.entry(format!("{phase:?}")).or_default() += 1.0;
            }
            if let Some(standing) = figures.standing.clone() {
                *standings.entry(standing).or_default() += 1.0;
            }
        }
        for (name, help, label, counts) in [
            (
                "homeward_failover_phase",
                "Failovers under way, by phase",
                "phase",
                phases,
            ),
            (
                "homeward_vm_standing",
                "VMs by the reason of their Ready condition: what they wait for",
                "reason",
                standings,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (word, count) in &counts {
                let labels = [(label, word.as_str())];
                family.encode_family(&labels)?.encode_gauge(count)?;
            }
        }
        Ok(())
    }
}
