//! From the extents of a bitmap to the ranges that the data plane works with. Pure.

use std::ops::Range;

use crate::agent::hypervisor::Ranges;

/// Granularity of the bitmaps, bytes: the block of the data plane.
pub const BLOCK: u64 = 64 * 1024;

/// The dirty ones of `extents` (range and flags, `dirty` being the flag), widened to whole blocks, joined, cut to `size`.
#[must_use]
pub fn dirty_ranges(extents: &[(Range<u64>, u32)], dirty: u32, size: u64) -> Ranges {
    let mut ranges: Ranges = Vec::new();
    for (range, _) in extents
        .iter()
        .filter(|(range, flags)| flags & dirty != 0 && !range.is_empty())
    {
        let start = range.start / BLOCK * BLOCK;
        let end = range.end.div_ceil(BLOCK).saturating_mul(BLOCK).min(size);
        match ranges.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ if start < end => ranges.push(start..end),
            _ => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    proptest! {
        #[test]
        fn every_dirty_byte_is_in_a_range(lengths in proptest::collection::vec((1_u64..300_000, any::<bool>()), 0..40), cut in 0_u64..100_000) {
            let mut at = 0;
            let extents: Vec<_> = lengths.iter().map(|&(length, dirty)| { let start = at; at += length; (start..at, u32::from(dirty)) }).collect();
            let size = at.saturating_sub(cut);
            let ranges = dirty_ranges(&extents, 1, size);
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
