//! SIGKILL of operator, source agent or target agent, a power cut of either host, and an API server that is away, at every step of the way back: of
//! a cancel before the stop, and of a rollback after the target was started.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverOutcome, FailoverPhase, Site};
use homeward_playground::world::VmOptions;
use serde_json::json;

use crate::{
    lane::{FAR_APART, Lane, Victim, pending, phase, processes, run},
    sampler::Sampler,
};

/// The actions of a way back, and how each comes about.
const BACK: [(&str, FailoverOutcome); 3] = [
    ("CancelSync", FailoverOutcome::Cancelled),
    ("FenceTarget", FailoverOutcome::RolledBack),
    ("ResumeSource", FailoverOutcome::RolledBack),
];

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill(Victim),
    /// The host that the VM came from loses its power.
    SourceHost,
    /// The host that it was to go to does.
    TargetHost,
    ApiServer,
}

const BLOWS: [Blow; 6] = [
    Blow::Kill(Victim::Operator),
    Blow::Kill(Victim::SourceAgent),
    Blow::Kill(Victim::TargetAgent),
    Blow::SourceHost,
    Blow::TargetHost,
    Blow::ApiServer,
];

#[derive(Clone, Debug)]
struct Case {
    action: &'static str,
    outcome: FailoverOutcome,
    blow: Blow,
    from: Site,
    /// How long after the action is on record.
    later: Duration,
    /// How long the victim stays away.
    away: Duration,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_on_the_way_back_the_vm_runs_where_it_was() {
    let mut sampler = Sampler::new("back");
    let mut cases = Vec::new();
    for (action, outcome) in BACK {
        for blow in BLOWS {
            for from in Site::BOTH {
                cases.push(Case {
                    action,
                    outcome,
                    blow,
                    from,
                    later: sampler.time(Duration::from_millis(60)),
                    away: sampler.time(Duration::from_millis(700)),
                });
            }
        }
    }
    let mut cases = sampler.choose(cases, 18, |case| (case.action, case.blow));
    run(async {
        let mut options = processes();
        options.replication_interval = FAR_APART;
        let manual = |spec: &mut serde_json::Value| {
            spec["cutover"] = json!({"approval": "Manual"});
            spec["commit"] = json!({"approval": "Manual"});
        };
        let mut lane = Lane::start_with(options, &VmOptions::small("back"), manual).await?;
        let mut hit = 0;
        while !cases.is_empty() {
            let at = lane.site().await?;
            let Some(next) = cases.iter().position(|case| case.from == at) else {
                let failover = lane.begin(at.other()).await?;
                answer(
                    &lane,
                    &failover,
                    FailoverPhase::AwaitingCutover,
                    json!({"cutover": "Approved"}),
                )
                .await?;
                answer(
                    &lane,
                    &failover,
                    FailoverPhase::AwaitingCommit,
                    json!({"commit": "Approved"}),
                )
                .await?;
                lane.until_ended(&failover, FailoverOutcome::Succeeded)
                    .await?;
                lane.until_settled(at.other()).await?;
                continue;
            };
            let case = cases.swap_remove(next);
            if one(&mut lane, &case)
                .await
                .with_context(|| format!("{case:?}"))?
            {
                hit += 1;
            }
        }
        ensure!(hit > 0, "nothing happened before the way back had ended");
        println!("back: {hit} were hit in the middle");
        let rolled_back = lane.count(FailoverOutcome::RolledBack).await?;
        lane.finish(rolled_back).await
    })
    .await;
}

async fn answer(
    lane: &Lane,
    failover: &str,
    at: FailoverPhase,
    answer: serde_json::Value,
) -> Result<()> {
    lane.until(failover, &format!("{at:?}"), |it| phase(it) == Some(at))
        .await?;
    lane.world.cluster.answer(failover, answer).await
}

/// Whether it happened before the way back had ended.
async fn one(lane: &mut Lane, case: &Case) -> Result<bool> {
    let from = case.from;
    let failover = lane.begin(from.other()).await?;
    if case.outcome == FailoverOutcome::Cancelled {
        answer(
            lane,
            &failover,
            FailoverPhase::AwaitingCutover,
            json!({"cancel": true}),
        )
        .await?;
    } else {
        answer(
            lane,
            &failover,
            FailoverPhase::AwaitingCutover,
            json!({"cutover": "Approved"}),
        )
        .await?;
        answer(
            lane,
            &failover,
            FailoverPhase::AwaitingCommit,
            json!({"commit": "Rollback"}),
        )
        .await?;
    }
    let seen = lane
        .world
        .cluster
        .until_failover(&failover, case.action, |it| {
            pending(it) == Some(case.action) || phase(it).is_some_and(FailoverPhase::is_final)
        })
        .await?;
    let in_time = pending(&seen) == Some(case.action);
    tokio::time::sleep(case.later).await;
    match case.blow {
        Blow::Kill(victim) => {
            lane.kill(victim, from);
            tokio::time::sleep(case.away).await;
            lane.restart(victim, from).await?;
        }
        Blow::SourceHost | Blow::TargetHost => {
            let site = if case.blow == Blow::SourceHost {
                from
            } else {
                from.other()
            };
            let host = lane.world.host_mut(site);
            host.lose_power()?;
            tokio::time::sleep(case.away).await;
            host.start().await?;
        }
        Blow::ApiServer => {
            let plane = &mut lane.world.cluster.plane;
            plane.stop_apiserver().await?;
            tokio::time::sleep(case.away).await;
            plane.start_apiserver().await?;
        }
    }
    lane.until_ended(&failover, case.outcome).await?;
    lane.until_writing(from).await?;
    lane.world.cluster.place(&lane.vm.name, from).await?;
    lane.until_settled(from).await?;
    lane.check(lane.count(FailoverOutcome::RolledBack).await?)?;
    Ok(in_time)
}
