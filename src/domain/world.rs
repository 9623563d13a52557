//! All that a decision rests on.

use jiff::Timestamp;

use super::action::Alternate;
use super::capabilities::Capabilities;
use super::fact::Fact;
use super::intent::Intent;
use super::observation::{BySite, Claim, Connection, VmObservation};
use crate::api::{FailoverSpec, FailoverStatus, ProtectedVirtualMachineStatus};

/// All that a decision rests on. Time comes in as a value.
#[derive(Clone, Debug)]
pub struct World<'a> {
    /// What a person asked for.
    pub intent: &'a Intent,
    /// Generation of the resource that the intent was read from.
    pub generation: Option<i64>,
    /// What was last written of the VM.
    pub status: &'a ProtectedVirtualMachineStatus,
    /// The Failover that the status names.
    pub failover: CurrentFailover<'a>,
    /// Failovers that have ended, oldest first.
    pub history: &'a [FinishedFailover],
    /// The vault. Absent: the resource does not exist.
    pub vault: Fact<VaultView<'a>>,
    /// Another resource that claims the same VM and came first, as `namespace/name`.
    pub earlier_owner: Option<&'a str>,
    /// The claim of this resource.
    pub claim: Claim,
    /// The VM is claimed in the name of a resource of this very cluster that no longer exists.
    pub claim_holder_gone: bool,
    /// Why the key certificate that the resource names cannot be used; none where it can, or none is named.
    pub encryption_key_problem: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// The Failover that the status of a VM names.
#[derive(Clone, Copy, Debug)]
pub enum CurrentFailover<'a> {
    /// The status names none.
    None,
    /// The status names one, and it exists with that UID.
    Known(FailoverView<'a>),
    /// The status names one, and no Failover with that UID exists (safety rule S6).
    Missing,
}

/// One Failover.
#[derive(Clone, Copy, Debug)]
pub struct FailoverView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Its generation.
    pub generation: Option<i64>,
    /// Its spec: the move, and the answers.
    pub spec: &'a FailoverSpec,
    /// What was last written of it.
    pub status: &'a FailoverStatus,
    /// Why it waits for `start: Approved`; none when it starts by itself.
    pub start_held_because: Option<&'a str>,
    /// It was made for a move that was under way, whose own Failover is gone.
    pub taken_up: bool,
    /// A person deleted it; its finalizer holds it until exactly one site may run the VM.
    pub deleting: bool,
}

impl FailoverView<'_> {
    /// Where on the premises the VM is brought to.
    #[must_use]
    pub fn alternate(&self) -> Alternate {
        Alternate {
            host: self.spec.host.clone(),
            create_if_missing: self.spec.create_if_missing.unwrap_or(false),
        }
    }
}

/// A Failover that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedFailover {
    /// Its name.
    pub name: String,
    /// Whether it still carries the finalizer.
    pub finalizer: bool,
}

/// What is known of a vault.
#[derive(Clone, Debug)]
pub struct VaultView<'a> {
    /// Whether each site can be worked with.
    pub sites: &'a BySite<Connection>,
    /// What the driver can do.
    pub capabilities: &'a Capabilities,
    /// The VM.
    pub vm: Fact<&'a VmObservation>,
    /// The name under which the vault knows the VM that was taken on, when that is another one by now.
    pub renamed: Option<&'a str>,
}
