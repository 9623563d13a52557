//! What a person asked for, parsed once into values that can only be right.

use jiff::SignedDuration;

use super::action::Alternate;
use crate::api::{Approval, DataSyncRequest, ProtectedVirtualMachine, Site};

/// How many finished Failovers are kept when the resource names no number.
pub const DEFAULT_HISTORY_LIMIT: u32 = 10;
/// How long Azure may run a VM before `Auto` takes the full download, when the resource names no time: 30 days.
pub const DEFAULT_FULL_DOWNLOAD_AFTER: SignedDuration = SignedDuration::from_hours(720);

/// What a person asked for of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Name of the resource.
    pub name: String,
    /// UID of the resource.
    pub uid: String,
    /// Name of the VM in its vault.
    pub vm_name: String,
    /// Name of the vault.
    pub vault: String,
    /// Where the VM should run.
    pub placement: Site,
    /// The data sync asked for on the way back.
    pub data_sync: DataSyncRequest,
    /// When `Auto` takes the full download.
    pub full_download_after: SignedDuration,
    /// Where on the premises the VM comes back to, where that is another place than it came from.
    pub alternate: Alternate,
    /// Who lets cutover pass.
    pub cutover: Approval,
    /// Who lets commit pass.
    pub commit: Approval,
    /// Who lets reverse replication pass.
    pub reverse_replication: Approval,
    /// Name of the Secret with the key certificate of data that is encrypted in the vault.
    pub encryption_key: Option<String>,
    /// Start nothing new.
    pub suspend: bool,
    /// Finished Failovers to keep.
    pub history_limit: u32,
    /// The resource is being deleted: let go of the VM.
    pub deleting: bool,
    /// A claim of another cluster that may be taken over, as it stands in the annotation.
    pub takeover: Option<String>,
    /// The operation of a service that had told the VM to stop, and after which a person has seen it run, as it stands in the annotation.
    pub seen_running: Option<String>,
}

/// A resource that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {remedy}")]
pub struct InvalidIntent {
    /// The offending field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Intent {
    /// Reads a resource.
    ///
    /// # Errors
    /// [`InvalidIntent`] names the field that admission should have refused but did not (an older schema, for example).
    pub fn parse(vm: &ProtectedVirtualMachine) -> Result<Self, InvalidIntent> {
        let invalid = |field, problem: &str, remedy| InvalidIntent {
            field,
            problem: problem.into(),
            remedy,
        };
        let annotation = |name| vm.metadata.annotations.as_ref()?.get(name).cloned();
        let name = vm.metadata.name.clone().unwrap_or_default();
        let uid = vm.metadata.uid.clone().unwrap_or_default();
        if name.is_empty() || uid.is_empty() {
            return Err(invalid(
                "metadata",
                "has no name or no uid",
                "apply the resource through the API server",
            ));
        }
        let spec = &vm.spec;
        if spec.vault_ref.name.is_empty() {
            return Err(invalid(
                "spec.vaultRef.name",
                "is empty",
                "name a RecoveryVault of this namespace",
            ));
        }
        let failback = spec.failback.clone().unwrap_or_default();
        let deleting = vm.metadata.deletion_timestamp.is_some();
        // To let go, no time is needed: a wrong one does not hold the resource.
        let full_download_after = match failback.full_download_after.filter(|_| !deleting) {
            None => DEFAULT_FULL_DOWNLOAD_AFTER,
            Some(after) if after.is_negative() => {
                return Err(invalid(
                    "spec.failback.fullDownloadAfter",
                    "is negative",
                    "give a time such as 720h",
                ));
            }
            Some(after) => {
                SignedDuration::try_from(std::time::Duration::from(after)).map_err(|_| {
                    invalid(
                        "spec.failback.fullDownloadAfter",
                        "is too long",
                        "give a time such as 720h",
                    )
                })?
            }
        };
        Ok(Self {
            vm_name: spec
                .virtual_machine_name
                .clone()
                .unwrap_or_else(|| name.clone()),
            vault: spec.vault_ref.name.clone(),
            placement: spec.placement,
            data_sync: failback.data_sync.unwrap_or_default(),
            full_download_after,
            alternate: Alternate {
                host: failback.host,
                create_if_missing: failback.create_if_missing.unwrap_or(false),
            },
            cutover: spec
                .cutover
                .as_ref()
                .and_then(|cutover| cutover.approval)
                .unwrap_or_default(),
            commit: spec
                .commit
                .as_ref()
                .and_then(|commit| commit.approval)
                .unwrap_or_default(),
            reverse_replication: spec.reverse_replication.unwrap_or_default(),
            encryption_key: spec
                .encryption_key_secret_ref
                .as_ref()
                .map(|secret| secret.name.clone()),
            suspend: spec.suspend.unwrap_or(false),
            history_limit: spec.failover_history_limit.unwrap_or(DEFAULT_HISTORY_LIMIT),
            deleting,
            takeover: annotation(crate::api::TAKEOVER_ANNOTATION),
            seen_running: annotation(crate::api::SEEN_RUNNING_ANNOTATION),
            name,
            uid,
        })
    }
}
