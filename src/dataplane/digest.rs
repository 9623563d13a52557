//! Digests: BLAKE3 of every block, and one root over a whole disk. Pure.
//!
//! A bitmap only hints at what changed. That two disks are equal is claimed only from equal roots.

use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::blocks::{BLOCK, Geometry};

/// A BLAKE3 digest: of one block, or of the table of a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; Digest::LEN]);

impl Digest {
    /// Bytes in a digest.
    pub const LEN: usize = 32;

    /// How a table says that the digest of a block is not known. No content has this digest in practice (one in 2^256).
    pub const UNKNOWN: Self = Self([0; Self::LEN]);

    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A digest as it came over the wire or from a file.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Whether it says anything.
    #[must_use]
    pub fn is_known(&self) -> bool {
        *self != Self::UNKNOWN
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// What hashing a block tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHash {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Whether every byte is zero. S16: such a block is never sent as data.
    pub zero: bool,
}

impl BlockHash {
    /// Hashes one block.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if is_zero(bytes) {
            Self::zero(bytes.len() as u64)
        } else {
            Self {
                digest: Digest::of(bytes),
                zero: false,
            }
        }
    }

    /// The hash of a block of `len` zero bytes.
    #[must_use]
    pub fn zero(len: u64) -> Self {
        Self {
            digest: zero_digest(len),
            zero: true,
        }
    }
}

/// The digest of `len` zero bytes, `len` at most [`BLOCK`].
#[must_use]
pub fn zero_digest(len: u64) -> Digest {
    static WHOLE: OnceLock<Digest> = OnceLock::new();
    let make = |len: u64| Digest::of(&vec![0; usize::try_from(len.min(BLOCK)).unwrap_or(0)]);
    if len == BLOCK {
        *WHOLE.get_or_init(|| make(BLOCK))
    } else {
        make(len)
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Equal to itself shifted by one, and begins with zero: runs at the speed of memcmp and stops at the first difference.
    match bytes {
        [] => true,
        [first, rest @ ..] => *first == 0 && *rest == bytes[..bytes.len() - 1],
    }
}

/// Hashes the blocks that lie in `bytes`, which begins at a block and ends at one or at the end of the disk.
pub fn hash_blocks(bytes: &[u8], into: &mut Vec<BlockHash>) {
    into.extend(
        bytes
            .chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX))
            .map(BlockHash::of),
    );
}

/// Builds the root of one disk from its digests in order: a digest over the disk's id, its size and every entry.
#[derive(Debug)]
pub struct RootHasher {
    hasher: blake3::Hasher,
    blocks: u64,
    seen: u64,
    complete: bool,
}

impl RootHasher {
    /// Begins the root of disk `id`.
    #[must_use]
    pub fn new(id: &str, geometry: Geometry) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("homeward.dev dataplane disk root v1");
        hasher.update(&(id.len() as u64).to_le_bytes());
        hasher.update(id.as_bytes());
        hasher.update(&geometry.size().to_le_bytes());
        Self {
            hasher,
            blocks: geometry.blocks(),
            seen: 0,
            complete: true,
        }
    }

    /// Adds the next entries of the table, as they lie in its file.
    pub fn push(&mut self, entries: &[u8]) {
        for entry in entries.chunks(Digest::LEN) {
            self.complete &= entry.len() == Digest::LEN && entry != Digest::UNKNOWN.0;
            self.seen += 1;
        }
        self.hasher.update(entries);
    }

    /// The root; `None` when an entry was unknown, or there were too few or too many.
    #[must_use]
    pub fn finish(self) -> Option<Digest> {
        (self.complete && self.seen == self.blocks)
            .then(|| Digest(*self.hasher.finalize().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_seen_and_known() {
        for len in [1usize, 511, 512, 65536] {
            let mut bytes = vec![0; len];
            assert_eq!(
                BlockHash::of(&bytes),
                BlockHash {
                    digest: Digest(*blake3::hash(&bytes).as_bytes()),
                    zero: true
                }
            );
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!BlockHash::of(&bytes).zero, "{len} {at}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn a_root_needs_every_entry_and_names_disk_and_size() {
        let two = Geometry::new(2 * BLOCK).unwrap();
        let entries = [Digest::of(b"a").0, Digest::of(b"b").0].concat();
        let root = |id: &str, geometry, entries: &[u8]| {
            let mut hasher = RootHasher::new(id, geometry);
            hasher.push(entries);
            hasher.finish()
        };
        let whole = root("vda", two, &entries).unwrap();
        assert_ne!(Some(whole), root("vdb", two, &entries));
        assert_ne!(
            Some(whole),
            root("vda", Geometry::new(2 * BLOCK - 512).unwrap(), &entries)
        );
        assert_eq!(root("vda", two, &entries[..32]), None);
        assert_eq!(
            root("vda", two, &[entries[..32].to_vec(), vec![0; 32]].concat()),
            None
        );
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), whole);
    }
}
