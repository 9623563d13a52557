//! What was last seen of each vault, shared by everybody who needs it.
//!
//! ```text
//!   look loop (one a vault) ── publish(look) ──▶ hub ── wake ──▶ the VMs whose part changed, or who asked
//!                  of all VMs, or between two such looks of those that are in a hurry
//!   pass over a VM          ── sight ◀────────── hub
//!                           ── acting(vm) ─────▶ hub    until a look begins after the action ended, the VM is unknown (S7)
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use tokio::sync::Notify;

use super::key::Key;
use crate::domain::{ErrorClass, Fact, Pace, VaultObservation, VmObservation};
use crate::driver::ReplicationDriver;

/// One look at a vault.
#[derive(Clone, Debug)]
pub struct Look {
    /// When it began; facts are not older than this.
    pub began: Instant,
    /// What it showed, or why it showed nothing.
    pub seen: Result<Arc<VaultObservation>, Blind>,
}

/// Why a look showed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// What follows from it.
    pub class: ErrorClass,
    /// In words a person can act on.
    pub message: String,
}

/// What a VM wants of the looks at its vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Name of the VM in the vault.
    pub vm_name: String,
    /// How soon the next look is wanted.
    pub pace: Pace,
    /// Whether figures that change all the time are news, as they are during a move.
    pub figures: bool,
}

/// How the next look at a vault is wanted.
pub struct Wanted {
    /// The most urgent wish of its VMs.
    pub pace: Pace,
    /// Names of the VMs that do not wait for the next look at the whole vault.
    pub hurried: BTreeSet<String>,
    /// What to wait on for a wish that cannot wait.
    pub nudge: Arc<Notify>,
}

/// What can be known of a vault now.
pub enum Sight {
    /// Nothing yet: the first look, of a new leader or of a new driver, has not ended. What was said last stands until then.
    NotYet,
    /// Nothing, and why.
    Nothing(String),
    /// Nothing: nobody can look before somebody mends this.
    Nobody(String),
    /// A look that is new enough.
    Seen {
        /// What it showed.
        observation: Arc<VaultObservation>,
        /// Who looked.
        driver: Arc<dyn ReplicationDriver>,
        /// Why the VM that was asked for is unknown all the same.
        vm_unknown: Option<String>,
    },
}

/// From when on the facts of a VM count again.
#[derive(Clone, Copy, Debug)]
enum Barrier {
    /// An action is being asked for.
    Acting,
    /// It was answered, or given up, at this instant.
    After(Instant),
}

struct Slot {
    driver: Option<Arc<dyn ReplicationDriver>>,
    /// Since when somebody is to look.
    since: Instant,
    /// The last look at the whole vault.
    last: Option<Look>,
    /// Looks since then that showed only some VMs, by the VM's name; one look a VM, its newest.
    narrow: HashMap<String, Look>,
    wishes: HashMap<Key, Wish>,
    barriers: HashMap<String, Barrier>,
    /// VMs whose last sight was unknown because of a barrier.
    asked: HashSet<String>,
    nudge: Arc<Notify>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            driver: None,
            since: Instant::now(),
            last: None,
            narrow: HashMap::new(),
            wishes: HashMap::new(),
            barriers: HashMap::new(),
            asked: HashSet::new(),
            nudge: Arc::default(),
        }
    }
}

impl Slot {
    /// The newest look that showed a VM, or would have.
    fn newest(&self, vm_name: &str) -> Option<&Look> {
        self.narrow.get(vm_name).or(self.last.as_ref())
    }
}

/// What was last seen of each vault.
pub struct Hub {
    vaults: Mutex<HashMap<Key, Slot>>,
    wake_vm: UnboundedSender<Key>,
    wake_vault: UnboundedSender<Key>,
    stale_after: Duration,
}

/// An action is being asked for; dropped once it was answered or given up.
pub struct Acting {
    hub: Arc<Hub>,
    vault: Key,
    vm_name: String,
}

impl Hub {
    /// A hub that has seen nothing.
    pub fn new(
        wake_vm: UnboundedSender<Key>,
        wake_vault: UnboundedSender<Key>,
        stale_after: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            vaults: Mutex::default(),
            wake_vm,
            wake_vault,
            stale_after,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.vaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who looks at the vault from now on. What the one before saw is forgotten.
    pub fn install(&self, vault: &Key, driver: Arc<dyn ReplicationDriver>) {
        let mut vaults = self.lock();
        let slot = vaults.entry(vault.clone()).or_default();
        slot.driver = Some(driver);
        slot.since = Instant::now();
        slot.last = None;
        slot.narrow.clear();
    }

    /// Nobody looks at the vault any more, and why, when it is still there; its VMs are told. Returns whether that is new.
    pub fn withdraw(&self, vault: &Key, why: Option<Blind>) -> bool {
        let mut vaults = self.lock();
        if why.is_none() && !vaults.contains_key(vault) {
            return false;
        }
        let slot = vaults.entry(vault.clone()).or_default();
        let same = match (&slot.last, &why) {
            (Some(Look { seen: Err(old), .. }), Some(new)) => old == new,
            _ => false,
        };
        let news = slot.driver.take().is_some() || !same;
        slot.narrow.clear();
        slot.last = why.map(|why| Look {
            began: Instant::now(),
            seen: Err(why),
        });
        if news {
            for vm in slot.wishes.keys() {
                self.wake_vm(vm);
            }
        }
        news
    }

    /// The last look at a vault.
    pub fn last(&self, vault: &Key) -> Option<Look> {
        self.lock().get(vault)?.last.clone()
    }

    /// What can be known now of a vault, and of one VM of it.
    pub fn sight(&self, vault: &Key, vm_name: &str, now: Instant) -> Sight {
        let mut vaults = self.lock();
        let slot = vaults.entry(vault.clone()).or_default();
        if let (None, Some(Look { seen: Err(why), .. })) = (&slot.driver, &slot.last) {
            return Sight::Nobody(why.message.clone());
        }
        let Some(look) = slot.newest(vm_name) else {
            if now.saturating_duration_since(slot.since) <= self.stale_after {
                return Sight::NotYet;
            }
            return Sight::Nothing(format!(
                "no look at it has ended within {} s",
                self.stale_after.as_secs()
            ));
        };
        let age = now.saturating_duration_since(look.began);
        if age > self.stale_after {
            // Words that stay the same are written once.
            return Sight::Nothing(format!(
                "the last look at it began more than {} s ago",
                self.stale_after.as_secs()
            ));
        }
        let observation = match &look.seen {
            Ok(observation) => observation.clone(),
            Err(blind) => return Sight::Nothing(blind.message.clone()),
        };
        let Some(driver) = slot.driver.clone() else {
            return Sight::Nothing("nobody looks at it".into());
        };
        let fresh = match slot.barriers.get(vm_name) {
            None => true,
            Some(Barrier::Acting) => false,
            Some(Barrier::After(ended)) => look.began > *ended,
        };
        let vm_unknown = (!fresh).then(|| {
            slot.asked.insert(vm_name.to_owned());
            "a look at the vault that begins after the last action".to_owned()
        });
        Sight::Seen {
            observation,
            driver,
            vm_unknown,
        }
    }

    /// A VM belongs to this vault: from now on it is told of news, before it has looked for the first time.
    pub fn interest(&self, vault: &Key, vm: &Key, vm_name: &str) {
        let mut vaults = self.lock();
        let slot = vaults.entry(vault.clone()).or_default();
        slot.wishes.entry(vm.clone()).or_insert_with(|| Wish {
            vm_name: vm_name.to_owned(),
            pace: Pace::Steady,
            figures: false,
        });
    }

    /// What a VM wants from now on.
    pub fn wish(&self, vault: &Key, vm: &Key, wish: Wish) {
        let mut vaults = self.lock();
        let slot = vaults.entry(vault.clone()).or_default();
        let sooner = slot
            .wishes
            .get(vm)
            .map_or(Pace::Steady, |before| before.pace)
            < wish.pace;
        slot.wishes.insert(vm.clone(), wish);
        if sooner {
            slot.nudge.notify_one();
        }
    }

    /// A VM is gone: it wants nothing any more.
    pub fn forget(&self, vm: &Key) {
        let mut vaults = self.lock();
        vaults.retain(|_, slot| {
            if let Some(wish) = slot.wishes.remove(vm) {
                if !slot
                    .wishes
                    .values()
                    .any(|other| other.vm_name == wish.vm_name)
                {
                    slot.asked.remove(&wish.vm_name);
                }
            }
            slot.driver.is_some() || slot.last.is_some() || !slot.wishes.is_empty()
        });
    }

    /// An action with a VM is asked for now: until a look begins after it ended, nothing of the VM is known (safety rule S7).
    pub fn acting(self: &Arc<Self>, vault: &Key, vm_name: &str) -> Acting {
        self.barrier(vault, vm_name, Barrier::Acting);
        Acting {
            hub: self.clone(),
            vault: vault.clone(),
            vm_name: vm_name.to_owned(),
        }
    }

    fn barrier(&self, vault: &Key, vm_name: &str, barrier: Barrier) {
        let mut vaults = self.lock();
        let slot = vaults.entry(vault.clone()).or_default();
        slot.barriers.insert(vm_name.to_owned(), barrier);
        if matches!(barrier, Barrier::After(_)) {
            slot.asked.insert(vm_name.to_owned());
            slot.nudge.notify_one();
        }
    }

    /// How the next look is wanted.
    pub fn wanted(&self, vault: &Key) -> Wanted {
        let mut vaults = self.lock();
        let slot = vaults.entry(vault.clone()).or_default();
        let pace = slot
            .wishes
            .values()
            .map(|wish| wish.pace)
            .max()
            .unwrap_or(Pace::Steady);
        let hurried = slot
            .wishes
            .values()
            .filter(|wish| wish.pace > Pace::Steady)
            .map(|wish| &wish.vm_name);
        Wanted {
            pace,
            hurried: hurried.chain(&slot.asked).cloned().collect(),
            nudge: slot.nudge.clone(),
        }
    }

    /// Takes in a look at the whole vault, or at the VMs of these names, unless another driver was installed since, and wakes those for whom it
    /// is news. Looks come in the order in which they began.
    pub fn publish(
        &self,
        vault: &Key,
        driver: &Arc<dyn ReplicationDriver>,
        look: Look,
        only: Option<&BTreeSet<String>>,
    ) {
        let mut vaults = self.lock();
        let Some(slot) = vaults.get_mut(vault) else {
            return;
        };
        if !slot
            .driver
            .as_ref()
            .is_some_and(|installed| Arc::ptr_eq(installed, driver))
        {
            return;
        }
        let shows = |vm_name: &str| only.is_none_or(|names| names.contains(vm_name));
        slot.barriers.retain(|vm_name, barrier| match barrier {
            Barrier::After(ended) if shows(vm_name) => look.began <= *ended,
            Barrier::Acting | Barrier::After(_) => true,
        });
        for (vm, wish) in &slot.wishes {
            let waited =
                slot.asked.contains(&wish.vm_name) && !slot.barriers.contains_key(&wish.vm_name);
            if shows(&wish.vm_name) && (waited || is_news(slot.newest(&wish.vm_name), &look, wish))
            {
                self.wake_vm(vm);
            }
        }
        let barriers = &slot.barriers;
        slot.asked
            .retain(|vm_name| !shows(vm_name) || barriers.contains_key(vm_name));
        if let Some(names) = only {
            let narrow = names.iter().map(|name| (name.clone(), look.clone()));
            slot.narrow.extend(narrow);
            return;
        }
        slot.narrow.clear();
        let before = slot.last.replace(look);
        let stands = before.zip(slot.last.as_ref());
        if stands.is_none_or(|(before, now)| !same_standing(&before, now)) {
            let _ = self.wake_vault.unbounded_send(vault.clone());
        }
    }

    /// The vaults of a namespace that are looked at.
    pub fn vaults(&self, namespace: &str) -> Vec<Key> {
        self.lock()
            .keys()
            .filter(|vault| vault.namespace == namespace)
            .cloned()
            .collect()
    }

    /// The newest whole point in time of each VM of a vault, where it was seen.
    pub fn recovery_points(&self, vault: &Key) -> Vec<(Key, Option<jiff::Timestamp>)> {
        let vaults = self.lock();
        let Some(slot) = vaults.get(vault) else {
            return Vec::new();
        };
        let Some(Ok(observation)) = slot.last.as_ref().map(|look| &look.seen) else {
            return Vec::new();
        };
        let point = |wish: &Wish| {
            let protection = observation.vms.get(&wish.vm_name)?.protection.known()?;
            Some(protection.last_whole.as_ref()?.point)
        };
        slot.wishes
            .iter()
            .map(|(vm, wish)| (vm.clone(), point(wish)))
            .collect()
    }

    fn wake_vm(&self, vm: &Key) {
        // The receiver is gone only while the controllers stop.
        let _ = self.wake_vm.unbounded_send(vm.clone());
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        self.hub
            .barrier(&self.vault, &self.vm_name, Barrier::After(Instant::now()));
    }
}

/// Whether two looks say the same of the vault as a whole.
fn same_standing(one: &Look, other: &Look) -> bool {
    match (&one.seen, &other.seen) {
        (Ok(one), Ok(other)) => {
            one.sites == other.sites
                && one.vms.len() == other.vms.len()
                && one.complete == other.complete
                && one.hosts.len() == other.hosts.len()
                && one.hosts.iter().zip(&other.hosts).all(|(one, other)| {
                    one.name == other.name
                        && one.connection == other.connection
                        && one.problems == other.problems
                })
        }
        (Err(one), Err(other)) => one == other,
        _ => false,
    }
}

/// Whether a look tells a VM something new.
fn is_news(before: Option<&Look>, look: &Look, wish: &Wish) -> bool {
    let Some(before) = before else { return true };
    match (&before.seen, &look.seen) {
        (Ok(before), Ok(look)) => {
            before.sites != look.sites
                || match (before.vm(&wish.vm_name), look.vm(&wish.vm_name)) {
                    (Fact::Known(before), Fact::Known(after)) if wish.figures => before != after,
                    (Fact::Known(before), Fact::Known(after)) => {
                        without_figures(before) != without_figures(after)
                    }
                    (before, after) => before != after,
                }
        }
        (Err(before), Err(look)) => before != look,
        _ => true,
    }
}

/// What matters to a VM that does not move: not how much was sent and when.
fn without_figures(vm: &VmObservation) -> VmObservation {
    let mut vm = vm.clone();
    vm.pending_delta = None;
    vm.written_since_start = Fact::Absent;
    if let Fact::Known(protection) = &mut vm.protection {
        protection.progress = None;
        if let Some(whole) = &mut protection.last_whole {
            whole.point = jiff::Timestamp::UNIX_EPOCH;
            whole.bytes_on_wire = 0;
            whole.bytes_changed = 0;
            whole.bytes_per_second = None;
        }
    }
    for operation in &mut vm.operations {
        operation.progress = None;
    }
    if let Some(jobs) = &mut vm.jobs {
        jobs.server_time = None;
    }
    vm
}

#[cfg(test)]
mod tests;
