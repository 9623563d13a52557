//! The API server is away for a while, or stands still, at every step of a move.

use std::time::Duration;

use anyhow::{Context as _, Result};
use homeward::api::FailoverOutcome;
use homeward_playground::world::VmOptions;

use crate::{
    lane::{FAR_APART, Lane, STEPS, pending, processes, run},
    sampler::Sampler,
};

#[derive(Clone, Debug)]
struct Case {
    step: &'static str,
    /// Connections stay open and nothing is answered, instead of being refused.
    frozen: bool,
    away: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_away_for_a_while() {
    let mut sampler = Sampler::new("api-server");
    let mut cases = Vec::new();
    for step in STEPS {
        for frozen in [false, true] {
            let away = sampler.time(Duration::from_secs(3));
            cases.push(Case { step, frozen, away });
        }
    }
    let cases = sampler.choose(cases, 7, |case| case.step);
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        let mut lane = Lane::start(options, &VmOptions::small("away")).await?;
        for case in cases {
            one(&mut lane, &case)
                .await
                .with_context(|| format!("{case:?}"))?;
        }
        lane.finish(0).await
    })
    .await;
}

async fn one(lane: &mut Lane, case: &Case) -> Result<()> {
    let to = lane.site().await?.other();
    let failover = lane.begin(to).await?;
    lane.until(&failover, case.step, |it| pending(it) == Some(case.step))
        .await?;
    let plane = &mut lane.world.cluster.plane;
    if case.frozen {
        plane.freeze_apiserver()?;
        tokio::time::sleep(case.away).await;
        plane.thaw_apiserver()?;
    } else {
        plane.stop_apiserver().await?;
        tokio::time::sleep(case.away).await;
        plane.start_apiserver().await?;
    }
    lane.until_ended(&failover, FailoverOutcome::Succeeded)
        .await?;
    lane.until_settled(to).await?;
    lane.until_writing(to).await?;
    lane.check(0)
}
