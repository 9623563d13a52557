use super::*;

fn run(site: &str, boot: u64, found: u64, acknowledged: &[(u64, u64)], end: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "BOOT site={site} last={found} boot={boot:016x} vm=web disks=2\nVERIFY ok last={found}\n"
    );
    for (number, time) in acknowledged {
        let _ = writeln!(text, "ACK {number} disk=web-0 site={site} t={time}");
    }
    text.push_str(end);
    text
}

fn history(here: &str, there: &str) -> History {
    History::of_consoles(&[
        (Site::OnPremises, here.to_owned()),
        (Site::Azure, there.to_owned()),
    ])
    .unwrap()
}

fn report(records: &[(u64, u64)]) -> Report {
    use crate::records::{Kind, Record};
    Report {
        last: records.last().map_or(0, |(number, _)| *number),
        records: records
            .iter()
            .map(|(number, boot)| Record {
                number: *number,
                previous: 0,
                boot: *boot,
                set: 1,
                unix_nanoseconds: 0,
                scribbles: 0,
                disk: 0,
                kind: Kind::Beat,
                site: String::new(),
                vm: "web".into(),
                checksum: 0,
            })
            .collect(),
        ..Report::default()
    }
}

#[test]
fn a_move_and_back_is_three_runs_in_a_row() {
    let here = run("OnPremises", 1, 0, &[(1, 10), (2, 20)], "STOPPED last=2\n")
        + &run("OnPremises", 3, 4, &[(5, 50)], "");
    let there = run("Azure", 2, 2, &[(3, 30), (4, 40)], "STOPPED last=4\n");
    let history = history(&here, &there);
    history.never_two_at_once().unwrap();
    assert_eq!(
        history.sites(),
        [Site::OnPremises, Site::Azure, Site::OnPremises]
    );
    assert_eq!(history.acknowledged(), 5);
    let none = BTreeSet::new();
    let all = [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)];
    assert_eq!(history.records_are_there(&report(&all), &none).unwrap(), 5);
    let error = history
        .records_are_there(&report(&all[..4]), &none)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("record 5, acknowledged at OnPremises"),
        "{error}"
    );
    // The ring went on: the chain stands for the first ones.
    assert_eq!(
        history
            .records_are_there(&report(&all[2..]), &none)
            .unwrap(),
        3
    );
}

#[test]
fn two_at_once_are_found_out() {
    let here = run("OnPremises", 1, 0, &[(1, 10), (2, 31)], "");
    let there = run("Azure", 2, 1, &[(2, 30), (3, 40)], "");
    let error = history(&here, &there).never_two_at_once().unwrap_err();
    assert!(
        error.to_string().starts_with("two guests at once"),
        "{error}"
    );
}

fn log_line(second: u32, what: &str, vm: uuid::Uuid, epoch: u32) -> String {
    format!(
        "2026-01-01T00:00:{second:02}.000001Z  INFO homeward::agent::orders: guest {what} vm={vm} epoch={epoch} step=3\n"
    )
}

#[test]
fn agents_logs_tell_of_two_at_once() {
    let vm = uuid::Uuid::new_v4();
    let logs = |here: &[(u32, &str, u32)], there: &[(u32, &str, u32)]| {
        [(Site::OnPremises, here), (Site::Azure, there)].map(|(site, lines)| {
            let lines = lines
                .iter()
                .map(|(second, what, epoch)| log_line(*second, what, vm, *epoch));
            (site, lines.collect::<String>())
        })
    };
    let good = logs(
        &[(1, "started", 1), (3, "stopped", 2), (9, "started", 3)],
        &[(4, "started", 2), (8, "stopped", 3)],
    );
    assert_eq!(agents_never_two_at_once(&good, vm).unwrap(), 3);
    assert_eq!(
        agents_never_two_at_once(&good, uuid::Uuid::new_v4()).unwrap(),
        0
    );
    let early = logs(
        &[(1, "started", 1), (5, "stopped", 2)],
        &[(4, "started", 2)],
    );
    assert!(agents_never_two_at_once(&early, vm).is_err());
    let twice = logs(
        &[(1, "started", 2), (3, "stopped", 2)],
        &[(4, "started", 2)],
    );
    assert!(agents_never_two_at_once(&twice, vm).is_err());
}

#[test]
fn agents_logs_tell_of_an_order_that_was_carried_out_twice() {
    let vm = uuid::Uuid::new_v4();
    let ended = |epoch: u32, step: u32| {
        format!(
            "2026-01-01T00:00:00.000001Z  INFO homeward::agent::orders: order succeeded vm={vm} epoch={epoch} step={step} kind=Stop\n"
        )
    };
    let logs = |here: &[(u32, u32)], there: &[(u32, u32)]| {
        [(Site::OnPremises, here), (Site::Azure, there)].map(|(site, orders)| {
            let lines = orders.iter().map(|(epoch, step)| ended(*epoch, *step));
            (site, lines.collect::<String>())
        })
    };
    // One action may be an order for each side.
    let good = logs(&[(1, 1), (1, 2), (2, 1)], &[(1, 2)]);
    assert_eq!(no_order_twice(&good, vm).unwrap(), 4);
    assert_eq!(no_order_twice(&good, uuid::Uuid::new_v4()).unwrap(), 0);
    assert!(no_order_twice(&logs(&[(1, 1), (2, 1), (1, 1)], &[]), vm).is_err());
}

#[test]
fn what_a_run_did_not_find_was_lost_or_taken_back() {
    let here =
        run("OnPremises", 1, 0, &[(1, 10), (2, 20)], "") + &run("OnPremises", 3, 2, &[(3, 50)], "");
    let there = run("Azure", 2, 2, &[(3, 30), (4, 40)], "");
    let history = history(&here, &there);
    assert_eq!(history.taken_back(), BTreeSet::from([2]));
    history.nothing_was_lost(&history.taken_back()).unwrap();
    let error = history.nothing_was_lost(&BTreeSet::new()).unwrap_err();
    assert!(error.to_string().contains("found 2 records"), "{error}");
}

/// The target's host lost its power before the rollback, and started the guest again.
#[test]
fn two_runs_of_one_rollback_are_both_taken_back() {
    let here =
        run("OnPremises", 1, 0, &[(1, 10), (2, 20)], "") + &run("OnPremises", 4, 2, &[(3, 70)], "");
    let there = run("Azure", 2, 2, &[(3, 30), (4, 40)], "") + &run("Azure", 3, 4, &[(5, 50)], "");
    let history = history(&here, &there);
    assert_eq!(history.rollbacks(), [BTreeSet::from([2, 3])]);
    history.nothing_was_lost(&history.taken_back()).unwrap();
    history.nothing_was_lost(&BTreeSet::from([3])).unwrap_err();
}

#[test]
fn a_run_that_was_taken_back_left_nothing() {
    let here = run("OnPremises", 1, 0, &[(1, 10)], "STOPPED last=1\n")
        + &run("OnPremises", 3, 1, &[(2, 50)], "");
    let there = run("Azure", 2, 1, &[(2, 30), (3, 40)], "");
    let history = history(&here, &there);
    let dropped = BTreeSet::from([2]);
    assert_eq!(
        history
            .records_are_there(&report(&[(1, 1), (2, 3)]), &dropped)
            .unwrap(),
        2
    );
    assert!(
        history
            .records_are_there(&report(&[(1, 1), (2, 2), (3, 2)]), &dropped)
            .is_err()
    );
    assert!(
        history
            .records_are_there(&report(&[(1, 1), (2, 3)]), &BTreeSet::new())
            .is_err()
    );
}

#[test]
fn a_guest_that_found_its_disks_torn_is_heard() {
    let here = "BOOT site=OnPremises last=9 boot=01 vm=web disks=2\nVERIFY FAIL last=9 missing=4\n";
    let error = history(here, "").never_two_at_once().unwrap_err();
    assert!(error.to_string().contains("missing=4"), "{error}");
}

#[test]
fn changes_are_counted_in_blocks_past_holes() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("a.raw");
    let file = File::create_new(&old).unwrap();
    let length = 40 * BLOCK as u64 + 512;
    file.set_len(length).unwrap();
    file.write_all_at(b"x", 3 * BLOCK as u64).unwrap();
    let copies = copy_disks(std::slice::from_ref(&old), &folder.path().join("copy")).unwrap();
    let olds = [old];
    assert_eq!(changed_bytes(&olds, &copies).unwrap(), 0);
    let copy = File::options().write(true).open(&copies[0]).unwrap();
    for at in [5, 3 * BLOCK as u64, 20 * BLOCK as u64 - 1, length - 1] {
        copy.write_all_at(b"y", at).unwrap();
    }
    assert_eq!(
        changed_bytes(&olds, &copies).unwrap(),
        3 * BLOCK as u64 + 512
    );
    assert_eq!(
        changed_bytes(&copies, &olds).unwrap(),
        3 * BLOCK as u64 + 512
    );
    copy.set_len(length + 1).unwrap();
    assert!(changed_bytes(&olds, &copies).is_err());
}

#[test]
fn what_was_sent_is_read_from_the_agents_log() {
    let vm = uuid::Uuid::from_u128(7);
    let log = format!(
        "2026-01-01T00:00:00Z  INFO homeward::agent::replication: pass began vm={vm} pass=1\n\
         2026-01-01T00:00:01Z  INFO homeward::agent::replication: pass is whole vm={vm} pass=1 bytes_changed=9 bytes_sent=10\n\
         2026-01-01T00:00:02Z  INFO homeward::agent::replication: pass is whole vm={} pass=2 bytes_changed=1 bytes_sent=1000\n\
         2026-01-01T00:00:03Z  INFO homeward::agent::replication: pass is whole vm={vm} pass=3 bytes_changed=1 bytes_sent=2\n",
        uuid::Uuid::from_u128(8)
    );
    assert_eq!(bytes_passed(&log, vm).unwrap(), 12);
    let torn = format!("x: pass is whole vm={vm}\n");
    assert!(bytes_passed(&torn, vm).is_err());
}
