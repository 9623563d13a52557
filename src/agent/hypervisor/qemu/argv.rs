//! From a definition to QEMU's command line, and what can be checked before. The building is pure; only [`check`] looks at files.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::json;

use super::commands::{device, disk_node, file_node};
use super::config::{Accelerator, CacheMode, QemuConfig};
use super::files::GuestFiles;
use crate::agent::hypervisor::disk::{DiskKind, measure};
use crate::agent::hypervisor::{GuestBoot, GuestDefinition, HypervisorError, Result, StartSpec};

/// Most disks of one guest.
const MAX_DISKS: usize = 32;
/// Longest serial number that an NVMe controller reports.
const MAX_SERIAL: usize = 20;

/// The serial number that the guest sees for a disk: the id itself where it fits, else a part of it and a digest. The same on every
/// host, so that a guest finds its disks again at the other site.
#[must_use]
pub fn serial(id: &str) -> String {
    if id.len() <= MAX_SERIAL {
        return id.to_owned();
    }
    let digest = blake3::hash(id.as_bytes()).to_hex();
    format!(
        "{}-{}",
        id.chars().take(MAX_SERIAL - 9).collect::<String>(),
        &digest[..8]
    )
}

fn invalid<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T> {
    Err(HypervisorError::Invalid {
        field: field.into(),
        message: message.into(),
    })
}

fn plain(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Checks a definition against this host and returns kind and size in bytes of each disk, in order.
///
/// # Errors
/// `Invalid`, naming the first field that does not hold.
pub fn check(
    config: &QemuConfig,
    files: &GuestFiles,
    guest: &GuestDefinition,
) -> Result<Vec<(DiskKind, u64)>> {
    check_all_but_disks(config, files, guest)?;
    measured(guest)
}

/// Checks all that does not lie on a disk of the guest, which may hang.
///
/// # Errors
/// `Invalid`, naming the first field that does not hold.
pub fn check_all_but_disks(
    config: &QemuConfig,
    files: &GuestFiles,
    guest: &GuestDefinition,
) -> Result<()> {
    if !plain(&guest.name, 64) {
        return invalid(
            "name",
            "use 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first",
        );
    }
    if guest.cpus == 0 || guest.cpus > 1024 {
        return invalid("cpus", format!("{} is not between 1 and 1024", guest.cpus));
    }
    if guest.memory_mib == 0 {
        return invalid("memoryMiB", "0 is not enough");
    }
    if guest.disks.len() > MAX_DISKS {
        return invalid(
            "disks",
            format!(
                "{} disks; at most {MAX_DISKS} are supported",
                guest.disks.len()
            ),
        );
    }
    if files.nbd_socket().as_os_str().as_bytes().len() > 107 {
        return invalid(
            "stateDir",
            format!(
                "{} is too long for a Unix socket; choose a shorter folder",
                files.nbd_socket().display()
            ),
        );
    }
    for (index, network) in guest.networks.iter().enumerate() {
        if !config.networks.contains_key(&network.name) {
            let known = config
                .networks
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            return invalid(
                format!("networks[{index}].name"),
                format!(
                    "{} is not a network of this host; it has: {known}",
                    network.name
                ),
            );
        }
        if network.mac.as_deref().is_some_and(|mac| !is_mac(mac)) {
            return invalid(
                format!("networks[{index}].mac"),
                "write it as 52:54:00:12:34:56",
            );
        }
    }
    let boot_files = match &guest.boot {
        GuestBoot::Kernel {
            kernel, initramfs, ..
        } => vec![
            ("boot.kernel", Some(kernel)),
            ("boot.initramfs", initramfs.as_ref()),
        ],
        GuestBoot::Disk { .. } if guest.disks.is_empty() => {
            return invalid("disks", "a guest that boots from a disk needs one");
        }
        GuestBoot::Disk { firmware } => vec![("boot.firmware", firmware.as_ref())],
    };
    for (field, path) in boot_files {
        if let Some(path) = path.filter(|path| !path.is_file()) {
            return invalid(
                field,
                format!("{} is not a file of this host", path.display()),
            );
        }
    }
    Ok(())
}

fn measured(guest: &GuestDefinition) -> Result<Vec<(DiskKind, u64)>> {
    let mut measured = Vec::with_capacity(guest.disks.len());
    for (index, disk) in guest.disks.iter().enumerate() {
        let field = format!("disks[{index}]");
        if !plain(&disk.id, 64) {
            return invalid(
                format!("{field}.id"),
                "use 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first",
            );
        }
        if guest.disks[..index]
            .iter()
            .any(|other| other.id == disk.id || other.path == disk.path)
        {
            return invalid(
                field,
                "the id or the path is that of another disk of this VM",
            );
        }
        if !disk.path.is_absolute() || disk.path.to_str().is_none() {
            return invalid(format!("{field}.path"), "give an absolute path in UTF-8");
        }
        match measure(&disk.path) {
            Err(error) => {
                return invalid(
                    format!("{field}.path"),
                    format!("{}: {error}", disk.path.display()),
                );
            }
            Ok((_, size)) if size == 0 || size % 512 != 0 => {
                return invalid(
                    format!("{field}.path"),
                    format!(
                        "{} has {size} bytes; it must be a multiple of 512 and not empty",
                        disk.path.display()
                    ),
                );
            }
            Ok(found) => measured.push(found),
        }
    }
    Ok(measured)
}

/// The command line (without the program) of a guest that waits before its first instruction and outlives its agent.
#[must_use]
pub fn arguments(
    config: &QemuConfig,
    files: &GuestFiles,
    guest: &GuestDefinition,
    spec: &StartSpec,
    kinds: &[DiskKind],
) -> Vec<String> {
    let mut argv: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| argv.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    // S13: nothing runs before the bitmaps are there. S3: a guest that powers off keeps its process.
    add(&["-S", "-no-shutdown", "-daemonize"]);
    add(&["-pidfile", &path(&files.pid())]);
    add(&["-D", &path(&files.log())]);
    add(&[
        "-name",
        &format!("guest={}", guest.name),
        "-uuid",
        &guest.uuid.to_string(),
    ]);
    let (accelerator, cpu) = match config.accelerator {
        Accelerator::Kvm => ("kvm", Some("host")),
        Accelerator::Tcg => ("tcg", None),
    };
    add(&["-machine", "q35", "-accel", accelerator]);
    if let Some(cpu) = cpu {
        add(&["-cpu", cpu]);
    }
    add(&[
        "-smp",
        &guest.cpus.to_string(),
        "-m",
        &format!("{}M", guest.memory_mib),
    ]);
    add(&[
        "-qmp",
        &format!(
            "unix:{},server=on,wait=off",
            comma(&path(&files.qmp_socket()))
        ),
    ]);
    let (socket, log) = (
        comma(&path(&files.serial_socket())),
        comma(&path(&files.console())),
    );
    add(&[
        "-chardev",
        &format!("socket,id=console,path={socket},server=on,wait=off,logfile={log},logappend=on"),
    ]);
    add(&["-serial", "chardev:console"]);
    for (index, (disk, kind)) in guest.disks.iter().zip(kinds).enumerate() {
        let driver = match kind {
            DiskKind::File => "file",
            DiskKind::Device => "host_device",
        };
        // S12: never `no-flush`. The image lock keeps a second process of this host away.
        let direct = config.cache == CacheMode::None;
        let file = json!({
            "driver": driver, "node-name": file_node(index), "filename": disk.path, "locking": "on", "discard": "unmap",
            "cache": {"direct": direct, "no-flush": false},
        });
        let raw = json!({
            "driver": "raw", "node-name": disk_node(index), "file": file_node(index), "discard": "unmap",
            "cache": {"direct": direct, "no-flush": false},
        });
        let mut nvme = json!({"driver": "nvme", "id": device(index), "drive": disk_node(index), "serial": serial(&disk.id)});
        if matches!(guest.boot, GuestBoot::Disk { .. }) {
            nvme["bootindex"] = json!(index);
        }
        add(&[
            "-blockdev",
            &file.to_string(),
            "-blockdev",
            &raw.to_string(),
            "-device",
            &nvme.to_string(),
        ]);
    }
    for (index, network) in guest.networks.iter().enumerate() {
        let template = config
            .networks
            .get(&network.name)
            .map_or("user", String::as_str);
        add(&["-netdev", &format!("{template},id=net{index}")]);
        let mac = network
            .mac
            .as_ref()
            .map(|mac| format!(",mac={mac}"))
            .unwrap_or_default();
        add(&[
            "-device",
            &format!("virtio-net-pci,id=nic{index},netdev=net{index}{mac}"),
        ]);
    }
    match &guest.boot {
        GuestBoot::Kernel {
            kernel,
            initramfs,
            command_line,
        } => {
            add(&["-kernel", &path(kernel)]);
            if let Some(initramfs) = initramfs {
                add(&["-initrd", &path(initramfs)]);
            }
            add(&["-append", &spec.command_line(command_line)]);
        }
        GuestBoot::Disk {
            firmware: Some(firmware),
        } => add(&["-bios", &path(firmware)]),
        GuestBoot::Disk { firmware: None } => {}
    }
    argv.extend(config.extra_arguments.iter().cloned());
    argv
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A value inside a comma-separated option.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use uuid::Uuid;

    use super::*;
    use crate::agent::hypervisor::{GuestDisk, GuestNetwork};

    fn guest(dir: &Path) -> GuestDefinition {
        GuestDefinition {
            uuid: Uuid::from_u128(7),
            name: "web-1".into(),
            cpus: 2,
            memory_mib: 256,
            disks: vec![
                GuestDisk {
                    id: "root".into(),
                    path: dir.join("a,b.img"),
                },
                GuestDisk {
                    id: "data".into(),
                    path: dir.join("d.img"),
                },
            ],
            networks: vec![GuestNetwork {
                name: "lan".into(),
                mac: Some("52:54:00:00:00:01".into()),
            }],
            boot: GuestBoot::Kernel {
                kernel: dir.join("kernel"),
                initramfs: None,
                command_line: "console=ttyS0 site={site} host={host}".into(),
            },
        }
    }

    fn config(dir: &Path) -> QemuConfig {
        let mut config = QemuConfig::new(dir.join("state"), dir.join("scratch"));
        config.networks.insert("lan".into(), "user".into());
        config
    }

    #[test]
    fn the_command_line_holds_what_the_safety_rules_need() {
        let dir = PathBuf::from("/srv");
        let mut config = config(&dir);
        config.extra_arguments = vec!["-cpu".into(), "max".into()];
        let files = GuestFiles::new(&config.state_dir, Uuid::from_u128(7));
        let spec = StartSpec {
            site: "Azure".into(),
            host: "az01".into(),
            generation: None,
        };
        let argv = arguments(
            &config,
            &files,
            &guest(&dir),
            &spec,
            &[DiskKind::File, DiskKind::Device],
        );
        for flag in ["-S", "-no-shutdown", "-daemonize", "-nodefaults"] {
            assert!(argv.iter().any(|word| word == flag), "{flag}");
        }
        let all = argv.join(" ");
        assert!(all.contains("console=ttyS0 site=Azure host=az01"));
        assert!(
            all.contains("\"driver\":\"host_device\"")
                && all.contains("\"locking\":\"on\"")
                && !all.contains("\"no-flush\":true")
        );
        assert!(all.contains("\"filename\":\"/srv/a,b.img\""));
        assert!(
            all.contains("-netdev user,id=net0")
                && all.contains("netdev=net0,mac=52:54:00:00:00:01")
        );
        assert!(all.ends_with("-cpu max"));
    }

    #[test]
    fn check_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let files = GuestFiles::new(&config.state_dir, Uuid::from_u128(7));
        let field = |guest: &GuestDefinition| match check(&config, &files, guest) {
            Err(HypervisorError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let mut guest = guest(dir.path());
        assert_eq!(field(&guest), "boot.kernel");
        std::fs::write(dir.path().join("kernel"), "k").unwrap();
        assert_eq!(field(&guest), "disks[0].path");
        std::fs::write(dir.path().join("a,b.img"), [0; 512]).unwrap();
        std::fs::write(dir.path().join("d.img"), [0; 513]).unwrap();
        assert_eq!(field(&guest), "disks[1].path");
        std::fs::write(dir.path().join("d.img"), [0; 1024]).unwrap();
        assert_eq!(
            check(&config, &files, &guest).unwrap(),
            vec![(DiskKind::File, 512), (DiskKind::File, 1024)]
        );
        guest.disks[1].id = "root".into();
        assert_eq!(field(&guest), "disks[1]");
        guest.networks[0].name = "dmz".into();
        assert_eq!(field(&guest), "networks[0].name");
        guest.name = "a b".into();
        assert_eq!(field(&guest), "name");
    }

    #[test]
    fn serials_fit_and_tell_long_ids_apart() {
        assert_eq!(serial("root"), "root");
        let long = serial("a-very-long-disk-identifier-1");
        assert_eq!(long.len(), 20);
        assert_ne!(long, serial("a-very-long-disk-identifier-2"));
    }
}
