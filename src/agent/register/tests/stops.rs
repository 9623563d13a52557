//! What a stop proves (safety rule S3).

use super::host::*;
use super::*;

#[test]
fn s03_a_start_needs_the_record_and_the_content() {
    let (hv, mut az, issued) = stopped();
    let stop = issued.stops[0].clone();
    let start = |stop: &StopRecord, epoch| order(epoch, 9, start_of(stop));
    assert_eq!(
        kind(az.order(&start(&stop, 2))),
        RefusalKind::ContentMismatch
    );
    deliver(&hv, &mut az, 2).unwrap();
    assert_eq!(kind(az.order(&start(&stop, 3))), RefusalKind::WrongEpoch);
    assert_eq!(
        kind(az.order(&start(
            &StopRecord {
                target: HOSTS[2].into(),
                ..stop.clone()
            },
            2
        ))),
        RefusalKind::WrongRecord
    );
    az.content += 1;
    assert_eq!(
        kind(az.order(&start(&stop, 2))),
        RefusalKind::ContentMismatch
    );
    az.content -= 1;
    let mut more = stop.clone();
    more.disks.push(DiskShape {
        id: "data".into(),
        size_bytes: 512,
    });
    assert_eq!(
        kind(az.order(&start(&more, 2))),
        RefusalKind::DisksDiffer,
        "S14"
    );
    az.order(&start(&stop, 2)).unwrap();
}

#[test]
fn s03_a_silent_hypervisor_is_not_a_stopped_guest() {
    let (hv, ..) = owner_and_replica();
    let definition = definition();
    let facts = Facts {
        host: hv.name,
        boot_id: "boot",
        now: Timestamp::UNIX_EPOCH,
        definition: Some(&definition),
        power: Power::Unknown,
        power_reason: Some("process 42 runs it"),
        content: None,
    };
    let stop = |force| {
        order(
            2,
            1,
            Command::Stop {
                target: HOSTS[1].into(),
                force,
            },
        )
    };
    let refused = admit(hv.register.as_ref(), &stop(false), &facts).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::PowerUnknown);
    let adopt = order(1, 1, Command::Adopt { takeover: None });
    let not_taken_on = admit(None, &adopt, &facts).unwrap_err();
    assert_eq!(not_taken_on.kind, RefusalKind::PowerUnknown);
    for message in [refused.message, not_taken_on.message] {
        assert!(message.contains("(process 42 runs it)"), "{message}");
    }
    let Ok(Admission::Accepted(next)) = admit(hv.register.as_ref(), &stop(true), &facts) else {
        panic!("force")
    };
    assert_eq!(
        next.desired_power,
        PowerSwitch::On,
        "what was wanted is kept"
    );
}
