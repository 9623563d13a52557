//! What a VM is made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A VM as a person wrote it down, or as it arrived by [`Enroll`](super::Command::Enroll).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmDefinition {
    /// Identity of the VM on every host.
    pub uuid: Uuid,
    /// Its name, for people and for `virtualMachineName`.
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Disks in the order the guest sees them.
    pub disks: Vec<DiskDefinition>,
    /// Network cards.
    #[serde(default)]
    pub networks: Vec<NetworkDefinition>,
    /// What it boots.
    #[serde(default)]
    pub boot: Boot,
    /// Must be false: only agents start VMs (S4). `true` is reported as a refusal in the inventory.
    #[serde(default)]
    pub autostart: bool,
}

/// One disk of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskDefinition {
    /// Stable id of the disk, the same on every host (S14).
    pub id: String,
    /// Raw file or block device on this host. In an [`Enroll`](super::Command::Enroll) it is ignored: the passive host chooses.
    #[serde(default)]
    pub path: PathBuf,
    /// Exact size. Where it is left out it is read from the file; an [`Enroll`](super::Command::Enroll) must say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// One network card of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkDefinition {
    /// Name of the network (virtual switch); both hosts must have it.
    pub name: String,
    /// Hardware address, `52:54:00:12:34:56`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What a VM boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "from",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Boot {
    /// Its first disk, by the firmware.
    #[default]
    Disk,
    /// A kernel on this host.
    Kernel {
        /// Path of the kernel.
        kernel: PathBuf,
        /// Path of the initial file system.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initramfs: Option<PathBuf>,
        /// `{site}` and `{host}` are filled in by the agent.
        #[serde(default)]
        command_line: String,
    },
    /// A kernel that every host knows by a name (`boots` in the agent's configuration), so that paths may differ.
    Profile {
        /// Name in `boots`.
        name: String,
        /// `{site}` and `{host}` are filled in by the agent.
        #[serde(default)]
        command_line: String,
    },
}

/// Id and exact size of a disk (S14).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskShape {
    /// Stable id.
    pub id: String,
    /// Exact size.
    pub size_bytes: u64,
}
