//! A move order by order, as the operator gives them, without one: each agent is killed as soon as it was given an order, and the
//! order is given again.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use homeward::{
    agent::{
        api::{
            Claim, Command, DeliverMode, Operation, OperationState, Order, OrderResult,
            PeerAddress, PowerSwitch, VmDefinition, VmState,
        },
        client::ClientError,
    },
    api::Site,
};
use homeward_playground::{
    accelerator,
    guest_image::highest_acknowledged,
    proofs::{self, History},
    world::{HypervisorKind, LIMIT, Vm, VmOptions, World, WorldOptions, eventually},
};

struct Hands {
    world: World,
    vm: Vm,
    claim: Claim,
    /// The agent that was given an order is killed at once.
    kill: bool,
    failover: Option<String>,
}

impl Hands {
    fn peer(&self, site: Site) -> PeerAddress {
        let host = self.world.host(site);
        PeerAddress {
            host: host.name.clone(),
            control: host.url(),
            data: host.data_address(),
        }
    }

    async fn vm(&self, site: Site) -> Result<VmState> {
        let found = self.world.host(site).vm(self.vm.uuid).await?;
        found.with_context(|| format!("unknown at {site}"))
    }

    async fn epoch(&self) -> Result<u64> {
        let mut highest = 0;
        for site in Site::BOTH {
            let found = self.world.host(site).vm(self.vm.uuid).await?;
            let register = found.and_then(|vm| vm.register);
            highest = highest.max(register.map_or(0, |register| register.epoch));
        }
        Ok(highest)
    }

    /// The next free step of an epoch, on any host.
    async fn step(&self, epoch: u64) -> Result<u64> {
        let mut highest = 0;
        for site in Site::BOTH {
            let found = self.world.host(site).vm(self.vm.uuid).await?;
            let register = found.and_then(|vm| vm.register);
            let step = register
                .filter(|it| it.epoch == epoch)
                .map_or(0, |it| it.step);
            highest = highest.max(step);
        }
        Ok(highest + 1)
    }

    /// Gives an order until it has succeeded.
    async fn order(&mut self, site: Site, epoch: u64, command: Command) -> Result<OrderResult> {
        let mut kill = self.kill;
        for _ in 0..20 {
            let order = Order {
                vm: self.vm.uuid,
                epoch,
                step: self.step(epoch).await?,
                claim: Some(self.claim.clone()),
                failover: self.failover.clone(),
                command: command.clone(),
            };
            let given = if std::mem::take(&mut kill) {
                let client = self.world.host(site).client().clone();
                let sent = order.clone();
                let call = tokio::spawn(async move { client.order(sent.vm, &sent).await });
                tokio::time::sleep(Duration::from_millis(sent_after(&order))).await;
                self.world.host_mut(site).kill();
                let _ = call.await;
                self.world.host_mut(site).start().await?;
                continue;
            } else {
                self.world.host(site).client().order(order.vm, &order).await
            };
            match given {
                Ok(_) => {
                    let ended = self.until_ended(site, &order).await?;
                    match (ended.state, ended.result) {
                        (OperationState::Succeeded, Some(result)) => return Ok(result),
                        (OperationState::Interrupted, _) => {}
                        (_, _) => bail!("{command:?} at {site}: {:?}", ended.error),
                    }
                }
                // Done before the agent died: what it brought stands in the register.
                Err(ClientError::Refused(refusal)) => {
                    let last = refusal
                        .register
                        .clone()
                        .and_then(|it| it.last)
                        .map(|it| it.operation);
                    match last {
                        Some(last) if last.kind == command.kind() && last.result.is_some() => {
                            return last.result.context("it has one");
                        }
                        _ => bail!(
                            "{command:?} at {site} refused: {refusal} ({:?})",
                            refusal.kind
                        ),
                    }
                }
                Err(error) => bail!("{command:?} at {site}: {error}"),
            }
        }
        bail!("{command:?} at {site} does not end")
    }

    async fn until_ended(&self, site: Site, order: &Order) -> Result<Operation> {
        eventually(LIMIT, "the order has ended", async || {
            let operation = self.vm(site).await?.operation.context("no operation")?;
            if (operation.epoch, operation.step) != (order.epoch, order.step) {
                bail!("another order came in between: {operation:?}");
            }
            Ok((operation.state != OperationState::Running).then_some(operation))
        })
        .await
    }

    async fn covered(&mut self, from: Site, epoch: u64) -> Result<()> {
        let command = Command::Replicate {
            peer: self.peer(from.other()),
            interval_seconds: 3600,
            immediate: true,
        };
        self.order(from, epoch, command).await?;
        let ordered = self.vm(from).await?.register.context("a register")?.step;
        eventually(LIMIT, "a pass is whole", async || {
            let replication = self.vm(from).await?.replication;
            let last = replication.as_ref().and_then(|it| it.last.as_ref());
            let after = last.map(|pass| (pass.began_after.epoch, pass.began_after.step));
            Ok((after >= Some((epoch, ordered))).then_some(()))
        })
        .await
        .with_context(|| format!("from {from}"))
    }

    async fn travel(&mut self, from: Site) -> Result<()> {
        let to = from.other();
        self.failover = Some(uuid::Uuid::new_v4().to_string());
        let epoch = self.epoch().await?;
        self.covered(from, epoch).await?;
        let epoch = epoch + 1;
        let target = self.world.host(to).name.clone();
        let stopped = self
            .order(
                from,
                epoch,
                Command::Stop {
                    target,
                    force: false,
                },
            )
            .await?;
        let OrderResult::Stopped { record } = stopped else {
            bail!("{stopped:?}")
        };
        let peer = self.peer(to);
        let mode = DeliverMode::Delta;
        self.order(from, epoch, Command::Deliver { peer, mode })
            .await?;
        self.order(to, epoch, Command::Start { stop: record })
            .await?;
        let committed = self.order(to, epoch, Command::Commit {}).await?;
        let OrderResult::Committed { record } = committed else {
            bail!("{committed:?}")
        };
        self.order(from, epoch, Command::Retire { commit: record })
            .await?;
        self.failover = None;
        self.covered(to, epoch).await?;
        let last = || highest_acknowledged(&self.world.console(&self.vm, to));
        let before = last();
        eventually(LIMIT, "it writes", async || {
            Ok((last() > before).then_some(()))
        })
        .await
    }
}

/// Spread, so that not all die at the same place.
fn sent_after(order: &Order) -> u64 {
    (order.step * 7 + order.epoch * 13) % 40
}

async fn hands(kill: bool) -> Result<Hands> {
    hands_on(HypervisorKind::Process, &VmOptions::small("web"), kill).await
}

async fn hands_on(hypervisor: HypervisorKind, vm: &VmOptions, kill: bool) -> Result<Hands> {
    let mut options = WorldOptions::new(hypervisor);
    options.operators = 0;
    let mut world = World::start(options).await?;
    // Until it has come to a good end.
    world.keep_logs(true);
    let vm = world.define(vm)?;
    let mut hands = Hands {
        world,
        vm,
        claim: Claim {
            cluster: "cluster".into(),
            pvm: "web".into(),
        },
        kill,
        failover: None,
    };
    hands
        .order(Site::OnPremises, 1, Command::Adopt { takeover: None })
        .await?;
    hands.world.power(&hands.vm, PowerSwitch::On).await?;
    let here = hands.vm(Site::OnPremises).await?;
    let mut definition: VmDefinition = here.definition.context("a definition")?;
    for (disk, shape) in definition.disks.iter_mut().zip(here.disks) {
        disk.size_bytes = Some(shape.size_bytes);
    }
    let owner = hands.peer(Site::OnPremises);
    let definition = Box::new(definition);
    hands
        .order(Site::Azure, 1, Command::Enroll { definition, owner })
        .await?;
    hands.covered(Site::OnPremises, 1).await?;
    Ok(hands)
}

async fn there_and_back(mut hands: Hands) -> Result<()> {
    eventually(LIMIT, "it writes", async || {
        let said = hands.world.console(&hands.vm, Site::OnPremises);
        Ok((highest_acknowledged(&said) > 0).then_some(()))
    })
    .await?;
    for from in [Site::OnPremises, Site::Azure, Site::OnPremises, Site::Azure] {
        let began = std::time::Instant::now();
        hands
            .travel(from)
            .await
            .with_context(|| format!("from {from}"))?;
        println!("from {from}: {:.1} s", began.elapsed().as_secs_f64());
    }
    hands.world.power(&hands.vm, PowerSwitch::Off).await?;
    let Hands { world, vm, .. } = &hands;
    let history = History::of_consoles(&Site::BOTH.map(|site| (site, world.console(vm, site))))?;
    history.never_two_at_once()?;
    history.nothing_was_lost(&BTreeSet::new())?;
    let report = world.records(vm, Site::OnPremises).await?;
    history.records_are_there(&report, &BTreeSet::new())?;
    let logs = Site::BOTH.map(|site| (site, world.host(site).log()));
    proofs::agents_never_two_at_once(&logs, vm.uuid)?;
    hands.world.keep_logs(false);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_travels_by_orders() -> Result<()> {
    there_and_back(hands(false).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_travels_by_orders() -> Result<()> {
    let kvm = accelerator::kvm_works().await?;
    let mut vm = VmOptions::small("web");
    vm.disks = vec![64 << 20, 32 << 20];
    there_and_back(hands_on(HypervisorKind::Qemu { kvm }, &vm, false).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_on_an_order_is_given_it_again() -> Result<()> {
    there_and_back(hands(true).await?).await
}
