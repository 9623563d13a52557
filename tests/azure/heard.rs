//! A host that went silent since it was last looked at: it is asked for nothing that only it could do, and finding that out costs one list for
//! all.

use std::sync::Arc;
use std::time::Duration;

use homeward::api::Site::{Azure, OnPremises};
use homeward::domain::{Action, Alternate, Attempt, Claim, ErrorClass, Mark, Submission};
use homeward::driver::ReplicationDriver as _;
use homeward_asr_emulator::{FabricKind, Seed, Settings};
use jiff::SignedDuration;

use super::operator::Disturbance;
use super::rules::{expect, play_from, sent};
use super::scenario::{Prelude, Start, Step, World, in_time};
use super::store::Answer;
use super::stories::{passes, start};
use super::wire::Wire;

const SITE: [usize; 2] = [0, 2];

/// The look is from before the silence, and of the item's own host; whether the service has noticed it or not.
#[test]
fn s20_a_host_that_went_silent_since_the_look_is_asked_for_nothing() {
    let rows = [
        (Prelude::Protected, Step::Place(Azure), "plannedFailover"),
        (Prelude::InAzure, Step::Place(OnPremises), "plannedFailover"),
        (Prelude::BackAtGate, Step::Answer(Answer::Cutover), "resume"),
        (
            Prelude::BackUncommitted,
            Step::Answer(Answer::Commit),
            "failoverCommit",
        ),
        (
            Prelude::BackUnprotected,
            Step::Answer(Answer::ReverseReplicate),
            "reProtect",
        ),
    ];
    for (prelude, wish, operation) in rows {
        for vmm in [false, true] {
            for unnoticed in [false, true] {
                let from = Start {
                    vmm,
                    ..start(prelude)
                };
                // The Failover of a move that is yet to begin is made, and the start of one that was held is approved.
                let mut steps = vec![passes(2), wish.clone()];
                if operation == "plannedFailover" {
                    steps.push(passes(1));
                }
                let before = std::cell::Cell::new(0);
                play_from(&from, &steps[..1], |world| {
                    before.set(sent(world, operation));
                    Ok(())
                });
                steps.extend([
                    Step::HostSilent {
                        host: SITE[usize::from(vmm)],
                        minutes: 60,
                        unnoticed,
                    },
                    Step::Pass {
                        operator: 0,
                        disturbance: Disturbance {
                            stale_vault: true,
                            ..Disturbance::default()
                        },
                    },
                ]);
                play_from(&from, &steps, |world| {
                    expect(operation, sent(world, operation), before.get())
                });
            }
        }
    }
}

/// Azure commits without the host, and a cancel is never held.
#[test]
fn what_needs_no_host_is_asked_for_though_it_is_silent() {
    let silent = Step::HostSilent {
        host: 0,
        minutes: 60,
        unnoticed: false,
    };
    let rows = [
        (
            Prelude::ThereUncommitted,
            Answer::Commit,
            "failoverCommit",
            1,
        ),
        (Prelude::BackAtGate, Answer::Cancel, "cancel", 1),
    ];
    for (prelude, answer, operation, expected) in rows {
        let steps = [silent.clone(), Step::Answer(answer), passes(4)];
        play_from(&start(prelude), &steps, |world| {
            expect(operation, sent(world, operation), expected)
        });
    }
}

/// It is as declared all the while; who thinks of the way back reads that it is closed, and for what.
#[test]
fn a_vm_in_azure_that_could_not_come_back_now_says_so() {
    for (vmm, words) in [
        (
            false,
            "a move back waits for the host of the VM to be heard: provider hv-1",
        ),
        (
            true,
            "a move back waits for OnPremises to be connected: provider vmm-1",
        ),
    ] {
        let from = Start {
            vmm,
            ..start(Prelude::InAzure)
        };
        let silent = Step::HostSilent {
            host: SITE[usize::from(vmm)],
            minutes: 60,
            unnoticed: false,
        };
        let told = |world: &World, closed: bool| {
            let (reason, message) = world.reason_of("Ready").unwrap_or_default();
            let expected = "ServiceDoesNotProtectFromAzure".to_owned();
            expect("reason of Ready", reason, expected)?;
            expect(&message, message.contains(words), closed)
        };
        let mut steps = vec![silent, passes(3)];
        play_from(&from, &steps, |world| told(world, true));
        steps.extend([Step::Silent(false), passes(3)]);
        play_from(&from, &steps, |world| told(world, false));
    }
}

fn asks(action: Action, now: jiff::Timestamp) -> Submission {
    Submission {
        action,
        mark: Mark { epoch: 1, step: 1 },
        claim: Claim {
            cluster: "cluster".into(),
            vm_uid: "uid".into(),
        },
        failover: None,
        alternate: Alternate::default(),
        encryption_key: None,
        attempt: Some(Attempt {
            send_before: now + SignedDuration::from_secs(30),
            job: None,
            jobs_before: Vec::new(),
        }),
    }
}

#[test]
fn those_who_ask_at_once_share_one_look_at_the_hosts() {
    in_time(async {
        let wire = Wire::new(&Seed::of(FabricKind::HyperVSite, 40), Settings::default());
        let driver = wire.driver_of(Duration::from_secs(5));
        driver.observe().await.unwrap();
        let lists = |wire: &Arc<Wire>| {
            let service = wire.service();
            let providers = "/replicationRecoveryServicesProviders";
            service
                .requests()
                .filter(|it| it.path.ends_with(providers))
                .count()
        };
        assert_eq!(lists(&wire), 1);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let asked = (1..=40).map(|vm| {
            let driver = driver.clone();
            let there = Action::CompleteFailover {
                from: OnPremises,
                data_sync: homeward::api::DataSync::FullDuringFailover,
            };
            let submission = asks(there, wire.now.now());
            async move { driver.submit(&format!("vm-{vm}"), &submission).await }
        });
        for answer in futures::future::join_all(asked).await {
            answer.unwrap();
        }
        assert_eq!((wire.sent().len(), lists(&wire)), (40, 2));
        // Who asks of a host that is silent is told so, and may ask again.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let hour_ago = wire.now.now() - SignedDuration::from_hours(1);
        wire.service().silence("hv-1.example.test", Some(hour_ago));
        tokio::time::sleep(Duration::from_mins(1)).await;
        let commit = asks(Action::Commit { at: Azure }, wire.now.now());
        driver.submit("vm-1", &commit).await.unwrap();
        tokio::time::sleep(Duration::from_mins(1)).await;
        let back = asks(Action::Synchronize { from: Azure }, wire.now.now());
        let refused = driver.submit("vm-1", &back).await.unwrap_err();
        assert_eq!(
            (refused.class, refused.ambiguous),
            (ErrorClass::Transient, false)
        );
        assert!(refused.message.contains("hv-1.example.test"), "{refused}");
    });
}
