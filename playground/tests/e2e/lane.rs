//! One VM in one world, moved again and again.

use std::{collections::BTreeSet, future::Future, pin::Pin, time::Duration};

use anyhow::{Context as _, Result, ensure};
use homeward::{
    agent::api::PowerSwitch,
    api::{Failover, FailoverOutcome, FailoverPhase, ProtectedVirtualMachine, Site},
};
use homeward_playground::{
    guest_image::highest_acknowledged,
    proofs::{self, History},
    world::{HypervisorKind, LIMIT, Vm, VmOptions, World, WorldOptions, eventually, status_of},
};
use serde_json::json;

/// Recovery points so far apart that moves decide what is sent.
pub const FAR_APART: Duration = Duration::from_hours(1);

pub fn processes() -> WorldOptions {
    let mut options = WorldOptions::new(HypervisorKind::Process);
    options.shutdown_deadline = Duration::from_secs(20);
    options
}

/// Who can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Operator,
    SourceAgent,
    TargetAgent,
}

pub struct Lane {
    pub world: World,
    pub vm: Vm,
    /// Processes killed by chance so far.
    pub killed: usize,
}

impl Lane {
    pub async fn start(options: WorldOptions, vm: &VmOptions) -> Result<Self> {
        Self::start_with(options, vm, |_| {}).await
    }

    pub async fn start_with(
        options: WorldOptions,
        vm: &VmOptions,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Result<Self> {
        let mut world = World::start(options).await?;
        // Until it has come to a good end.
        world.keep_logs(true);
        let vm = world
            .add_with(vm, |spec| {
                // What was taken back is counted from the Failovers that are left.
                spec["failoverHistoryLimit"] = json!(1000);
                change(spec);
            })
            .await?;
        Ok(Self {
            world,
            vm,
            killed: 0,
        })
    }

    /// Where the VM has the right to run.
    pub async fn site(&self) -> Result<Site> {
        let vm = self.world.cluster.vms().get(&self.vm.name).await?;
        vm.status
            .and_then(|status| status.active_site)
            .context("it is nowhere")
    }

    /// Asks for the other site; the name of the move that follows.
    pub async fn begin(&self, to: Site) -> Result<String> {
        let name = self.world.cluster.next_failover(&self.vm.name).await?;
        self.world.cluster.place(&self.vm.name, to).await?;
        Ok(name)
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

    pub async fn until_settled(&self, site: Site) -> Result<ProtectedVirtualMachine> {
        self.world.cluster.until_settled(&self.vm.name, site).await
    }

    /// Moves it without any trouble.
    pub async fn travel(&self, to: Site) -> Result<Failover> {
        let name = self.begin(to).await?;
        let ended = self.until_ended(&name, FailoverOutcome::Succeeded).await?;
        self.until_settled(to).await?;
        Ok(ended)
    }

    pub fn kill(&mut self, victim: Victim, from: Site) {
        match victim {
            Victim::Operator => self.world.cluster.kill_operator(0),
            Victim::SourceAgent => self.world.host_mut(from).kill(),
            Victim::TargetAgent => self.world.host_mut(from.other()).kill(),
        }
    }

    pub async fn restart(&mut self, victim: Victim, from: Site) -> Result<()> {
        match victim {
            Victim::Operator => self.world.cluster.start_operator(0),
            Victim::SourceAgent => self.world.host_mut(from).start().await,
            Victim::TargetAgent => self.world.host_mut(from.other()).start().await,
        }
    }

    /// Waits until the guest writes at a site.
    pub async fn until_writing(&self, site: Site) -> Result<()> {
        let last = || highest_acknowledged(&self.world.console(&self.vm, site));
        let before = last();
        eventually(
            LIMIT,
            &format!("{} writes at {site}", self.vm.name),
            async || Ok((last() > before + 2).then_some(())),
        )
        .await
    }

    pub fn history(&self) -> Result<History> {
        History::of_consoles(&Site::BOTH.map(|site| (site, self.world.console(&self.vm, site))))
    }

    /// How many moves of the VM have ended like this.
    pub async fn count(&self, outcome: FailoverOutcome) -> Result<usize> {
        let all = self.world.cluster.failovers_of(&self.vm.name).await?;
        let ended = all.iter().filter(|it| {
            it.status.as_ref().is_some_and(|status| {
                status.phase.is_some_and(FailoverPhase::is_final) && status.outcome == Some(outcome)
            })
        });
        Ok(ended.count())
    }

    /// What consoles and logs say while the guest runs.
    pub fn check(&self, taken_back: usize) -> Result<()> {
        self.check_consoles(taken_back)?;
        let logs = Site::BOTH.map(|site| (site, self.world.host(site).log()));
        proofs::agents_never_two_at_once(&logs, self.vm.uuid)?;
        let orders = proofs::no_order_twice(&logs, self.vm.uuid)?;
        ensure!(orders > 0, "the agents' logs tell of no order");
        Ok(())
    }

    fn check_consoles(&self, taken_back: usize) -> Result<()> {
        let history = self.history()?;
        history.never_two_at_once()?;
        let dropped = if taken_back == 0 {
            BTreeSet::new()
        } else {
            history.taken_back()
        };
        let rollbacks = history.rollbacks().len();
        ensure!(
            rollbacks <= taken_back,
            "what was written was lost {rollbacks} times, and {taken_back} moves were rolled back"
        );
        history.nothing_was_lost(&dropped)
    }

    /// Switches the VM off and reads its disks.
    pub async fn finish(self, taken_back: usize) -> Result<()> {
        self.check(taken_back)?;
        self.finish_by_consoles(taken_back).await
    }

    /// As [`Self::finish`], where epochs have begun anew and the agents' logs tell of each of them twice.
    pub async fn finish_by_consoles(mut self, taken_back: usize) -> Result<()> {
        let site = self.site().await?;
        self.until_writing(site).await?;
        self.check_consoles(taken_back)?;
        self.world.power(&self.vm, PowerSwitch::Off).await?;
        let history = self.history()?;
        let dropped = if taken_back == 0 {
            BTreeSet::new()
        } else {
            history.taken_back()
        };
        let report = self.world.records(&self.vm, site).await?;
        history.records_are_there(&report, &dropped)?;
        self.world
            .keep_logs(std::env::var_os("HOMEWARD_KEEP").is_some());
        Ok(())
    }
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

pub fn phase(failover: &Failover) -> Option<FailoverPhase> {
    failover.status.as_ref()?.phase
}

/// The action that stands in the status as about to be asked for.
pub fn pending(failover: &Failover) -> Option<&str> {
    let status = failover.status.as_ref()?;
    Some(status.pending_action.as_ref()?.action.as_str())
}

/// Every action of a move that goes well, in order.
pub const STEPS: [&str; 7] = [
    "Synchronize",
    "StopSource",
    "FinalSync",
    "StartTarget",
    "Commit",
    "RetireSource",
    "ReverseReplicate",
];
