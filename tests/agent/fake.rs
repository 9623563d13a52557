//! A hypervisor for tests: its guests write when a test says so, and it tells of two hosts that run one guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use homeward::agent::hypervisor::{
    BlockSource, Dirty, FoundGuest, Generation, GuestDefinition, GuestDisk, GuestPower, Hypervisor,
    HypervisorError, LostGeneration, Point, PointDisk, PointOutcome, PointTicket, QuitReport,
    Recovered, Result, StartSpec, Stopped, Tracking,
};
use uuid::Uuid;

const BLOCK: u64 = 64 * 1024;
/// The process of every guest.
pub const PID: u32 = 4242;

/// Who runs what, over all hosts of a test.
#[derive(Debug, Default)]
pub struct World {
    running: Mutex<BTreeMap<Uuid, BTreeSet<String>>>,
    violations: Mutex<Vec<String>>,
}

impl World {
    fn begin(&self, vm: Uuid, host: &str) {
        let mut running = self.running.lock().unwrap();
        let hosts = running.entry(vm).or_default();
        hosts.insert(host.to_owned());
        if hosts.len() > 1 {
            self.violations
                .lock()
                .unwrap()
                .push(format!("{vm} runs on {hosts:?}"));
        }
    }

    fn end(&self, vm: Uuid, host: &str) {
        self.running
            .lock()
            .unwrap()
            .entry(vm)
            .or_default()
            .remove(host);
    }

    pub fn check(&self) {
        let violations = self.violations.lock().unwrap();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

type Bits = BTreeMap<String, BTreeSet<u64>>;

#[derive(Debug, Default)]
struct Guest {
    running: bool,
    process: bool,
    paused: bool,
    /// Nothing is written down of its process any more.
    stray: bool,
    starts: usize,
    attached: Vec<GuestDisk>,
    generations: BTreeMap<Generation, (Bits, BTreeMap<String, u64>)>,
    point: Option<PointTicket>,
    paths: BTreeMap<String, PathBuf>,
}

#[derive(Debug)]
pub struct Fake {
    host: String,
    world: Arc<World>,
    folder: PathBuf,
    guests: Mutex<BTreeMap<Uuid, Guest>>,
    /// Guests ignore the power button.
    pub deaf: AtomicBool,
    /// The hypervisor does not answer.
    pub silent: AtomicBool,
    /// Whoever asks whether the guest runs waits for ever.
    pub hung: AtomicBool,
    /// Starts fail.
    pub broken: AtomicBool,
    /// The host could start nothing.
    pub unusable: AtomicBool,
    /// Somebody revives guests between their shutdown and the end of their process.
    pub revives: AtomicBool,
    /// The next point in time ends in a panic.
    pub panics: AtomicBool,
}

impl Fake {
    pub fn new(host: &str, world: &Arc<World>, folder: PathBuf) -> Arc<Self> {
        fs::create_dir_all(&folder).unwrap();
        Arc::new(Self {
            host: host.into(),
            world: Arc::clone(world),
            folder,
            guests: Mutex::default(),
            deaf: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            hung: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            unusable: AtomicBool::new(false),
            revives: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        })
    }

    /// The guest writes.
    pub fn write(&self, vm: Uuid, disk: &str, offset: u64, data: &[u8]) {
        let mut guests = self.guests.lock().unwrap();
        let guest = guests.get_mut(&vm).expect("no such guest");
        assert!(guest.running, "a guest that is off does not write");
        OpenOptions::new()
            .write(true)
            .open(&guest.paths[disk])
            .unwrap()
            .write_all_at(data, offset)
            .unwrap();
        for (bits, _) in guest.generations.values_mut() {
            let blocks = offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK);
            bits.entry(disk.to_owned()).or_default().extend(blocks);
        }
    }

    pub fn running(&self, vm: Uuid) -> bool {
        self.guests
            .lock()
            .unwrap()
            .get(&vm)
            .is_some_and(|guest| guest.running)
    }

    pub fn starts(&self, vm: Uuid) -> usize {
        self.guests
            .lock()
            .unwrap()
            .get(&vm)
            .map_or(0, |guest| guest.starts)
    }

    /// The guest powers off by itself; its process stays.
    pub fn shut_down(&self, vm: Uuid) {
        let mut guests = self.guests.lock().unwrap();
        guests.get_mut(&vm).expect("no such guest").running = false;
        self.world.end(vm, &self.host);
    }

    /// What was written down of the guest's process is lost, and the process is not.
    pub fn lose_records(&self, vm: Uuid) {
        let mut guests = self.guests.lock().unwrap();
        guests.get_mut(&vm).expect("no such guest").stray = true;
    }

    /// A guest runs here that was started before all that told of it was lost.
    pub fn run_stray(&self, vm: Uuid) {
        let mut guests = self.guests.lock().unwrap();
        let guest = guests.entry(vm).or_default();
        (guest.running, guest.process, guest.stray) = (true, true, true);
        self.world.begin(vm, &self.host);
    }

    /// The guest stands still for a point in time that nobody has ended, as when the hypervisor was silent at the wrong moment.
    pub fn leave_in_a_point(&self, vm: Uuid) {
        let mut guests = self.guests.lock().unwrap();
        let guest = guests.get_mut(&vm).expect("no such guest");
        guest.paused = true;
        guest.point = Some(PointTicket {
            vm,
            old: None,
            new: Uuid::new_v4(),
        });
    }

    /// A point in time was left open, and the guest runs.
    pub fn leave_a_point(&self, vm: Uuid) {
        self.leave_in_a_point(vm);
        let mut guests = self.guests.lock().unwrap();
        guests.get_mut(&vm).expect("no such guest").paused = false;
    }

    /// The whole host goes down.
    pub fn reboot(&self) {
        for (vm, guest) in self.guests.lock().unwrap().iter_mut() {
            self.world.end(*vm, &self.host);
            *guest = Guest {
                starts: guest.starts,
                ..Guest::default()
            };
        }
    }

    fn with<T>(&self, definition: &GuestDefinition, work: impl FnOnce(&mut Guest) -> T) -> T {
        let mut guests = self.guests.lock().unwrap();
        let guest = guests.entry(definition.uuid).or_default();
        guest.paths = definition
            .disks
            .iter()
            .map(|disk| (disk.id.clone(), disk.path.clone()))
            .collect();
        work(guest)
    }

    fn power_of(&self, guest: &Guest) -> GuestPower {
        if self.silent.load(Ordering::SeqCst) {
            return GuestPower::Unknown {
                why: "it does not answer".into(),
            };
        }
        match (guest.running, guest.process) {
            (true, _) if guest.stray => GuestPower::Unknown {
                why: format!("process {PID} runs it, and stateDir knows nothing of it"),
            },
            (true, _) if guest.paused => GuestPower::Paused {
                state: "paused".into(),
            },
            (true, _) => GuestPower::Running,
            (false, true) => GuestPower::ShutDown,
            (false, false) => GuestPower::Gone,
        }
    }

    fn stop(&self, definition: &GuestDefinition) -> Stopped {
        self.with(definition, |guest| {
            guest.running = false;
            self.world.end(definition.uuid, &self.host);
            if guest.process {
                Stopped::ShutDown
            } else {
                Stopped::Gone
            }
        })
    }
}

fn sizes(guest: &Guest) -> BTreeMap<String, u64> {
    guest
        .paths
        .iter()
        .map(|(id, path)| (id.clone(), fs::metadata(path).map_or(0, |meta| meta.len())))
        .collect()
}

fn dirty(guest: &Guest, generation: Option<Generation>) -> Dirty {
    let Some(generation) = generation else {
        return Dirty::Lost(LostGeneration::NotAsked);
    };
    if !guest.process {
        return Dirty::Lost(LostGeneration::ProcessGone);
    }
    let Some((bits, shape)) = guest.generations.get(&generation) else {
        return Dirty::Lost(LostGeneration::Missing {
            disk: "root".into(),
        });
    };
    let now = sizes(guest);
    if now.keys().ne(shape.keys()) {
        return Dirty::Lost(LostGeneration::OtherDisks);
    }
    for (disk, is) in &now {
        if shape[disk] != *is {
            return Dirty::Lost(LostGeneration::Resized {
                disk: disk.clone(),
                was: shape[disk],
                is: *is,
            });
        }
    }
    let ranges = |disk: &String| -> Vec<Range<u64>> {
        let size = now[disk];
        bits.get(disk)
            .into_iter()
            .flatten()
            .map(|block| block * BLOCK..((block + 1) * BLOCK).min(size))
            .collect()
    };
    Dirty::Known(
        now.keys()
            .map(|disk| (disk.clone(), ranges(disk)))
            .collect(),
    )
}

/// A disk's content at an instant.
struct Copy(Vec<u8>);

impl BlockSource for Copy {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
}

#[async_trait]
impl Hypervisor for Fake {
    fn check(&self, _: &GuestDefinition) -> Result<()> {
        Ok(())
    }

    fn suits(&self, _: &GuestDefinition) -> Result<()> {
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        if self.unusable.load(Ordering::SeqCst) {
            return Err(HypervisorError::Invalid {
                field: "hypervisor.fake.binary".into(),
                message: "it is not there".into(),
            });
        }
        Ok(())
    }

    async fn start(&self, definition: &GuestDefinition, spec: &StartSpec) -> Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(HypervisorError::Process("it does not come up".into()));
        }
        self.with(definition, |guest| {
            if guest.running {
                return Err(HypervisorError::WrongPower {
                    found: GuestPower::Running,
                    needed: "off",
                });
            }
            guest.running = true;
            guest.process = true;
            guest.starts += 1;
            guest.attached.clone_from(&definition.disks);
            guest.generations = spec
                .generation
                .iter()
                .map(|generation| (*generation, (Bits::new(), BTreeMap::new())))
                .collect();
            let shape = sizes(guest);
            guest
                .generations
                .values_mut()
                .for_each(|(_, sizes)| *sizes = shape.clone());
            self.world.begin(definition.uuid, &self.host);
            let line = format!("started on {} at {}\n", spec.host, spec.site);
            let path = self.console(definition);
            fs::write(
                &path,
                format!("{}{line}", fs::read_to_string(&path).unwrap_or_default()),
            )
            .unwrap();
            Ok(())
        })
    }

    fn processes(&self) -> Result<Vec<FoundGuest>> {
        let guests = self.guests.lock().unwrap();
        let found = guests.iter().filter(|(_, guest)| guest.process);
        Ok(found
            .map(|(vm, _)| FoundGuest {
                uuid: *vm,
                pid: PID,
                name: Some("app".into()),
            })
            .collect())
    }

    async fn power(&self, definition: &GuestDefinition) -> GuestPower {
        if self.hung.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        self.with(definition, |guest| self.power_of(guest))
    }

    async fn power_down(
        &self,
        definition: &GuestDefinition,
        deadline: Duration,
    ) -> Result<Stopped> {
        if self.deaf.load(Ordering::SeqCst) {
            tokio::time::sleep(deadline).await;
            return Err(HypervisorError::Deadline { deadline });
        }
        let found = self.with(definition, |guest| self.power_of(guest));
        if matches!(found, GuestPower::Paused { .. }) {
            return Err(HypervisorError::WrongPower {
                found,
                needed: "a running guest",
            });
        }
        Ok(self.stop(definition))
    }

    async fn power_off(&self, definition: &GuestDefinition) -> Result<Stopped> {
        Ok(self.stop(definition))
    }

    async fn begin_point(
        &self,
        definition: &GuestDefinition,
        old: Option<Generation>,
        new: Generation,
    ) -> Result<Point> {
        assert!(
            !self.panics.swap(false, Ordering::SeqCst),
            "made to panic here"
        );
        self.with(definition, |guest| {
            if !guest.running {
                return Err(HypervisorError::WrongPower {
                    found: self.power_of(guest),
                    needed: "running",
                });
            }
            if guest.point.is_some() {
                return Err(HypervisorError::WrongPoint("a point is open".into()));
            }
            let dirty = dirty(guest, old);
            let shape = sizes(guest);
            guest.generations.insert(new, (Bits::new(), shape));
            let ticket = PointTicket {
                vm: definition.uuid,
                old,
                new,
            };
            guest.point = Some(ticket.clone());
            let disks = definition
                .disks
                .iter()
                .map(|disk| {
                    let content = fs::read(&disk.path).unwrap();
                    PointDisk {
                        id: disk.id.clone(),
                        size: content.len() as u64,
                        source: Box::new(Copy(content)),
                    }
                })
                .collect();
            Ok(Point {
                ticket,
                disks,
                dirty,
                taken_at: jiff::Timestamp::now(),
            })
        })
    }

    async fn end_point(
        &self,
        definition: &GuestDefinition,
        ticket: &PointTicket,
        outcome: PointOutcome,
    ) -> Result<Tracking> {
        self.with(definition, |guest| {
            if guest
                .point
                .as_ref()
                .is_some_and(|open| open.new == ticket.new)
            {
                guest.point = None;
            }
            let keep = match outcome {
                PointOutcome::Delivered => Some(ticket.new),
                PointOutcome::Failed => ticket.old,
            };
            guest
                .generations
                .retain(|generation, _| Some(*generation) == keep);
            Ok(Tracking {
                held: guest.generations.keys().copied().collect(),
            })
        })
    }

    async fn final_dirty(
        &self,
        definition: &GuestDefinition,
        generation: Generation,
    ) -> Result<Dirty> {
        Ok(self.with(definition, |guest| dirty(guest, Some(generation))))
    }

    async fn quit(&self, definition: &GuestDefinition) -> Result<QuitReport> {
        self.with(definition, |guest| {
            if guest.running {
                return Err(HypervisorError::WrongPower {
                    found: GuestPower::Running,
                    needed: "off",
                });
            }
            guest.process = false;
            guest.generations.clear();
            Ok(if self.revives.load(Ordering::SeqCst) {
                QuitReport::Written
            } else {
                QuitReport::Untouched
            })
        })
    }

    async fn dirty_bytes(
        &self,
        definition: &GuestDefinition,
        generation: Generation,
    ) -> Result<Option<u64>> {
        Ok(self.with(definition, |guest| {
            let (bits, _) = guest.generations.get(&generation)?;
            Some(
                bits.values()
                    .map(|blocks| blocks.len() as u64 * BLOCK)
                    .sum(),
            )
        }))
    }

    async fn recover(&self, definition: &GuestDefinition) -> Result<Recovered> {
        self.with(definition, |guest| {
            if guest.point.take().is_some() {
                guest.paused = false;
            }
            let tracking = Tracking {
                held: guest.generations.keys().copied().collect(),
            };
            Ok(Recovered {
                power: self.power_of(guest),
                tracking,
                mended: vec![],
            })
        })
    }

    async fn attached(&self, definition: &GuestDefinition) -> Result<Option<Vec<GuestDisk>>> {
        Ok(self.with(definition, |guest| {
            guest.process.then(|| guest.attached.clone())
        }))
    }

    fn console(&self, definition: &GuestDefinition) -> PathBuf {
        self.folder.join(format!("{}.console", definition.uuid))
    }
}
