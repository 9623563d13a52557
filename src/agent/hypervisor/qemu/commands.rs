//! The QMP commands that are sent, as data, and the names of all nodes, devices and exports. Pure.
//!
//! ```text
//!     dev0 --(drive)--> disk0 --> file0             a running guest; bitmaps named after generations live on disk0
//!
//!     dev0 --(drive)--> before0 --> disk0 --> file0   during a point in time (S15)
//!                          |  \---> scratch0          what the guest overwrites is copied here first
//!     export0 --> point0 --/                          reads as the disk was at the point
//! ```

use std::path::Path;

use serde_json::{Value, json};

use super::ranges::BLOCK;
use crate::agent::hypervisor::Generation;

/// A bitmap that holds a copy of what was dirty when the guest had powered off.
pub const FINAL_BITMAP: &str = "homeward-final";
/// A bitmap that was empty then: any bit in it is a write after the end.
pub const WATCH_BITMAP: &str = "homeward-watch";

/// The protocol node of disk `index`.
#[must_use]
pub fn file_node(index: usize) -> String {
    format!("file{index}")
}

/// The format node of disk `index`; the bitmaps are here.
#[must_use]
pub fn disk_node(index: usize) -> String {
    format!("disk{index}")
}

/// The device of disk `index`.
#[must_use]
pub fn device(index: usize) -> String {
    format!("dev{index}")
}

/// The copy-before-write filter of disk `index`.
#[must_use]
pub fn before_node(index: usize) -> String {
    format!("before{index}")
}

/// The scratch node of disk `index`.
#[must_use]
pub fn scratch_node(index: usize) -> String {
    format!("scratch{index}")
}

/// The node of disk `index` that reads as it was at the point.
#[must_use]
pub fn point_node(index: usize) -> String {
    format!("point{index}")
}

/// The bitmap of a generation.
#[must_use]
pub fn bitmap(generation: Generation) -> String {
    generation.to_string()
}

/// One command.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its arguments, an object or null.
    pub arguments: Value,
}

impl Command {
    /// A command with arguments.
    #[must_use]
    pub fn new(name: &'static str, arguments: Value) -> Self {
        Self { name, arguments }
    }

    /// A command without.
    #[must_use]
    pub fn bare(name: &'static str) -> Self {
        Self {
            name,
            arguments: Value::Null,
        }
    }
}

/// Several actions, all or none, no write of the guest in between.
#[must_use]
pub fn transaction(actions: &[Value]) -> Command {
    Command::new("transaction", json!({ "actions": actions }))
}

/// Action: a new empty bitmap.
#[must_use]
pub fn add_bitmap(index: usize, name: &str, disabled: bool) -> Value {
    json!({"type": "block-dirty-bitmap-add",
        "data": {"node": disk_node(index), "name": name, "granularity": BLOCK, "persistent": false, "disabled": disabled}})
}

/// Action: a bitmap stops recording.
#[must_use]
pub fn disable_bitmap(index: usize, name: &str) -> Value {
    json!({"type": "block-dirty-bitmap-disable", "data": {"node": disk_node(index), "name": name}})
}

/// Action: a bitmap records again.
#[must_use]
pub fn enable_bitmap(index: usize, name: &str) -> Value {
    json!({"type": "block-dirty-bitmap-enable", "data": {"node": disk_node(index), "name": name}})
}

/// Action: the bits of `from` are added to `into`.
#[must_use]
pub fn merge_bitmap(index: usize, into: &str, from: &str) -> Value {
    json!({"type": "block-dirty-bitmap-merge", "data": {"node": disk_node(index), "target": into, "bitmaps": [from]}})
}

/// Action: a bitmap is removed.
#[must_use]
pub fn remove_bitmap(index: usize, name: &str) -> Value {
    json!({"type": "block-dirty-bitmap-remove", "data": {"node": disk_node(index), "name": name}})
}

/// The scratch node and the filter of disk `index`, not yet in the guest's way.
#[must_use]
pub fn prepare_point(index: usize, scratch: &Path, timeout_seconds: u64) -> [Command; 2] {
    [
        Command::new(
            "blockdev-add",
            json!({"driver": "raw", "node-name": scratch_node(index), "file": {"driver": "file", "filename": scratch}}),
        ),
        // S15: without on-cbw-error a full scratch area fails the guest's writes; without cbw-timeout a slow one holds them up.
        Command::new(
            "blockdev-add",
            json!({"driver": "copy-before-write", "node-name": before_node(index), "file": disk_node(index), "target": scratch_node(index),
                "on-cbw-error": "break-snapshot", "cbw-timeout": timeout_seconds}),
        ),
    ]
}

/// Lets the device of disk `index` use the node `node`.
#[must_use]
pub fn set_drive(index: usize, node: &str) -> Command {
    Command::new(
        "qom-set",
        json!({"path": format!("/machine/peripheral/{}", device(index)), "property": "drive", "value": node}),
    )
}

/// Asks which node the device of disk `index` uses.
#[must_use]
pub fn get_drive(index: usize) -> Command {
    Command::new(
        "qom-get",
        json!({"path": format!("/machine/peripheral/{}", device(index)), "property": "drive"}),
    )
}

/// The switch to a point in time, for one write to the monitor.
///
/// The guest stands still between the first and the last command, so nothing new is asked of the disks and every write whose end the
/// guest has seen is before the point on all of them. What was under way may go on in between and land before or after the point of its
/// own disk, as at a power cut. The new bitmaps begin BEFORE the filters and the old ones end AFTER them: a write in between is in both,
/// never in none (S13), wherever the sequence is cut off.
#[must_use]
pub fn switch(disks: usize, old: Option<Generation>, new: Generation) -> Vec<Command> {
    let mut commands = vec![Command::bare("stop")];
    let begin: Vec<_> = (0..disks)
        .map(|index| add_bitmap(index, &bitmap(new), false))
        .collect();
    commands.push(transaction(&begin));
    commands.extend((0..disks).map(|index| set_drive(index, &before_node(index))));
    if let Some(old) = old {
        let end: Vec<_> = (0..disks)
            .map(|index| disable_bitmap(index, &bitmap(old)))
            .collect();
        commands.push(transaction(&end));
    }
    commands.push(Command::bare("cont"));
    commands
}

/// The readable nodes and their exports, with the bitmap of the generation that ended at the point.
#[must_use]
pub fn publish(disks: usize, socket: &Path, old: Option<Generation>) -> Vec<Command> {
    let mut commands: Vec<_> = (0..disks)
        .map(|index| {
            Command::new("blockdev-add", json!({"driver": "snapshot-access", "node-name": point_node(index), "file": before_node(index)}))
        })
        .collect();
    commands.push(start_server(socket));
    commands.extend((0..disks).map(|index| {
        let bitmaps = old
            .map(|old| json!({"node": disk_node(index), "name": bitmap(old)}))
            .into_iter()
            .collect::<Vec<_>>();
        export(index, &point_node(index), &bitmaps)
    }));
    commands
}

/// Starts the NBD server.
#[must_use]
pub fn start_server(socket: &Path) -> Command {
    Command::new(
        "nbd-server-start",
        json!({"addr": {"type": "unix", "data": {"path": socket}}}),
    )
}

/// A read-only export of `node`, under the name of the disk.
#[must_use]
pub fn export(index: usize, node: &str, bitmaps: &[Value]) -> Command {
    Command::new(
        "block-export-add",
        json!({"type": "nbd", "id": format!("export{index}"), "node-name": node, "name": disk_node(index), "writable": false, "bitmaps": bitmaps}),
    )
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn s13_at_no_moment_of_the_switch_is_a_write_recorded_nowhere() {
        let names: Vec<_> = switch(2, Some(Uuid::from_u128(1)), Uuid::from_u128(2))
            .into_iter()
            .map(|command| match command.name {
                "transaction" => command.arguments["actions"][1]["type"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
                "qom-set" => command.arguments["value"].as_str().unwrap().to_owned(),
                name => name.to_owned(),
            })
            .collect();
        assert_eq!(
            names,
            [
                "stop",
                "block-dirty-bitmap-add",
                "before0",
                "before1",
                "block-dirty-bitmap-disable",
                "cont"
            ]
        );
    }

    #[test]
    fn s15_a_filter_breaks_the_point_and_never_the_guest() {
        let [_, filter] = prepare_point(0, Path::new("/s"), 15);
        assert_eq!(filter.arguments["on-cbw-error"], "break-snapshot");
        assert_eq!(filter.arguments["cbw-timeout"], 15);
    }
}
