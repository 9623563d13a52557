//! What a set of disks holds.

use std::{fmt, ops::RangeInclusive};

use anyhow::{Result, bail};

use super::{
    layout::{Record, Superblock},
    required,
};

/// What one place of the ring holds.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    Blank,
    Record(Box<Record>),
    /// Neither blank nor a sound record of this place.
    Torn,
}

/// The records of one run of the recorder that are still in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What the run is called in its records.
    pub boot: u64,
    /// Where it ran.
    pub site: String,
    /// Its records.
    pub records: RangeInclusive<u64>,
    /// Whether it was stopped in good order.
    pub stopped: bool,
}

/// One thing that cannot be on disks that were copied at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A record is not there, though a later one is.
    Missing {
        /// Its number.
        number: u64,
        /// Its place holds something damaged, not something older.
        damaged: bool,
    },
    /// A record does not continue the one before it: two histories are mixed.
    BrokenChain {
        /// The number of the record that starts the other history.
        number: u64,
    },
    /// Something was written where no record can have been written yet.
    Unexpected {
        /// The number of the record whose place it is.
        number: u64,
    },
    /// A scribble that must be there is not, or an older one is in its place.
    LostScribble {
        /// Its number.
        index: u64,
        /// The disk, counted from 0.
        disk: u32,
        /// The sector on that disk.
        sector: u64,
    },
    /// A sector of the scribbled area is damaged or belongs elsewhere.
    DamagedScribble {
        /// The disk, counted from 0.
        disk: u32,
        /// The sector on that disk.
        sector: u64,
    },
    /// A scribble that was written after a record which is not there.
    EarlyScribble {
        /// Its number.
        index: u64,
        /// The record that was durable before it.
        after_record: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing {
                number,
                damaged: false,
            } => write!(to, "record {number} is missing"),
            Self::Missing {
                number,
                damaged: true,
            } => write!(to, "record {number} is damaged"),
            Self::BrokenChain { number } => write!(to, "record {number} continues another history"),
            Self::Unexpected { number } => {
                write!(to, "something is in the place of record {number}")
            }
            Self::LostScribble {
                index,
                disk,
                sector,
            } => {
                write!(
                    to,
                    "scribble {index} is not in sector {sector} of disk {disk}"
                )
            }
            Self::DamagedScribble { disk, sector } => {
                write!(to, "sector {sector} of disk {disk} is damaged")
            }
            Self::EarlyScribble {
                index,
                after_record,
            } => {
                write!(
                    to,
                    "scribble {index} is there without record {after_record}"
                )
            }
        }
    }
}

/// What a set of disks holds. The default one is that of disks which were never written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Which guest wrote them.
    pub vm: String,
    /// What the set of disks is called; made at random when it was formatted.
    pub set: u64,
    /// How many records the ring holds.
    pub capacity: u64,
    /// The highest record that is there, 0 when there is none.
    pub last: u64,
    /// The highest record up to which none is missing.
    pub contiguous: u64,
    /// How many scribbles had been completed before the last record.
    pub scribbles: u64,
    /// The runs whose records are still in the ring, oldest first.
    pub boots: Vec<Boot>,
    /// The records in the ring, oldest first.
    pub records: Vec<Record>,
    /// What must not be.
    pub problems: Vec<Problem>,
}

impl Report {
    pub(super) fn of_ring(set: &Superblock, slots: &[Slot]) -> Self {
        let capacity = set.capacity();
        let mut records: Vec<Record> = slots
            .iter()
            .filter_map(|slot| {
                if let Slot::Record(record) = slot {
                    Some((**record).clone())
                } else {
                    None
                }
            })
            .collect();
        records.sort_by_key(|record| record.number);
        let last = records.last().map_or(0, |record| record.number);
        let scribbles = records.last().map_or(0, |record| record.scribbles);
        let problems = ring_problems(slots, &records, last, capacity);
        let contiguous = problems
            .iter()
            .filter_map(|problem| {
                if let Problem::Missing { number, .. } = problem {
                    Some(number - 1)
                } else {
                    None
                }
            })
            .min()
            .unwrap_or(last);
        let boots = boots_of(&records);
        Self {
            vm: set.vm.clone(),
            set: set.set,
            capacity,
            last,
            contiguous,
            scribbles,
            boots,
            records,
            problems,
        }
    }

    /// Fails with every problem in its message, when there is one.
    ///
    /// # Errors
    ///
    /// When the disks cannot be the copy of one point in time.
    pub fn ensure_consistent(&self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = self
            .problems
            .iter()
            .take(20)
            .map(ToString::to_string)
            .collect();
        bail!(
            "the disks of {} hold no point in time (last record {}, {} problems): {}",
            self.vm,
            self.last,
            self.problems.len(),
            shown.join("; ")
        );
    }

    /// The numbers missing below the highest record, as ranges.
    #[must_use]
    pub fn gaps(&self) -> Vec<RangeInclusive<u64>> {
        let mut gaps: Vec<RangeInclusive<u64>> = Vec::new();
        for problem in &self.problems {
            let Problem::Missing { number, .. } = problem else {
                continue;
            };
            match gaps.last_mut() {
                Some(gap) if *gap.end() + 1 == *number => *gap = *gap.start()..=*number,
                _ => gaps.push(*number..=*number),
            }
        }
        gaps
    }

    /// The record of this number, while it is in the ring.
    #[must_use]
    pub fn record(&self, number: u64) -> Option<&Record> {
        self.records
            .binary_search_by_key(&number, |record| record.number)
            .ok()
            .map(|at| &self.records[at])
    }

    /// Whether the writer was stopped in good order and nothing was written after.
    #[must_use]
    pub fn stopped_cleanly(&self) -> bool {
        self.boots.last().is_some_and(|boot| boot.stopped)
    }
}

fn ring_problems(slots: &[Slot], records: &[Record], last: u64, capacity: u64) -> Vec<Problem> {
    let mut problems = Vec::new();
    let place =
        |number: u64| usize::try_from(number % capacity).map_or(&Slot::Torn, |at| &slots[at]);
    for number in required(last, capacity) {
        match place(number) {
            Slot::Record(record) if record.number == number => {}
            slot => problems.push(Problem::Missing {
                number,
                damaged: matches!(slot, Slot::Torn),
            }),
        }
    }
    // Place last + 1 may hold anything; while the ring was never full, all places after it are blank.
    for number in last + 2..=capacity {
        if !matches!(place(number), Slot::Blank) {
            problems.push(Problem::Unexpected { number });
        }
    }
    for pair in records.windows(2) {
        let [before, record] = pair else { continue };
        if record.number == before.number + 1 && record.previous != before.checksum {
            problems.push(Problem::BrokenChain {
                number: record.number,
            });
        }
    }
    if records
        .first()
        .is_some_and(|first| first.number == 1 && first.previous != 0)
    {
        problems.push(Problem::BrokenChain { number: 1 });
    }
    problems
}

fn boots_of(records: &[Record]) -> Vec<Boot> {
    let mut boots: Vec<Boot> = Vec::new();
    for record in records {
        let stopped = record.kind == super::Kind::Stop;
        match boots.last_mut() {
            Some(boot) if boot.boot == record.boot && boot.site == record.site => {
                boot.records = *boot.records.start()..=record.number;
                boot.stopped = stopped;
            }
            _ => boots.push(Boot {
                boot: record.boot,
                site: record.site.clone(),
                records: record.number..=record.number,
                stopped,
            }),
        }
    }
    boots
}
