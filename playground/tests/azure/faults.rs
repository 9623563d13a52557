//! Requests that go wrong, each in each way, and an operator that dies right after it asked: in the end everything was done once, and the VM
//! is where it was asked to be.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use homeward::api::{Failover, FailoverOutcome, FailoverPhase, Site};
use homeward_asr_emulator::{FabricKind, Fault};
use homeward_playground::{
    asked::Intent,
    world::{LIMIT, ServiceOptions, ServiceWorld, eventually, status_of},
};
use serde_json::json;

use crate::{
    lane::{LIMITS, Lane, finish, phase, quick, run, world},
    sampler::Sampler,
};

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

/// What can become of an answer.
const ANSWERS: [What; 5] = [
    What::DropBefore,
    What::DropAfter,
    What::ErrorBefore,
    What::ErrorAfter,
    What::Throttle,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    which: Which,
    what: What,
}

/// What once went wrong, and is always tried.
const REGRESSIONS: [Case; 1] = [
    // A cancel that was refused ended the move, and its job went on.
    Case {
        which: Which::Cancel,
        what: What::Throttle,
    },
];

/// How many VMs are moved at once.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_or_is_an_error_repeats_nothing() {
    let mut sampler = Sampler::new("azure-faults");
    let cases = sample(&mut sampler, &ANSWERS, &ALL);
    run(async {
        let names = names(cases.len());
        let world = world(options(cases.len())).await?;
        let tested = cases.iter().zip(&names).map(|(case, vm)| {
            let world = &world;
            async move {
                let began = std::time::Instant::now();
                let lane = Lane::start(world, vm, case.which.data_sync()).await?;
                let (failover, _) = befallen(&lane, *case).await?;
                brought_about(&lane, &failover, case.which)
                    .await
                    .with_context(|| format!("{case:?} of {vm}"))?;
                println!("{case:?} took {:.1} s", began.elapsed().as_secs_f64());
                anyhow::Ok(())
            }
        });
        let tested: Vec<()> = futures::stream::iter(tested)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let left = world.emulator.faults_left().await?;
        ensure!(left == 0, "{left} of {} befell nothing", tested.len());
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_or_the_end_of_the_operator_repeats_nothing() {
    let mut sampler = Sampler::new("azure-late");
    let cases = sample(&mut sampler, &[What::Hold, What::Kill], &[]);
    run(async {
        let mut world = world(options(cases.len())).await?;
        for (case, vm) in cases.iter().zip(&names(cases.len())) {
            let began = std::time::Instant::now();
            late_or_killed(&mut world, vm, *case)
                .await
                .with_context(|| format!("{case:?} of {vm}"))?;
            println!("{case:?} took {:.1} s", began.elapsed().as_secs_f64());
        }
        finish(world).await
    })
    .await;
}

/// Each of these requests and each of these faults occurs.
fn sample(sampler: &mut Sampler, faults: &[What], requests: &[Which]) -> Vec<Case> {
    let of = |what: What| ALL.map(|which| Case { which, what });
    let cases: Vec<Case> = faults.iter().flat_map(|what| of(*what)).collect();
    let least = faults.len() * 2;
    let mut chosen = sampler.choose(cases, least, |case| case.what);
    let known = REGRESSIONS.into_iter();
    let known = known.filter(|case| faults.contains(&case.what) && !chosen.contains(case));
    chosen.extend(known.collect::<Vec<_>>());
    for which in requests {
        if !chosen.iter().any(|case| case.which == *which) {
            let what = sampler.one(faults);
            let which = *which;
            chosen.push(Case { which, what });
        }
    }
    chosen
}

fn options(vms: usize) -> ServiceOptions {
    let mut options = quick(FabricKind::HyperVSite, vms);
    options.limits = Some(LIMITS);
    options
}

fn names(vms: usize) -> Vec<String> {
    (1..=vms).map(|it| format!("vm-{it}")).collect()
}

async fn late_or_killed(world: &mut ServiceWorld, vm: &str, case: Case) -> Result<()> {
    let lane = Lane::start(world, vm, case.which.data_sync()).await?;
    let (failover, asked) = befallen(&lane, case).await?;
    lane.until_asked(case.which.intent(), asked).await?;
    if case.what == What::Hold {
        // S18: for as long as it may still act, nothing else is asked for; and the status says so.
        lane.until(&failover, "it is said that nobody knows", |it| {
            let waits = it.status.as_ref().and_then(|it| it.waiting_for.as_deref());
            waits.is_some_and(|words| words.contains("took effect"))
        })
        .await?;
        world.emulator.release().await?;
    } else {
        world.cluster.kill_operator(0);
        world.cluster.start_operator(0)?;
    }
    brought_about(&Lane { world, vm }, &failover, case.which).await
}

/// Brings the VM to where its request is made, and that about with the fault that befalls it: the move, and how often the like of it was
/// asked for by then.
async fn befallen(lane: &Lane<'_>, case: Case) -> Result<(String, usize)> {
    let Case { which, what } = case;
    if which.towards() == Site::OnPremises {
        lane.travel(Site::Azure).await?;
    }
    let befall = async |of: String| {
        let asked = lane.asked().await?;
        let path = format!("{of}{}\\b", which.path());
        lane.world.emulator.befall(&path, what.fault()).await?;
        let like_it = asked.iter().filter(|it| it.intent == which.intent());
        anyhow::Ok(like_it.count() + 1)
    };
    // A delta is asked for at once; before the others there is a gate.
    if which == Which::FailbackDelta {
        let asked = befall(lane.item()).await?;
        return Ok((lane.begin(which.towards()).await?, asked));
    }
    let failover = lane.begin(which.towards()).await?;
    reach(lane, &failover, which).await?;
    let of = match which {
        Which::Resume | Which::Cancel => synchronising(lane, &failover).await?,
        _ => lane.item(),
    };
    let asked = befall(of).await?;
    open(lane, &failover, which).await?;
    Ok((failover, asked))
}

/// The job that synchronises.
async fn synchronising(lane: &Lane<'_>, failover: &str) -> Result<String> {
    let seen = lane.world.cluster.failovers().get(failover).await?;
    let mut tasks = seen.status.iter().flat_map(|status| &status.tasks);
    let sync = tasks.find(|task| task.name == "Synchronize");
    let job = sync.and_then(|task| task.job.clone());
    job.with_context(|| format!("no job synchronises\n{}", status_of(&seen)))
}

/// The move goes on to its end, and a full round trip with it; everything was done once.
async fn brought_about(lane: &Lane<'_>, failover: &str, which: Which) -> Result<()> {
    if which == Which::Cancel {
        lane.until_ended(failover, FailoverOutcome::Cancelled)
            .await?;
        lane.runs_only_at(Site::Azure).await?;
        let next = eventually(LIMIT, "the next move is made", async || {
            let all = lane.world.cluster.failovers_of(lane.vm).await?;
            let waits = |it: &Failover| phase(it) == Some(FailoverPhase::AwaitingStart);
            Ok(all.into_iter().find(waits).and_then(|it| it.metadata.name))
        })
        .await?;
        lane.answer(&next, json!({"start": "Approved"})).await?;
        lane.lead(&next, Site::OnPremises).await?;
    } else {
        lane.lead(failover, which.towards()).await?;
    }
    lane.runs_only_at(which.towards()).await?;
    if which.towards() == Site::Azure {
        lane.travel(Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;
    }
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
