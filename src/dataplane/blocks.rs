//! Geometry of a disk: 64 KiB blocks, and sets and runs of them. Pure.

use std::ops::Range;

/// Bytes in a block: the unit that is digested, journaled and compared.
pub const BLOCK: u64 = 64 * 1024;

/// Most bytes of payload in one frame: four blocks.
pub const FRAME_PAYLOAD: u64 = 4 * BLOCK;

/// Most blocks in one frame of data.
pub const FRAME_BLOCKS: u64 = FRAME_PAYLOAD / BLOCK;

/// Bytes in a sector. Every disk size is a multiple of it.
pub const SECTOR: u64 = 512;

/// Largest disk, in bytes: 64 TiB, what both QEMU images and Azure disks stay below. It bounds every set of blocks.
pub const MAX_DISK: u64 = 1 << 46;

/// How one disk is cut into blocks. The last block may be shorter than [`BLOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
}

impl Geometry {
    /// The geometry of a disk of `size` bytes; `None` when no disk has such a size (not a multiple of [`SECTOR`], or above
    /// [`MAX_DISK`]).
    #[must_use]
    pub fn new(size: u64) -> Option<Self> {
        (size <= MAX_DISK && size.is_multiple_of(SECTOR)).then_some(Self { size })
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.size
    }

    /// Number of blocks, the short last one included.
    #[must_use]
    pub fn blocks(self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// Bytes in block `index`; zero past the end.
    #[must_use]
    pub fn block_len(self, index: u64) -> u64 {
        self.size
            .saturating_sub(index.saturating_mul(BLOCK))
            .min(BLOCK)
    }

    /// Bytes in the run of `count` blocks from `first`, cut at the end of the disk.
    #[must_use]
    pub fn run_len(self, first: u64, count: u64) -> u64 {
        let start = first.saturating_mul(BLOCK).min(self.size);
        let end = first
            .saturating_add(count)
            .saturating_mul(BLOCK)
            .min(self.size);
        end - start
    }

    /// The blocks that `bytes` touches, cut at the end of the disk.
    #[must_use]
    pub fn blocks_of(self, bytes: &Range<u64>) -> Range<u64> {
        let end = bytes.end.min(self.size);
        if bytes.start >= end {
            return 0..0;
        }
        bytes.start / BLOCK..end.div_ceil(BLOCK)
    }

    /// The blocks of a run given in bytes as frames carry it: starts at a block, ends at a block or at the end of the disk.
    /// `None` when it is empty, crooked or reaches past the end.
    #[must_use]
    pub fn whole_run(self, offset: u64, len: u64) -> Option<Range<u64>> {
        let end = offset.checked_add(len)?;
        let straight =
            offset.is_multiple_of(BLOCK) && (end.is_multiple_of(BLOCK) || end == self.size);
        (len > 0 && end <= self.size && straight).then(|| offset / BLOCK..end.div_ceil(BLOCK))
    }
}

/// A set of the blocks of one disk: one bit a block, so 2 MiB for a disk of 1 TiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSet {
    words: Vec<u64>,
    blocks: u64,
    count: u64,
}

impl BlockSet {
    /// The empty set over `blocks` blocks.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let words = usize::try_from(blocks.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            words: vec![0; words],
            blocks,
            count: 0,
        }
    }

    /// How many blocks are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many blocks the disk has.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether block `index` is in the set. Past the end nothing is.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        index < self.blocks && self.word(index) & Self::bit(index) != 0
    }

    /// Adds a block; past the end it does nothing. Says whether it was new.
    pub fn insert(&mut self, index: u64) -> bool {
        if index >= self.blocks || self.contains(index) {
            return false;
        }
        if let Some(word) = usize::try_from(index / 64)
            .ok()
            .and_then(|at| self.words.get_mut(at))
        {
            *word |= Self::bit(index);
            self.count += 1;
        }
        true
    }

    /// Adds every block of a range.
    pub fn insert_range(&mut self, range: Range<u64>) {
        for index in range.start..range.end.min(self.blocks) {
            self.insert(index);
        }
    }

    /// The first run of at most `limit` blocks in the set at or after `from`.
    #[must_use]
    pub fn next_run(&self, from: u64, limit: u64) -> Option<Range<u64>> {
        let start = self.next(from)?;
        let mut end = start + 1;
        while end - start < limit && self.contains(end) {
            end += 1;
        }
        Some(start..end)
    }

    fn next(&self, from: u64) -> Option<u64> {
        let mut index = from;
        while index < self.blocks {
            let rest = self.word(index) >> (index % 64);
            if rest != 0 {
                let found = index + u64::from(rest.trailing_zeros());
                return (found < self.blocks).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }

    fn word(&self, index: u64) -> u64 {
        usize::try_from(index / 64)
            .ok()
            .and_then(|at| self.words.get(at))
            .copied()
            .unwrap_or(0)
    }

    fn bit(index: u64) -> u64 {
        1 << (index % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_last_block_may_be_short() {
        let odd = Geometry::new(BLOCK + SECTOR).unwrap();
        assert_eq!(
            (
                odd.blocks(),
                odd.block_len(0),
                odd.block_len(1),
                odd.block_len(2)
            ),
            (2, BLOCK, SECTOR, 0)
        );
        assert_eq!(odd.run_len(0, 9), BLOCK + SECTOR);
        assert_eq!(Geometry::new(SECTOR).unwrap().blocks(), 1);
        assert_eq!(Geometry::new(0).unwrap().blocks(), 0);
        assert!(Geometry::new(513).is_none());
        assert!(Geometry::new(u64::MAX - 511).is_none());
    }

    #[test]
    fn runs_on_the_wire_are_straight() {
        let disk = Geometry::new(3 * BLOCK + SECTOR).unwrap();
        assert_eq!(disk.whole_run(BLOCK, 2 * BLOCK), Some(1..3));
        assert_eq!(disk.whole_run(3 * BLOCK, SECTOR), Some(3..4));
        for (offset, len) in [
            (1, BLOCK),
            (0, SECTOR),
            (0, 0),
            (3 * BLOCK, BLOCK),
            (u64::MAX, 1),
            (0, u64::MAX),
        ] {
            assert_eq!(disk.whole_run(offset, len), None, "{offset}+{len}");
        }
    }

    proptest! {
        #[test]
        fn a_set_behaves_like_a_set(blocks in 1u64..400, picks in prop::collection::vec(0u64..500, 0..80), limit in 1u64..9) {
            let mut set = BlockSet::new(blocks);
            let mut model = BTreeSet::new();
            for pick in picks {
                let new = set.insert(pick);
                prop_assert_eq!(new, pick < blocks && model.insert(pick));
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            let mut seen = BTreeSet::new();
            let mut at = 0;
            while let Some(run) = set.next_run(at, limit) {
                prop_assert!(run.end - run.start <= limit && run.start >= at);
                at = run.end;
                seen.extend(run);
            }
            prop_assert_eq!(seen, model);
        }
    }
}
