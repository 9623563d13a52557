//! What is proven from outside about a VM that was moved: from its consoles, its disks and the agents' answers, never from
//! what the operator says of itself.
//!
//! - [`History`]: the guest's runs as its consoles told them; every run found its disks whole, and no two ran at once;
//! - [`History::records_are_there`]: every record that was acknowledged is on the disks;
//! - [`changed_bytes`]: what differs between two states of the disks, to compare with what was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use homeward::api::Site;

use crate::{
    guest_image::{ConsoleLine, console_lines},
    records::Report,
};

/// One run of a guest, from its start to its end, as its console tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The site of the console.
    pub site: Site,
    /// What the run is called in the records it wrote.
    pub boot: u64,
    /// The highest record it found on its disks.
    pub found: u64,
    /// Whether it found its disks whole; `None` when it was cut short before it could tell.
    pub verified: Option<bool>,
    /// The records it acknowledged, with the guest's clock in milliseconds of Unix time.
    pub acknowledged: BTreeMap<u64, u64>,
    /// The last record, when it was stopped in good order.
    pub stopped: Option<u64>,
    /// What it complained about.
    pub complaints: Vec<String>,
}

impl Run {
    /// When it acknowledged first and last; `None` when it acknowledged nothing.
    #[must_use]
    pub fn span(&self) -> Option<(u64, u64)> {
        let first = self.acknowledged.values().next()?;
        let last = self.acknowledged.values().next_back()?;
        Some((*first, *last))
    }

    /// The highest record that it acknowledged, or found.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.acknowledged
            .keys()
            .next_back()
            .copied()
            .unwrap_or(self.found)
    }
}

/// All runs of a guest, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The runs.
    pub runs: Vec<Run>,
}

impl History {
    /// Reads the consoles of a guest at both sites.
    ///
    /// # Errors
    ///
    /// When a console tells of another site than its own.
    pub fn of_consoles(consoles: &[(Site, String)]) -> Result<Self> {
        let mut runs = Vec::new();
        for (site, text) in consoles {
            runs.extend(runs_of(*site, text)?);
        }
        // A run that acknowledged nothing took no part.
        runs.sort_by_key(|run| run.span().map_or(u64::MAX, |(first, _)| first));
        Ok(Self { runs })
    }

    /// How many records were acknowledged, over all runs.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.runs.iter().map(|run| run.acknowledged.len()).sum()
    }

    /// The runs that acknowledged something, by site, in order.
    #[must_use]
    pub fn sites(&self) -> Vec<Site> {
        let spans = self.runs.iter().filter(|run| run.span().is_some());
        spans.map(|run| run.site).collect()
    }

    /// Proves that every run found whole disks, and that none began before the one before it had ended.
    ///
    /// # Errors
    ///
    /// Which run did not, or which two overlap.
    pub fn never_two_at_once(&self) -> Result<()> {
        for run in &self.runs {
            ensure!(
                run.verified != Some(false) && run.complaints.is_empty(),
                "the run {:016x} at {} complained: {}",
                run.boot,
                run.site,
                run.complaints.join("; ")
            );
        }
        let mut before: Option<(&Run, u64)> = None;
        for run in &self.runs {
            let Some((first, last)) = run.span() else {
                continue;
            };
            if let Some((other, end)) = before {
                ensure!(
                    end <= first,
                    "two guests at once: {:016x} at {} acknowledged until {end}, {:016x} at {} from {first} on",
                    other.boot,
                    other.site,
                    run.boot,
                    run.site
                );
            }
            before = Some((run, last));
        }
        Ok(())
    }

    /// The runs that were taken back, one set for each rollback: the run after them, at the other site, did not find what they had acknowledged.
    /// A host that lost its power before the rollback has run the guest twice.
    #[must_use]
    pub fn rollbacks(&self) -> Vec<BTreeSet<u64>> {
        let told: Vec<&Run> = self
            .runs
            .iter()
            .filter(|run| run.span().is_some())
            .collect();
        let mut rollbacks = Vec::new();
        for (at, pair) in told.windows(2).enumerate() {
            let [last, next] = pair else { continue };
            if last.site == next.site || next.found >= last.last() {
                continue;
            }
            let there = told[..=at]
                .iter()
                .rev()
                .take_while(|run| run.site == last.site);
            let dropped = there.filter(|run| run.last() > next.found);
            rollbacks.push(dropped.map(|run| run.boot).collect());
        }
        rollbacks
    }

    /// All runs of [`History::rollbacks`].
    #[must_use]
    pub fn taken_back(&self) -> BTreeSet<u64> {
        self.rollbacks().into_iter().flatten().collect()
    }

    /// Proves that every run found all that the one before it had acknowledged, but for those in `dropped`, which were taken
    /// back: the run after them found what the last one before them had acknowledged.
    ///
    /// # Errors
    ///
    /// Which run did not find what.
    pub fn nothing_was_lost(&self, dropped: &BTreeSet<u64>) -> Result<()> {
        let mut before: Option<&Run> = None;
        let mut newest: Option<&Run> = None;
        for run in self.runs.iter().filter(|run| run.span().is_some()) {
            // One more may have reached the disk without a word on the console.
            let follows = |other: &Run| (other.last()..=other.last() + 1).contains(&run.found);
            // Of one rollback a guest may have run twice, the second time on what the first had left.
            let again = newest.is_some_and(|newest| {
                [newest, run].iter().all(|it| dropped.contains(&it.boot)) && follows(newest)
            });
            newest = Some(run);
            if let Some(before) = before {
                ensure!(
                    again || follows(before),
                    "the run {:016x} at {} found {} records; {:016x} at {} had acknowledged {}",
                    run.boot,
                    run.site,
                    run.found,
                    before.boot,
                    before.site,
                    before.last()
                );
            }
            if !dropped.contains(&run.boot) {
                before = Some(run);
            }
        }
        Ok(())
    }

    /// Proves that every record which was acknowledged is on the disks, written by the run that acknowledged it, and that the
    /// disks hold one unbroken history. Runs in `dropped` were taken back by a rollback: none of theirs may be there.
    /// Returns how many were found; those that the ring has overtaken are proven by the chain of their successors.
    ///
    /// # Errors
    ///
    /// Which record is missing, or what is wrong with the disks.
    pub fn records_are_there(&self, report: &Report, dropped: &BTreeSet<u64>) -> Result<usize> {
        report.ensure_consistent()?;
        let oldest = report.records.first().map_or(0, |record| record.number);
        let mut found = 0;
        for run in &self.runs {
            for number in run.acknowledged.keys() {
                let there = report
                    .record(*number)
                    .is_some_and(|record| record.boot == run.boot);
                if dropped.contains(&run.boot) {
                    ensure!(
                        !there,
                        "record {number} of the run {:016x} at {} is there, and that run was taken back",
                        run.boot,
                        run.site
                    );
                } else if *number < oldest {
                    ensure!(
                        report.last >= *number,
                        "the disks end before record {number}"
                    );
                } else {
                    ensure!(
                        there,
                        "record {number}, acknowledged at {} by the run {:016x}, is not on the disks (last {})",
                        run.site,
                        run.boot,
                        report.last
                    );
                    found += 1;
                }
            }
        }
        Ok(found)
    }
}

fn runs_of(site: Site, text: &str) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for line in console_lines(text) {
        if let ConsoleLine::Boot {
            site: told,
            last,
            boot,
        } = &line
        {
            ensure!(
                told == site.as_str(),
                "the console of {site} tells of {told}"
            );
            runs.push(Run {
                site,
                boot: *boot,
                found: *last,
                verified: None,
                acknowledged: BTreeMap::new(),
                stopped: None,
                complaints: Vec::new(),
            });
            continue;
        }
        let Some(run) = runs.last_mut() else {
            bail!("the console of {site} begins in the middle: {line:?}")
        };
        match line {
            ConsoleLine::Boot { .. } => {}
            ConsoleLine::Verified { .. } => run.verified = Some(true),
            ConsoleLine::NotVerified { reason } => {
                run.verified = Some(false);
                run.complaints.push(reason);
            }
            ConsoleLine::Ack {
                number,
                unix_milliseconds,
                ..
            } => {
                run.acknowledged.insert(number, unix_milliseconds);
            }
            ConsoleLine::Stopped { last } => run.stopped = Some(last),
            ConsoleLine::Error { reason } => run.complaints.push(reason),
        }
    }
    Ok(runs)
}

/// What an agent's log says of a guest at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Started,
    Stopped,
}

/// Proves from the agents' logs that no guest of a VM was started before the one before it had been seen to stop, and that no
/// epoch started it at two places. Returns how often it was started.
///
/// A host that lost its power stopped its guests without a word: a start at the same site is then no second one.
///
/// # Errors
///
/// The lines that tell of two at once.
pub fn agents_never_two_at_once(logs: &[(Site, String)], vm: uuid::Uuid) -> Result<usize> {
    let mark = format!("vm={vm}");
    let mut heard = Vec::new();
    for (site, log) in logs {
        for line in log.lines().filter(|line| line.contains(&mark)) {
            // An agent that died in between says only that the stop is proven, or the host fenced, in its next life.
            let ended = [
                ": guest stopped ",
                ": the stop is proven ",
                ": this host is fenced ",
            ];
            let what = if line.contains(": guest started ") {
                Heard::Started
            } else if ended.iter().any(|words| line.contains(words)) {
                Heard::Stopped
            } else {
                continue;
            };
            let time: jiff::Timestamp = line
                .split_ascii_whitespace()
                .next()
                .unwrap_or_default()
                .parse()
                .with_context(|| format!("a log line without a time: {line}"))?;
            let epoch = line
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix("epoch="))
                .with_context(|| format!("a log line without an epoch: {line}"))?;
            heard.push((time, *site, what, epoch.to_owned(), line));
        }
    }
    heard.sort_by_key(|(time, ..)| *time);
    let mut running: Option<(Site, &str)> = None;
    let mut epochs: BTreeMap<String, Site> = BTreeMap::new();
    let mut starts = 0;
    for (_, site, what, epoch, line) in heard {
        match what {
            Heard::Stopped => running = running.filter(|(other, _)| *other != site),
            Heard::Started => {
                starts += 1;
                if let Some((other, before)) = running {
                    ensure!(other == site, "two at once:\n{before}\n{line}");
                }
                let first = *epochs.entry(epoch).or_insert(site);
                ensure!(
                    first == site,
                    "one epoch, started at {first} and here:\n{line}"
                );
                running = Some((site, line));
            }
        }
    }
    Ok(starts)
}

/// Bytes on the wire of all passes of a VM that an agent's log tells to have become whole.
///
/// # Errors
///
/// A line that tells of a pass and not of its bytes.
pub fn bytes_passed(log: &str, vm: uuid::Uuid) -> Result<u64> {
    let mark = format!("vm={vm}");
    let mut sum = 0;
    for line in log
        .lines()
        .filter(|line| line.contains(&mark) && line.contains(": pass is whole "))
    {
        let sent = line
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("bytes_sent="))
            .with_context(|| format!("a pass without its bytes: {line}"))?;
        sum += sent
            .parse::<u64>()
            .with_context(|| format!("no number of bytes: {line}"))?;
    }
    Ok(sum)
}

/// Proves from the agents' logs that no order had its effect twice: of one VM, no host brings two orders of one epoch and step to an end. Returns how
/// many orders there were.
///
/// # Errors
///
/// The lines that tell of the same order.
pub fn no_order_twice(logs: &[(Site, String)], vm: uuid::Uuid) -> Result<usize> {
    let mark = format!("vm={vm}");
    let mut ended: BTreeMap<(Site, &str, &str), &str> = BTreeMap::new();
    for (site, log) in logs {
        for line in log.lines().filter(|line| line.contains(&mark)) {
            if !line.contains(": order succeeded ") {
                continue;
            }
            let word = |name: &str| {
                line.split_ascii_whitespace()
                    .find_map(|word| word.strip_prefix(name))
                    .with_context(|| format!("a log line without {name}: {line}"))
            };
            if let Some(before) = ended.insert((*site, word("epoch=")?, word("step=")?), line) {
                bail!("one order, twice:\n{before}\n{line}");
            }
        }
    }
    Ok(ended.len())
}

/// Proves that what was sent is what had changed: all of it, and next to nothing else.
///
/// # Errors
///
/// When more or less was sent.
pub fn sent_matches_changed(sent: u64, changed: u64) -> Result<()> {
    // What holds the blocks together on the wire, and blocks that were written with what they held.
    let most = changed + changed / 20 + 2 * BLOCK as u64;
    ensure!(
        (changed..=most).contains(&sent),
        "{sent} bytes were sent where {changed} had changed"
    );
    Ok(())
}

/// Size of the blocks that changes are counted in, as the data plane counts them.
pub const BLOCK: usize = 64 * 1024;

/// Bytes of the blocks that differ between two states of the same disks.
///
/// # Errors
///
/// When a file cannot be read, or the disks are not the same in number and size.
pub fn changed_bytes(before: &[PathBuf], after: &[PathBuf]) -> Result<u64> {
    ensure!(before.len() == after.len(), "not the same disks");
    let mut changed = 0;
    for (before, after) in before.iter().zip(after) {
        changed += changed_bytes_of(before, after)?;
    }
    Ok(changed)
}

fn changed_bytes_of(before: &Path, after: &Path) -> Result<u64> {
    let open =
        |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let (old, new) = (open(before)?, open(after)?);
    let length = old.metadata()?.len();
    ensure!(
        length == new.metadata()?.len(),
        "{} and {} differ in size",
        before.display(),
        after.display()
    );
    let mut changed = 0;
    let mut buffers = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut offset = 0;
    while offset < length {
        // Where both have a hole there is nothing to compare.
        let Some(data) = next_data(&old, offset)?
            .into_iter()
            .chain(next_data(&new, offset)?)
            .min()
        else {
            break;
        };
        offset = offset.max(data / BLOCK as u64 * BLOCK as u64);
        let count = usize::try_from((length - offset).min(BLOCK as u64))?;
        let (left, right) = (&mut buffers.0[..count], &mut buffers.1[..count]);
        old.read_exact_at(left, offset)?;
        new.read_exact_at(right, offset)?;
        if left != right {
            changed += count as u64;
        }
        offset += count as u64;
    }
    Ok(changed)
}

fn next_data(file: &File, offset: u64) -> Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// Copies disks, holes and all, to another folder.
///
/// # Errors
///
/// When a file cannot be read or written.
pub fn copy_disks(disks: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut copies = Vec::new();
    for disk in disks {
        let name = disk.file_name().context("a disk has a name")?;
        let copy = folder.join(name);
        copy_sparse(disk, &copy).with_context(|| format!("cannot copy {}", disk.display()))?;
        copies.push(copy);
    }
    Ok(copies)
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let (old, new) = (File::open(from)?, File::create(to)?);
    let length = old.metadata()?.len();
    new.set_len(length)?;
    let mut buffer = vec![0; 16 * BLOCK];
    let mut offset = 0;
    while let Some(data) = next_data(&old, offset)? {
        let hole =
            rustix::fs::seek(&old, rustix::fs::SeekFrom::Hole(data)).map_err(io::Error::from)?;
        offset = data;
        while offset < hole {
            let count = usize::try_from((hole - offset).min(buffer.len() as u64))?;
            old.read_exact_at(&mut buffer[..count], offset)?;
            new.write_all_at(&buffer[..count], offset)?;
            offset += count as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
