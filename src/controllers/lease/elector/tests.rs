use proptest::prelude::*;

use super::*;

fn terms(identity: &str) -> Terms {
    Terms {
        identity: identity.into(),
        duration: Duration::from_secs(15),
        renew_every: Duration::from_secs(5),
        retry_every: Duration::from_secs(2),
        margin: Duration::from_secs(3),
    }
}

fn record(version: &str, holder: Option<&str>) -> Record {
    Record {
        version: version.into(),
        holder: holder.map(Into::into),
        duration: Duration::from_secs(15),
        transitions: 4,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn what_a_candidate_does_with_what_it_reads() {
    let start = Instant::now();
    let replace = |version: &str, transitions| {
        Next::Ask(Ask::Replace {
            version: version.into(),
            transitions,
        })
    };
    let table = [
        ("none there", None, Next::Ask(Ask::Create)),
        ("released", Some(record("7", None)), replace("7", 5)),
        (
            "released by an empty name",
            Some(record("7", Some(""))),
            replace("7", 5),
        ),
        (
            "its own, from a write that was not heard of",
            Some(record("7", Some("me"))),
            replace("7", 4),
        ),
        (
            "another's",
            Some(record("7", Some("other"))),
            Next::Wait(start + seconds(2)),
        ),
    ];
    for (what, read, expected) in table {
        let mut elector = Elector::new(terms("me"), start);
        assert_eq!(elector.next(start), Next::Ask(Ask::Read), "{what}");
        elector.answered(Answer::Read(read), start, start);
        assert_eq!(elector.next(start), expected, "{what}");
        assert_eq!(elector.held_until(start), None, "{what}");
    }
}

#[test]
fn another_holder_is_waited_for_until_its_record_stood_still_for_its_whole_duration() {
    let start = Instant::now();
    let mut elector = Elector::new(terms("me"), start);
    elector.answered(Answer::Read(Some(record("7", Some("other")))), start, start);
    let later = start + seconds(14);
    elector.answered(Answer::Read(Some(record("8", Some("other")))), later, later);
    let at = later + seconds(14);
    elector.answered(Answer::Read(Some(record("8", Some("other")))), at, at);
    assert_eq!(
        elector.next(at),
        Next::Wait(at + seconds(2)),
        "it was renewed in between"
    );
    let at = later + seconds(15);
    elector.answered(Answer::Read(Some(record("8", Some("other")))), at, at);
    assert_eq!(
        elector.next(at),
        Next::Ask(Ask::Replace {
            version: "8".into(),
            transitions: 5
        })
    );
}

#[test]
fn a_claim_counts_from_before_the_request_and_ends_before_the_lease() {
    let start = Instant::now();
    let mut elector = Elector::new(terms("me"), start);
    elector.answered(Answer::Read(None), start, start);
    let answered = start + seconds(4);
    elector.answered(Answer::Written(record("1", Some("me"))), start, answered);
    assert_eq!(elector.held_until(answered), Some(start + seconds(12)));
    assert_eq!(elector.held_until(start + seconds(12)), None);
    assert_eq!(elector.next(answered), Next::Wait(start + seconds(5)));
    let renew = start + seconds(5);
    assert_eq!(
        elector.next(renew),
        Next::Ask(Ask::Replace {
            version: "1".into(),
            transitions: 4
        })
    );
    elector.answered(Answer::Failed, renew, renew);
    assert_eq!(
        elector.held_until(renew),
        Some(start + seconds(12)),
        "a failed renewal does not lengthen it"
    );
    let again = renew + seconds(2);
    assert_eq!(elector.next(again), Next::Ask(Ask::Read));
    elector.answered(Answer::Read(Some(record("9", Some("other")))), again, again);
    assert_eq!(elector.held_until(again), None, "another holder was seen");
}

#[test]
fn only_its_own_lease_is_released() {
    let start = Instant::now();
    let mut elector = Elector::new(terms("me"), start);
    assert_eq!(elector.release(), None);
    elector.answered(Answer::Read(Some(record("7", Some("other")))), start, start);
    assert_eq!(elector.release(), None);
    elector.answered(Answer::Written(record("8", Some("me"))), start, start);
    assert_eq!(elector.release(), Some(record("8", Some("me"))));
    assert_eq!(elector.held_until(start), None);
}

#[test]
fn terms_that_leave_no_room_for_a_second_attempt_are_refused() {
    assert!(terms("me").check().is_ok());
    for bad in [
        Terms {
            renew_every: seconds(10),
            ..terms("me")
        },
        Terms {
            identity: String::new(),
            ..terms("me")
        },
        Terms {
            duration: Duration::from_millis(900),
            ..terms("me")
        },
        Terms {
            retry_every: Duration::ZERO,
            ..terms("me")
        },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

/// What happens to one request on its way.
#[derive(Clone, Debug)]
struct Fate {
    there: u64,
    back: u64,
    lost: u8,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec(
        (0..4000u64, 0..4000u64, 0..10u8).prop_map(|(there, back, lost)| Fate {
            there,
            back,
            lost,
        }),
        20..200,
    )
}

/// A request on its way: when it reaches the server, when its answer is heard, and what it asks.
struct Flight {
    arrives: Duration,
    heard: Duration,
    reaches: bool,
    answer_lost: bool,
    began: Duration,
    ask: Ask,
    answer: Option<Answer>,
}

proptest! {
    /// Whatever is delayed or lost, there is never a moment in which two participants believe that they may act.
    #[test]
    fn never_two_at_once(fates in fates(), rates in (95u32..=105, 95u32..=105)) {
        let start = Instant::now();
        // Each has its own clock, up to 5 % fast or slow: less than the margin of 3 s in 15 s.
        let local = |real: Duration, rate: u32| start + real * rate / 100;
        let rates = [rates.0, rates.1];
        let mut electors = [Elector::new(terms("a"), start), Elector::new(terms("b"), start)];
        let mut flights: [Option<Flight>; 2] = [None, None];
        let mut lease: Option<Record> = None;
        let mut version = 0u64;
        let mut fates = fates.into_iter();
        let mut real = Duration::ZERO;
        'time: loop {
            for who in 0..2 {
                let now = local(real, rates[who]);
                if let Some(flight) = &mut flights[who] {
                    if flight.answer.is_none() && flight.reaches && real >= flight.arrives {
                        let name = ["a", "b"][who];
                        let granted = match &flight.ask {
                            Ask::Read => None,
                            Ask::Create => Some(lease.is_none().then_some(0)),
                            Ask::Replace { version, transitions } => {
                                let current = lease.as_ref().is_some_and(|lease| lease.version == *version);
                                Some(current.then_some(*transitions))
                            }
                        };
                        flight.answer = Some(match granted {
                            None => Answer::Read(lease.clone()),
                            Some(None) => Answer::Conflict,
                            Some(Some(transitions)) => {
                                version += 1;
                                let record = Record {
                                    version: version.to_string(),
                                    holder: Some(name.into()),
                                    duration: seconds(15),
                                    transitions,
                                };
                                lease = Some(record.clone());
                                Answer::Written(record)
                            }
                        });
                    }
                    if real >= flight.heard {
                        let flight = flights[who].take().unwrap();
                        let answer = flight.answer.filter(|_| !flight.answer_lost).unwrap_or(Answer::Failed);
                        electors[who].answered(answer, local(flight.began, rates[who]), now);
                    }
                }
                if flights[who].is_none() {
                    if let Next::Ask(ask) = electors[who].next(now) {
                        let Some(fate) = fates.next() else { break 'time };
                        flights[who] = Some(Flight {
                            arrives: real + Duration::from_millis(fate.there),
                            heard: real + Duration::from_millis(fate.there + fate.back),
                            reaches: fate.lost != 0,
                            answer_lost: fate.lost == 1,
                            began: real,
                            ask,
                            answer: None,
                        });
                    }
                }
            }
            let acting = [0, 1].map(|who| electors[who].held_until(local(real, rates[who])).is_some());
            prop_assert!(acting != [true, true], "both act after {real:?}");
            real += Duration::from_millis(50);
        }
    }
}
