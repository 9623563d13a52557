//! SIGKILL of operator, source agent or target agent, at every step of a move in both directions.

use std::time::Duration;

use anyhow::{Context as _, Result};
use homeward::api::{FailoverOutcome, Site};
use homeward_playground::world::VmOptions;

use crate::{
    lane::{FAR_APART, Lane, STEPS, Victim, pending, processes, run},
    sampler::Sampler,
};

#[derive(Clone, Debug)]
struct Case {
    step: &'static str,
    from: Site,
    /// Not as soon as the step is on record, but this much later.
    later: Option<Duration>,
    /// How long the victim stays away.
    away: Duration,
}

fn matrix(sampler: &mut Sampler) -> Vec<Case> {
    let mut cases = Vec::new();
    for step in STEPS {
        for from in Site::BOTH {
            for later in [None, Some(Duration::from_millis(300))] {
                cases.push(Case {
                    step,
                    from,
                    later: later.map(|limit| sampler.time(limit)),
                    away: sampler.time(Duration::from_secs(1)),
                });
            }
        }
    }
    cases
}

async fn all_cases(name: &str, victim: Victim) {
    let mut sampler = Sampler::new(name);
    let cases = matrix(&mut sampler);
    let mut cases = sampler.choose(cases, 8, |case| case.step);
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        let mut lane = Lane::start(options, &VmOptions::small(name)).await?;
        while !cases.is_empty() {
            let at = lane.site().await?;
            let Some(next) = cases.iter().position(|case| case.from == at) else {
                lane.travel(at.other()).await?;
                continue;
            };
            let case = cases.swap_remove(next);
            let began = std::time::Instant::now();
            one(&mut lane, &case, victim)
                .await
                .with_context(|| format!("{victim:?} killed, {case:?}"))?;
            println!(
                "{name}: {case:?} took {:.1} s",
                began.elapsed().as_secs_f64()
            );
        }
        lane.finish(0).await
    })
    .await;
}

async fn one(lane: &mut Lane, case: &Case, victim: Victim) -> Result<()> {
    let (from, to) = (case.from, case.from.other());
    let failover = lane.begin(to).await?;
    lane.until(&failover, case.step, |it| pending(it) == Some(case.step))
        .await?;
    if let Some(later) = case.later {
        tokio::time::sleep(later).await;
    }
    lane.kill(victim, from);
    tokio::time::sleep(case.away).await;
    lane.restart(victim, from).await?;
    lane.until_ended(&failover, FailoverOutcome::Succeeded)
        .await?;
    lane.until_settled(to).await?;
    lane.until_writing(to).await?;
    lane.check(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_killed_at_every_step() {
    all_cases("kill-operator", Victim::Operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_agent_is_killed_at_every_step() {
    all_cases("kill-source", Victim::SourceAgent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_agent_is_killed_at_every_step() {
    all_cases("kill-target", Victim::TargetAgent).await;
}
