//! From the extents of a bitmap to the ranges that the data plane works with. Pure.

use std::ops::Range;

use crate::agent::hypervisor::Ranges;

/// Granularity of the bitmaps, bytes: the block of the data plane.
pub const BLOCK: u64 = 64 * 1024;

/// Most ranges of one disk. A disk that is dirty in more places is read in some gaps too: more than what changed is always safe.
pub const MOST: usize = 1 << 18;

/// Gathers the dirty ones of extents that come in order: widened to whole blocks, joined, cut to the size of the disk.
#[derive(Debug)]
pub struct DirtyRanges {
    dirty: u32,
    size: u64,
    most: usize,
    ranges: Ranges,
}

impl DirtyRanges {
    /// None yet; `dirty` is the flag, `most` how many ranges are held at most.
    #[must_use]
    pub fn new(dirty: u32, size: u64, most: usize) -> Self {
        Self {
            dirty,
            size,
            most: most.max(1),
            ranges: Ranges::new(),
        }
    }

    /// Takes the next extents (range and flags).
    pub fn add(&mut self, extents: &[(Range<u64>, u32)]) {
        for (range, flags) in extents {
            if flags & self.dirty == 0 || range.is_empty() {
                continue;
            }
            let start = range.start / BLOCK * BLOCK;
            let end = range.end.div_ceil(BLOCK).saturating_mul(BLOCK);
            self.push(start..end.min(self.size));
        }
    }

    fn push(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.end => {
                last.end = last.end.max(range.end);
            }
            _ if range.is_empty() => {}
            _ => {
                self.ranges.push(range);
                if self.ranges.len() > self.most {
                    self.widen();
                }
            }
        }
    }

    /// Joins over the narrowest gaps until half of the places are free, so that this is seldom done.
    fn widen(&mut self) {
        let joins = self.ranges.len() - self.most.div_ceil(2);
        let gap = |pair: &[Range<u64>]| pair[1].start - pair[0].end;
        let mut gaps: Vec<_> = self.ranges.windows(2).map(gap).collect();
        let widest = *gaps.select_nth_unstable(joins - 1).1;
        let mut of_widest = joins - gaps.iter().filter(|gap| **gap < widest).count();
        self.ranges.dedup_by(|next, last| {
            let gap = next.start - last.end;
            let join = gap < widest || (gap == widest && of_widest > 0);
            if join {
                of_widest -= usize::from(gap == widest);
                last.end = next.end;
            }
            join
        });
    }

    /// All of them.
    #[must_use]
    pub fn end(self) -> Ranges {
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dirty_ranges(extents: &[(Range<u64>, u32)], dirty: u32, size: u64) -> Ranges {
        let mut gathered = DirtyRanges::new(dirty, size, MOST);
        gathered.add(extents);
        gathered.end()
    }

    #[test]
    fn neighbours_join_and_the_short_last_block_is_cut() {
        let size = 5 * BLOCK + 512;
        let extents = [
            (0..BLOCK, 1),
            (BLOCK..2 * BLOCK, 1),
            (2 * BLOCK..5 * BLOCK, 0),
            (5 * BLOCK..size, 1),
        ];
        assert_eq!(
            dirty_ranges(&extents, 1, size),
            vec![0..2 * BLOCK, 5 * BLOCK..size]
        );
        assert_eq!(
            dirty_ranges(&[(BLOCK + 1..BLOCK + 2, 1)], 1, size),
            vec![BLOCK..2 * BLOCK]
        );
        assert_eq!(dirty_ranges(&extents, 2, size), Ranges::new());
    }

    #[test]
    fn a_disk_that_is_dirty_everywhere_a_little_is_held_in_few_ranges() {
        let (most, places) = (100, 10_000);
        let mut gathered = DirtyRanges::new(1, places * 4 * BLOCK, most);
        for place in 0..places {
            let start = place * 4 * BLOCK;
            gathered.add(&[
                (start..start + BLOCK, 1),
                (start + BLOCK..start + 4 * BLOCK, 0),
            ]);
            assert!(gathered.ranges.len() <= most);
        }
        let ranges = gathered.end();
        assert!(ranges.len() >= most / 2, "no wider than it has to be");
        for place in 0..places {
            assert!(
                ranges
                    .iter()
                    .any(|range| range.contains(&(place * 4 * BLOCK)))
            );
        }
    }

    #[test]
    fn the_widest_gaps_are_kept() {
        let mut gathered = DirtyRanges::new(1, 1000 * BLOCK, 4);
        for block in [0, 2, 4, 500, 502] {
            gathered.add(&[(block * BLOCK..(block + 1) * BLOCK, 1)]);
        }
        assert_eq!(gathered.end(), vec![0..5 * BLOCK, 500 * BLOCK..503 * BLOCK]);
    }

    proptest! {
        #[test]
        fn every_dirty_byte_is_in_a_range(most in 1_usize..50, lengths in proptest::collection::vec((1_u64..300_000, any::<bool>()), 0..40), cut in 0_u64..100_000) {
            let mut at = 0;
            let extents: Vec<_> = lengths.iter().map(|&(length, dirty)| { let start = at; at += length; (start..at, u32::from(dirty)) }).collect();
            let size = at.saturating_sub(cut);
            let mut gathered = DirtyRanges::new(1, size, most);
            extents.chunks(3).for_each(|some| gathered.add(some));
            let ranges = gathered.end();
            prop_assert!(ranges.len() <= most);
            for pair in ranges.windows(2) { prop_assert!(pair[0].end < pair[1].start); }
            for range in &ranges {
                prop_assert!(range.start < range.end && range.end <= size);
                prop_assert!(range.start % BLOCK == 0 && (range.end % BLOCK == 0 || range.end == size));
            }
            for (extent, dirty) in &extents {
                if *dirty == 1 && extent.start < size {
                    prop_assert!(ranges.iter().any(|range| range.start <= extent.start && range.end >= extent.end.min(size)));
                }
            }
        }
    }
}
