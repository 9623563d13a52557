//! One VM of a vault, moved again and again.

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use homeward::api::{Failover, FailoverOutcome, FailoverPhase, ProtectedVirtualMachine, Site};
use homeward_asr_emulator as emulator;
use homeward_asr_emulator::{FabricKind, SeedVm};
use homeward_playground::world::{
    LIMIT, ServiceOptions, ServiceWorld, eventually, rests_in_azure, status_of,
};
use jiff::SignedDuration;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tokio::time::timeout;

use homeward_playground::asked::{self, Asked, Intent};

/// How late a request can act, for tests that let that time pass.
pub const LIMITS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];

/// A world whose folder is kept unless its test comes to a good end.
pub async fn world(options: ServiceOptions) -> Result<ServiceWorld> {
    let mut world = ServiceWorld::start(options).await?;
    world.keep_logs(true);
    Ok(world)
}

/// A test has come to a good end: nobody will want to see the logs, unless it was said so.
pub async fn finish(mut world: ServiceWorld) -> Result<()> {
    unhurt(&world).await?;
    world.keep_logs(std::env::var_os("HOMEWARD_KEEP").is_some());
    Ok(())
}

/// Nothing was done that must never be.
pub async fn unhurt(world: &ServiceWorld) -> Result<()> {
    let violations = world.emulator.violations().await?;
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}

pub fn quick(kind: FabricKind, vms: usize) -> ServiceOptions {
    ServiceOptions::new(kind, vms)
}

/// One VM.
#[derive(Clone, Copy)]
pub struct Lane<'a> {
    pub world: &'a ServiceWorld,
    pub vm: &'a str,
}

impl<'a> Lane<'a> {
    /// Has it kept, with both gates waiting for a person; `spec` is merged in.
    pub async fn start(world: &'a ServiceWorld, vm: &'a str, data_sync: &str) -> Result<Self> {
        world
            .keep(vm, |spec| {
                spec["cutover"] = json!({"approval": "Manual"});
                spec["commit"] = json!({"approval": "Manual"});
                spec["failback"] = json!({"dataSync": data_sync});
            })
            .await?;
        Ok(Self { world, vm })
    }

    /// Asks for the other site; the name of the move that follows.
    pub async fn begin(&self, to: Site) -> Result<String> {
        let name = self.world.cluster.next_failover(self.vm).await?;
        self.world.cluster.place(self.vm, to).await?;
        Ok(name)
    }

    /// The name of the move that follows this one.
    pub async fn after(&self, failover: &str) -> Result<String> {
        let current = |vm: &ProtectedVirtualMachine| {
            let current = vm.status.as_ref()?.current_failover.as_ref()?;
            (current.name != failover).then(|| current.name.clone())
        };
        let seen = self
            .world
            .cluster
            .until_vm(self.vm, "it moves again", |vm| current(vm).is_some());
        current(&seen.await?).context("it moves again")
    }

    /// Waits until the move is as it should be; an end that comes before is an error.
    pub async fn until(
        &self,
        failover: &str,
        what: &str,
        met: impl Fn(&Failover) -> bool,
    ) -> Result<Failover> {
        let seen = self
            .world
            .cluster
            .until_failover(failover, what, |it| {
                met(it) || phase(it).is_some_and(FailoverPhase::is_final)
            })
            .await?;
        ensure!(
            met(&seen),
            "{failover} ended before {what}\n{}",
            status_of(&seen)
        );
        Ok(seen)
    }

    pub async fn until_phase(&self, failover: &str, wanted: FailoverPhase) -> Result<Failover> {
        self.until(failover, &format!("{wanted:?}"), |it| {
            phase(it) == Some(wanted)
        })
        .await
    }

    pub async fn until_ended(&self, failover: &str, outcome: FailoverOutcome) -> Result<Failover> {
        let seen = self
            .world
            .cluster
            .until_failover(failover, "ended", |it| {
                phase(it).is_some_and(FailoverPhase::is_final)
            })
            .await?;
        let found = seen.status.as_ref().and_then(|status| status.outcome);
        ensure!(
            found == Some(outcome),
            "{failover} ended {found:?}, not {outcome:?}\n{}",
            status_of(&seen)
        );
        Ok(seen)
    }

    pub async fn answer(&self, failover: &str, answer: serde_json::Value) -> Result<()> {
        self.world.cluster.answer(failover, answer).await
    }

    /// Waits until the VM rests at a site.
    pub async fn until_rests(&self, site: Site) -> Result<ProtectedVirtualMachine> {
        match site {
            Site::OnPremises => self.world.cluster.until_settled(self.vm, site).await,
            Site::Azure => {
                self.world
                    .cluster
                    .until_vm(self.vm, "at rest in Azure", rests_in_azure)
                    .await
            }
        }
    }

    /// Approves what the move waits for, until it has succeeded and the VM rests. The phases that it went through, as one watch told.
    pub async fn lead(&self, failover: &str, to: Site) -> Result<(Failover, Vec<FailoverPhase>)> {
        let selected = watcher::Config::default().fields(&format!("metadata.name={failover}"));
        let stream = watcher(self.world.cluster.failovers(), selected)
            .default_backoff()
            .applied_objects();
        let mut stream = std::pin::pin!(stream);
        let mut phases: Vec<FailoverPhase> = Vec::new();
        let mut last = String::new();
        loop {
            let seen = match timeout(LIMIT, stream.next()).await {
                Ok(Some(Ok(seen))) => seen,
                Ok(Some(Err(_))) => continue,
                Ok(None) | Err(_) => bail!("{failover} does not go on\n{last}"),
            };
            last = status_of(&seen);
            let Some(now) = phase(&seen).filter(|now| phases.last() != Some(now)) else {
                continue;
            };
            phases.push(now);
            match now {
                FailoverPhase::AwaitingCutover => {
                    self.answer(failover, json!({"cutover": "Approved"}))
                        .await?;
                }
                FailoverPhase::AwaitingCommit => {
                    self.answer(failover, json!({"commit": "Approved"})).await?;
                }
                FailoverPhase::Succeeded => {
                    self.until_rests(to).await?;
                    return Ok((seen, phases));
                }
                other if other.is_final() => bail!("{failover} ended {other:?}\n{last}"),
                _ => {}
            }
        }
    }

    /// Moves it.
    pub async fn travel(&self, to: Site) -> Result<Failover> {
        let failover = self.begin(to).await?;
        Ok(self.lead(&failover, to).await?.0)
    }

    /// The name of its item at the service.
    pub fn item(&self) -> String {
        SeedVm::named(self.vm).item_name()
    }

    /// What the service was asked for of it.
    pub async fn asked(&self) -> Result<Vec<Asked>> {
        Ok(asked::of_vm(
            &self.world.emulator.requests().await?,
            &self.item(),
        ))
    }

    /// Checks that each of these was acted on once, in this order, and nothing asked for again without proof.
    pub async fn each_once(&self, expected: &[Intent]) -> Result<()> {
        let [_, life] = self.world.options().limits.unwrap_or(LIMITS);
        // By the service's clock.
        let life = SignedDuration::try_from(life * self.world.emulator.speed())?;
        asked::each_once(&self.asked().await?, expected, life)
    }

    /// Checks that it runs at this site and nowhere else.
    pub async fn runs_only_at(&self, site: Site) -> Result<()> {
        let machine = self.world.emulator.machine(self.vm).await?;
        let runs = Site::BOTH.map(|site| machine.runs(there(site)));
        ensure!(
            runs == Site::BOTH.map(|it| it == site),
            "not at {site} alone: {machine:#?}"
        );
        Ok(())
    }

    /// Waits until the service was asked for this so many times.
    pub async fn until_asked(&self, intent: Intent, times: usize) -> Result<()> {
        eventually(LIMIT, &format!("{intent:?} is asked for"), async || {
            let asked = self.asked().await?;
            let count = asked.iter().filter(|it| it.intent == intent).count();
            Ok((count >= times).then_some(()))
        })
        .await
    }
}

pub const fn there(site: Site) -> emulator::Site {
    match site {
        Site::OnPremises => emulator::Site::OnPremises,
        Site::Azure => emulator::Site::Azure,
    }
}

pub fn phase(failover: &Failover) -> Option<FailoverPhase> {
    failover.status.as_ref()?.phase
}

/// The condition of this type: its status, its reason and its words.
pub fn condition<'a>(
    conditions: &'a [homeward::api::Condition],
    kind: &str,
) -> Option<(&'a str, &'a str, &'a str)> {
    let found = conditions.iter().find(|it| it.type_ == kind)?;
    Some((&found.status, &found.reason, &found.message))
}

/// Runs a test, and shows how things stood when it failed.
pub fn run<'a>(
    test: impl Future<Output = Result<()>> + 'a,
) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    let test = Box::pin(test);
    Box::pin(async {
        if let Err(error) = test.await {
            panic!("{error:#}");
        }
    })
}
