//! Two sides of a pass, and what stands between them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use homeward::dataplane::io::fs::{Fs, HostFs, Open};
use homeward::dataplane::wire::Hello;
use homeward::dataplane::*;
use uuid::Uuid;

pub const VM: Uuid = Uuid::from_u128(0x7a);
pub const KIB64: usize = 64 * 1024;

/// Bytes that look like nothing else; equal for an equal seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

pub fn id(name: &str) -> DiskId {
    DiskId::new(name).unwrap()
}

/// One side: a folder with disks and their set.
pub struct Site {
    pub fs: Arc<dyn Fs>,
    pub root: PathBuf,
    pub gate: Arc<Gate>,
    pub set: Arc<Mutex<VolumeSet>>,
    names: Vec<String>,
    _dir: Option<tempfile::TempDir>,
}

impl Site {
    /// Real files with these contents.
    pub fn new(disks: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::at(Arc::new(HostFs), dir.path().to_owned(), Some(dir), disks)
    }

    pub fn at(
        fs: Arc<dyn Fs>,
        root: PathBuf,
        dir: Option<tempfile::TempDir>,
        disks: &[(&str, &[u8])],
    ) -> Self {
        for (name, content) in disks {
            fs.create_dirs(&root).unwrap();
            let file = fs.open(&root.join(name), Open::CreateNew).unwrap();
            file.set_size(content.len() as u64).unwrap();
            for (at, block) in content
                .chunks(4096)
                .enumerate()
                .filter(|(_, block)| block.iter().any(|byte| *byte != 0))
            {
                file.write_at(at as u64 * 4096, block).unwrap();
            }
            file.sync().unwrap();
            fs.sync_dir(&root).unwrap();
        }
        let names: Vec<_> = disks.iter().map(|(name, _)| *name).collect();
        Self {
            _dir: dir,
            ..Self::of_existing(fs, root, &names)
        }
    }

    /// Disks that are there.
    pub fn of_existing(fs: Arc<dyn Fs>, root: PathBuf, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let set = open_set(&fs, &root, &names).unwrap();
        Self {
            fs,
            root,
            gate: Gate::new(),
            set: Arc::new(Mutex::new(set)),
            names,
            _dir: None,
        }
    }

    pub fn set(&self) -> MutexGuard<'_, VolumeSet> {
        self.set.lock().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let file = self.fs.open(&self.path(name), Open::Read).unwrap();
        let mut out = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        assert_eq!(file.read_at(0, &mut out).unwrap(), out.len());
        out
    }

    pub fn write(&self, name: &str, offset: u64, data: &[u8]) {
        let file = self.fs.open(&self.path(name), Open::Write).unwrap();
        file.write_at(offset, data).unwrap();
    }

    pub fn resize(&self, name: &str, size: u64) {
        self.fs
            .open(&self.path(name), Open::Write)
            .unwrap()
            .set_size(size)
            .unwrap();
    }

    /// What a new process would see.
    pub fn reopen(&self) -> Result<(), SetError> {
        let mut set = self.set();
        // The lock of the old one has to go first.
        let scratch = tempfile::tempdir().unwrap();
        *set = VolumeSet::open(scratch.path(), VM, &[]).unwrap();
        *set = open_set(&self.fs, &self.root, &self.names)?;
        Ok(())
    }

    pub fn sources(&self) -> Vec<PassDisk> {
        let source =
            |name: &String| FileSource::open_with(self.fs.as_ref(), &self.path(name)).unwrap();
        self.names
            .iter()
            .map(|name| PassDisk {
                id: id(name),
                source: Box::new(source(name)),
            })
            .collect()
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }
}

fn open_set(
    fs: &Arc<dyn Fs>,
    root: &std::path::Path,
    names: &[String],
) -> Result<VolumeSet, SetError> {
    let specs: Vec<_> = names
        .iter()
        .map(|name| DiskSpec {
            id: id(name),
            path: root.join(name),
            size: 0,
        })
        .collect();
    VolumeSet::open_with(Arc::clone(fs), &root.join("state"), VM, &specs)
}

/// Admits every order for the one VM that it has.
pub struct AdmitAll {
    pub set: Arc<Mutex<VolumeSet>>,
    pub gate: Arc<Gate>,
}

impl Admission for AdmitAll {
    fn admit(&self, hello: &Hello, _peer: &Peer) -> Result<Admitted, Refusal> {
        if hello.vm != VM {
            return Err(Refusal::new(RefusalKind::UnknownVm, "no such VM"));
        }
        let session = self
            .gate
            .open_session(hello.epoch)
            .map_err(|error| Refusal::new(RefusalKind::Fenced, error.to_string()))?;
        Ok(Admitted {
            set: Arc::clone(&self.set),
            session,
        })
    }

    fn epoch(&self, vm: Uuid, _peer: &Peer) -> Result<Option<u64>, Refusal> {
        Ok((vm == VM).then_some(7))
    }
}

/// Serves exactly one connection.
pub fn serve_one(site: &Site, options: ServeOptions) -> (SocketAddr, JoinHandle<Served>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let admission = AdmitAll {
        set: Arc::clone(&site.set),
        gate: Arc::clone(&site.gate),
    };
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        serve_connection(stream, &admission, &options)
    });
    (address, serving)
}

pub fn spec(pass: u128, mode: Mode, candidates: Candidates) -> PassSpec {
    PassSpec {
        epoch: 1,
        step: 1,
        pass: Uuid::from_u128(pass),
        mode,
        point: format!("point {pass}"),
        candidates,
    }
}

pub fn ranges(base: &Roots, list: &[(&str, std::ops::Range<u64>)]) -> Candidates {
    let mut ranges: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, range) in list {
        ranges.entry(id(name)).or_default().push(range.clone());
    }
    Candidates::Ranges {
        base: base.clone(),
        ranges,
    }
}

/// One pass over loopback.
pub fn pass(
    source: &Site,
    target: &Site,
    spec: PassSpec,
) -> (Result<PassOutcome, PassError>, Served) {
    let (address, serving) = serve_one(target, ServeOptions::default());
    let outcome = send_pass(
        &Endpoint::plain(address.to_string()),
        spec,
        source.sources(),
        &mut source.set(),
        &PassControl::new(),
    );
    (outcome, serving.join().unwrap())
}

/// One pass whose connection breaks after so many bytes from the sender. Says how many passed.
pub fn cut_pass(
    source: &Site,
    target: &Site,
    spec: PassSpec,
    after: u64,
) -> (Result<PassOutcome, PassError>, Served, u64) {
    let (address, serving) = serve_one(target, ServeOptions::default());
    let (through, cutter, passed) = cut_after(address, after);
    let outcome = send_pass(
        &Endpoint::plain(through.to_string()),
        spec,
        source.sources(),
        &mut source.set(),
        &PassControl::new(),
    );
    cutter.join().unwrap();
    (
        outcome,
        serving.join().unwrap(),
        passed.load(Ordering::SeqCst),
    )
}

/// Stands between: lets `after` bytes go to the target, then ends both connections.
pub fn cut_after(target: SocketAddr, after: u64) -> (SocketAddr, JoinHandle<()>, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let passed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&passed);
    let thread = std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(target).unwrap();
        let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Write);
        });
        let (mut from, mut to) = (&near, &far);
        let mut buf = vec![0; KIB64];
        let mut left = after;
        while left > 0 {
            let most = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match from.read(&mut buf[..most]) {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    if to.write_all(&buf[..read]).is_err() {
                        break;
                    }
                    count.fetch_add(read as u64, Ordering::SeqCst);
                    left -= read as u64;
                }
            }
        }
        if left == 0 {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        } else {
            let _ = far.shutdown(Shutdown::Write);
        }
        back.join().unwrap();
    });
    (address, thread, passed)
}
