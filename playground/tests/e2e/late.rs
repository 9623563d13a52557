//! Orders that arrive when their time has passed: of an old epoch, or a start that was on its way while the move was rolled back.

use anyhow::{Context as _, Result, bail, ensure};
use homeward::{
    agent::{
        api::{Command, Order, Power, PowerSwitch, RefusalKind, Register},
        client::ClientError,
    },
    api::{FailoverOutcome, FailoverPhase, Site},
};
use homeward_playground::world::VmOptions;
use serde_json::json;

use crate::lane::{Lane, phase, processes, run};

async fn register(lane: &Lane, site: Site) -> Result<Register> {
    let found = lane.world.host(site).vm(lane.vm.uuid).await?;
    found
        .and_then(|vm| vm.register)
        .with_context(|| format!("no register at {site}"))
}

/// Gives an order that must be refused.
async fn refused(lane: &Lane, site: Site, order: &Order) -> Result<RefusalKind> {
    match lane
        .world
        .host(site)
        .client()
        .order(lane.vm.uuid, order)
        .await
    {
        Err(ClientError::Refused(refusal)) => Ok(refusal.kind),
        Err(error) => Err(error.into()),
        Ok(answer) => bail!("it was not refused: {answer:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_arrives_after_the_rollback_is_refused() {
    run(async {
        let manual = |spec: &mut serde_json::Value| spec["commit"] = json!({"approval": "Manual"});
        let lane = Lane::start_with(processes(), &VmOptions::small("late"), manual).await?;
        let failover = lane.begin(Site::Azure).await?;
        lane.until(&failover, "AwaitingCommit", |it| {
            phase(it) == Some(FailoverPhase::AwaitingCommit)
        })
        .await?;
        lane.until_writing(Site::Azure).await?;
        let source = register(&lane, Site::OnPremises).await?;
        let stop = source
            .stop
            .clone()
            .context("the source has no stop record")?;
        lane.world
            .cluster
            .answer(&failover, json!({"commit": "Rollback"}))
            .await?;
        lane.until_ended(&failover, FailoverOutcome::RolledBack)
            .await?;
        lane.until_writing(Site::OnPremises).await?;

        // The start as it was given, and with every step that was not used yet.
        let target = register(&lane, Site::Azure).await?;
        for (epoch, step, expected) in [
            (stop.epoch, 1, RefusalKind::Stale),
            (stop.epoch, 1000, RefusalKind::Stale),
            (target.epoch, target.step + 1000, RefusalKind::WrongEpoch),
        ] {
            let order = Order {
                vm: lane.vm.uuid,
                epoch,
                step,
                claim: source.claim.clone(),
                failover: source.failover.clone(),
                command: Command::Start { stop: stop.clone() },
            };
            let kind = refused(&lane, Site::Azure, &order).await?;
            ensure!(
                kind == expected,
                "a late start at epoch {epoch} step {step} is refused as {kind:?}, not {expected:?}"
            );
        }
        let there = lane.world.host(Site::Azure).vm(lane.vm.uuid).await?;
        ensure!(
            there.is_some_and(|vm| vm.power == Power::Off),
            "it runs at Azure"
        );
        ensure!(
            lane.history()?.taken_back().len() == 1,
            "the run at Azure was not taken back"
        );
        // The placement still says Azure; the next move waits for a person.
        lane.world
            .cluster
            .place(&lane.vm.name, Site::OnPremises)
            .await?;
        lane.until_settled(Site::OnPremises).await?;
        lane.finish(1).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_epoch_is_refused() {
    run(async {
        let lane = Lane::start(processes(), &VmOptions::small("old")).await?;
        let old = register(&lane, Site::OnPremises).await?;
        lane.travel(Site::Azure).await?;
        lane.travel(Site::OnPremises).await?;
        let order = |command| Order {
            vm: lane.vm.uuid,
            epoch: old.epoch,
            step: old.step + 1000,
            claim: old.claim.clone(),
            failover: None,
            command,
        };
        let commands = [
            Command::Pause {},
            Command::Stop {
                target: "az01".into(),
                force: true,
            },
            Command::Power {
                state: PowerSwitch::Off,
                force: true,
                on_other_disks: false,
            },
            Command::Fence {},
        ];
        for site in Site::BOTH {
            for command in &commands {
                let kind = refused(&lane, site, &order(command.clone())).await?;
                ensure!(
                    kind == RefusalKind::Stale,
                    "{command:?} at {site}: {kind:?}"
                );
            }
        }
        lane.until_writing(Site::OnPremises).await?;
        lane.finish(0).await
    })
    .await;
}
