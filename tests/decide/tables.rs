//! The whole machine on one page: what is done or waited for in each phase, at each stage of the registers, in each mood.
//!
//! `INSTA_UPDATE=always cargo test --test decide tables` writes the tables anew; they are reviewed like code.

use homeward::api::{
    Approval, DataSync, DataSyncChoice, DataSyncRequest, FailoverPhase, FailoverSpec,
    FailoverStatus, ProtectedVirtualMachineStatus, Site, VirtualMachineReference,
};
use homeward::domain::{
    BySite, Capabilities, Claim, Connection, CurrentFailover, Effect, Fact, FailoverView, Intent,
    Mark, Power, Protection, ProtectionState, Stage, VaultView, VmObservation, WholePass, World,
    decide,
};
use homeward::driver::simulated::{agents_like, service_like};

use super::observed::nothing_of;
use super::store::{Store, spec};
use super::view::intent;

pub const FROM: Site = Site::OnPremises;
pub const TO: Site = Site::Azure;

#[derive(Clone, Copy, Debug)]
enum Mood {
    /// Everything passes by itself.
    Automatic,
    /// Every gate asks.
    Manual,
    Suspended,
    /// `cancel: true`.
    Cancel,
    /// The placement was changed back.
    Flipped,
    /// The resource is being deleted.
    Deleting,
}

const MOODS: [Mood; 6] = [
    Mood::Automatic,
    Mood::Manual,
    Mood::Suspended,
    Mood::Cancel,
    Mood::Flipped,
    Mood::Deleting,
];

const PHASES: [FailoverPhase; 11] = [
    FailoverPhase::AwaitingStart,
    FailoverPhase::Preparing,
    FailoverPhase::Synchronizing,
    FailoverPhase::AwaitingCutover,
    FailoverPhase::CuttingOver,
    FailoverPhase::AwaitingCommit,
    FailoverPhase::Committing,
    FailoverPhase::AwaitingReverseReplication,
    FailoverPhase::ReverseReplicating,
    FailoverPhase::Cancelling,
    FailoverPhase::RollingBack,
];

fn stages() -> Vec<(&'static str, Fact<Stage>)> {
    let known = Fact::Known;
    vec![
        ("at source", known(Stage::Settled { site: FROM })),
        ("source fenced", known(Stage::SourceFenced { from: FROM })),
        (
            "source stopped",
            known(Stage::SourceStopped {
                from: FROM,
                was_running: true,
            }),
        ),
        ("target whole", known(Stage::TargetWhole { from: FROM })),
        (
            "target started",
            known(Stage::TargetStarted {
                to: TO,
                as_left: true,
            }),
        ),
        (
            "target is off",
            known(Stage::TargetStarted {
                to: TO,
                as_left: false,
            }),
        ),
        ("committed", known(Stage::Committed { to: TO })),
        ("at target", known(Stage::Settled { site: TO })),
        ("target fenced", known(Stage::TargetFenced { from: FROM })),
        (
            "contradiction",
            known(Stage::Contradiction {
                seen: "(what each side says)".into(),
            }),
        ),
        ("unknown", Fact::Unknown("az01 does not answer".into())),
    ]
}

pub fn claim(store: &Store) -> Claim {
    Claim {
        cluster: "cluster".into(),
        vm_uid: store.pvm.as_ref().unwrap().uid.clone(),
    }
}

pub fn observation(stage: &Fact<Stage>, claim: &Claim) -> VmObservation {
    let from = match stage {
        Fact::Known(Stage::Settled { site }) => *site,
        _ => FROM,
    };
    VmObservation {
        claims: BySite::from_fn(|_| Fact::Known(claim.clone())),
        marks: BySite::from_fn(|_| Fact::Known(Mark { epoch: 5, step: 3 })),
        failovers: BySite::from_fn(|_| Some("uid".into())),
        power: BySite::from_fn(|_| Fact::Known(Power::Off)),
        protection: Fact::Known(Protection {
            from,
            state: ProtectionState::Replicating,
            failover: Some("uid".into()),
            last_whole: Some(WholePass {
                point: "2026-01-01T00:00:00Z".parse().unwrap(),
                failover: Some("uid".into()),
                bytes_on_wire: 1,
                bytes_changed: 1,
                bytes_per_second: Some(1),
            }),
            progress: None,
            overdue: false,
        }),
        written_since_start: Fact::Known(0),
        pending_delta: Some(0),
        disk_bytes: Some(0),
        stage: stage.clone(),
        ..nothing_of("id")
    }
}

/// The Failover of these tables, with no answer given.
pub struct Asked(pub FailoverSpec);

impl Asked {
    pub fn new(uid: String) -> Self {
        Self(FailoverSpec {
            virtual_machine: VirtualMachineReference {
                name: "vm".into(),
                uid,
            },
            from: FROM,
            to: TO,
            data_sync: DataSyncRequest::Auto,
            host: None,
            create_if_missing: None,
            start: None,
            cutover: None,
            commit: None,
            reverse_replicate: None,
            cancel: None,
        })
    }

    pub fn view<'a>(&'a self, status: &'a FailoverStatus) -> FailoverView<'a> {
        FailoverView {
            name: "vm-1",
            uid: "uid",
            generation: None,
            spec: &self.0,
            status,
            start_held_because: None,
            taken_up: false,
            deleting: false,
        }
    }
}

/// One VM, with nothing beside what is given.
pub fn world<'a>(
    intent: &'a Intent,
    status: &'a ProtectedVirtualMachineStatus,
    failover: CurrentFailover<'a>,
    vault: VaultView<'a>,
    claim: Claim,
) -> World<'a> {
    World {
        intent,
        generation: None,
        status,
        failover,
        history: &[],
        vault: Fact::Known(vault),
        earlier_owner: None,
        claim,
        encryption_key_problem: None,
        claim_holder_gone: false,
        now: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn told(
    capabilities: &Capabilities,
    phase: FailoverPhase,
    stage: &Fact<Stage>,
    mood: Mood,
    data_sync: DataSync,
) -> String {
    let mut wanted = spec(TO);
    match mood {
        Mood::Manual => {
            wanted.cutover = Approval::Manual;
            wanted.commit = Approval::Manual;
            wanted.reverse_replication = Approval::Manual;
        }
        Mood::Suspended => wanted.suspend = true,
        Mood::Flipped => wanted.placement = FROM,
        Mood::Automatic | Mood::Cancel | Mood::Deleting => {}
    }
    let store = Store::new(wanted);
    let pvm = store.pvm.as_ref().unwrap();
    let intent = Intent {
        deleting: matches!(mood, Mood::Deleting),
        ..intent(pvm)
    };
    let claim = claim(&store);
    let vm = observation(stage, &claim);
    let mut asked = Asked::new(pvm.uid.clone());
    asked.0.cancel = matches!(mood, Mood::Cancel).then_some(true);
    let status = FailoverStatus {
        phase: Some(phase),
        data_sync: (phase > FailoverPhase::Preparing).then(|| DataSyncChoice {
            chosen: data_sync,
            reason: "chosen before".into(),
        }),
        ..FailoverStatus::default()
    };
    let sites = BySite::from_fn(|_| Connection::Connected);
    let held = matches!(mood, Mood::Manual).then_some("(why it waits)");
    let before = ProtectedVirtualMachineStatus::default();
    let view = FailoverView {
        start_held_because: held,
        ..asked.view(&status)
    };
    let vault = VaultView {
        renamed: None,
        sites: &sites,
        capabilities,
        vm: Fact::Known(&vm),
    };
    let moving = CurrentFailover::Known(view);
    let decision = decide(&world(&intent, &before, moving, vault, claim));
    let after = decision.failover.unwrap();
    let now_in = after.phase.unwrap();
    let step = match &decision.effect {
        Some(Effect::Submit(submission)) => {
            format!("{} at {}", submission.action.kind(), submission.mark)
        }
        Some(other) => format!("{other:?}"),
        None => after
            .waiting_for
            .clone()
            .map_or_else(|| "-".into(), |text| format!("waits for {text}")),
    };
    if now_in == phase {
        step
    } else {
        format!("{now_in:?}: {step}")
    }
}

fn table(capabilities: &Capabilities, data_sync: DataSync) -> String {
    let mut text = String::new();
    for phase in PHASES {
        text += &format!("{phase:?}\n");
        for (name, stage) in stages() {
            let told: Vec<String> = MOODS
                .iter()
                .map(|mood| told(capabilities, phase, &stage, *mood, data_sync))
                .collect();
            text += &format!("  {name}\n");
            for (mood, says) in MOODS.iter().zip(&told) {
                // What a mood changes is what is worth reading.
                if matches!(mood, Mood::Automatic) || *says != told[0] {
                    text += &format!("    {:10} {says}\n", format!("{mood:?}"));
                }
            }
        }
    }
    text
}

#[test]
fn every_phase_at_every_stage_with_agents() {
    insta::assert_snapshot!(table(&agents_like(), DataSync::DeltaBeforeFailover));
}

#[test]
fn every_phase_at_every_stage_with_agents_full() {
    insta::assert_snapshot!(table(&agents_like(), DataSync::FullDuringFailover));
}

#[test]
fn every_phase_at_every_stage_with_a_service() {
    insta::assert_snapshot!(table(&service_like(), DataSync::DeltaBeforeFailover));
}
