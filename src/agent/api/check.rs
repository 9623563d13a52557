//! What can be seen of a request without knowing anything else.

use super::{
    Boot, Claim, Command, MAX_DEVICES, MAX_NAME, MAX_NUMBER, MAX_TEXT, Order, PeerAddress,
    PowerSwitch, Register, StepId, VmDefinition,
};

impl Order {
    /// Whether the order makes sense by itself: every length bounded, every name a name.
    ///
    /// # Errors
    /// The first field that does not, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        // The upper bound keeps one bad order from using up all epochs, and the numbers exact in any JSON reader.
        for (field, number) in [("epoch", self.epoch), ("step", self.step)] {
            if number == 0 || number > MAX_NUMBER {
                return Err(format!("{field}: between 1 and {MAX_NUMBER}"));
            }
        }
        if let Some(claim) = &self.claim {
            check_claim("claim", claim)?;
        }
        if let Some(failover) = &self.failover {
            check_name("failover", failover)?;
        }
        match &self.command {
            Command::Adopt { takeover } => takeover
                .as_ref()
                .map_or(Ok(()), |claim| check_claim("command.takeover", claim)),
            Command::Enroll { definition, owner } => {
                definition
                    .validate()
                    .map_err(|wrong| format!("command.definition.{wrong}"))?;
                if definition.uuid != self.vm {
                    return Err("command.definition.uuid: must be the VM of the order".into());
                }
                if let Some(disk) = definition
                    .disks
                    .iter()
                    .find(|disk| disk.size_bytes.is_none())
                {
                    return Err(format!(
                        "command.definition.disks: disk {} must say its sizeBytes",
                        disk.id
                    ));
                }
                check_peer("command.owner", owner)
            }
            Command::Replicate {
                peer,
                interval_seconds,
                immediate: _,
            } => {
                if *interval_seconds == 0 || *interval_seconds > 30 * 24 * 3600 {
                    return Err("command.intervalSeconds: between 1 second and 30 days".into());
                }
                check_peer("command.peer", peer)
            }
            Command::Stop { target, force: _ } => check_name("command.target", target),
            Command::Deliver { peer, mode: _ } => check_peer("command.peer", peer),
            Command::Start { stop } => {
                check_name("command.stop.host", &stop.host)?;
                check_name("command.stop.target", &stop.target)?;
                if stop.disks.is_empty()
                    || stop.disks.len() > MAX_DEVICES
                    || stop.roots.len() != stop.disks.len()
                {
                    return Err(format!(
                        "command.stop: between 1 and {MAX_DEVICES} disks, each with its root"
                    ));
                }
                for disk in &stop.disks {
                    check_disk_id("command.stop.disks.id", &disk.id)?;
                    if !stop.roots.contains_key(&disk.id) {
                        return Err(format!("command.stop.roots: none for disk {}", disk.id));
                    }
                }
                Ok(())
            }
            Command::Retire { commit } => check_name("command.commit.host", &commit.host),
            Command::Resume { fence } => check_name("command.fence.host", &fence.host),
            Command::Power {
                state: PowerSwitch::Off,
                force: _,
                on_other_disks: true,
            } => Err("command.onOtherDisks: only a start is on disks".to_owned()),
            Command::Pause {}
            | Command::Commit {}
            | Command::Fence {}
            | Command::Undo {}
            | Command::Power { .. }
            | Command::Release {}
            | Command::Detach {} => Ok(()),
        }
    }

    /// Epoch and step.
    #[must_use]
    pub const fn id(&self) -> StepId {
        StepId {
            epoch: self.epoch,
            step: self.step,
        }
    }
}

impl Register {
    /// Epoch and step.
    #[must_use]
    pub const fn id(&self) -> StepId {
        StepId {
            epoch: self.epoch,
            step: self.step,
        }
    }
}

impl VmDefinition {
    /// Whether the definition makes sense by itself.
    ///
    /// # Errors
    /// The first field that does not, and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        check_name("name", &self.name)?;
        if self.cpus == 0 || self.cpus > 1024 {
            return Err("cpus: between 1 and 1024".into());
        }
        if self.memory_mib == 0 || self.memory_mib > 64 * 1024 * 1024 {
            return Err("memoryMiB: between 1 MiB and 64 TiB".into());
        }
        if self.disks.is_empty() || self.disks.len() > MAX_DEVICES {
            return Err(format!("disks: between 1 and {MAX_DEVICES}"));
        }
        for (at, disk) in self.disks.iter().enumerate() {
            check_disk_id(&format!("disks[{at}].id"), &disk.id)?;
            if self.disks[..at].iter().any(|other| other.id == disk.id) {
                return Err(format!("disks[{at}].id: {} stands twice", disk.id));
            }
            check_path(&format!("disks[{at}].path"), &disk.path)?;
            if let Some(size) = disk.size_bytes
                && (size == 0 || size % 512 != 0)
            {
                return Err(format!(
                    "disks[{at}].sizeBytes: {size} is not a positive multiple of 512"
                ));
            }
        }
        if self.networks.len() > MAX_DEVICES {
            return Err(format!("networks: at most {MAX_DEVICES}"));
        }
        for (at, network) in self.networks.iter().enumerate() {
            check_name(&format!("networks[{at}].name"), &network.name)?;
            if let Some(mac) = &network.mac {
                check_mac(&format!("networks[{at}].mac"), mac)?;
            }
        }
        match &self.boot {
            Boot::Disk => Ok(()),
            Boot::Kernel {
                kernel,
                initramfs,
                command_line,
            } => {
                check_path("boot.kernel", kernel)?;
                if let Some(initramfs) = initramfs {
                    check_path("boot.initramfs", initramfs)?;
                }
                check_text("boot.commandLine", command_line)
            }
            Boot::Profile { name, command_line } => {
                check_name("boot.name", name)?;
                check_text("boot.commandLine", command_line)
            }
        }
    }
}

/// A name: letters, digits, `.`, `_`, `-`; begins with a letter or digit, so that it is safe in paths, logs and arguments.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), String> {
    let fine = name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if fine {
        return Ok(());
    }
    let seen: String = name.chars().take(80).collect();
    Err(format!(
        "{field}: {seen:?} is not a name of up to {MAX_NAME} letters, digits, dots, dashes and underscores"
    ))
}

/// Disk ids are names that stay short, since file names are made of them.
fn check_disk_id(field: &str, id: &str) -> Result<(), String> {
    if id.len() > 64 {
        return Err(format!("{field}: at most 64 characters"));
    }
    check_name(field, id)
}

fn check_claim(field: &str, claim: &Claim) -> Result<(), String> {
    check_name(&format!("{field}.cluster"), &claim.cluster)?;
    check_name(&format!("{field}.pvm"), &claim.pvm)
}

fn check_peer(field: &str, peer: &PeerAddress) -> Result<(), String> {
    check_name(&format!("{field}.host"), &peer.host)?;
    check_text(&format!("{field}.control"), &peer.control)?;
    check_text(&format!("{field}.data"), &peer.data)?;
    match peer.data.rsplit_once(':') {
        Some((address, port))
            if !address.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(())
        }
        _ => Err(format!("{field}.data: must be address:port")),
    }
}

fn check_text(field: &str, text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(format!("{field}: at most {MAX_TEXT} bytes on one line"));
    }
    Ok(())
}

fn check_path(field: &str, path: &std::path::Path) -> Result<(), String> {
    path.to_str().map_or_else(
        || Err(format!("{field}: must be UTF-8")),
        |text| check_text(field, text),
    )
}

fn check_mac(field: &str, mac: &str) -> Result<(), String> {
    let parts: Vec<_> = mac.split(':').collect();
    if parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()))
    {
        return Ok(());
    }
    Err(format!("{field}: must look like 52:54:00:12:34:56"))
}
