//! What QEMU says about its nodes and bitmaps, and what follows from it. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::commands::{
    Command, FINAL_BITMAP, WATCH_BITMAP, add_bitmap, before_node, bitmap, disk_node, enable_bitmap,
    merge_bitmap, point_node, remove_bitmap, scratch_node, set_drive, transaction,
};
use super::files::{PointRecord, ProcessRecord, TrackingRecord};
use crate::agent::hypervisor::{Generation, LostGeneration};

/// A bitmap, of `query-named-block-nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bitmap {
    /// Filters have bitmaps of their own, without a name.
    #[serde(default)]
    pub name: String,
    /// Does it see new writes?
    pub recording: bool,
    /// Contents are not trustworthy.
    #[serde(default)]
    pub inconsistent: bool,
    /// Bytes that are dirty.
    pub count: u64,
    /// Bytes a bit.
    pub granularity: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Size in bytes.
    pub size: u64,
    /// Its named bitmaps.
    pub bitmaps: Vec<Bitmap>,
}

/// All named nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph(BTreeMap<String, Node>);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireNode {
    node_name: Option<String>,
    image: WireImage,
    #[serde(default)]
    dirty_bitmaps: Vec<Bitmap>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireImage {
    virtual_size: u64,
}

/// What is to become of the generations of a point that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// The target has it: only the new generation stays.
    Delivered,
    /// The target does not have it: the old generation stays, and includes everything.
    Failed,
    /// Not known: both stay, each right about itself.
    Unknown,
}

impl Graph {
    /// Reads the answer to `query-named-block-nodes` with `flat`.
    ///
    /// # Errors
    /// The words of the decoder.
    pub fn parse(answer: Value) -> Result<Self, String> {
        let nodes: Vec<WireNode> = serde_json::from_value(answer)
            .map_err(|error| format!("query-named-block-nodes: {error}"))?;
        let named = nodes.into_iter().filter_map(|mut node| {
            node.dirty_bitmaps.retain(|bitmap| !bitmap.name.is_empty());
            Some((
                node.node_name?,
                Node {
                    size: node.image.virtual_size,
                    bitmaps: node.dirty_bitmaps,
                },
            ))
        });
        Ok(Self(named.collect()))
    }

    /// Is there a node of this name?
    #[must_use]
    pub fn has(&self, node: &str) -> bool {
        self.0.contains_key(node)
    }

    /// Size in bytes of disk `index`.
    #[must_use]
    pub fn size(&self, index: usize) -> Option<u64> {
        self.0.get(&disk_node(index)).map(|node| node.size)
    }

    /// The bitmap `name` of disk `index`.
    #[must_use]
    pub fn bitmap(&self, index: usize, name: &str) -> Option<&Bitmap> {
        self.0
            .get(&disk_node(index))?
            .bitmaps
            .iter()
            .find(|bitmap| bitmap.name == name)
    }

    /// Does `generation` hold: an intact recording bitmap on every disk, every disk as large as when it began, both to QEMU and in the
    /// file (`actual`, bytes, in order)?
    ///
    /// # Errors
    /// Why not (S13, S14).
    pub fn holds(
        &self,
        process: &ProcessRecord,
        tracking: &TrackingRecord,
        actual: &[u64],
        generation: Generation,
    ) -> Result<(), LostGeneration> {
        let name = bitmap(generation);
        for (index, disk) in process.disks.iter().enumerate() {
            // S13: a disabled bitmap has missed writes, an inconsistent one anything.
            if !self
                .bitmap(index, &name)
                .is_some_and(|bitmap| bitmap.recording && !bitmap.inconsistent)
            {
                return Err(LostGeneration::Missing {
                    disk: disk.id.clone(),
                });
            }
        }
        let Some(sizes) = tracking.generations.get(&generation) else {
            return Err(LostGeneration::OtherDisks);
        };
        if sizes.len() != process.disks.len() {
            return Err(LostGeneration::OtherDisks);
        }
        for (index, disk) in process.disks.iter().enumerate() {
            let Some(&was) = sizes.get(&disk.id) else {
                return Err(LostGeneration::OtherDisks);
            };
            // S14: growth is not marked dirty.
            for is in [self.size(index), actual.get(index).copied()] {
                if is != Some(was) {
                    return Err(LostGeneration::Resized {
                        disk: disk.id.clone(),
                        was,
                        is: is.unwrap_or(0),
                    });
                }
            }
        }
        Ok(())
    }

    /// The generations of which any disk has a bitmap.
    #[must_use]
    pub fn generations(&self, disks: usize) -> Vec<Generation> {
        let mut found: Vec<Generation> = (0..disks)
            .filter_map(|index| self.0.get(&disk_node(index)))
            .flat_map(|node| &node.bitmaps)
            .filter_map(|bitmap| Uuid::parse_str(&bitmap.name).ok())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// An upper bound of the bytes dirty since `generation`: its own bits, and what younger bitmaps of an open point have.
    #[must_use]
    pub fn dirty_bytes(
        &self,
        disks: usize,
        generation: Generation,
        point: Option<&PointRecord>,
    ) -> Option<u64> {
        let count = |index, generation| {
            self.bitmap(index, &bitmap(generation))
                .map(|bitmap| bitmap.count)
        };
        let younger = point
            .filter(|point| point.old == Some(generation))
            .map(|point| point.new);
        (0..disks)
            .map(|index| {
                let own = count(index, generation)?;
                let more = younger
                    .and_then(|younger| count(index, younger))
                    .unwrap_or(0);
                Some(own.saturating_add(more).min(self.size(index)?))
            })
            .sum()
    }

    /// Takes the filters of a point out of the guest's way, whatever is there of them. `drives` are the nodes that the devices use now.
    #[must_use]
    pub fn unwind(&self, drives: &[String]) -> Vec<Command> {
        let remove = |node: String| {
            self.has(&node)
                .then(|| Command::new("blockdev-del", serde_json::json!({ "node-name": node })))
        };
        let mut commands = Vec::new();
        for (index, drive) in drives.iter().enumerate() {
            // A filter that somebody reads holds writes of the guest off its file: the reader goes first, then the filter.
            commands.extend(remove(point_node(index)));
            if *drive != disk_node(index) {
                commands.push(set_drive(index, &disk_node(index)));
            }
            commands.extend(remove(before_node(index)));
            commands.extend(remove(scratch_node(index)));
        }
        commands
    }

    /// What happens to the bitmaps when a point ends. All of it goes into one transaction.
    #[must_use]
    pub fn settle(&self, disks: usize, point: &PointRecord, settle: Settle) -> Vec<Value> {
        let new = bitmap(point.new);
        let new_everywhere = (0..disks).all(|index| {
            self.bitmap(index, &new)
                .is_some_and(|bitmap| bitmap.recording && !bitmap.inconsistent)
        });
        let mut actions = Vec::new();
        for index in 0..disks {
            let own = self
                .0
                .get(&disk_node(index))
                .map(|node| node.bitmaps.as_slice())
                .unwrap_or_default();
            let mut gone: Vec<&str> = Vec::new();
            // S13: bits are dropped only after the durable acknowledgement, and only when the new ones are there.
            if settle == Settle::Delivered && new_everywhere {
                gone.extend(
                    own.iter()
                        .map(|bitmap| bitmap.name.as_str())
                        .filter(|name| *name != new),
                );
            } else {
                if let Some(old) = point
                    .old
                    .map(bitmap)
                    .and_then(|name| self.bitmap(index, &name))
                {
                    if !old.recording && new_everywhere {
                        // It records again first, so that no write falls between the two.
                        actions.push(enable_bitmap(index, &old.name));
                        actions.push(merge_bitmap(index, &old.name, &new));
                    } else if !old.recording {
                        // S13: disabled and nothing to make up for it: lost.
                        gone.push(&old.name);
                    }
                }
                if settle == Settle::Unknown && point.old.is_some() {
                    // The target has the old point or the new one. What earlier deaths left is of no use to it.
                    let kept = [point.old, Some(point.new)];
                    gone.extend(
                        own.iter()
                            .map(|bitmap| bitmap.name.as_str())
                            .filter(|name| {
                                Uuid::parse_str(name)
                                    .is_ok_and(|generation| !kept.contains(&Some(generation)))
                            }),
                    );
                }
                if settle != Settle::Unknown || !new_everywhere {
                    gone.extend(
                        own.iter()
                            .map(|bitmap| bitmap.name.as_str())
                            .filter(|name| *name == new),
                    );
                }
            }
            actions.extend(gone.into_iter().map(|name| remove_bitmap(index, name)));
        }
        actions
    }

    /// A copy of `generation` that does not change any more, and empty bitmaps that watch for later writes. Two transactions: a name
    /// is free again only after the first.
    #[must_use]
    pub fn freeze(&self, disks: usize, generation: Generation) -> Vec<Command> {
        let stale: Vec<Value> = (0..disks)
            .flat_map(|index| [FINAL_BITMAP, WATCH_BITMAP].map(|name| (index, name)))
            .filter(|(index, name)| self.bitmap(*index, name).is_some())
            .map(|(index, name)| remove_bitmap(index, name))
            .collect();
        let fresh: Vec<Value> = (0..disks)
            .flat_map(|index| {
                [
                    add_bitmap(index, WATCH_BITMAP, false),
                    add_bitmap(index, FINAL_BITMAP, true),
                    merge_bitmap(index, FINAL_BITMAP, &bitmap(generation)),
                ]
            })
            .collect();
        let mut commands = Vec::new();
        if !stale.is_empty() {
            commands.push(transaction(&stale));
        }
        commands.push(transaction(&fresh));
        commands
    }

    /// Was anything written since [`freeze`](Self::freeze)? None when nothing watched.
    #[must_use]
    pub fn written_since_freeze(&self, disks: usize) -> Option<bool> {
        let mut written = false;
        for index in 0..disks {
            let watch = self.bitmap(index, WATCH_BITMAP)?;
            written |= watch.count > 0 || !watch.recording || watch.inconsistent;
        }
        Some(written)
    }
}

#[cfg(test)]
mod tests;
