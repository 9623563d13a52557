//! Whose order it is (safety rule S1).

use super::host::*;
use super::*;

#[test]
fn s01_an_equal_epoch_with_another_failover_is_refused() {
    let (mut hv, ..) = owner_and_replica();
    let other = Order {
        failover: Some("f9".into()),
        ..order(1, 9, Command::Pause {})
    };
    assert_eq!(kind(hv.order(&other)), RefusalKind::OtherFailover);
    let release = Order {
        failover: Some("f0".into()),
        ..order(1, 9, Command::Release {})
    };
    hv.order(&release).unwrap();
    hv.settle(&mut Issued::default());
    hv.order(&Order { step: 10, ..other }).unwrap();
}

#[test]
fn s01_a_claim_moves_only_by_takeover() {
    let (mut hv, ..) = owner_and_replica();
    let theirs = |step, command| Order {
        claim: Some(claim(1)),
        failover: None,
        ..order(1, step, command)
    };
    assert_eq!(
        kind(hv.order(&theirs(9, Command::Pause {}))),
        RefusalKind::Claimed
    );
    assert_eq!(
        kind(hv.order(&theirs(9, Command::Adopt { takeover: None }))),
        RefusalKind::Claimed
    );
    assert_eq!(
        kind(hv.order(&theirs(
            9,
            Command::Adopt {
                takeover: Some(claim(2))
            }
        ))),
        RefusalKind::Claimed
    );
    hv.order(&theirs(
        9,
        Command::Adopt {
            takeover: Some(claim(0)),
        },
    ))
    .unwrap();
    hv.settle(&mut Issued::default());
    assert_eq!(
        kind(hv.order(&order(1, 10, Command::Pause {}))),
        RefusalKind::Claimed
    );
    hv.order(&theirs(10, Command::Pause {})).unwrap();
    assert!(hv.running, "a takeover touches no guest");
}

#[test]
fn s01_a_third_host_cannot_let_the_source_resume() {
    let (mut hv, az, mut issued) = moved();
    let mut third = Host::new(HOSTS[2]);
    third.order(&order(3, 1, Command::Fence {})).unwrap();
    third.settle(&mut issued);
    let resume = order(
        3,
        2,
        Command::Resume {
            fence: issued.fences[0].clone(),
        },
    );
    assert_eq!(kind(hv.order(&resume)), RefusalKind::WrongRecord);
    assert!(az.running);
}
