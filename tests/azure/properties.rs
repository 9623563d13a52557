//! Arbitrary sequences. A failing one is made smaller and printed; it then becomes a story in `regressions`.

use homeward::api::{Approval, DataSyncRequest, Site};
use homeward_asr_emulator::Scenario;
use proptest::prelude::*;

use super::operator::Disturbance;
use super::scenario::{Prelude, Press, Start, Step, Way, run};
use super::seeded::{self, Sample};
use super::store::{Answer, Key};

fn site() -> impl Strategy<Value = Site> {
    prop_oneof![Just(Site::OnPremises), Just(Site::Azure)]
}

fn approval() -> impl Strategy<Value = Approval> {
    prop_oneof![Just(Approval::Automatic), Just(Approval::Manual)]
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    (
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.4),
        prop::option::weighted(0.5, 0_u8..6),
        prop_oneof![6 => Just(0_u16), 2 => 1_u16..50, 1 => 50_u16..400],
    )
        .prop_map(
            |(stale_resources, stale_vault, dies_after, stands_still)| Disturbance {
                stale_resources,
                stale_vault,
                dies_after,
                stands_still,
            },
        )
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        1 => Just(Way::Lost),
        2 => Just(Way::AnswerLost),
        1 => Just(Way::Throttled),
        1 => prop::sample::select(vec![500_u16, 503, 409, 403, 408]).prop_map(Way::Fails),
        1 => prop::sample::select(vec![500_u16, 503, 504, 408]).prop_map(Way::ActsAndFails),
        1 => Just(Way::NoConnection),
        3 => (1_u8..=170).prop_map(Way::Held),
        1 => (1_u8..=170).prop_map(Way::Slow),
    ]
}

/// Buttons that take nobody's VM down for good.
fn press() -> impl Strategy<Value = Press> {
    prop::sample::select(vec![
        Press::PlannedFailover,
        Press::Failback { full: false },
        Press::Failback { full: true },
        Press::UnplannedFailover,
        Press::Commit,
        Press::Commit,
        Press::Reprotect,
        Press::Cancel,
        Press::Cancel,
        Press::Resume,
        Press::Repair,
        Press::TestFailover,
        Press::TestFailoverCleanup,
        Press::PlanFailover,
        Press::PlanFailback { full: false },
        Press::PlanFailback { full: true },
        Press::PlanCommit,
        Press::PlanReprotect,
        Press::Disable,
    ])
}

fn scenario() -> impl Strategy<Value = Scenario> {
    prop::sample::select(vec![
        Scenario::PlannedFailover,
        Scenario::Failback,
        Scenario::Failback,
        Scenario::CommitFailover,
        Scenario::FinalizeFailback,
        Scenario::Reprotect,
    ])
}

/// What may happen; with `portal`, people press buttons there too.
fn step(portal: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        14 => (0_usize..2, 1_u8..8, 1_u8..12)
            .prop_map(|(operator, passes, seconds)| Step::Run { operator, passes, seconds }),
        14 => (0_usize..2, disturbance())
            .prop_map(|(operator, disturbance)| Step::Pass { operator, disturbance }),
        5 => prop_oneof![1_u16..20, 20_u16..400].prop_map(|seconds| Step::Wait { seconds }),
        1 => (0_usize..2).prop_map(Step::Die),
        6 => site().prop_map(Step::Place),
        1 => any::<bool>().prop_map(Step::Suspend),
        2 => approval().prop_map(Step::Cutover),
        2 => approval().prop_map(Step::Commit),
        1 => approval().prop_map(Step::Reverse),
        2 => prop::sample::select(vec![
            DataSyncRequest::Auto,
            DataSyncRequest::DeltaBeforeFailover,
            DataSyncRequest::FullDuringFailover,
        ]).prop_map(Step::DataSync),
        6 => prop::sample::select(vec![
            Answer::Start,
            Answer::Start,
            Answer::Cutover,
            Answer::Commit,
            Answer::ReverseReplicate,
            Answer::Cancel,
        ]).prop_map(Step::Answer),
        1 => Just(Step::DeleteFailover),
        1 => Just(Step::LoseFailover),
        1 => Just(Step::DeletePvm),
        8 => way().prop_map(Step::Meets),
        2 => (prop::sample::select(vec![429_u16, 500, 503]), 1_u8..12)
            .prop_map(|(status, times)| Step::ReadsFail { status, times }),
        2 => (scenario(), 0_u8..8).prop_map(|(scenario, task)| Step::JobFails(scenario, task)),
        1 => any::<bool>().prop_map(Step::Silent),
        1 => (0_usize..3, prop::sample::select(vec![0_u8, 60]), any::<bool>())
            .prop_map(|(host, minutes, unnoticed)| Step::HostSilent { host, minutes, unnoticed }),
        2 => (prop::option::weighted(0.6, 0_usize..3), any::<bool>())
            .prop_map(|(host, create)| Step::Alternate { host, create }),
        1 => prop::sample::select(vec![Key::None, Key::Unusable, Key::Usable]).prop_map(Step::Key),
        1 => Just(Step::Revoke),
        1 => prop::bool::weighted(0.4).prop_map(Step::SignIn),
        2 => Just(Step::Purge),
        1 => site().prop_map(move |site| if portal { Step::Rebuild(site) } else { Step::Place(site) }),
        6 => press().prop_map(move |press| if portal {
            Step::Press(press)
        } else {
            Step::Wait { seconds: 1 }
        }),
    ]
}

fn start() -> impl Strategy<Value = Start> {
    let prelude = prop::sample::select(vec![
        Prelude::Nothing,
        Prelude::Protected,
        Prelude::InAzure,
        Prelude::InAzure,
        Prelude::BackAtGate,
        Prelude::BackAtGate,
        Prelude::ThereUncommitted,
        Prelude::BackUncommitted,
        Prelude::BackUnprotected,
    ]);
    (
        prop::option::weighted(0.8, 0_u64..100_000),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
        site(),
        prelude,
    )
        .prop_map(|(assumptions, vmm, encrypted, placement, prelude)| Start {
            assumptions,
            vmm,
            encrypted,
            placement,
            prelude,
        })
}

/// The small sample that always runs is the same each time.
const SEED: u64 = 789_002;

fn play(portal: bool, cases: u32) {
    let who = if portal {
        "and people in the portal"
    } else {
        "alone"
    };
    let sample = Sample {
        what: format!("whatever happens with the service, {who}"),
        cases,
        seed: Some(SEED),
        shrink: 400,
    };
    let sequences = (start(), prop::collection::vec(step(portal), 1..40));
    seeded::play(&sample, &sequences, |(start, steps)| run(&start, &steps));
}

#[test]
fn whatever_happens_with_homeward_alone() {
    play(false, 40);
}

#[test]
fn whatever_happens_with_people_in_the_portal() {
    play(true, 40);
}
