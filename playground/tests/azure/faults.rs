//! Requests that go wrong, each in each way, and an operator that dies right after it asked: in the end everything was done once, and the VM
//! is where it was asked to be.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverOutcome, FailoverPhase, Site};
use homeward_asr_emulator::{FabricKind, Fault};
use homeward_playground::world::{LIMIT, ServiceWorld, eventually};
use serde_json::json;

use crate::{
    lane::{LIMITS, Lane, finish, phase, quick, run, world},
    sampler::Sampler,
};
use homeward_playground::asked::Intent;

/// One request of a full round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Failover,
    CommitInAzure,
    FailbackDelta,
    FailbackFull,
    Cancel,
    Resume,
    CommitOnPremises,
    Reprotect,
}

const ALL: [Which; 8] = [
    Which::Failover,
    Which::CommitInAzure,
    Which::FailbackDelta,
    Which::FailbackFull,
    Which::Cancel,
    Which::Resume,
    Which::CommitOnPremises,
    Which::Reprotect,
];

impl Which {
    const fn intent(self) -> Intent {
        match self {
            Self::Failover => Intent::Failover,
            Self::CommitInAzure | Self::CommitOnPremises => Intent::Commit,
            Self::FailbackDelta | Self::FailbackFull => Intent::Failback,
            Self::Cancel => Intent::Cancel,
            Self::Resume => Intent::Resume,
            Self::Reprotect => Intent::Reprotect,
        }
    }

    /// What its path ends with.
    const fn path(self) -> &'static str {
        match self {
            Self::Failover | Self::FailbackDelta | Self::FailbackFull => "/plannedFailover",
            Self::CommitInAzure | Self::CommitOnPremises => "/failoverCommit",
            Self::Cancel => "/cancel",
            Self::Resume => "/resume",
            Self::Reprotect => "/reProtect",
        }
    }

    /// The move that it belongs to.
    const fn towards(self) -> Site {
        match self {
            Self::Failover | Self::CommitInAzure => Site::Azure,
            _ => Site::OnPremises,
        }
    }

    const fn data_sync(self) -> &'static str {
        match self {
            Self::FailbackFull => "FullDuringFailover",
            _ => "DeltaBeforeFailover",
        }
    }

    /// What the service does in a round trip with this request, in order.
    fn expected(self) -> Vec<Intent> {
        let mut all = vec![Intent::Failover, Intent::Commit, Intent::Failback];
        match self {
            Self::FailbackFull => {}
            Self::Cancel => all.extend([Intent::Cancel, Intent::Failback, Intent::Resume]),
            _ => all.push(Intent::Resume),
        }
        all.extend([Intent::Commit, Intent::Reprotect]);
        all
    }
}

/// What befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// It never arrives.
    DropBefore,
    /// It acts, and no answer comes.
    DropAfter,
    /// It is answered by an error of the server, and did not act.
    ErrorBefore,
    /// It is answered by an error of the server, and did act.
    ErrorAfter,
    /// There were too many.
    Throttle,
    /// It acts late.
    Hold,
    /// It acts, and the operator is killed while it waits for the answer.
    Kill,
}

const EVERYTHING: [What; 7] = [
    What::DropBefore,
    What::DropAfter,
    What::ErrorBefore,
    What::ErrorAfter,
    What::Throttle,
    What::Hold,
    What::Kill,
];

impl What {
    fn fault(self) -> Fault {
        match self {
            Self::DropBefore => Fault::DropBefore,
            Self::DropAfter => Fault::DropAfter,
            Self::ErrorBefore => Fault::Status { status: 500 },
            Self::ErrorAfter => Fault::StatusAfter { status: 500 },
            Self::Throttle => Fault::Throttle {
                retry_after: Some(1),
            },
            Self::Hold => Fault::Hold { millis: None },
            // Longer than the test waits.
            Self::Kill => Fault::Silence { millis: 3_600_000 },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    which: Which,
    what: What,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_a_request_everything_is_done_once() {
    let mut sampler = Sampler::new("azure-faults");
    let cases: Vec<Case> = ALL
        .into_iter()
        .flat_map(|which| EVERYTHING.map(|what| Case { which, what }))
        .collect();
    // Each request and each fault occurs.
    let mut chosen = sampler.choose(cases.clone(), 0, |case| case.which);
    for what in EVERYTHING {
        if !chosen.iter().any(|case| case.what == what) {
            let of_it: Vec<Case> = cases.iter().filter(|it| it.what == what).copied().collect();
            chosen.push(sampler.one(&of_it));
        }
    }
    run(async {
        let names: Vec<String> = (1..=chosen.len()).map(|it| format!("vm-{it}")).collect();
        let mut options = quick(FabricKind::HyperVSite, chosen.len());
        options.limits = Some(LIMITS);
        let mut world = world(options).await?;
        for (case, vm) in chosen.iter().zip(&names) {
            let began = std::time::Instant::now();
            one(&mut world, vm, *case)
                .await
                .with_context(|| format!("{case:?} of {vm}"))?;
            println!("{case:?} took {:.1} s", began.elapsed().as_secs_f64());
        }
        finish(world).await
    })
    .await;
}

/// A round trip with one fault in it.
async fn one(world: &mut ServiceWorld, vm: &str, case: Case) -> Result<()> {
    let Case { which, what } = case;
    let lane = Lane::start(world, vm, which.data_sync()).await?;
    if which.towards() == Site::OnPremises {
        lane.travel(Site::Azure).await?;
    }
    let befall = async || {
        let asked = lane.asked().await?;
        let path = format!("{}\\b", which.path());
        lane.world.emulator.befall(&path, what.fault()).await?;
        let like_it = asked.iter().filter(|it| it.intent == which.intent());
        anyhow::Ok(like_it.count())
    };
    // A delta is asked for at once; before the others there is a gate.
    let (failover, before) = if which == Which::FailbackDelta {
        let before = befall().await?;
        (lane.begin(which.towards()).await?, before)
    } else {
        let failover = lane.begin(which.towards()).await?;
        reach(&lane, &failover, which).await?;
        let before = befall().await?;
        open(&lane, &failover, which).await?;
        (failover, before)
    };
    lane.until_asked(which.intent(), before + 1).await?;
    match what {
        What::Hold => {
            // S18: for as long as it may still act, nothing else is asked for; and the status says so.
            lane.until(&failover, "it is said that nobody knows", |it| {
                let waits = it.status.as_ref().and_then(|it| it.waiting_for.as_deref());
                waits.is_some_and(|words| words.contains("took effect"))
            })
            .await?;
            lane.world.emulator.release().await?;
        }
        What::Kill => {
            world.cluster.kill_operator(0);
            world.cluster.start_operator(0)?;
        }
        _ => {}
    }
    let lane = Lane { world, vm };
    if which == Which::Cancel {
        lane.until_ended(&failover, FailoverOutcome::Cancelled)
            .await?;
        lane.runs_only_at(Site::Azure).await?;
        let next = eventually(LIMIT, "the next move is made", async || {
            let all = world.cluster.failovers_of(vm).await?;
            let last = all
                .into_iter()
                .find(|it| phase(it) == Some(FailoverPhase::AwaitingStart));
            Ok(last.and_then(|it| it.metadata.name))
        })
        .await?;
        lane.answer(&next, json!({"start": "Approved"})).await?;
        lane.lead(&next, Site::OnPremises).await?;
    } else {
        lane.lead(&failover, which.towards()).await?;
    }
    lane.runs_only_at(which.towards()).await?;
    if which.towards() == Site::Azure {
        lane.travel(Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
    }
    ensure!(
        world.emulator.faults_left().await? == 0,
        "the fault befell nothing"
    );
    lane.each_once(&which.expected()).await
}

/// Goes on to the gate right before the request.
async fn reach(lane: &Lane<'_>, failover: &str, which: Which) -> Result<()> {
    lane.until_phase(failover, FailoverPhase::AwaitingCutover)
        .await?;
    if gate(which) == "commit" {
        lane.answer(failover, json!({"cutover": "Approved"}))
            .await?;
        lane.until_phase(failover, FailoverPhase::AwaitingCommit)
            .await?;
    }
    Ok(())
}

/// Opens it.
async fn open(lane: &Lane<'_>, failover: &str, which: Which) -> Result<()> {
    let answer = match gate(which) {
        "cancel" => json!({"cancel": true}),
        gate => json!({gate: "Approved"}),
    };
    lane.answer(failover, answer).await
}

const fn gate(which: Which) -> &'static str {
    match which {
        Which::Failover | Which::FailbackDelta | Which::FailbackFull | Which::Resume => "cutover",
        Which::Cancel => "cancel",
        Which::CommitInAzure | Which::CommitOnPremises | Which::Reprotect => "commit",
    }
}
