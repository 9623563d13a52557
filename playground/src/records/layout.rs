//! The sectors on disk.

use super::SECTOR;

/// How many sectors one scribble fills.
pub(super) const CHUNK: u64 = 4;

/// The checksum of a sector: over all of its 64-bit words but the last, which holds it.
///
/// Every step can be undone, so a change of any one word always changes the result.
///
/// # Panics
///
/// When `sector` is shorter than 8 bytes.
#[must_use]
pub fn checksum(sector: &[u8]) -> u64 {
    let (words, _) = sector[..sector.len() - 8].as_chunks::<8>();
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        let hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x0100_0000_01b3);
        hash ^ (hash >> 32)
    })
}

/// The step of the pseudorandom sequence that places scribbles (splitmix64).
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

pub(super) fn is_blank(sector: &[u8]) -> bool {
    let (words, rest) = sector.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8]) && rest.iter().all(|byte| *byte == 0)
}

/// Reads the fields of a sector in order.
struct Fields<'a> {
    sector: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Nothing when the sector is not of this kind or damaged.
    fn of(sector: &'a [u8], magic: [u8; 8]) -> Option<Self> {
        let stored = u64::from_le_bytes(sector.last_chunk().copied()?);
        let sound =
            sector.len() == SECTOR && sector.starts_with(&magic) && stored == checksum(sector);
        sound.then_some(Self {
            sector,
            at: magic.len(),
        })
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.sector[self.at..self.at + N]);
        self.at += N;
        bytes
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn text<const N: usize>(&mut self) -> String {
        let bytes: [u8; N] = self.take();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(N);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Sector 0 of a disk. Read on every disk; they differ in `disk` only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) disk: u32,
    pub(super) disks: u32,
    pub(super) set: u64,
    pub(super) seed: u64,
    pub(super) ring_start: u64,
    pub(super) ring_sectors: u64,
    pub(super) scribble_start: u64,
    pub(super) scribble_sectors: u64,
    pub(super) vm: String,
}

impl Superblock {
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(sector, *b"HWDISK01")?;
        let found = Self {
            disk: fields.u32(),
            disks: fields.u32(),
            set: fields.u64(),
            seed: fields.u64(),
            ring_start: fields.u64(),
            ring_sectors: fields.u64(),
            scribble_start: fields.u64(),
            scribble_sectors: fields.u64(),
            vm: fields.text::<64>(),
        };
        (found.disks > 0 && found.ring_sectors > 0).then_some(found)
    }

    pub(super) fn same_set(&self, other: &Self) -> bool {
        Self {
            disk: 0,
            ..self.clone()
        } == Self {
            disk: 0,
            ..other.clone()
        }
    }

    /// How many records the ring holds.
    pub(super) fn capacity(&self) -> u64 {
        self.ring_sectors * u64::from(self.disks)
    }

    /// How many scribbles have a place.
    pub(super) fn scribble_places(&self) -> u64 {
        self.scribble_sectors / CHUNK * u64::from(self.disks)
    }

    /// The disk and the first sector, counted from the start of the area, of a place for scribbles.
    pub(super) fn scribble_place(&self, index: u64) -> u64 {
        mix(self.seed.wrapping_add(index)) % self.scribble_places()
    }
}

/// Why a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Time had passed.
    Beat,
    /// The first one of a boot.
    Start,
    /// The last one of a boot that was stopped in good order; every scribble before it is durable too.
    Stop,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number; the first one is 1.
    pub number: u64,
    /// The checksum of the record before it, 0 for the first one.
    pub previous: u64,
    /// Which run of the recorder wrote it.
    pub boot: u64,
    /// Which set of disks it belongs to.
    pub set: u64,
    /// The guest's clock just before the write, in nanoseconds of Unix time.
    pub unix_nanoseconds: u64,
    /// How many scribbles had been completed.
    pub scribbles: u64,
    /// On which disk of the set it lies.
    pub disk: u32,
    /// Why it was written.
    pub kind: Kind,
    /// Where the guest ran.
    pub site: String,
    /// Which guest it is.
    pub vm: String,
    /// Its own checksum.
    pub checksum: u64,
}

impl Record {
    /// Nothing when the sector holds no whole record.
    #[must_use]
    pub fn parse(sector: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(sector, *b"HWREC001")?;
        Some(Self {
            number: fields.u64(),
            previous: fields.u64(),
            boot: fields.u64(),
            set: fields.u64(),
            unix_nanoseconds: fields.u64(),
            scribbles: fields.u64(),
            disk: fields.u32(),
            kind: match fields.u32() {
                0 => Kind::Beat,
                1 => Kind::Start,
                2 => Kind::Stop,
                _ => return None,
            },
            site: fields.text::<32>(),
            vm: fields.text::<64>(),
            checksum: checksum(sector),
        })
    }
}

/// One sector of a scribble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scribble {
    pub(super) index: u64,
    pub(super) boot: u64,
    pub(super) set: u64,
    pub(super) after_record: u64,
    pub(super) sector: u64,
    pub(super) disk: u32,
}

impl Scribble {
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(sector, *b"HWSCRIB1")?;
        Some(Self {
            index: fields.u64(),
            boot: fields.u64(),
            set: fields.u64(),
            after_record: fields.u64(),
            sector: fields.u64(),
            disk: fields.u32(),
        })
    }
}
