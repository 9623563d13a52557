//! A host loses its power at every step of a move: its agent and its guests are gone at once, and come back after a boot.

use std::time::Duration;

use anyhow::{Context as _, Result};
use homeward::api::{FailoverOutcome, Site};
use homeward_playground::world::VmOptions;

use crate::{
    lane::{FAR_APART, Lane, STEPS, pending, processes, run},
    sampler::Sampler,
};

#[derive(Clone, Debug)]
struct Case {
    step: &'static str,
    /// Which host, seen from the move.
    source: bool,
    later: Duration,
    away: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_loses_its_power_at_every_step() {
    let mut sampler = Sampler::new("reboot");
    let mut cases = Vec::new();
    for step in STEPS {
        for source in [true, false] {
            cases.push(Case {
                step,
                source,
                later: sampler.time(Duration::from_millis(200)),
                away: sampler.time(Duration::from_secs(1)),
            });
        }
    }
    let cases = sampler.choose(cases, 8, |case| case.step);
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        let mut lane = Lane::start(options, &VmOptions::small("reboot")).await?;
        for case in cases {
            let to = lane.site().await?.other();
            one(&mut lane, &case, to)
                .await
                .with_context(|| format!("{case:?} to {to}"))?;
        }
        lane.finish(0).await
    })
    .await;
}

async fn one(lane: &mut Lane, case: &Case, to: Site) -> Result<()> {
    let failover = lane.begin(to).await?;
    lane.until(&failover, case.step, |it| pending(it) == Some(case.step))
        .await?;
    tokio::time::sleep(case.later).await;
    let site = if case.source { to.other() } else { to };
    let host = lane.world.host_mut(site);
    host.lose_power()?;
    tokio::time::sleep(case.away).await;
    host.start().await?;
    lane.until_ended(&failover, FailoverOutcome::Succeeded)
        .await?;
    lane.until_settled(to).await?;
    lane.until_writing(to).await?;
    lane.check(0)
}
