//! Arbitrary sequences. A failing one is made smaller and printed; it then becomes a story in `regressions`.

use homeward::api::{Approval, DataSyncRequest, Site};
use homeward::domain::ErrorClass;
use homeward::driver::simulated::Fate;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::operator::Disturbance;
use super::scenario::{Kind, Prelude, Start, Step, run};
use super::seeded::{self, Sample};
use super::store::Answer;

fn site() -> impl Strategy<Value = Site> {
    prop_oneof![Just(Site::OnPremises), Just(Site::Azure)]
}

fn approval() -> impl Strategy<Value = Approval> {
    prop_oneof![Just(Approval::Automatic), Just(Approval::Manual)]
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    (any::<bool>(), any::<bool>(), prop::option::of(0_u8..4)).prop_map(
        |(stale_resources, stale_vault, dies_after)| Disturbance {
            stale_resources,
            stale_vault,
            dies_after,
        },
    )
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Arrives),
        Just(Fate::LostBefore),
        Just(Fate::LostAfter),
        class().prop_map(Fate::Refused),
        (1_i64..200).prop_map(|beats| Fate::Late(SignedDuration::from_millis(beats * 100))),
    ]
}

fn class() -> impl Strategy<Value = ErrorClass> {
    prop::sample::select(ErrorClass::ALL.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0_usize..2, 1_u8..12, 0_u8..4)
            .prop_map(|(operator, passes, beats)| Step::Run { operator, passes, beats }),
        10 => (0_usize..2, disturbance())
            .prop_map(|(operator, disturbance)| Step::Pass { operator, disturbance }),
        4 => (1_u16..400).prop_map(|beats| Step::Advance { beats }),
        6 => site().prop_map(Step::Place),
        2 => any::<bool>().prop_map(Step::Suspend),
        2 => approval().prop_map(Step::Cutover),
        2 => approval().prop_map(Step::Commit),
        1 => approval().prop_map(Step::Reverse),
        1 => prop::sample::select(vec![
            DataSyncRequest::Auto,
            DataSyncRequest::DeltaBeforeFailover,
            DataSyncRequest::FullDuringFailover,
        ]).prop_map(Step::DataSync),
        6 => prop::sample::select(vec![
            Answer::Start,
            Answer::Start,
            Answer::Cutover,
            Answer::Commit,
            Answer::Rollback,
            Answer::ReverseReplicate,
            Answer::Cancel,
        ]).prop_map(Step::Answer),
        1 => Just(Step::DeleteFailover),
        1 => Just(Step::LoseFailover),
        1 => Just(Step::DeletePvm),
        1 => site().prop_map(Step::Rebuild),
        1 => Just(Step::Reapply),
        9 => fate().prop_map(Step::Fate),
        3 => (site(), class()).prop_map(|(site, class)| Step::FailNext(site, class)),
        1 => (site(), any::<bool>()).prop_map(|(site, on)| Step::FailPasses(site, on)),
        3 => (site(), any::<bool>()).prop_map(|(site, on)| Step::Connect(site, on)),
        3 => site().prop_map(Step::RestartAgent),
        2 => site().prop_map(Step::Reboot),
        1 => (site(), any::<bool>()).prop_map(|(site, on)| Step::Switch(site, on)),
        1 => any::<bool>().prop_map(Step::Obstruct),
        1 => site().prop_map(Step::LoseReplica),
    ]
}

fn start(kind: Kind) -> impl Strategy<Value = Start> {
    let prelude = prop_oneof![
        Just(Prelude::Nothing),
        Just(Prelude::Protected),
        Just(Prelude::InAzure),
        Just(Prelude::FullBack),
        (0_u8..3).prop_map(Prelude::AtGate),
    ];
    (prop::bool::weighted(0.9), site(), prelude).prop_map(move |(running, placement, prelude)| {
        Start {
            kind,
            running,
            placement,
            prelude,
        }
    })
}

fn play(kind: Kind, cases: u32) {
    let sample = Sample {
        what: format!("whatever happens with {kind:?}"),
        cases,
        seed: None,
        shrink: 1_500,
    };
    let sequences = (start(kind), prop::collection::vec(step(), 1..60));
    seeded::play(&sample, &sequences, |(start, steps)| run(&start, &steps));
}

#[test]
fn whatever_happens_with_agents() {
    play(Kind::Agents, 1500);
}

#[test]
fn whatever_happens_with_a_service() {
    play(Kind::Service, 800);
}
