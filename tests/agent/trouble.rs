//! What goes wrong at hosts: no room, no network, disks that change, guests that do not listen, peers that are away.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;

use homeward::agent::api::{
    CandidatesUsed, Command, ContentKind, DeliverMode, ManifestSource, OperationErrorKind,
    OperationState, OrderResult, Power, PowerSwitch, ProblemKind, RefusalKind, ReplicationActivity,
    Role, StopProof,
};

use crate::site::{MIB, Sites, VM};

#[tokio::test(flavor = "multi_thread")]
async fn power_that_is_taken_away_is_on_record() {
    let mut sites = Sites::prepare();
    sites.hv.change_config(
        "shutdownDeadlineSeconds: 1",
        "shutdownDeadlineSeconds: 1, onShutdownDeadline: PowerOff",
    );
    sites.hv.start();
    sites.az.start();
    sites.protect().await;
    sites.hv.fake.deaf.store(true, Ordering::SeqCst);
    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    assert_eq!(record.proof, StopProof::PowerTakenAway);
    assert!(!sites.hv.fake.running(VM));
    // What it had written is delivered all the same.
    let deliver = Command::Deliver {
        peer: sites.az.address(),
        mode: DeliverMode::Delta,
    };
    sites.hv.ok(sites.order(2, deliver)).await;
    sites.same_disks();
}

/// A VM that somebody switches off must not arrive at the other site switched on, because its move began meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_by_hand_is_not_cut_short_by_a_move() {
    let mut sites = Sites::prepare();
    sites
        .hv
        .change_config("shutdownDeadlineSeconds: 1", "shutdownDeadlineSeconds: 4");
    sites.hv.start();
    sites.az.start();
    sites.protect().await;
    let hv = &sites.hv;
    hv.fake.deaf.store(true, Ordering::SeqCst);
    let power = Command::Power {
        state: PowerSwitch::Off,
        force: false,
        on_other_disks: false,
    };
    let replicate = || Command::Replicate {
        peer: sites.az.address(),
        interval_seconds: 3600,
        immediate: true,
    };
    let (power, replication) = (sites.order(1, power), sites.order(1, replicate()));
    let meanwhile = async {
        hv.until("the guest is being switched off", |vm| {
            let operation = vm.operation.clone()?;
            (operation.state == OperationState::Running).then_some(())
        })
        .await;
        hv.give(replication).await
    };
    let (switched, refused) = tokio::join!(hv.give(power), meanwhile);
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Busy, "{}", refused.message);
    assert!(refused.message.contains("by hand"), "{}", refused.message);
    // It has come to its own end: the guest did not listen.
    assert_eq!(switched.unwrap().state, OperationState::Failed);
    hv.ok(sites.order(1, replicate())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_pass_ends_that_pass_alone() {
    let sites = Sites::protected().await;
    sites.hv.fake.write(VM, "root", 0, b"before the panic");
    sites.hv.fake.panics.store(true, Ordering::SeqCst);
    let replicate = Command::Replicate {
        peer: sites.az.address(),
        interval_seconds: 3600,
        immediate: true,
    };
    sites.hv.ok(sites.order(1, replicate)).await;
    let told = sites
        .hv
        .until("the panic is told of", |vm| {
            let replication = vm.replication.as_ref()?;
            (replication.failures > 0).then(|| replication.last_error.clone())?
        })
        .await;
    assert!(told.message.contains("panic"), "{}", told.message);
    // It goes on by itself.
    sites
        .hv
        .until("a pass is whole", |vm| {
            let replication = vm.replication.as_ref()?;
            (replication.failures == 0 && replication.last.as_ref()?.bytes_changed > 0)
                .then_some(())
        })
        .await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_no_possible_size_is_told_of_where_it_lies() {
    let sites = Sites::new();
    let path = sites.hv.folder.join("data.raw");
    for size in [0, 513] {
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(size)
            .unwrap();
        let vm = sites.hv.vm().await;
        let problem = vm
            .problems
            .iter()
            .find(|problem| problem.kind == ProblemKind::Disk)
            .unwrap();
        for word in [
            "disk data",
            "data.raw",
            &format!("{size} bytes"),
            "multiple of 512",
        ] {
            assert!(problem.message.contains(word), "{}", problem.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_disk_that_has_grown_is_compared_as_a_whole() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.write(VM, "root", 0, b"before it grew");
    OpenOptions::new()
        .write(true)
        .open(hv.folder.join("root.raw"))
        .unwrap()
        .set_len(5 * MIB as u64)
        .unwrap();
    hv.fake
        .write(VM, "root", 4 * MIB as u64 + 10, b"in the new part");
    let pass = sites.replicate(hv, az, 1).await;
    assert_eq!(
        pass.candidates,
        CandidatesUsed::All,
        "{}",
        pass.candidates_reason
    );
    sites.same_disks();
    // And once more right before the stop: the manifest is read, not carried over.
    OpenOptions::new()
        .write(true)
        .open(hv.folder.join("root.raw"))
        .unwrap()
        .set_len(6 * MIB as u64)
        .unwrap();
    let record = sites.stop(hv, az, 2).await;
    assert_eq!(record.manifest, ManifestSource::Read);
    assert!(
        record
            .disks
            .iter()
            .any(|disk| disk.size_bytes == 6 * MIB as u64)
    );
    hv.ok(sites.order(
        2,
        Command::Deliver {
            peer: az.address(),
            mode: DeliverMode::Delta,
        },
    ))
    .await;
    az.ok(sites.order(2, Command::Start { stop: record })).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_disk_without_a_target_is_seen_before_the_fence() {
    let sites = Sites::protected().await;
    let path = sites.hv.folder.join("definitions/app.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(sites.hv.folder.join("more.raw"), vec![3; MIB]).unwrap();
    std::fs::write(
        &path,
        text.replace("disks: [", "disks: [{ id: more, path: ../more.raw }, "),
    )
    .unwrap();
    // The guest gets it at its next start.
    for state in [PowerSwitch::Off, PowerSwitch::On] {
        let power = Command::Power {
            state,
            force: false,
            on_other_disks: false,
        };
        sites.hv.ok(sites.order(1, power)).await;
    }
    let refused = sites
        .hv
        .give(sites.order(
            2,
            Command::Stop {
                target: "az01".into(),
                force: false,
            },
        ))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::DisksDiffer);
    assert!(refused.message.contains("more"));
    assert!(sites.hv.fake.running(VM));
    let replicate = Command::Replicate {
        peer: sites.az.address(),
        interval_seconds: 3600,
        immediate: true,
    };
    sites.hv.ok(sites.order(1, replicate)).await;
    let failed = sites
        .hv
        .until("the pass fails", |vm| {
            vm.replication.as_ref()?.last_error.clone()
        })
        .await;
    assert_eq!(
        failed.kind,
        OperationErrorKind::DiskWithoutTarget,
        "{}",
        failed.message
    );
    // Enrolled again with the new disk, everything fits.
    sites.enroll(1).await;
    sites.replicate(&sites.hv, &sites.az, 1).await;
    sites.stop(&sites.hv, &sites.az, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_guest_that_does_not_shut_down_runs_on_until_somebody_decides() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.deaf.store(true, Ordering::SeqCst);
    let failed = hv
        .give(sites.order(
            2,
            Command::Stop {
                target: "az01".into(),
                force: false,
            },
        ))
        .await
        .unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    assert_eq!(
        failed.error.unwrap().kind,
        OperationErrorKind::ShutdownTimedOut
    );
    let vm = hv.vm().await;
    let register = vm.register.unwrap();
    assert!(hv.fake.running(VM) && register.role == Role::Fenced && register.stop.is_none());
    assert_eq!(
        vm.replication.unwrap().activity,
        ReplicationActivity::Paused
    );
    // Turning back.
    let fenced = az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    hv.ok(sites.order(3, Command::Resume { fence })).await;
    assert_eq!(hv.fake.starts(VM), 1, "it ran all the time");
    sites.replicate(hv, az, 3).await;
    // Or by force.
    let failed = hv
        .give(sites.order(
            4,
            Command::Stop {
                target: "az01".into(),
                force: false,
            },
        ))
        .await
        .unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    hv.ok(sites.order(
        4,
        Command::Stop {
            target: "az01".into(),
            force: true,
        },
    ))
    .await;
    assert!(!hv.fake.running(VM));
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_silent_hypervisor_blocks_the_stop() {
    let sites = Sites::protected().await;
    sites.hv.fake.silent.store(true, Ordering::SeqCst);
    let vm = sites.hv.vm().await;
    assert_eq!(vm.power, Power::Unknown);
    assert!(vm.power_reason.is_some());
    let refused = sites
        .hv
        .give(sites.order(
            2,
            Command::Stop {
                target: "az01".into(),
                force: false,
            },
        ))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::PowerUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_away_is_tried_again() {
    let mut sites = Sites::protected().await;
    sites.az.end();
    sites.hv.fake.write(VM, "root", 0, b"while it was away");
    let order = sites.order(
        1,
        Command::Replicate {
            peer: sites.az.address(),
            interval_seconds: 3600,
            immediate: true,
        },
    );
    let id = order.id();
    sites.hv.ok(order).await;
    let seen = sites
        .hv
        .until("two passes fail", |vm| {
            vm.replication
                .clone()
                .filter(|replication| replication.failures >= 2)
        })
        .await;
    assert_eq!(
        seen.last_error.unwrap().kind,
        OperationErrorKind::Disconnected
    );
    sites.az.start();
    let last = sites
        .hv
        .until("the pass is whole", |vm| {
            vm.replication
                .as_ref()?
                .last
                .clone()
                .filter(|last| last.began_after >= id)
        })
        .await;
    assert_eq!(
        (last.bytes_changed, last.candidates),
        (65_536, CandidatesUsed::Ranges),
        "no bit was lost: {}",
        last.candidates_reason
    );
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn s05_nothing_is_committed_that_does_not_run() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let record = sites.stop(hv, az, 2).await;
    hv.ok(sites.order(
        2,
        Command::Deliver {
            peer: az.address(),
            mode: DeliverMode::Delta,
        },
    ))
    .await;
    az.fake.broken.store(true, Ordering::SeqCst);
    let failed = az
        .give(sites.order(
            2,
            Command::Start {
                stop: record.clone(),
            },
        ))
        .await
        .unwrap();
    assert_eq!(failed.state, OperationState::Failed);
    assert!(
        az.vm()
            .await
            .problems
            .iter()
            .any(|problem| problem.kind == ProblemKind::NotStarted)
    );
    assert_eq!(
        az.give(sites.order(2, Command::Commit {}))
            .await
            .unwrap_err()
            .kind,
        RefusalKind::NotRunning
    );
    az.fake.broken.store(false, Ordering::SeqCst);
    az.ok(sites.order(2, Command::Start { stop: record })).await;
    az.ok(sites.order(2, Command::Commit {})).await;
    assert_eq!(
        az.give(sites.order(3, Command::Fence {}))
            .await
            .unwrap_err()
            .kind,
        RefusalKind::Committed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_start_without_the_content_is_refused() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.write(VM, "root", 0, b"not delivered");
    let record = sites.stop(hv, az, 2).await;
    let refused = az
        .give(sites.order(
            2,
            Command::Start {
                stop: record.clone(),
            },
        ))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::ContentMismatch);
    // The refusal has barred nobody.
    hv.ok(sites.order(
        2,
        Command::Deliver {
            peer: az.address(),
            mode: DeliverMode::Delta,
        },
    ))
    .await;
    az.ok(sites.order(2, Command::Start { stop: record })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_is_a_persons_switch() {
    let sites = Sites::protected().await;
    let person = |state| {
        let mut order = sites.order(
            1,
            Command::Power {
                state,
                force: false,
                on_other_disks: false,
            },
        );
        order.claim = None;
        order
    };
    sites.hv.ok(person(PowerSwitch::Off)).await;
    assert!(!sites.hv.fake.running(VM));
    sites.hv.ok(person(PowerSwitch::On)).await;
    assert!(sites.hv.fake.running(VM));
    assert_eq!(
        sites.replicate(&sites.hv, &sites.az, 1).await.candidates,
        CandidatesUsed::All,
        "the bitmap went with the process"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_does_not_make_the_host_silent() {
    let mut sites = Sites::protected().await;
    // A pipe that nobody writes to: whoever reads it hangs, as on a share whose server is gone.
    let pipe = sites.hv.folder.join("definitions/hangs.yaml");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let state = sites.hv.state().await;
    let said = serde_json::to_string(&state.problems).unwrap();
    assert!(said.contains("has not answered since"), "{said}");
    assert_eq!(state.vms[0].power, Power::Running);
    sites.hv.ok(sites.order(1, Command::Pause {})).await;
    // Whoever hangs in it is let go.
    drop(OpenOptions::new().write(true).open(&pipe).unwrap());
    std::fs::remove_file(&pipe).unwrap();

    sites.hv.fake.hung.store(true, Ordering::SeqCst);
    let seen = sites.hv.vm().await;
    assert_eq!(seen.power, Power::Unknown);
    assert!(seen.power_reason.unwrap().contains("has not answered for"));
    // Nor does it keep an agent that begins from serving the others.
    sites.hv.kill();
    sites.hv.start();
    while sites.hv.client().state().await.is_err() {}
    assert_eq!(sites.hv.vm().await.power, Power::Unknown);
    sites.hv.fake.hung.store(false, Ordering::SeqCst);
    assert_eq!(sites.hv.vm().await.power, Power::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_enrolled_again_over_a_pass_that_broke_off() {
    let mut sites = Sites::prepare();
    sites.hv.change_config(
        "storageDir",
        "bandwidthLimitBytesPerSecond: 524288\nstorageDir",
    );
    sites.hv.start();
    sites.az.start();
    sites.protect().await;
    let definition = sites.definition().await;
    sites.hv.fake.write(VM, "root", 0, &vec![9; 4 * MIB]);
    let replicate = Command::Replicate {
        peer: sites.az.address(),
        interval_seconds: 3600,
        immediate: true,
    };
    sites.hv.ok(sites.order(1, replicate)).await;
    sites
        .hv
        .until("the pass is under way", |vm| {
            let pass = vm.replication.as_ref()?.pass.as_ref()?;
            (pass.progress.bytes_done > MIB as u64).then_some(())
        })
        .await;
    sites.hv.ok(sites.order(1, Command::Pause {})).await;
    sites
        .az
        .until("it has broken off", |vm| {
            (vm.content.kind == ContentKind::Partial).then_some(())
        })
        .await;
    // As after the vault's address of a host was changed in the middle of a pass.
    let enroll = Command::Enroll {
        definition: Box::new(definition),
        owner: sites.hv.address(),
    };
    sites.az.ok(sites.order(1, enroll)).await;
    sites.replicate(&sites.hv, &sites.az, 1).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn s13_what_a_revived_guest_was_said_to_have_changed_does_not_count() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.write(VM, "root", 0, b"known");
    hv.fake.revives.store(true, Ordering::SeqCst);
    let record = sites.stop(hv, az, 2).await;
    assert_eq!(record.manifest, ManifestSource::Read);
    let delivered = hv
        .ok(sites.order(
            2,
            Command::Deliver {
                peer: az.address(),
                mode: DeliverMode::Delta,
            },
        ))
        .await;
    let OrderResult::Delivered { pass } = delivered else {
        panic!("{delivered:?}")
    };
    assert_eq!(pass.candidates, CandidatesUsed::All);
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_what_was_written_after_the_stop_record_is_not_delivered() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let off = Command::Power {
        state: PowerSwitch::Off,
        force: false,
        on_other_disks: false,
    };
    hv.ok(sites.order(1, off)).await;
    let record = sites.stop(hv, az, 2).await;
    let disk = OpenOptions::new()
        .write(true)
        .open(sites.path(hv, "root"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&disk, b"by hand", 70_000).unwrap();
    let delivered = hv
        .give(sites.order(
            2,
            Command::Deliver {
                peer: az.address(),
                mode: DeliverMode::Delta,
            },
        ))
        .await
        .unwrap();
    assert_eq!(delivered.state, OperationState::Failed, "{delivered:?}");
    assert_eq!(delivered.error.unwrap().kind, OperationErrorKind::Corrupt);
    let refused = az
        .give(sites.order(2, Command::Start { stop: record }))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::ContentMismatch);
}

/// A guest may have outlived what was written down of it.
#[tokio::test(flavor = "multi_thread")]
async fn s09_nothing_is_written_under_a_guest_that_may_run() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let before = sites.disk(az, "root");
    hv.fake.write(VM, "root", 0, b"must not arrive yet");
    az.fake.silent.store(true, Ordering::SeqCst);
    let why = sites.fails_to_replicate(hv, az, 1).await;
    assert!(why.contains("nothing is written under one"), "{why}");
    assert!(sites.disk(az, "root") == before);
    az.fake.silent.store(false, Ordering::SeqCst);
    sites.replicate(hv, az, 1).await;
    assert!(sites.disk(az, "root") != before);
}
