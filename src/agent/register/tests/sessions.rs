//! Which data session is let in (safety rule S9).

use super::host::*;
use super::*;

#[test]
fn s09_older_data_sessions_are_refused() {
    let (hv, mut az, mut issued) = owner_and_replica();
    let ask = |host: &Host, epoch, step| {
        let session = SessionRequest {
            vm: VM,
            id: StepId { epoch, step },
            names: &[HOSTS[0].into()],
        };
        admit_session(host.register.as_ref(), session, Timestamp::UNIX_EPOCH)
            .map_err(|refusal| refusal.kind)
    };
    assert_eq!(ask(&Host::new("x"), 1, 1), Err(RefusalKind::NoRegister));
    assert_eq!(ask(&hv, 1, 1), Err(RefusalKind::WrongRole));
    az.register = ask(&az, 1, 5).unwrap();
    assert_eq!(ask(&az, 1, 5), Ok(None));
    assert_eq!(ask(&az, 1, 4), Err(RefusalKind::Stale));
    az.order(&order(3, 1, Command::Fence {})).unwrap();
    assert_eq!(
        ask(&az, 3, 1),
        Err(RefusalKind::WrongRole),
        "the fence has not ended"
    );
    az.settle(&mut issued);
    assert_eq!(ask(&az, 2, 9), Err(RefusalKind::Stale));
    assert!(ask(&az, 3, 1).is_ok());
}

#[test]
fn s09_only_the_owner_sends_data_and_not_from_far_beyond() {
    let (mut hv, mut az, mut issued) = moved();
    az.order(&order(2, 4, Command::Commit {})).unwrap();
    let commit = az.register.as_ref().unwrap().commit.clone().unwrap();
    az.settle(&mut issued);
    hv.order(&order(2, 5, Command::Retire { commit })).unwrap();
    hv.settle(&mut issued);
    let ask = |host: &Host, name: &str, epoch| {
        let session = SessionRequest {
            vm: VM,
            id: StepId { epoch, step: 9 },
            names: &[name.into()],
        };
        admit_session(host.register.as_ref(), session, Timestamp::UNIX_EPOCH)
            .map_err(|refusal| refusal.kind)
    };
    assert!(
        ask(&hv, HOSTS[1], 2).is_ok(),
        "whose commit it retired after"
    );
    assert!(ask(&hv, HOSTS[1], 3).is_ok(), "its next stop");
    assert!(
        ask(&hv, HOSTS[1], 18).is_ok(),
        "orders that never came here have taken the owner further"
    );
    for stranger in [HOSTS[0], "hv99"] {
        assert_eq!(ask(&hv, stranger, 2), Err(RefusalKind::NotAllowed));
    }
    for beyond in [19, u64::MAX] {
        assert_eq!(ask(&hv, HOSTS[1], beyond), Err(RefusalKind::WrongEpoch));
    }
    hv.register.as_mut().unwrap().owner = None;
    assert_eq!(ask(&hv, HOSTS[1], 2), Err(RefusalKind::NotAllowed));
}
