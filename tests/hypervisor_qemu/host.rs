//! A host with one guest: real QEMU under TCG, the recorder guest on two disks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use homeward::agent::hypervisor::qemu::files::GuestFiles;
use homeward::agent::hypervisor::qemu::ranges::BLOCK;
use homeward::agent::hypervisor::qemu::{Accelerator, Qemu, QemuConfig, process};
use homeward::agent::hypervisor::{
    Dirty, Generation, GuestBoot, GuestDefinition, GuestDisk, GuestNetwork, GuestPower,
    Hypervisor as _, Point, StartSpec,
};
use homeward_playground::guest_image::{GuestImage, GuestSettings, highest_acknowledged};
use homeward_playground::records::{Report, read_disks};
use homeward_playground::tools;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

/// How long anything may take on a busy machine without virtualisation.
pub const LIMIT: Duration = Duration::from_mins(2);
/// How many guests run at a time.
static GUESTS: Semaphore = Semaphore::const_new(2);

/// Content of all disks, in order.
pub type Content = Vec<Vec<u8>>;

pub struct Host {
    pub qemu: Qemu,
    pub guest: GuestDefinition,
    pub config: QemuConfig,
    folder: TempDir,
    _permit: SemaphorePermit<'static>,
}

impl Host {
    /// Disks of 24 MiB and of 24 MiB and one sector, all zeros; nothing runs yet.
    pub async fn new(change: impl FnOnce(&mut GuestSettings)) -> Self {
        let permit = GUESTS.acquire().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = GuestImage::find().unwrap();
        let mut settings = GuestSettings::new("web", "OnPremises");
        settings.records_per_second = 100;
        settings.dirty_kib_per_second = 1024;
        settings.ring_kib = Some(8192);
        change(&mut settings);
        let disks = [("disk-a", 24 << 20), ("disk-b", (24 << 20) + 512)].map(|(id, size)| {
            let path = folder.path().join(format!("{id}.img"));
            fs::File::create(&path).unwrap().set_len(size).unwrap();
            GuestDisk {
                id: id.into(),
                path,
            }
        });
        let guest = GuestDefinition {
            uuid: Uuid::new_v4(),
            name: "web".into(),
            cpus: 1,
            memory_mib: 256,
            disks: disks.into(),
            networks: vec![GuestNetwork {
                name: "lan".into(),
                mac: None,
            }],
            boot: GuestBoot::Kernel {
                kernel: image.kernel,
                initramfs: Some(image.initramfs),
                command_line: settings
                    .kernel_command_line()
                    .replace("homeward.site=OnPremises", "homeward.site={site}"),
            },
        };
        let mut config =
            QemuConfig::new(folder.path().join("state"), folder.path().join("scratch"));
        config.binary = tools::find_qemu().unwrap();
        config.accelerator = Accelerator::Tcg;
        config
            .networks
            .insert("lan".into(), "user,restrict=on".into());
        let qemu = Qemu::new(config.clone()).unwrap();
        Self {
            qemu,
            guest,
            config,
            folder,
            _permit: permit,
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn files(&self) -> GuestFiles {
        GuestFiles::new(&self.config.state_dir, self.guest.uuid)
    }

    /// Takes the agent away and puts a new one in its place.
    pub fn replace_agent(&mut self) {
        self.qemu = Qemu::new(self.config.clone()).unwrap();
    }

    pub fn spec(generation: Option<Generation>) -> StartSpec {
        StartSpec {
            site: "OnPremises".into(),
            host: "hv01".into(),
            generation,
        }
    }

    /// Starts the guest with a new generation and waits until it has written some records.
    pub async fn boot(&self) -> Generation {
        let generation = Uuid::new_v4();
        self.qemu
            .start(&self.guest, &Self::spec(Some(generation)))
            .await
            .unwrap();
        assert_eq!(self.qemu.power(&self.guest).await, GuestPower::Running);
        self.wait_for_records(20).await;
        generation
    }

    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.qemu.console(&self.guest)).unwrap_or_default())
            .into_owned()
    }

    /// The highest record that the guest has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        highest_acknowledged(&self.console())
    }

    /// Waits for `more` records.
    pub async fn wait_for_records(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        let until = Instant::now() + LIMIT;
        while self.acknowledged() < wanted {
            assert!(
                Instant::now() < until,
                "the guest does not write; its console:\n{}",
                self.console()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn identity(&self) -> Option<process::Identity> {
        process::search(&self.files().pid()).unwrap()
    }

    /// What the disks hold now, read beside QEMU.
    pub fn disks(&self) -> Content {
        self.guest
            .disks
            .iter()
            .map(|disk| fs::read(&disk.path).unwrap())
            .collect()
    }

    /// How many scratch files are there.
    pub fn scratch_files(&self) -> usize {
        fs::read_dir(&self.config.scratch_dir).map_or(0, Iterator::count)
    }

    pub fn ids(&self) -> Vec<String> {
        self.guest
            .disks
            .iter()
            .map(|disk| disk.id.clone())
            .collect()
    }

    /// Writes `content` beside the disks and reads it as the recorder's.
    pub fn records(&self, content: &Content) -> Report {
        let paths: Vec<PathBuf> = (0..content.len())
            .map(|index| self.path().join(format!("copy{index}")))
            .collect();
        for (path, bytes) in paths.iter().zip(content) {
            fs::write(path, bytes).unwrap();
        }
        read_disks(&paths).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(Some(identity)) = process::search(&self.files().pid()) {
            let _ = process::kill(identity);
            let until = Instant::now() + Duration::from_secs(10);
            while matches!(process::search(&self.files().pid()), Ok(Some(_)))
                && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Reads a whole point, in windows as the data plane does.
pub async fn read_point(point: &mut Point) -> std::io::Result<Content> {
    let mut disks: Vec<_> = point.disks.drain(..).collect();
    tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        for disk in &mut disks {
            let mut bytes = vec![0; usize::try_from(disk.size).unwrap()];
            for (index, window) in bytes.chunks_mut(256 * 1024).enumerate() {
                disk.source.read_at(index as u64 * 256 * 1024, window)?;
            }
            // What is called a hole reads as zeros.
            let mut at = 0;
            while at < disk.size {
                let data = disk.source.next_data(at)?.unwrap_or(disk.size..disk.size);
                let hole = usize::try_from(at).unwrap()..usize::try_from(data.start).unwrap();
                assert!(
                    bytes[hole]
                        .chunks(4096)
                        .all(|piece| piece == &[0; 4096][..piece.len()]),
                    "a hole with data"
                );
                at = data.end;
            }
            content.push(bytes);
        }
        Ok(content)
    })
    .await
    .unwrap()
}

pub fn known(dirty: Dirty) -> BTreeMap<String, Vec<std::ops::Range<u64>>> {
    match dirty {
        Dirty::Known(ranges) => ranges,
        Dirty::Lost(lost) => panic!("the generation is lost: {lost}"),
    }
}

/// Copies the ranges from `from` into `into`.
pub fn apply(
    into: &mut Content,
    from: &Content,
    ids: &[String],
    dirty: &BTreeMap<String, Vec<std::ops::Range<u64>>>,
) {
    for (index, id) in ids.iter().enumerate() {
        for range in &dirty[id] {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            into[index][range.clone()].copy_from_slice(&from[index][range]);
        }
    }
}

/// The first difference, in words.
pub fn difference(a: &Content, b: &Content) -> Option<String> {
    a.iter().zip(b).enumerate().find_map(|(index, (a, b))| {
        if a.len() != b.len() {
            return Some(format!("disk {index}: {} and {} bytes", a.len(), b.len()));
        }
        // A byte at a time is slow without optimisation.
        let block = a
            .chunks(4096)
            .zip(b.chunks(4096))
            .position(|(a, b)| a != b)?;
        Some(format!(
            "disk {index} differs in the 4 KiB at {}",
            block * 4096
        ))
    })
}

/// The numbers of the blocks that differ, a list a disk.
pub fn changed_blocks(a: &Content, b: &Content) -> Vec<Vec<u64>> {
    let block = usize::try_from(BLOCK).unwrap();
    a.iter()
        .zip(b)
        .map(|(a, b)| {
            let pairs = a.chunks(block).zip(b.chunks(block)).zip(0_u64..);
            pairs
                .filter(|((a, b), _)| a != b)
                .map(|(_, number)| number)
                .collect()
        })
        .collect()
}

/// The numbers of the blocks in the ranges, a list a disk.
pub fn blocks_of(
    dirty: &BTreeMap<String, Vec<std::ops::Range<u64>>>,
    ids: &[String],
) -> Vec<Vec<u64>> {
    ids.iter()
        .map(|id| {
            dirty[id]
                .iter()
                .flat_map(|range| range.start / BLOCK..range.end.div_ceil(BLOCK))
                .collect()
        })
        .collect()
}
