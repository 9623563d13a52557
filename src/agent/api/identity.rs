//! Who and which: claims, steps, contents, peers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who says where a VM runs: one `ProtectedVirtualMachine` of one cluster. Cluster and resource are UIDs, so that a rebuilt
/// cluster or a re-created resource is somebody else (S6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// UID of the cluster (of its `kube-system` namespace).
    pub cluster: String,
    /// UID of the `ProtectedVirtualMachine`.
    pub pvm: String,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resource {} of cluster {}", self.pvm, self.cluster)
    }
}

/// One step of one VM on one host: compared epoch first (S2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub struct StepId {
    /// Raised whenever the right to run moves.
    pub epoch: u64,
    /// Counts the orders within an epoch.
    pub step: u64,
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} step {}", self.epoch, self.step)
    }
}

/// The digest over one whole disk: its id, size and every block. On the wire: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Root {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "a root is 64 hexadecimal digits, not {:?}",
                text.chars().take(80).collect::<String>()
            )
        };
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut root = [0; 32];
        for (byte, at) in root.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(root))
    }
}

impl Serialize for Root {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The roots of all disks of a VM, by disk id: what two sites compare to say "the same content".
pub type Roots = BTreeMap<String, Root>;

/// Where another agent is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAddress {
    /// The host's name; the peer's certificate must carry it.
    pub host: String,
    /// URL of its control API. The agent itself does not call it; it stands here so that people see who is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control: String,
    /// `address:port` of its data plane.
    pub data: String,
}
