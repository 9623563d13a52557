//! The placement is changed back at every step of a move: whatever happens then leads to a safe place.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverOutcome, FailoverPhase, Site};
use homeward_playground::world::VmOptions;

use crate::{
    lane::{FAR_APART, Lane, STEPS, pending, phase, processes, run},
    sampler::Sampler,
};

#[derive(Clone, Debug)]
struct Case {
    step: &'static str,
    from: Site,
    later: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_placement_is_changed_back_at_every_step() {
    let mut sampler = Sampler::new("flip");
    let mut cases = Vec::new();
    for step in STEPS {
        for from in Site::BOTH {
            let later = sampler.time(Duration::from_millis(150));
            cases.push(Case { step, from, later });
        }
    }
    let mut cases = sampler.choose(cases, 7, |case| case.step);
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        let lane = Lane::start(options, &VmOptions::small("flip")).await?;
        while !cases.is_empty() {
            let at = lane.site().await?;
            let Some(next) = cases.iter().position(|case| case.from == at) else {
                lane.travel(at.other()).await?;
                continue;
            };
            let case = cases.swap_remove(next);
            one(&lane, &case)
                .await
                .with_context(|| format!("{case:?}"))?;
        }
        let rolled_back = lane.count(FailoverOutcome::RolledBack).await?;
        lane.finish(rolled_back).await
    })
    .await;
}

async fn one(lane: &Lane, case: &Case) -> Result<()> {
    let (from, to) = (case.from, case.from.other());
    let failover = lane.begin(to).await?;
    lane.until(&failover, case.step, |it| pending(it) == Some(case.step))
        .await?;
    tokio::time::sleep(case.later).await;
    lane.world.cluster.place(&lane.vm.name, from).await?;
    let ended = lane
        .world
        .cluster
        .until_failover(&failover, "ended", |it| {
            phase(it).is_some_and(FailoverPhase::is_final)
        })
        .await?;
    let outcome = ended.status.and_then(|status| status.outcome);
    // Until the target's start it stays; until commit it comes back; after that it comes home with a move of its own. The change
    // may be heard a moment later than it was made, so an early one may find a later phase.
    let committed = ["RetireSource", "ReverseReplicate"].contains(&case.step);
    let fine = match outcome {
        Some(FailoverOutcome::Cancelled | FailoverOutcome::RolledBack) => !committed,
        Some(FailoverOutcome::Succeeded) => case.step != "Synchronize",
        _ => false,
    };
    ensure!(fine, "{failover} ended {outcome:?}");
    println!("flip: {case:?} ended {outcome:?}");
    lane.until_settled(from).await?;
    lane.until_writing(from).await?;
    lane.check(lane.count(FailoverOutcome::RolledBack).await?)
}
