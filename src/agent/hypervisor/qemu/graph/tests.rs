use serde_json::json;

use super::super::files::{RecordedDisk, Stage, VERSION};
use super::*;

const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);

fn disk(index: usize, bitmaps: &[(Uuid, bool)]) -> Value {
    let bitmaps: Vec<_> = bitmaps
        .iter()
        .map(|(name, recording)| {
            json!({"name": name.to_string(), "recording": recording, "persistent": false, "busy": false, "granularity": 65536, "count": 65536})
        })
        .collect();
    json!({"node-name": format!("disk{index}"), "image": {"virtual-size": 1_048_576, "filename": "x"}, "dirty-bitmaps": bitmaps})
}

fn graph(disks: &[Value]) -> Graph {
    Graph::parse(json!(disks)).unwrap()
}

fn process() -> ProcessRecord {
    let disks = ["a", "b"].map(|id| RecordedDisk {
        id: id.into(),
        path: format!("/{id}").into(),
    });
    ProcessRecord {
        version: VERSION,
        stage: Stage::Started,
        boot_id: String::new(),
        pid_namespace: String::new(),
        pid: None,
        start_ticks: None,
        arguments: vec![],
        disks: disks.into(),
    }
}

fn tracking() -> TrackingRecord {
    let sizes: BTreeMap<_, _> = ["a", "b"].map(|id| (id.to_owned(), 1_048_576)).into();
    TrackingRecord {
        version: VERSION,
        generations: [(OLD, sizes.clone()), (NEW, sizes)].into(),
    }
}

fn point() -> PointRecord {
    PointRecord {
        version: VERSION,
        asked: Some(OLD),
        old: Some(OLD),
        new: NEW,
        scratch: vec![],
    }
}

fn kinds(actions: &[Value]) -> Vec<String> {
    actions
        .iter()
        .map(|action| {
            action["type"]
                .as_str()
                .unwrap()
                .trim_start_matches("block-dirty-bitmap-")
                .to_owned()
        })
        .collect()
}

#[test]
fn s13_a_generation_holds_only_when_every_disk_records_it() {
    let sizes = [1_048_576; 2];
    let holds = |disks: &[Value]| graph(disks).holds(&process(), &tracking(), &sizes, OLD);
    assert_eq!(
        holds(&[disk(0, &[(OLD, true)]), disk(1, &[(OLD, true)])]),
        Ok(())
    );
    assert_eq!(
        holds(&[disk(0, &[(OLD, true)]), disk(1, &[(OLD, false)])]),
        Err(LostGeneration::Missing { disk: "b".into() })
    );
    assert_eq!(
        holds(&[disk(0, &[]), disk(1, &[(OLD, true)])]),
        Err(LostGeneration::Missing { disk: "a".into() })
    );
    assert_eq!(
        holds(&[disk(0, &[(OLD, true)])]),
        Err(LostGeneration::Missing { disk: "b".into() })
    );
}

#[test]
fn s14_a_generation_does_not_outlive_a_change_of_size() {
    let graph = graph(&[disk(0, &[(OLD, true)]), disk(1, &[(OLD, true)])]);
    let grown = graph.holds(&process(), &tracking(), &[1_048_576, 2_097_152], OLD);
    assert_eq!(
        grown,
        Err(LostGeneration::Resized {
            disk: "b".into(),
            was: 1_048_576,
            is: 2_097_152
        })
    );
    assert_eq!(
        graph.holds(&process(), &TrackingRecord::default(), &[1_048_576; 2], OLD),
        Err(LostGeneration::OtherDisks)
    );
}

#[test]
fn s13_a_failed_point_merges_back_and_a_delivered_one_drops() {
    let during = graph(&[
        disk(0, &[(OLD, false), (NEW, true)]),
        disk(1, &[(OLD, false), (NEW, true)]),
    ]);
    assert_eq!(
        kinds(&during.settle(2, &point(), Settle::Failed)),
        ["enable", "merge", "remove", "enable", "merge", "remove"]
    );
    assert_eq!(
        kinds(&during.settle(2, &point(), Settle::Unknown)),
        ["enable", "merge", "enable", "merge"]
    );
    assert_eq!(
        kinds(&during.settle(2, &point(), Settle::Delivered)),
        ["remove", "remove"]
    );
    assert_eq!(during.dirty_bytes(2, OLD, Some(&point())), Some(4 * 65536));
    assert_eq!(during.dirty_bytes(2, NEW, Some(&point())), Some(2 * 65536));
}

#[test]
fn generations_that_earlier_deaths_left_do_not_pile_up() {
    let stray = Uuid::from_u128(3);
    let during = graph(&[disk(0, &[(OLD, false), (NEW, true), (stray, true)])]);
    assert_eq!(
        kinds(&during.settle(1, &point(), Settle::Unknown)),
        ["enable", "merge", "remove"]
    );
    assert_eq!(
        kinds(&during.settle(1, &point(), Settle::Delivered)),
        ["remove", "remove"]
    );
    let untracked = PointRecord {
        old: None,
        ..point()
    };
    assert!(during.settle(1, &untracked, Settle::Unknown).is_empty());
}

#[test]
fn s13_a_disabled_bitmap_without_its_successor_is_dropped() {
    let half = graph(&[
        disk(0, &[(OLD, false), (NEW, true)]),
        disk(1, &[(OLD, false)]),
    ]);
    let actions = half.settle(2, &point(), Settle::Unknown);
    assert!(
        kinds(&actions).iter().all(|kind| kind == "remove"),
        "{actions:?}"
    );
    // Without the new generation on all disks nothing is dropped for being delivered.
    let before = graph(&[disk(0, &[(OLD, true)]), disk(1, &[(OLD, true)])]);
    assert!(before.settle(2, &point(), Settle::Delivered).is_empty());
}

#[test]
fn the_reader_of_a_filter_goes_before_the_filter() {
    let mut nodes = vec![disk(0, &[])];
    for name in ["before0", "scratch0", "point0"] {
        nodes.push(json!({"node-name": name, "image": {"virtual-size": 1}}));
    }
    let names: Vec<_> = graph(&nodes)
        .unwind(&["before0".to_owned()])
        .into_iter()
        .map(|command| {
            command
                .arguments
                .get("node-name")
                .or(command.arguments.get("value"))
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(names, ["point0", "disk0", "before0", "scratch0"]);
    assert!(
        graph(&[disk(0, &[])])
            .unwind(&["disk0".to_owned()])
            .is_empty()
    );
}
