//! The data plane against rsync, nbdcopy and cp: `cargo bench --bench transfer`.
//!
//! It runs the product's own path (journal, sync, reading back) as two processes over loopback TCP, on an image whose pages are
//! in the cache, and counts the time until everything is synced. The tools take turns within a case. Every result is compared with the
//! source, byte for byte. Other tools get the transport that is fastest for them where there is a choice: rsync a local pipe.
//!
//! `HOMEWARD_BENCH_MIB` (2048) and `HOMEWARD_BENCH_ROUNDS` (3) set the image's size and how often each tool runs;
//! `HOMEWARD_BENCH_DIR` (`target/bench`) where the images lie; `HOMEWARD_BENCH_CASES` picks cases by name.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use homeward::dataplane::{
    Admission, Admitted, Candidates, DiskId, DiskSpec, Endpoint, FileSource, Gate, Hello, Mode,
    PassControl, PassDisk, PassSpec, Peer, Refusal, Roots, ServeOptions, Served, VolumeSet,
    send_pass, serve_connection,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use uuid::Uuid;

const BLOCK: u64 = 64 * 1024;
const VM: Uuid = Uuid::from_u128(1);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("--role-send") => send(&args[2..]),
        Some("--role-receive") => receive(&args[2..]),
        _ => bench(),
    }
}

// ---- the two roles of the product ----

fn volume_set(dir: &str, disk: &str) -> Result<VolumeSet> {
    let size = std::fs::metadata(disk).map_or(0, |data| data.len());
    Ok(VolumeSet::open(
        Path::new(dir),
        VM,
        &[DiskSpec {
            id: DiskId::new("vda")?,
            path: disk.into(),
            size,
        }],
    )?)
}

/// `port state disk mode bitmap-file tls-dir`; says what it has sent.
fn send(args: &[String]) -> Result<()> {
    let [port, state, disk, mode, bitmap, tls] = args else {
        bail!("six arguments")
    };
    let mut set = volume_set(state, disk)?;
    let id = DiskId::new("vda")?;
    let mode = if mode == "new" {
        Mode::NewFiles
    } else {
        Mode::InPlace
    };
    let candidates = if bitmap.is_empty() {
        Candidates::All
    } else {
        let changed: Vec<u64> = serde_json::from_slice(&std::fs::read(bitmap)?)?;
        let base = match set.content() {
            homeward::dataplane::Content::Whole { point, .. } => point.roots.clone(),
            other => bail!("the source is {}", other.kind()),
        };
        Candidates::Ranges {
            base,
            ranges: [(
                id.clone(),
                changed.iter().map(|at| *at..at + BLOCK).collect(),
            )]
            .into(),
        }
    };
    let address = format!("127.0.0.1:{port}");
    let endpoint = if tls.is_empty() {
        Endpoint::plain(address)
    } else {
        Endpoint::tls(
            address,
            client_tls(Path::new(tls))?,
            ServerName::try_from("localhost")?,
        )
    };
    let spec = PassSpec {
        epoch: 1,
        step: 1,
        pass: Uuid::new_v4(),
        mode,
        point: "bench".to_owned(),
        candidates,
    };
    let disks = vec![PassDisk {
        id,
        source: Box::new(FileSource::open(Path::new(disk))?),
    }];
    let done = send_pass(&endpoint, spec, disks, &mut set, &PassControl::new())?;
    println!(
        "{}",
        json!({ "sent": done.bytes_sent, "received": done.bytes_received, "changed": done.bytes_changed })
    );
    Ok(())
}

struct AdmitAll(Arc<Mutex<VolumeSet>>, Arc<Gate>);

impl Admission for AdmitAll {
    fn admit(&self, hello: &Hello, _peer: &Peer) -> Result<Admitted, Refusal> {
        let session = self.1.open_session(hello.epoch).map_err(|error| {
            Refusal::new(homeward::dataplane::RefusalKind::Fenced, error.to_string())
        })?;
        Ok(Admitted {
            set: Arc::clone(&self.0),
            session,
        })
    }

    fn epoch(&self, _vm: Uuid, _peer: &Peer) -> Result<Option<u64>, Refusal> {
        Ok(None)
    }
}

/// `state disk tls-dir`; says its port, then serves one connection. New files are sealed before it ends.
fn receive(args: &[String]) -> Result<()> {
    let [state, disk, tls] = args else {
        bail!("three arguments")
    };
    let set = Arc::new(Mutex::new(volume_set(state, disk)?));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    let tls = if tls.is_empty() {
        None
    } else {
        Some(server_tls(Path::new(tls))?)
    };
    let (stream, _) = listener.accept()?;
    let served = serve_connection(
        stream,
        &AdmitAll(Arc::clone(&set), Gate::new()),
        &ServeOptions {
            tls,
            ..ServeOptions::default()
        },
    );
    let Served::Whole(roots) = served else {
        bail!("{served:?}")
    };
    seal_new_files(&set, &roots)
}

fn seal_new_files(set: &Mutex<VolumeSet>, roots: &Roots) -> Result<()> {
    let mut set = set
        .lock()
        .map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
    if matches!(set.content(), homeward::dataplane::Content::NewFiles { .. }) {
        set.seal(roots)?;
    }
    Ok(())
}

// ---- TLS ----

fn make_pki(dir: &Path) -> Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    std::fs::create_dir_all(dir)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca-cert.pem"), params.self_signed(&key)?.pem())?;
    let ca = Issuer::new(params, key);
    for role in ["server", "client"] {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["localhost".to_owned()])?;
        std::fs::write(
            dir.join(format!("{role}-cert.pem")),
            params.signed_by(&key, &ca)?.pem(),
        )?;
        std::fs::write(dir.join(format!("{role}-key.pem")), key.serialize_pem())?;
    }
    Ok(())
}

fn roots(dir: &Path) -> Result<Arc<rustls::RootCertStore>> {
    let mut store = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(dir.join("ca-cert.pem"))? {
        store.add(cert?)?;
    }
    Ok(Arc::new(store))
}

fn identity(
    dir: &Path,
    role: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(dir.join(format!("{role}-cert.pem")))?
        .collect::<Result<_, _>>()?;
    Ok((
        chain,
        PrivateKeyDer::from_pem_file(dir.join(format!("{role}-key.pem")))?,
    ))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server_tls(dir: &Path) -> Result<Arc<rustls::ServerConfig>> {
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots(dir)?, provider())
            .build()?;
    let (chain, key) = identity(dir, "server")?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?;
    Ok(Arc::new(
        config
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?,
    ))
}

fn client_tls(dir: &Path) -> Result<Arc<rustls::ClientConfig>> {
    let (chain, key) = identity(dir, "client")?;
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?;
    Ok(Arc::new(
        config
            .with_root_certificates(roots(dir)?)
            .with_client_auth_cert(chain, key)?,
    ))
}

// ---- measuring ----

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    seconds: f64,
    /// Bytes to the target; `None` where the tool does not say.
    sent: Option<u64>,
    /// Bytes from the target.
    back: Option<u64>,
    /// The larger of both sides, in KiB.
    rss: u64,
}

/// Waits for a child; its peak resident memory in KiB.
#[expect(unsafe_code, reason = "std gives no resource usage of a child")]
fn wait(child: &Child, what: &str) -> Result<u64> {
    let (mut status, pid) = (0, libc::pid_t::try_from(child.id())?);
    // SAFETY: all-zero bytes are a valid `rusage`, a C struct of integers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live, writable values of the right types; the pid is that of a child that nobody has waited for.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "waiting for {what} failed");
    // SAFETY of the numbers, not of memory: a status of 0 is an exit with code 0.
    ensure!(
        status == 0 || libc::WIFSIGNALED(status),
        "{what} failed with status {status:#x}"
    );
    Ok(u64::try_from(usage.ru_maxrss)?)
}

fn myself() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

fn homeward(dir: &Path, disk: &Path, mode: &str, bitmap: &str, tls: &str) -> Result<Run> {
    let (near, far) = (dir.join("state-source"), dir.join("state-target"));
    let mut target = myself()?
        .arg("--role-receive")
        .arg(&far)
        .arg(disk)
        .arg(tls)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(target.stdout.take().context("no output")?);
    let mut port = String::new();
    lines.read_line(&mut port)?;
    let begin = Instant::now();
    let mut source = myself()?
        .args(["--role-send", port.trim()])
        .arg(&near)
        .arg(dir.join("source.img"))
        .args([mode, bitmap, tls])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    source
        .stdout
        .take()
        .context("no output")?
        .read_to_string(&mut said)?;
    let rss = wait(&source, "the sender")?.max(wait(&target, "the receiver")?);
    let seconds = begin.elapsed().as_secs_f64();
    let said: Value = serde_json::from_str(&said)?;
    Ok(Run {
        seconds,
        sent: said["sent"].as_u64(),
        back: said["received"].as_u64(),
        rss,
    })
}

fn rsync(dir: &Path, disk: &Path) -> Result<Run> {
    let begin = Instant::now();
    let mut child = Command::new("rsync")
        .args([
            "--inplace",
            "--no-whole-file",
            "--fsync",
            "--ignore-times",
            "--stats",
        ])
        .arg(dir.join("source.img"))
        .arg(disk)
        .stdout(Stdio::piped())
        .spawn()
        .context("rsync is not there: run tools/setup bench")?;
    let mut said = String::new();
    child
        .stdout
        .take()
        .context("no output")?
        .read_to_string(&mut said)?;
    let rss = wait(&child, "rsync")?;
    let number = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.trim().replace(',', "").parse().ok())
    };
    Ok(Run {
        seconds: begin.elapsed().as_secs_f64(),
        sent: number("Total bytes sent:"),
        back: number("Total bytes received:"),
        rss,
    })
}

fn cp(dir: &Path, disk: &Path) -> Result<Run> {
    let begin = Instant::now();
    let child = Command::new("cp")
        .arg("--sparse=never")
        .arg(dir.join("source.img"))
        .arg(disk)
        .spawn()?;
    let rss = wait(&child, "cp")?;
    File::open(disk)?.sync_all()?;
    Ok(Run {
        seconds: begin.elapsed().as_secs_f64(),
        rss,
        ..Run::default()
    })
}

fn nbdcopy(dir: &Path, disk: &Path, tls: &str) -> Result<Run> {
    let size = std::fs::metadata(dir.join("source.img"))?.len();
    File::create(disk)?.set_len(size)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = Command::new("nbdkit");
    server.args(["-f", "-i", "127.0.0.1", "-p", &port.to_string()]);
    if !tls.is_empty() {
        server
            .args(["--tls=require", "--tls-verify-peer"])
            .arg(format!("--tls-certificates={tls}"));
    }
    let mut server = server
        .arg("file")
        .arg(disk)
        .spawn()
        .context("nbdkit is not there: run tools/setup bench")?;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(server.try_wait()?.is_none(), "nbdkit has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let uri = if tls.is_empty() {
        format!("nbd://127.0.0.1:{port}")
    } else {
        format!("nbds://localhost:{port}/?tls-certificates={tls}")
    };
    let begin = Instant::now();
    let child = Command::new("nbdcopy")
        .arg("--flush")
        .arg(dir.join("source.img"))
        .arg(uri)
        .spawn()
        .context("nbdcopy is not there")?;
    let rss = wait(&child, "nbdcopy");
    let seconds = begin.elapsed().as_secs_f64();
    server.kill()?;
    let peak = wait(&server, "nbdkit")?;
    Ok(Run {
        seconds,
        rss: rss?.max(peak),
        ..Run::default()
    })
}

// ---- images ----

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes that only depend on where they lie and on a generation.
fn content(generation: u64, offset: u64, out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.finalize_xof().fill(out);
}

fn make_image(path: &Path, size: u64) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let mut block = vec![0; usize::try_from(BLOCK)?];
    for offset in (0..size).step_by(usize::try_from(BLOCK)?) {
        content(0, offset, &mut block);
        file.write_all_at(&block, offset)?;
    }
    Ok(file.sync_all()?)
}

/// A change: where, and how many bytes.
type Changes = Vec<(u64, usize)>;

/// `percent` of the image in pieces of `piece` bytes, at places that look random.
fn pick(size: u64, percent: u64, piece: u64) -> Changes {
    let (pieces, mut noise) = (size / piece, Noise(0x1234_5678_9abc_def1));
    let mut places: Vec<u64> = (0..pieces).collect();
    let wanted = pieces * percent / 100;
    for at in 0..wanted {
        let other = at + noise.next() % (pieces - at);
        places.swap(
            usize::try_from(at).unwrap_or(0),
            usize::try_from(other).unwrap_or(0),
        );
    }
    places.truncate(usize::try_from(wanted).unwrap_or(0));
    places.sort_unstable();
    places
        .into_iter()
        .map(|at| (at * piece, usize::try_from(piece).unwrap_or(0)))
        .collect()
}

/// Writes the changes of a generation; generation 0 takes them back.
fn apply(path: &Path, changes: &Changes, generation: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut block = vec![0; usize::try_from(BLOCK)?];
    for (offset, len) in changes {
        let start = offset - offset % BLOCK;
        content(generation, start, &mut block);
        let at = usize::try_from(offset - start)?;
        file.write_all_at(&block[at..at + len], *offset)?;
    }
    Ok(file.sync_all()?)
}

/// Compares two files, which also brings both into the cache.
fn same(a: &Path, b: &Path) -> Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    let size = a.metadata()?.len();
    if size != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for offset in (0..size).step_by(1 << 20) {
        let len = usize::try_from((size - offset).min(1 << 20))?;
        a.read_exact_at(&mut left[..len], offset)?;
        b.read_exact_at(&mut right[..len], offset)?;
        if left[..len] != right[..len] {
            return Ok(false);
        }
    }
    Ok(true)
}

// ---- cases ----

struct Bench {
    dir: PathBuf,
    size: u64,
    rounds: usize,
    results: Vec<(String, String, u64, Result<Vec<Run>>)>,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn bench() -> Result<()> {
    let root = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let dir = std::env::var("HOMEWARD_BENCH_DIR")
        .map_or_else(|_| Path::new(&root).join("bench"), PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let mut bench = Bench {
        size: setting("HOMEWARD_BENCH_MIB", 2048) << 20,
        rounds: usize::try_from(setting("HOMEWARD_BENCH_ROUNDS", 3))?,
        dir,
        results: Vec::new(),
    };
    let wanted = std::env::var("HOMEWARD_BENCH_CASES").unwrap_or_default();
    let wants = |case: &str| wanted.is_empty() || wanted.split(',').any(|one| one == case);
    let source = bench.dir.join("source.img");
    eprintln!(
        "making images of {} MiB in {}",
        bench.size >> 20,
        bench.dir.display()
    );
    make_image(&source, bench.size)?;
    let deltas = [
        ("delta-1%", 1, BLOCK),
        ("delta-5%", 5, BLOCK),
        ("delta-50%", 50, BLOCK),
        ("scatter-4k", 1, 4096),
        ("bitmap-1%", 1, BLOCK),
    ];
    if deltas.iter().any(|(case, ..)| wants(case)) {
        for tool in ["homeward", "rsync"] {
            make_image(&bench.dir.join(format!("{tool}.img")), bench.size)?;
        }
        for (case, percent, piece) in deltas.into_iter().filter(|(case, ..)| wants(case)) {
            bench.delta(case, &pick(bench.size, percent, piece))?;
        }
        for tool in ["homeward", "rsync"] {
            std::fs::remove_file(bench.dir.join(format!("{tool}.img")))?;
        }
    }
    for case in ["full", "full-tls"].into_iter().filter(|case| wants(case)) {
        bench.full(case)?;
    }
    std::fs::remove_file(&source)?;
    bench.report()
}

impl Bench {
    fn forget(&self) -> Result<()> {
        for state in ["state-source", "state-target"] {
            let path = self.dir.join(state);
            if path.exists() {
                std::fs::remove_dir_all(path)?;
            }
        }
        rustix::fs::sync();
        Ok(())
    }

    fn delta(&mut self, case: &str, changes: &Changes) -> Result<()> {
        let source = self.dir.join("source.img");
        let bitmap = self.dir.join("bitmap.json");
        std::fs::write(
            &bitmap,
            serde_json::to_vec(&changes.iter().map(|(at, _)| *at).collect::<Vec<_>>())?,
        )?;
        let mut runs: BTreeMap<&str, Vec<Run>> = BTreeMap::new();
        for round in 0..self.rounds {
            for tool in ["homeward", "rsync"] {
                let disk = self.dir.join(format!("{tool}.img"));
                self.forget()?;
                if tool == "homeward" && case.starts_with("bitmap") {
                    // Both sides know their content from the pass before; the source's changes since are in the bitmap.
                    homeward(&self.dir, &disk, "place", "", "")?;
                }
                apply(&source, changes, 1)?;
                ensure!(!same(&source, &disk)?, "nothing to send");
                rustix::fs::sync();
                let run = match tool {
                    "homeward" if case.starts_with("bitmap") => {
                        homeward(&self.dir, &disk, "place", &bitmap.to_string_lossy(), "")?
                    }
                    "homeward" => homeward(&self.dir, &disk, "place", "", "")?,
                    _ => rsync(&self.dir, &disk)?,
                };
                ensure!(same(&source, &disk)?, "{tool} has made a copy that differs");
                eprintln!("{case} {tool} round {}: {:.2} s", round + 1, run.seconds);
                runs.entry(tool).or_default().push(run);
                apply(&source, changes, 0)?;
                apply(&disk, changes, 0)?;
            }
        }
        let bytes = changes.iter().map(|(_, len)| *len as u64).sum();
        self.results.extend(
            runs.into_iter()
                .map(|(tool, runs)| (case.to_owned(), tool.to_owned(), bytes, Ok(runs))),
        );
        Ok(())
    }

    fn full(&mut self, case: &str) -> Result<()> {
        let source = self.dir.join("source.img");
        let pki = self.dir.join("pki");
        make_pki(&pki)?;
        let tls = if case == "full-tls" {
            pki.to_string_lossy().into_owned()
        } else {
            String::new()
        };
        let mut runs: BTreeMap<&str, Result<Vec<Run>>> = BTreeMap::new();
        for round in 0..self.rounds {
            for tool in ["homeward", "nbdcopy", "cp"] {
                let disk = self.dir.join(format!("{tool}.img"));
                self.forget()?;
                let run = match tool {
                    "homeward" => homeward(&self.dir, &disk, "new", "", &tls).map(Some)?,
                    "nbdcopy" => match nbdcopy(&self.dir, &disk, &tls) {
                        Ok(run) => Some(run),
                        Err(error) => {
                            runs.insert(tool, Err(error));
                            None
                        }
                    },
                    _ => Some(cp(&self.dir, &disk)?),
                };
                if let Some(run) = run {
                    ensure!(same(&source, &disk)?, "{tool} has made a copy that differs");
                    eprintln!("{case} {tool} round {}: {:.2} s", round + 1, run.seconds);
                    if let Ok(list) = runs.entry(tool).or_insert_with(|| Ok(Vec::new())) {
                        list.push(run);
                    }
                }
                std::fs::remove_file(&disk)?;
            }
        }
        let size = self.size;
        self.results.extend(
            runs.into_iter()
                .map(|(tool, runs)| (case.to_owned(), tool.to_owned(), size, runs)),
        );
        Ok(())
    }

    fn report(&self) -> Result<()> {
        let median = |runs: &[Run]| {
            let mut times: Vec<_> = runs.iter().map(|run| run.seconds).collect();
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        let ours: BTreeMap<&str, f64> = self
            .results
            .iter()
            .filter(|(_, tool, ..)| tool == "homeward")
            .filter_map(|(case, _, _, runs)| Some((case.as_str(), median(runs.as_ref().ok()?))))
            .collect();
        println!(
            "{:<12}{:<10}{:>9}{:>13}{:>15}{:>13}{:>12}{:>11}",
            "case",
            "tool",
            "median s",
            "x homeward",
            "bytes sent",
            "per changed",
            "bytes back",
            "peak KiB"
        );
        let mut json_list = Vec::new();
        for (case, tool, changed, runs) in &self.results {
            let runs = match runs {
                Ok(runs) => runs,
                Err(error) => {
                    println!("{case:<12}{tool:<10} n/a: {error:#}");
                    continue;
                }
            };
            let (time, last) = (median(runs), runs[runs.len() - 1]);
            let rss = runs.iter().map(|run| run.rss).max().unwrap_or(0);
            let text = |value: Option<u64>| {
                value.map_or_else(|| "n/a".to_owned(), |value| value.to_string())
            };
            #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
            let share = last.sent.map_or_else(
                || "n/a".to_owned(),
                |sent| format!("{:.4}", sent as f64 / *changed as f64),
            );
            let ratio = ours.get(case.as_str()).map_or(f64::NAN, |ours| time / ours);
            println!(
                "{case:<12}{tool:<10}{time:>9.2}{ratio:>13.2}{:>15}{share:>13}{:>12}{rss:>11}",
                text(last.sent),
                text(last.back)
            );
            json_list.push(json!({
                "case": case, "tool": tool, "medianSeconds": time, "bytesOnWire": last.sent, "bytesBack": last.back, "peakRssKib": rss,
                "bytesChanged": changed, "runs": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
            }));
        }
        std::fs::write(
            self.dir.join("results.json"),
            serde_json::to_vec_pretty(&json_list)?,
        )?;
        Ok(())
    }
}
