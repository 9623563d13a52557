//! The driver for Azure Site Recovery: Hyper-V VMs between their hosts and Azure, by the service's REST API.
//!
//! ```text
//!   observe ─▶ items, providers, jobs of the vault ─▶ reading (pure) ─▶ VaultObservation with jobs, without registers
//!   submit  ─▶ the item read anew ─▶ one POST, sent once ─▶ what became of it shows in the jobs of the next looks
//! ```
//!
//! The service keeps no register of who may run a VM, and takes whatever request comes. What makes a request safe to send stands in the VM's
//! resource and is read by [`crate::domain::kept`]; this driver sends at most once for each attempt and says whether it may have arrived.
//!
//! It never enables or disables protection, starts no test failover and no unplanned one.

mod asking;
mod book;
mod budget;
mod client;
mod credential;
mod jobs;
mod reading;
mod request;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::{Transport, Url};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::api::Site;
use crate::domain::{
    BySite, Capabilities, DirectionCapabilities, ErrorClass, Submission, VaultObservation,
};
use crate::driver::{DriverError, ReplicationDriver};
use book::Book;
use client::Client;
pub use credential::{Identity, SignIn};
use wire::fabric::Provider;
use wire::item::Item;
use wire::job::Job;
use wire::page::Element as _;
use wire::permission::{self, Permission};

/// Providers are listed once in so many of the shortest pauses, which is every minute: they beat every few minutes.
const PROVIDERS_EVERY: u32 = 12;
/// And so often while one is not heard: VMs wait for it, and it may be back any moment.
const SILENT_PROVIDERS_EVERY: u32 = 2;
/// What the identity may do is looked at again after this.
const PERMISSIONS_EVERY: Duration = Duration::from_mins(10);
/// Jobs are looked for this far back at first.
const JOBS_AT_FIRST: SignedDuration = SignedDuration::from_hours(24 * 14);
/// Later lists of jobs overlap the one before by this much.
const JOBS_OVERLAP: SignedDuration = SignedDuration::from_mins(10);
/// Jobs are listed once in this time though nothing has happened: what another process had asked for may have taken effect and come to its end
/// between two looks.
const JOBS_EVERY: Duration = Duration::from_mins(5);
/// For how long after a request jobs are listed in each look.
const JOBS_AFTER_REQUEST: Duration = Duration::from_mins(10);
/// How many moves of one VM that came to nothing are read by themselves.
const MOVES_READ: usize = 16;
/// How many reads are under way at once.
const READS_AT_ONCE: usize = 8;

/// What time it is here. A test has a time of its own, beside that of tokio, by which pauses are measured.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that shows this.
    pub fn new(shows: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(shows))
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

/// What the driver is made from.
pub struct Settings {
    /// Address of the service.
    pub endpoint: Url,
    /// What tokens are asked for.
    pub scope: String,
    /// Subscription of the vault.
    pub subscription_id: String,
    /// Resource group of the vault.
    pub resource_group: String,
    /// Name of the vault.
    pub vault_name: String,
    /// The one fabric that counts, where the vault has several.
    pub fabric_name: Option<String>,
    /// How soon after one look the next may come.
    pub shortest_pause: Duration,
    /// What tells until when a request may be sent.
    pub clock: Clock,
}

/// The driver of one vault.
pub struct AzureSiteRecoveryDriver {
    client: Client,
    fabric: Option<String>,
    capabilities: Capabilities,
    shortest_pause: Duration,
    clock: Clock,
    memory: Mutex<Memory>,
    /// One list of the providers serves all who are about to ask for something.
    listing: tokio::sync::Mutex<()>,
}

/// What is remembered between looks. Nothing is decided from it: it saves requests.
#[derive(Default)]
struct Memory {
    book: Book,
    /// Ids of the items, by the name of their VM.
    items: BTreeMap<String, String>,
    /// How each item stood, to see that a job has ended in between.
    stood: BTreeMap<String, Stood>,
    providers: Option<(Instant, Vec<Provider>)>,
    missing_permissions: Option<(Instant, Vec<String>)>,
    /// Up to when jobs were listed, by the service's clock.
    listed: Option<Timestamp>,
    /// When they were last listed, by the clock here.
    listed_here: Option<(Instant, Timestamp)>,
    /// When something was last asked for.
    asked: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stood {
    state: String,
    active: Option<Site>,
    allowed: Vec<String>,
    job: Option<String>,
}

impl Stood {
    fn of(item: &Item) -> Self {
        Self {
            state: item.protection_state.clone(),
            active: item.active,
            allowed: item.allowed.clone(),
            job: item.scenario.job.clone(),
        }
    }
}

/// What the service can do: stop, last delta and start are one job; nothing goes back once that began; towards Azure it cannot pause before
/// it, and it protects nothing that runs there.
fn capabilities() -> Capabilities {
    let one_piece = DirectionCapabilities {
        rollback: false,
        cancel_after_stop: false,
        pause_before_cutover: true,
        separate_stop: false,
        alternate_location: Ok(()),
        protects_after_commit: Ok(()),
    };
    Capabilities {
        registers: false,
        towards: BySite {
            on_premises: one_piece.clone(),
            azure: DirectionCapabilities {
                pause_before_cutover: false,
                protects_after_commit: Err(
                    "Azure Site Recovery protects nothing that runs in Azure until it was brought back".into(),
                ),
                ..one_piece
            },
        },
    }
}

impl AzureSiteRecoveryDriver {
    /// A driver.
    #[must_use]
    pub fn new(settings: Settings, transport: Transport, sign_in: SignIn) -> Self {
        let vault = format!(
            "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.RecoveryServices/vaults/{}",
            settings.subscription_id, settings.resource_group, settings.vault_name
        );
        Self {
            client: Client::new(
                transport,
                sign_in,
                settings.scope,
                settings.endpoint,
                vault,
                settings.clock.clone(),
            ),
            fabric: settings.fabric_name,
            capabilities: capabilities(),
            shortest_pause: settings.shortest_pause,
            clock: settings.clock,
            memory: Mutex::new(Memory {
                // Another process may have asked right before this one began: what became of it shows in the jobs of the next looks.
                asked: Some(Instant::now()),
                ..Memory::default()
            }),
            listing: tokio::sync::Mutex::new(()),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The providers as a look shows them.
    async fn providers(&self) -> Result<Vec<Provider>, DriverError> {
        let silent = {
            let memory = self.memory();
            let listed = memory.providers.as_ref();
            listed.is_some_and(|(_, all)| reading::is_one_silent(all, self.clock.now()))
        };
        let every = if silent {
            SILENT_PROVIDERS_EVERY
        } else {
            PROVIDERS_EVERY
        };
        self.providers_since(self.shortest_pause * every).await
    }

    /// The providers, listed no longer ago than this.
    async fn providers_since(&self, age: Duration) -> Result<Vec<Provider>, DriverError> {
        let _turn = self.listing.lock().await;
        let fresh = (self.memory().providers.as_ref())
            .filter(|(at, _)| at.elapsed() < age)
            .map(|(_, providers)| providers.clone());
        if let Some(providers) = fresh {
            return Ok(providers);
        }
        let path = self.client.in_vault("replicationRecoveryServicesProviders");
        let began = Instant::now();
        let (providers, _) = self.client.list::<Provider>(&path, &[]).await?;
        self.memory().providers = Some((began, providers.clone()));
        Ok(providers)
    }

    /// What Homeward will have to do and may not. An identity that may not even ask is believed to be let do all: the service says otherwise when
    /// it is asked for something.
    async fn missing_permissions(&self) -> Vec<String> {
        let fresh = self
            .memory()
            .missing_permissions
            .as_ref()
            .filter(|(at, _)| at.elapsed() < PERMISSIONS_EVERY)
            .map(|(_, missing)| missing.clone());
        if let Some(missing) = fresh {
            return missing;
        }
        let path = self
            .client
            .in_vault("providers/Microsoft.Authorization/permissions");
        let granted = self
            .client
            .list_of_version::<Permission>(&path, permission::API_VERSION, &[])
            .await;
        let missing = match granted {
            Ok((granted, _)) => permission::missing(&granted),
            Err(error) => {
                tracing::debug!(%error, "what the identity may do at the vault is not known");
                Vec::new()
            }
        };
        self.memory().missing_permissions = Some((Instant::now(), missing.clone()));
        missing
    }

    /// Whether something may have happened that only the list of jobs tells of.
    fn wants_jobs(&self, items: &[Item]) -> bool {
        let mut memory = self.memory();
        let recently = memory
            .asked
            .is_some_and(|asked| asked.elapsed() < JOBS_AFTER_REQUEST);
        let lately = memory
            .listed_here
            .is_some_and(|(listed, _)| listed.elapsed() < JOBS_EVERY);
        let mut news = !lately || recently || !memory.book.live().is_empty();
        for item in items {
            let stands = Stood::of(item);
            let unknown_job = stands
                .job
                .as_ref()
                .is_some_and(|job| memory.book.get(job).is_none());
            let before = memory.stood.insert(item.id.clone(), stands.clone());
            news |= unknown_job || before.is_some_and(|before| before != stands);
        }
        news
    }

    /// Reads the jobs; the names of those that have ended since the look before, so that the items may be older than their ends.
    async fn jobs(&self, items: &[Item], now: Timestamp) -> Result<Vec<String>, DriverError> {
        if !self.wants_jobs(items) {
            return Ok(Vec::new());
        }
        let under_way: Vec<String> = {
            let memory = self.memory();
            let named = items.iter().filter_map(|item| item.scenario.job.clone());
            let all = named.chain(memory.book.live());
            all.filter(|name| memory.book.wants(name)).collect()
        };
        let since = match self.memory().listed {
            None => now.checked_sub(JOBS_AT_FIRST),
            Some(listed) => listed.checked_sub(JOBS_OVERLAP),
        }
        .unwrap_or(now);
        let until = now
            .checked_add(SignedDuration::from_hours(24))
            .unwrap_or(now);
        let at = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let filter = format!(
            "StartTime eq '{}' and EndTime eq '{}'",
            at(since),
            at(until)
        );
        let path = self.client.in_vault("replicationJobs");
        let began = (Instant::now(), self.clock.now());
        let (listed, date) = self
            .client
            .list::<Job>(&path, &[("$filter", &filter)])
            .await?;
        let wanted = {
            let mut memory = self.memory();
            memory.book.listed(listed);
            memory.listed = Some(date.unwrap_or(now));
            memory.listed_here = Some(began);
            memory.book.forget(now);
            wanted(&memory.book, items)
        };
        let read: Vec<(String, Result<Option<Job>, DriverError>)> = futures::stream::iter(wanted)
            .map(|name| async move {
                let job = self.job(&name).await;
                (name, job)
            })
            .buffer_unordered(READS_AT_ONCE)
            .collect()
            .await;
        for (name, job) in read {
            match job? {
                Some(job) => self.memory().book.read_as(&name, job),
                None => self.memory().book.missed(&name, items, now),
            }
        }
        let mut memory = self.memory();
        memory.book.give_up(items, now);
        let ended = |name: &String| memory.book.get(name).is_some_and(Job::is_final);
        Ok(under_way.into_iter().filter(ended).collect())
    }

    async fn job(&self, name: &str) -> Result<Option<Job>, DriverError> {
        let path = self.client.in_vault(&format!("replicationJobs/{name}"));
        let found = self.client.get(&path).await?;
        Ok(found.and_then(|(value, _)| {
            let mut job = Job::read(&value)?;
            job.detailed = true;
            Some(job)
        }))
    }

    async fn item(&self, vm: &str) -> Result<Item, DriverError> {
        let known = self.memory().items.get(vm).cloned();
        let Some(id) = known else {
            return Err(DriverError::refused(
                ErrorClass::Conflict,
                format!("the vault has shown no VM named {vm} yet"),
            ));
        };
        let found = self.client.get(&id).await?;
        found
            .and_then(|(value, _)| Item::read(&value))
            .ok_or_else(|| {
                DriverError::refused(
                    ErrorClass::Conflict,
                    format!("the vault does not hold {vm} any more"),
                )
            })
    }
}

/// A job that has ended is ahead of an item that was read before: it would show a move that is done as one that never was. Only the items
/// of such jobs are taken from the newer list; another may be ahead of its job there.
fn after(ended: &[String], book: &Book, items: Vec<Item>, newer: Vec<Item>) -> Vec<Item> {
    let mut newer: BTreeMap<String, Item> = newer
        .into_iter()
        .map(|item| (item.id.clone(), item))
        .collect();
    let is_of = |item: &Item| {
        book.of_vm(item.vm_id.as_deref(), &item.friendly_name)
            .iter()
            .any(|job| {
                ended
                    .iter()
                    .any(|name| name.eq_ignore_ascii_case(&job.name))
            })
    };
    let newest = |item: Item| match newer.remove(&item.id) {
        Some(after) if is_of(&item) => after,
        _ => item,
    };
    items.into_iter().map(newest).collect()
}

/// The jobs to read by themselves: those that go on, and the moves of each VM back to the last that was done, which tell where it went and what
/// those have left that were not.
fn wanted(book: &Book, items: &[Item]) -> Vec<String> {
    let mut names: BTreeSet<String> = book.live().into_iter().collect();
    for item in items {
        names.extend(item.scenario.job.clone());
        let of_vm = book.of_vm(item.vm_id.as_deref(), &item.friendly_name);
        let moves = |job: &&&Job| {
            let scenario = job.scenario.as_deref().unwrap_or_default();
            [
                "PlannedFailover",
                "UnplannedFailover",
                "Failover",
                "Failback",
            ]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(scenario))
        };
        names.extend(of_vm.last().map(|job| job.name.clone()));
        let mut done = false;
        let back_to_done = of_vm.iter().rev().filter(moves).take_while(|job| {
            let before = done;
            done |= job.is(&["Succeeded"]);
            !before
        });
        names.extend(back_to_done.take(MOVES_READ).map(|job| job.name.clone()));
    }
    names.into_iter().filter(|name| book.wants(name)).collect()
}

#[async_trait]
impl ReplicationDriver for AzureSiteRecoveryDriver {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn shortest_pause(&self) -> Duration {
        self.shortest_pause
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        let looked = self.clock.now();
        let path = self.client.in_vault("replicationProtectedItems");
        let (items, server_time) = self.client.list::<Item>(&path, &[]).await?;
        let now = server_time.unwrap_or_else(|| self.clock.now());
        let providers = self.providers().await?;
        let missing = self.missing_permissions().await;
        let ended = self.jobs(&items, now).await?;
        let items = if ended.is_empty() {
            items
        } else {
            let (newer, _) = self.client.list::<Item>(&path, &[]).await?;
            after(&ended, &self.memory().book, items, newer)
        };
        let mut memory = self.memory();
        memory.items = items
            .iter()
            .map(|item| (item.friendly_name.clone(), item.id.clone()))
            .collect();
        let held: BTreeSet<&String> = items.iter().map(|item| &item.id).collect();
        memory.stood.retain(|id, _| held.contains(id));
        Ok(reading::vault(&reading::Told {
            items: &items,
            providers: &providers,
            book: &memory.book,
            missing_permissions: &missing,
            looked,
            listed: memory
                .listed_here
                .map_or(Timestamp::MIN, |(_, listed)| listed),
            server_time,
            fabric: self.fabric.as_deref(),
            now,
        }))
    }

    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        self.ask(vm, submission).await
    }
}
