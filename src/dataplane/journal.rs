//! The undo journal as bytes: what a record looks like, which records count after a crash. Pure.
//!
//! ```text
//!  0        16 KiB
//!  | header | record | record | pad | record | record | record | pad | ... | commit |
//!                             ^ every sync ends at a 4 KiB boundary, so that nothing that is synced is ever written again
//! ```
//!
//! A record is a head of 64 bytes and a payload. Its checksum is keyed with the journal's own salt and covers its place in the
//! sequence, so neither a torn record nor one of an older journal in the same sectors can count (S10). The first record that does
//! not check ends the journal: whatever comes after it was never synced, so the write that it was to protect never began.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::blocks::{BLOCK, Geometry};
use super::identity::{DiskId, Point};

/// Where the records begin, in bytes.
pub const RECORDS: u64 = 16 * 1024;

/// A sync ends at a multiple of this, in bytes.
pub const ALIGN: u64 = 4096;

/// Bytes in the head of a record.
pub const HEAD: usize = 64;

const MAGIC: [u8; 8] = *b"HWUNDO\x00\x01";
const RECORD: [u8; 4] = *b"HWr1";

/// What the journal is about: the first thing in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The pass that opened it.
    pub pass: Uuid,
    /// Drawn for this journal alone.
    pub salt: [Uuid; 2],
    /// Every disk as it was.
    pub disks: Vec<DiskBefore>,
}

/// A disk before the first write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskBefore {
    /// Its name.
    pub id: DiskId,
    /// Its size in bytes.
    pub size: u64,
    /// It was new, all zeros: undo empties it, and its blocks need no records.
    pub fresh: bool,
}

impl Header {
    /// The header as it lies at the start of the file; `None` when it is too long.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = serde_json::to_vec(self).ok()?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&body);
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        (bytes.len() as u64 <= RECORDS).then(|| {
            bytes.resize(usize::try_from(RECORDS).unwrap_or(0), 0);
            bytes
        })
    }

    /// Reads a header; `None` when it is torn or something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let body = rest.get(..length)?;
        let sum = rest.get(length..)?.first_chunk::<32>()?;
        let summed = bytes.get(..MAGIC.len() + 4 + length)?;
        if blake3::hash(summed) != blake3::Hash::from_bytes(*sum) {
            return None;
        }
        let header: Self = serde_json::from_slice(body).ok()?;
        header
            .disks
            .iter()
            .all(|disk| Geometry::new(disk.size).is_some())
            .then_some(header)
    }

    fn key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key[..16].copy_from_slice(self.salt[0].as_bytes());
        key[16..].copy_from_slice(self.salt[1].as_bytes());
        key
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bytes of the payload were there.
    Data,
    /// Zeros were there: no payload.
    Zero,
    /// The pass is whole; the payload is the [`Point`].
    Commit,
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it says.
    pub kind: Kind,
    /// Which disk, by its place in [`Header::disks`].
    pub disk: u16,
    /// Where the old bytes lay.
    pub offset: u64,
    /// How many; or, with [`Kind::Commit`], bytes of payload.
    pub len: u64,
}

impl Head {
    /// Bytes of payload that follow the head.
    #[must_use]
    pub fn payload(&self) -> u64 {
        match self.kind {
            Kind::Data | Kind::Commit => self.len,
            Kind::Zero => 0,
        }
    }
}

/// Seals and checks the records of one journal.
#[derive(Debug, Clone)]
pub struct Codec {
    key: [u8; 32],
    sizes: Vec<u64>,
}

impl Codec {
    /// The codec of the journal with this header.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        Self {
            key: header.key(),
            sizes: header.disks.iter().map(|disk| disk.size).collect(),
        }
    }

    /// Appends a record.
    pub fn encode(&self, sequence: u64, head: &Head, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&RECORD);
        out.extend_from_slice(&[
            match head.kind {
                Kind::Data => 1,
                Kind::Zero => 2,
                Kind::Commit => 3,
            },
            0,
        ]);
        out.extend_from_slice(&head.disk.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(&head.offset.to_le_bytes());
        out.extend_from_slice(&head.len.to_le_bytes());
        let sum = self.sum(&out[start..], payload);
        out.extend_from_slice(&sum);
        out.extend_from_slice(payload);
    }

    /// Reads the head of the record with this number. Only [`Codec::check`] makes it count.
    #[must_use]
    pub fn head(&self, sequence: u64, bytes: &[u8; HEAD]) -> Option<Head> {
        let rest = bytes.strip_prefix(&RECORD)?;
        let kind = match rest.first_chunk::<2>()? {
            [1, 0] => Kind::Data,
            [2, 0] => Kind::Zero,
            [3, 0] => Kind::Commit,
            _ => return None,
        };
        let disk = u16::from_le_bytes(*rest.get(2..)?.first_chunk()?);
        let number = |at: usize| Some(u64::from_le_bytes(*rest.get(at..)?.first_chunk()?));
        let (found, offset, len) = (number(4)?, number(12)?, number(20)?);
        let fits = match kind {
            Kind::Commit => len <= RECORDS,
            Kind::Data | Kind::Zero => {
                let size = *self.sizes.get(usize::from(disk))?;
                len > 0 && offset.checked_add(len)? <= size && (kind == Kind::Zero || len <= BLOCK)
            }
        };
        (found == sequence && fits).then_some(Head {
            kind,
            disk,
            offset,
            len,
        })
    }

    /// Whether a head and its payload are whole.
    #[must_use]
    pub fn check(&self, bytes: &[u8; HEAD], payload: &[u8]) -> bool {
        blake3::Hash::from_bytes(self.sum(&bytes[..32], payload))
            == blake3::Hash::from_slice(&bytes[32..]).unwrap_or_else(|_| [0; 32].into())
    }

    fn sum(&self, head: &[u8], payload: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(head);
        hasher.update(payload);
        *hasher.finalize().as_bytes()
    }
}

/// The payload of a commit record.
#[must_use]
pub fn encode_commit(point: &Point) -> Vec<u8> {
    serde_json::to_vec(point).unwrap_or_default()
}

/// Reads the payload of a commit record.
#[must_use]
pub fn decode_commit(payload: &[u8]) -> Option<Point> {
    serde_json::from_slice(payload).ok()
}

/// What to do with a journal file that recovery finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing was written under it, or everything is recorded elsewhere: remove it.
    Drop,
    /// It protects a partial pass: keep it open.
    Keep,
    /// Its pass is whole, only the record of the set is missing: write that, then remove it.
    RollForward(Point),
    /// The set says that a pass has written, but the journal cannot be read: what the disks hold is unknown.
    Lost,
}

/// Decides what a journal file means. `partial` is whether the set says that a pass has begun to write; `readable` whether the
/// header checks; `committed` the commit record, if the scan met one.
#[must_use]
pub fn recover(partial: bool, readable: bool, committed: Option<Point>) -> Recovery {
    match (partial, readable, committed) {
        (false, _, _) => Recovery::Drop,
        (true, false, _) => Recovery::Lost,
        (true, true, Some(point)) => Recovery::RollForward(point),
        (true, true, None) => Recovery::Keep,
    }
}

/// Bytes that a journal needs at most for the first pre-images of `blocks` blocks. From a slow sender each block may come alone, and be
/// synced alone.
#[must_use]
pub fn space(blocks: u64) -> u64 {
    let alone = (BLOCK + HEAD as u64).next_multiple_of(ALIGN);
    // The header and a commit record come on top.
    blocks.saturating_mul(alone).saturating_add(3 * RECORDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(salt: u128) -> Header {
        let before = |name: &str, size| DiskBefore {
            id: DiskId::new(name).unwrap(),
            size,
            fresh: false,
        };
        Header {
            pass: Uuid::from_u128(1),
            salt: [Uuid::from_u128(salt), Uuid::from_u128(3)],
            disks: vec![before("vda", 10 * BLOCK), before("vdb", 512)],
        }
    }

    fn record(salt: u128, sequence: u64, head: &Head, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Codec::new(&header(salt)).encode(sequence, head, payload, &mut bytes);
        bytes
    }

    fn accepted(salt: u128, sequence: u64, bytes: &[u8]) -> Option<Head> {
        let codec = Codec::new(&header(salt));
        let head = bytes.first_chunk::<HEAD>()?;
        let found = codec.head(sequence, head)?;
        let payload = bytes.get(HEAD..HEAD + usize::try_from(found.payload()).ok()?)?;
        codec.check(head, payload).then_some(found)
    }

    proptest! {
        #[test]
        fn s10_only_a_whole_record_in_its_own_place_counts(
            payload in prop::collection::vec(any::<u8>(), 1..600),
            sequence in 0u64..5,
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
        ) {
            let head = Head { kind: Kind::Data, disk: 0, offset: BLOCK, len: payload.len() as u64 };
            let good = record(7, sequence, &head, &payload);
            prop_assert_eq!(accepted(7, sequence, &good), Some(head));
            prop_assert_eq!(accepted(7, sequence + 1, &good), None, "another place in the sequence");
            prop_assert_eq!(accepted(8, sequence, &good), None, "another journal");
            let mut torn = good.clone();
            torn[at.index(good.len())] ^= 1 << bit;
            prop_assert_eq!(accepted(7, sequence, &torn), None);
            prop_assert_eq!(accepted(7, sequence, &good[..cut.index(good.len())]), None);
        }

        #[test]
        fn a_torn_header_does_not_count(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let good = header(7).encode().unwrap();
            prop_assert_eq!(Header::decode(&good), Some(header(7)));
            let used = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let mut torn = good;
            torn[at.index(used)] ^= 1 << bit;
            prop_assert_eq!(Header::decode(&torn), None);
        }

        #[test]
        fn garbage_is_no_journal(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Header::decode(&bytes), None);
            prop_assert_eq!(accepted(7, 0, &bytes), None);
        }
    }

    #[test]
    fn a_record_that_would_write_past_the_old_disk_does_not_count() {
        for (disk, offset, len) in [
            (1, 512, 1),
            (0, 10 * BLOCK, 512),
            (0, u64::MAX, 512),
            (2, 0, 512),
            (0, 0, 2 * BLOCK),
            (0, 0, 0),
        ] {
            let head = Head {
                kind: Kind::Data,
                disk,
                offset,
                len,
            };
            assert_eq!(
                accepted(7, 0, &record(7, 0, &head, &[1; 512])),
                None,
                "{head:?}"
            );
        }
    }

    #[test]
    fn recovery_goes_back_only_where_a_pass_has_written_and_forward_only_after_a_commit() {
        let point = Point {
            roots: crate::dataplane::identity::Roots::new(),
            point: "p".to_owned(),
            pass: Uuid::from_u128(1),
        };
        assert_eq!(recover(false, true, None), Recovery::Drop);
        assert_eq!(recover(false, false, None), Recovery::Drop);
        assert_eq!(recover(true, true, None), Recovery::Keep);
        assert_eq!(recover(true, false, None), Recovery::Lost);
        assert_eq!(
            recover(true, true, Some(point.clone())),
            Recovery::RollForward(point.clone())
        );
        assert_eq!(decode_commit(&encode_commit(&point)), Some(point));
    }
}
