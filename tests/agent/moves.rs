//! Whole moves, there and back, by orders.

use homeward::agent::api::{
    CandidatesUsed, Command, ContentKind, DeliverMode, ManifestSource, Order, OrderResult,
    PowerSwitch, RefusalKind, Role, StopProof,
};

use crate::site::{MIB, Sites, VM};

#[tokio::test(flavor = "multi_thread")]
async fn a_move_there_and_back_sends_changes_only() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    sites.same_disks();
    hv.fake.write(VM, "root", 100_000, b"written at home");
    assert_eq!(hv.vm().await.dirty_bytes, Some(65_536));

    let record = sites.stop(hv, az, 2).await;
    assert!(record.was_running && record.proof == StopProof::ProcessGone && !hv.fake.running(VM));
    assert_eq!(record.manifest, ManifestSource::CarriedOver);
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
    assert_eq!(
        (pass.bytes_changed, pass.candidates),
        (65_536, CandidatesUsed::Ranges),
        "{}",
        pass.candidates_reason
    );
    sites.same_disks();

    az.ok(sites.order(2, Command::Start { stop: record })).await;
    assert!(az.fake.running(VM));
    assert!(
        az.client()
            .console(VM, 1000)
            .await
            .unwrap()
            .contains("started on az01 at Azure")
    );
    let committed = az.ok(sites.order(2, Command::Commit {})).await;
    let OrderResult::Committed { record: commit } = committed else {
        panic!("{committed:?}")
    };
    hv.ok(sites.order(2, Command::Retire { commit })).await;
    assert_eq!(hv.vm().await.register.unwrap().role, Role::Replica);
    assert_eq!(hv.vm().await.content.kind, ContentKind::Whole);

    az.fake.write(VM, "data", 2 * MIB as u64, b"written away");
    assert_eq!(az.vm().await.dirty_bytes, Some(65_536));
    let reverse = sites.replicate(az, hv, 2).await;
    assert_eq!(
        (reverse.bytes_changed, reverse.candidates),
        (512, CandidatesUsed::Ranges),
        "{}",
        reverse.candidates_reason
    );
    sites.same_disks();

    az.fake.write(VM, "root", 0, b"last words");
    let record = sites.stop(az, hv, 3).await;
    az.ok(sites.order(
        3,
        Command::Deliver {
            peer: hv.address(),
            mode: DeliverMode::Delta,
        },
    ))
    .await;
    hv.ok(sites.order(3, Command::Start { stop: record })).await;
    assert!(hv.fake.running(VM) && !az.fake.running(VM));
    assert!(sites.disk(hv, "root").starts_with(b"last words"));
    let committed = hv.ok(sites.order(3, Command::Commit {})).await;
    let OrderResult::Committed { record: commit } = committed else {
        panic!("{committed:?}")
    };
    az.ok(sites.order(3, Command::Retire { commit })).await;
    let again = sites.replicate(hv, az, 3).await;
    assert_eq!(
        (again.bytes_changed, again.candidates),
        (0, CandidatesUsed::Ranges),
        "{}",
        again.candidates_reason
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_download_goes_into_new_files() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.write(VM, "root", 70_000, &vec![7; 200_000]);
    let before = sites.disk(az, "root");
    let record = sites.stop(hv, az, 2).await;
    let delivered = hv
        .ok(sites.order(
            2,
            Command::Deliver {
                peer: az.address(),
                mode: DeliverMode::Full,
            },
        ))
        .await;
    let OrderResult::Delivered { pass } = delivered else {
        panic!("{delivered:?}")
    };
    assert_eq!(pass.candidates, CandidatesUsed::All);
    assert!(
        before == sites.disk(az, "root"),
        "the old file stands until the start"
    );
    az.ok(sites.order(2, Command::Start { stop: record })).await;
    sites.same_disks();
    let committed = az.ok(sites.order(2, Command::Commit {})).await;
    let OrderResult::Committed { record: commit } = committed else {
        panic!("{committed:?}")
    };
    hv.ok(sites.order(2, Command::Retire { commit })).await;
    assert_eq!(
        sites.replicate(az, hv, 2).await.candidates,
        CandidatesUsed::Ranges
    );
}

/// Lets some bytes of one connection through, breaks it, and takes no other.
fn breaking(to: &str, after: u64) -> (String, std::thread::JoinHandle<()>) {
    use std::io::Read;
    use std::net::{Shutdown, TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, to) = (listener.local_addr().unwrap().to_string(), to.to_owned());
    let broken = std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        drop(listener);
        let far = TcpStream::connect(to).unwrap();
        let (mut from_far, mut to_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let back = std::thread::spawn(move || std::io::copy(&mut from_far, &mut to_near));
        std::io::copy(&mut (&near).take(after), &mut &far).unwrap();
        let _ = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
        let _ = back.join().unwrap();
    });
    (address, broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn s12_a_full_download_that_is_ordered_again_goes_on_where_it_was() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let record = sites.stop(hv, az, 2).await;
    let (through, broken) = breaking(&az.address().data, 3 * MIB as u64 / 2);
    let full = |data: String| {
        let peer = homeward::agent::api::PeerAddress {
            data,
            ..az.address()
        };
        let mode = DeliverMode::Full;
        sites.order(2, Command::Deliver { peer, mode })
    };
    let first = full(through);
    hv.client().order(first.vm, &first).await.unwrap();
    tokio::task::spawn_blocking(|| broken.join().unwrap())
        .await
        .unwrap();
    // A newer step: as after the source's agent has died, or an operator who has ordered anew.
    let OrderResult::Delivered { pass } = hv.ok(full(az.address().data)).await else {
        panic!()
    };
    // Half of the disks is zeros: three MiB travel in all, and half of them have arrived.
    assert!(pass.bytes_resumed > 2 * MIB as u64, "{pass:?}");
    assert!(pass.bytes_sent < 2 * MIB as u64, "{pass:?}");
    az.ok(sites.order(2, Command::Start { stop: record })).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_turning_back_after_the_start() {
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
    let late = sites.order(
        2,
        Command::Start {
            stop: record.clone(),
        },
    );
    az.ok(sites.order(2, Command::Start { stop: record })).await;
    az.fake.write(VM, "root", 0, b"to be dropped");

    let fenced = az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    assert!(fence.was_started && !az.fake.running(VM));
    let resumed = hv.ok(sites.order(3, Command::Resume { fence })).await;
    assert_eq!(resumed, OrderResult::Resumed { running: true });
    assert!(hv.fake.running(VM));
    assert_eq!(az.give(late).await.unwrap_err().kind, RefusalKind::Stale);

    az.ok(sites.order(3, Command::Undo {})).await;
    hv.fake.write(VM, "root", 300_000, b"went on at home");
    sites.replicate(hv, az, 3).await;
    sites.same_disks();
    assert!(!sites.disk(az, "root").starts_with(b"to be dropped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn turning_back_before_the_start_brings_the_replica_back() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.fake.write(VM, "root", 0, b"home");
    sites.stop(hv, az, 2).await;
    let fenced = az.ok(sites.order(3, Command::Fence {})).await;
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    assert!(!fence.was_started);
    hv.ok(sites.order(3, Command::Resume { fence })).await;
    az.ok(sites.order(3, Command::Undo {})).await;
    assert_eq!(az.vm().await.content.kind, ContentKind::Whole);
    assert!(hv.fake.running(VM));
    sites.replicate(hv, az, 3).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_off_moves_off() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.ok(sites.order(
        1,
        Command::Power {
            state: PowerSwitch::Off,
            force: false,
            on_other_disks: false,
        },
    ))
    .await;
    sites.replicate(hv, az, 1).await;
    let record = sites.stop(hv, az, 2).await;
    assert!(!record.was_running && record.proof == StopProof::WasOff);
    hv.ok(sites.order(
        2,
        Command::Deliver {
            peer: az.address(),
            mode: DeliverMode::Delta,
        },
    ))
    .await;
    az.ok(sites.order(2, Command::Start { stop: record })).await;
    assert!(!az.fake.running(VM));
    az.ok(sites.order(2, Command::Commit {})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detach_touches_nothing_and_the_register_stays() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    for host in [hv, az] {
        host.ok(sites.order(1, Command::Detach {})).await;
    }
    let vm = hv.vm().await;
    assert!(hv.fake.running(VM) && vm.register.unwrap().claim.is_none());
    assert!(
        vm.replication
            .is_some_and(|replication| replication.next_at.is_some()),
        "replication goes on"
    );
    let refused = hv
        .give(sites.order(1, Command::Pause {}))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NotClaimed);
    hv.ok(sites.order(1, Command::Adopt { takeover: None }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rollback_would_drop_is_told_over_power_cycles() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let told = async || az.vm().await.written_since_start;
    assert_eq!(hv.vm().await.written_since_start, None, "no start waits");
    sites.cut_over(hv, az, 2).await;
    assert_eq!(told().await, Some(0));
    az.fake.write(VM, "root", 0, b"first");
    assert_eq!(told().await, Some(65_536));
    let power = |state| Command::Power {
        state,
        force: false,
        on_other_disks: false,
    };
    az.ok(sites.order(2, power(PowerSwitch::Off))).await;
    assert_eq!(told().await, Some(65_536), "while it is off");
    az.ok(sites.order(2, power(PowerSwitch::On))).await;
    az.fake.write(VM, "data", 0, b"second");
    assert_eq!(told().await, Some(2 * 65_536));
    // From inside, and started again.
    az.fake.shut_down(VM);
    assert_eq!(told().await, Some(2 * 65_536));
    az.ok(sites.order(2, power(PowerSwitch::On))).await;
    az.fake.write(VM, "data", 0, b"third");
    assert_eq!(told().await, Some(3 * 65_536));
    // Its process is gone, and with it what it would have told: no figure rather than a wrong one.
    az.fake.reboot();
    assert_eq!(told().await, None);
    az.ok(sites.order(2, power(PowerSwitch::On))).await;
    assert_eq!(told().await, None);
}

/// A VM that is off is not read again and again; what somebody writes to its disks meanwhile travels all the same, by the next pass or, where it
/// could not be seen, at the stop.
#[tokio::test(flavor = "multi_thread")]
async fn disks_of_a_vm_that_is_off_are_read_when_they_were_written_to() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    hv.ok(sites.order(
        1,
        Command::Power {
            state: PowerSwitch::Off,
            force: false,
            on_other_disks: false,
        },
    ))
    .await;
    let still = async || {
        // Files that were written to a moment ago tell nothing yet.
        loop {
            let pass = sites.replicate(hv, az, 1).await;
            if pass.candidates == CandidatesUsed::Ranges {
                return pass;
            }
        }
    };
    let pass = still().await;
    assert_eq!(pass.bytes_changed, 0, "{}", pass.candidates_reason);
    let path = sites.path(hv, "root");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"by hand", 300_000).unwrap();
    let pass = sites.replicate(hv, az, 1).await;
    assert_eq!(
        (pass.candidates, pass.bytes_changed),
        (CandidatesUsed::All, 65_536),
        "{}",
        pass.candidates_reason
    );
    sites.same_disks();
    still().await;
    // As by a tool that hides its write.
    let times = file.metadata().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"unseen", 600_000).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(times.modified().unwrap()))
        .unwrap();
    let record = sites.stop(hv, az, 2).await;
    assert_eq!(record.manifest, ManifestSource::Read);
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

/// S1, S2: however many come at once, one takes the step, and the register says which.
#[tokio::test(flavor = "multi_thread")]
async fn s01_of_orders_that_come_at_once_with_one_step_one_is_taken() {
    let sites = Sites::protected().await;
    for _ in 0..12 {
        let step = sites.next_step();
        let order = |seconds: u64| Order {
            step,
            ..sites.order(
                1,
                Command::Replicate {
                    peer: sites.az.address(),
                    interval_seconds: seconds,
                    immediate: false,
                },
            )
        };
        let given = (0..8).map(|number| {
            let seconds = 3_000 + number;
            let order = order(seconds);
            let hv = &sites.hv;
            async move { (seconds, hv.give(order).await) }
        });
        let answers = futures::future::join_all(given).await;
        let (taken, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(_, answer)| answer.is_ok());
        assert_eq!(taken.len(), 1, "{taken:?}");
        for (_, refusal) in refused {
            assert_eq!(refusal.unwrap_err().kind, RefusalKind::StepReused);
        }
        let vm = sites.hv.vm().await;
        assert_eq!(vm.register.unwrap().step, step);
        assert_eq!(
            vm.replication.unwrap().interval_seconds,
            taken[0].0,
            "what was taken is what is done"
        );
    }
}
