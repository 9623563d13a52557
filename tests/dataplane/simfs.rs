//! A file system in memory that can crash after any effect. Only what was synced survives for certain; of the rest a random part
//! does, sector by sector, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use homeward::dataplane::io::fs::{Disk, Fs, Open, Stamp};
use homeward::dataplane::io::room::Room;

const SECTOR: usize = 512;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Create,
    Write,
    Zero,
    SetSize,
    Reserve,
    Sync,
    SyncDir,
    Rename,
    Remove,
}

/// What becomes of an effect that a test has picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    NoSpace,
    Io,
    /// It seems to succeed, but a byte is wrong.
    Corrupt,
    /// Nothing is durable, yet the cache shows it: what Linux does after a failed sync.
    LostSync,
}

type Rule = Box<dyn FnMut(Effect, &Path) -> Option<Fault> + Send>;

#[derive(Clone)]
pub struct SimFs(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_ops: Vec<NameOp>,
    inodes: BTreeMap<u64, Inode>,
    locks: BTreeMap<u64, Vec<(u64, bool)>>,
    next: u64,
    effects: u64,
    crash_at: Option<u64>,
    crashed: bool,
    generation: u64,
    rule: Option<Rule>,
    free: Arc<AtomicU64>,
    total: u64,
    full_from: Option<u64>,
    devices: BTreeSet<PathBuf>,
    pub written: BTreeMap<PathBuf, u64>,
}

#[derive(Clone)]
enum NameOp {
    Set(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Default, Clone)]
struct Inode {
    path: PathBuf,
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    read: u64,
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Size(usize),
}

/// A small generator, so that every run with a seed is the same.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below.max(1)
    }
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimFs")
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl SimFs {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            free: Arc::new(AtomicU64::new(u64::MAX)),
            total: 0,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dies at the `n`th effect from now, counted from 1. That effect may happen in part.
    pub fn crash_at(&self, n: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.effects + n);
    }

    /// From the `n`th effect on nothing that needs room succeeds, until [`SimFs::make_room`].
    pub fn fill_at(&self, n: u64) {
        let mut state = self.state();
        state.full_from = Some(state.effects + n);
    }

    /// Whether anything was turned away for want of room before.
    pub fn make_room(&self) -> bool {
        let mut state = self.state();
        let from = state.full_from.take();
        from.is_some_and(|from| state.effects >= from)
    }

    /// From now on this file is a block device.
    pub fn make_device(&self, path: impl Into<PathBuf>) {
        self.state().devices.insert(path.into());
    }

    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    pub fn effects(&self) -> u64 {
        self.state().effects
    }

    pub fn fault(&self, rule: impl FnMut(Effect, &Path) -> Option<Fault> + Send + 'static) {
        self.state().rule = Some(Box::new(rule));
    }

    pub fn no_fault(&self) {
        self.state().rule = None;
    }

    /// Bytes that were read from files that were made with this name, since this was last asked.
    pub fn read_of(&self, path: &str) -> u64 {
        let mut state = self.state();
        let of_that_name = state
            .inodes
            .values_mut()
            .filter(|inode| inode.path == Path::new(path));
        of_that_name
            .map(|inode| std::mem::take(&mut inode.read))
            .sum()
    }

    /// So much is free, and nothing of it is left alone.
    pub fn set_free(&self, bytes: u64) {
        self.state().free.store(bytes, Ordering::SeqCst);
    }

    /// What is free, for a rule that changes it in the middle of things.
    pub fn free(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.state().free)
    }

    /// The size of all of it, of which a part is left alone.
    pub fn set_total(&self, bytes: u64) {
        self.state().total = bytes;
    }

    /// Loses power and starts again: of what was not synced a random part survives.
    pub fn power_cycle(&self, dice: &mut Dice) {
        let mut state = self.state();
        // Names: operations happen in order, some last ones are lost.
        let ops = std::mem::take(&mut state.name_ops);
        let keep = usize::try_from(dice.next(ops.len() as u64 + 1)).unwrap();
        for op in ops.into_iter().take(keep) {
            state.apply_durably(op);
        }
        state.names = state.durable_names.clone();
        let chance = [0, 1, 2, 3, 4][usize::try_from(dice.next(5)).unwrap()];
        for inode in state.inodes.values_mut() {
            for pending in std::mem::take(&mut inode.pending) {
                match pending {
                    Pending::Size(size) => {
                        if dice.next(4) < chance {
                            inode.durable.resize(size, 0);
                        }
                    }
                    Pending::Write(at, data) => {
                        for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                            if dice.next(4) < chance {
                                put(&mut inode.durable, at + sector * SECTOR, bytes);
                            }
                        }
                    }
                }
            }
            inode.live = inode.durable.clone();
        }
        state.restart();
    }

    /// Loses power and starts again: nothing of what was not synced survives.
    pub fn lose_what_is_not_synced(&self) {
        let mut state = self.state();
        state.name_ops.clear();
        state.names = state.durable_names.clone();
        for inode in state.inodes.values_mut() {
            inode.pending.clear();
            inode.live = inode.durable.clone();
        }
        state.restart();
    }

    /// The process dies, the machine does not: everything that was written is there.
    pub fn kill(&self) {
        self.state().restart();
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl State {
    fn restart(&mut self) {
        self.locks.clear();
        self.crash_at = None;
        self.crashed = false;
        self.generation += 1;
        self.rule = None;
        self.full_from = None;
    }

    fn apply_durably(&mut self, op: NameOp) {
        match op {
            NameOp::Set(path, inode) => {
                self.durable_names.insert(path, inode);
            }
            NameOp::Remove(path) => {
                self.durable_names.remove(&path);
            }
            NameOp::Rename(from, to) => {
                if let Some(inode) = self.durable_names.remove(&from) {
                    self.durable_names.insert(to, inode);
                }
            }
        }
    }

    /// Counts an effect. `Ok(Some)`: it goes wrong that way; `Err`: the process is dead. `true` in the pair: it dies with this one.
    fn effect(&mut self, effect: Effect, path: &Path) -> io::Result<(bool, Option<Fault>)> {
        if self.crashed {
            return Err(dead());
        }
        self.effects += 1;
        self.crashed = self.crash_at == Some(self.effects);
        let needs_room = matches!(
            effect,
            Effect::Create | Effect::Write | Effect::SetSize | Effect::Reserve
        );
        if needs_room && self.full_from.is_some_and(|from| self.effects >= from) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fault = self.rule.as_mut().and_then(|rule| rule(effect, path));
        match fault {
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Io) => Err(io::Error::other("injected")),
            other => Ok((self.crashed, other)),
        }
    }
}

fn or_dead(dies: bool) -> io::Result<()> {
    if dies { Err(dead()) } else { Ok(()) }
}

impl Fs for SimFs {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Disk>> {
        let mut state = self.state();
        if state.crashed {
            return Err(dead());
        }
        let inode = match (state.names.get(path).copied(), how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, Open::CreateNew) => {
                let (dies, _) = state.effect(Effect::Create, path)?;
                state.next += 1;
                let inode = state.next;
                state.inodes.insert(
                    inode,
                    Inode {
                        path: path.to_owned(),
                        ..Inode::default()
                    },
                );
                state.names.insert(path.to_owned(), inode);
                state.name_ops.push(NameOp::Set(path.to_owned(), inode));
                or_dead(dies)?;
                inode
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        state.next += 1;
        let handle = state.next;
        Ok(Arc::new(SimDisk {
            fs: self.clone(),
            inode,
            handle,
            generation: state.generation,
        }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        if state.crashed {
            Err(dead())
        } else {
            Ok(state.names.contains_key(path))
        }
    }

    fn create_dirs(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let (dies, _) = state.effect(Effect::Rename, to)?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        if let Some(inode) = state.inodes.get_mut(&inode) {
            to.clone_into(&mut inode.path);
        }
        state
            .name_ops
            .push(NameOp::Rename(from.to_owned(), to.to_owned()));
        or_dead(dies)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let (dies, _) = state.effect(Effect::Remove, path)?;
        if state.names.remove(path).is_some() {
            state.name_ops.push(NameOp::Remove(path.to_owned()));
        }
        or_dead(dies)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let (dies, _) = state.effect(Effect::SyncDir, path)?;
        or_dead(dies)?;
        let here = |name: &Path| name.parent() == Some(path);
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.name_ops)
            .into_iter()
            .partition(|op| match op {
                NameOp::Set(name, _) | NameOp::Remove(name) => here(name),
                NameOp::Rename(from, to) => here(from) || here(to),
            });
        now.into_iter().for_each(|op| state.apply_durably(op));
        state.name_ops = later;
        Ok(())
    }

    fn room(&self, _dir: &Path) -> io::Result<Room> {
        let state = self.state();
        Ok(Room {
            free: state.free.load(Ordering::SeqCst),
            total: state.total,
        })
    }

    fn file_system(&self, _dir: &Path) -> io::Result<u64> {
        Ok(0)
    }

    fn own_like(&self, _path: &Path, _like: &Path) -> io::Result<()> {
        Ok(())
    }
}

struct SimDisk {
    fs: SimFs,
    inode: u64,
    handle: u64,
    generation: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk {}", self.inode)
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        let mut state = self.fs.state();
        if state.generation == self.generation
            && let Some(locks) = state.locks.get_mut(&self.inode)
        {
            locks.retain(|(handle, _)| *handle != self.handle);
        }
    }
}

impl SimDisk {
    fn with<T>(&self, act: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.fs.state();
        if state.crashed || state.generation != self.generation {
            return Err(dead());
        }
        Ok(act(state
            .inodes
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?))
    }

    fn change(
        &self,
        effect: Effect,
        change: impl FnOnce(Option<Fault>) -> Pending,
    ) -> io::Result<()> {
        let mut state = self.fs.state();
        if state.generation != self.generation {
            return Err(dead());
        }
        let path = state.inodes[&self.inode].path.clone();
        let (dies, fault) = state.effect(effect, &path)?;
        let pending = change(fault);
        if let Pending::Write(_, data) = &pending {
            *state.written.entry(path).or_default() += data.len() as u64;
        }
        let inode = state
            .inodes
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        match &pending {
            Pending::Write(at, data) => put(&mut inode.live, *at, data),
            Pending::Size(size) => inode.live.resize(*size, 0),
        }
        inode.pending.push(pending);
        or_dead(dies)
    }
}

impl Disk for SimDisk {
    fn size(&self) -> io::Result<u64> {
        self.with(|inode| inode.live.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|inode| {
            let rest = inode
                .live
                .get(usize::try_from(offset).unwrap()..)
                .unwrap_or(&[]);
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            inode.read += len as u64;
            len
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Effect::Write, |fault| {
            let mut data = data.to_vec();
            if fault == Some(Fault::Corrupt) {
                data[0] ^= 0x40;
            }
            Pending::Write(usize::try_from(offset).unwrap(), data)
        })
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Effect::Zero, |_| {
            Pending::Write(
                usize::try_from(offset).unwrap(),
                vec![0; usize::try_from(len).unwrap()],
            )
        })
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        assert!(!self.is_device(), "a device has the size it has");
        self.change(Effect::SetSize, |_| {
            Pending::Size(usize::try_from(size).unwrap())
        })
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        let size = self.with(|inode| inode.live.len())?;
        self.change(Effect::Reserve, |_| Pending::Size(size.max(len)))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.fs.state();
        if state.generation != self.generation {
            return Err(dead());
        }
        let path = state.inodes[&self.inode].path.clone();
        let (dies, fault) = state.effect(Effect::Sync, &path)?;
        or_dead(dies)?;
        let inode = state
            .inodes
            .get_mut(&self.inode)
            .ok_or(io::ErrorKind::NotFound)?;
        let pending = std::mem::take(&mut inode.pending);
        if fault == Some(Fault::LostSync) {
            return Err(io::Error::other("injected: the sync failed"));
        }
        for pending in pending {
            match pending {
                Pending::Size(size) => inode.durable.resize(size, 0),
                Pending::Write(at, data) => put(&mut inode.durable, at, &data),
            }
        }
        Ok(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) {}

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.with(|inode| {
            let zero = |page: usize| {
                inode.live[page * 4096..inode.live.len().min((page + 1) * 4096)]
                    .iter()
                    .all(|byte| *byte == 0)
            };
            let pages = inode.live.len().div_ceil(4096);
            let first =
                (usize::try_from(offset).unwrap() / 4096..pages).find(|page| !zero(*page))?;
            let last = (first..pages).find(|page| zero(*page)).unwrap_or(pages);
            Some(offset.max(first as u64 * 4096)..(last as u64 * 4096).min(inode.live.len() as u64))
        })
    }

    fn is_device(&self) -> bool {
        let state = self.fs.state();
        (state.inodes.get(&self.inode)).is_some_and(|inode| state.devices.contains(&inode.path))
    }

    fn room(&self) -> io::Result<Option<Room>> {
        if self.is_device() {
            return Ok(None);
        }
        self.fs.room(Path::new("/")).map(Some)
    }

    fn has_room(&self, range: &Range<u64>) -> io::Result<bool> {
        let data = self.next_data(range.start)?;
        Ok(data.is_some_and(|data| data.start <= range.start && range.end <= data.end))
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let mut state = self.fs.state();
        let locks = state.locks.entry(self.inode).or_default();
        let free = locks
            .iter()
            .all(|(handle, other)| *handle == self.handle || !(exclusive || *other));
        if free {
            locks.push((self.handle, exclusive));
        }
        Ok(free)
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        Ok(None)
    }
}
