//! All that happened, and what must never happen.

use jiff::Timestamp;

use super::{RECORD_BYTES, Simulation, Vm};
use crate::api::Site;
use crate::domain::{ActionKind, Mark};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// When.
    pub at: Timestamp,
    /// To which VM.
    pub vm: String,
    /// At which site.
    pub site: Site,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// An order was admitted and began to act.
    Admitted {
        /// The action it belongs to.
        kind: ActionKind,
        /// The mark it came with.
        mark: Mark,
        /// The Failover it belongs to.
        failover: Option<String>,
    },
    /// A guest began to run.
    Started,
    /// A guest stopped.
    Stopped,
    /// The commit went on record.
    Committed,
    /// The source copy was given up: it may be overwritten from now on.
    Retired,
    /// Bytes went to the other site.
    Sent(u64),
    /// The undo brought the disk back to the last point in time.
    Undone,
}

impl Simulation {
    pub(super) fn note(&mut self, vm: &str, site: Site, what: Happening) {
        self.effects.push(Effect {
            at: self.now,
            vm: vm.into(),
            site,
            what,
        });
    }

    pub(super) fn violation(&mut self, vm: &str, text: impl std::fmt::Display) {
        self.violations
            .push(format!("{vm} at {}: {text}", self.now));
    }

    /// The hypervisor starts a guest. It does as it is told; what is wrong with that is noted.
    pub(super) fn start_guest(&mut self, name: &str, site: Site) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        if vm.sides[site].running {
            return;
        }
        let mut wrong = Vec::new();
        if vm.sides[site.other()].running {
            wrong.push("1: two guests run".to_owned());
        }
        if vm.sides[site].disk.records != vm.acknowledged {
            wrong.push(format!(
                "2: the guest starts in {site} with {} records of {} that were written",
                vm.sides[site].disk.records.len(),
                vm.acknowledged.len()
            ));
        }
        let side = &mut vm.sides[site];
        side.running = true;
        side.disk.whole = true;
        side.disk.before = None;
        for text in wrong {
            self.violation(name, text);
        }
        self.note(name, site, Happening::Started);
    }

    /// The right to run goes back: what the target wrote since cutover is dropped, which is what turning back says it does.
    pub(super) fn take_back(&mut self, name: &str, site: Site) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        let lost = lost_below(vm, site);
        vm.acknowledged = vm.sides[site].disk.records.clone();
        if let Some(text) = lost {
            self.violation(name, text);
        }
    }

    /// The guest stops.
    pub(super) fn stop_guest(&mut self, name: &str, site: Site) {
        let Some(vm) = self.vms.get_mut(name) else {
            return;
        };
        if std::mem::take(&mut vm.sides[site].running) {
            self.note(name, site, Happening::Stopped);
        }
    }

    /// The content of one site goes to the other, whole.
    pub(super) fn overwrite(&mut self, name: &str, from: Site, records: Vec<u32>) -> (u64, u64) {
        let to = from.other();
        let Some(vm) = self.vms.get_mut(name) else {
            return (0, 0);
        };
        let mut wrong = None;
        if vm.sides[to].running {
            wrong = Some(format!("1: data is written to {to} under a running guest"));
        }
        let there = &mut vm.sides[to].disk;
        let base = there.before.as_ref().unwrap_or(&there.records);
        let same = base
            .iter()
            .zip(&records)
            .take_while(|(old, new)| old == new)
            .count();
        let bytes = (records.len().max(base.len()) - same) as u64 * RECORD_BYTES;
        there.records = records;
        there.whole = true;
        there.before = None;
        if let Some(text) = wrong {
            self.violation(name, text);
        }
        self.note(name, from, Happening::Sent(bytes));
        (bytes, bytes)
    }
}

/// What a return to `site` would lose of what was committed.
fn lost_below(vm: &Vm, site: Site) -> Option<String> {
    let other = vm.sides[site.other()].register.as_ref();
    let committed = other.is_some_and(|register| register.commit.is_some());
    if committed {
        return Some(format!("3: taken back to {site} after the commit"));
    }
    let here = &vm.sides[site].disk.records;
    (!vm.acknowledged.starts_with(here))
        .then(|| format!("2: {site} starts again from another history"))
}
