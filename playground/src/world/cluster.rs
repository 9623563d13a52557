//! One cluster: a control plane, operators, and what people apply to it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result};
use homeward::api::{Failover, ProtectedVirtualMachine, RecoveryVault, Site};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    Vm,
    host::{spawn_logged, tail},
    options::ClusterOptions,
    programs::{self, Program},
    wait::{self, LIMIT},
};
use crate::{
    child::Child,
    control_plane::{ControlPlane, ControlPlaneOptions, User},
};

/// The namespace of everything that a world applies.
pub const NAMESPACE: &str = "default";
/// The vault that ties the two sites together.
pub const VAULT: &str = "playground";

/// The operators have the rights of this service account, as `deploy/rbac.yaml` gives them, and no others.
const OPERATOR: &str = "system:serviceaccount:homeward-system:homeward";
const OPERATOR_NAMESPACE: &str = "homeward-system";
/// Port of an operator's probes and metrics; its usual one may be taken, on every address, by an operator that somebody runs beside this.
const LISTENS: u16 = 7480;

/// A control plane and the operators that work in it.
pub struct Cluster {
    operators: Vec<Option<Child>>,
    /// The control plane.
    pub plane: ControlPlane,
    client: Client,
    world: PathBuf,
    folder: PathBuf,
    log_filter: String,
    /// The first operator's address; the others follow.
    address: Ipv4Addr,
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// Starts a control plane and installs what the operator needs. No operator runs yet.
    pub(super) async fn start(
        world: &Path,
        name: &str,
        address: Ipv4Addr,
        options: ClusterOptions,
    ) -> Result<Self> {
        let folder = world.join(name);
        let options_of_plane = ControlPlaneOptions {
            users: vec![User::new(OPERATOR)],
            ..ControlPlaneOptions::default()
        };
        let plane = ControlPlane::start_with(&folder, options_of_plane).await?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        plane.install_crds(&[root.join("crds")]).await?;
        plane.apply(&root.join("deploy/rbac.yaml"), None).await?;
        let client = plane.client().await?;
        Ok(Self {
            plane,
            client,
            world: world.to_owned(),
            folder: folder.canonicalize()?,
            log_filter: options.log,
            address,
            settings: options.settings,
            operators: (0..options.operators).map(|_| None).collect(),
        })
    }

    /// A client of the admin.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The VMs.
    #[must_use]
    pub fn vms(&self) -> Api<ProtectedVirtualMachine> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The Failovers.
    #[must_use]
    pub fn failovers(&self) -> Api<Failover> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The vaults.
    #[must_use]
    pub fn vaults(&self) -> Api<RecoveryVault> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// How many operators the cluster has, running or not.
    #[must_use]
    pub fn operators(&self) -> usize {
        self.operators.len()
    }

    fn address(&self, index: usize) -> Ipv4Addr {
        let [first, second, third, last] = self.address.octets();
        let last = last.saturating_add(u8::try_from(index).unwrap_or(u8::MAX));
        Ipv4Addr::new(first, second, third, last)
    }

    /// The log of an operator, over all its lives.
    #[must_use]
    pub fn operator_log(&self, index: usize) -> PathBuf {
        self.folder.join(format!("operator-{index}.log"))
    }

    /// Starts every operator that does not run.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn start_operators(&mut self) -> Result<()> {
        for index in 0..self.operators.len() {
            self.start_operator(index)?;
        }
        Ok(())
    }

    /// Starts one operator. Does nothing while it runs.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn start_operator(&mut self, index: usize) -> Result<()> {
        if let Some(operator) = &mut self.operators[index] {
            if operator.exit_status()?.is_none() {
                return Ok(());
            }
        }
        let log = self.operator_log(index);
        let mut command = Command::new(programs::find(Program::Homeward)?);
        command
            .arg("run")
            .env("KUBECONFIG", self.plane.kubeconfig_for(OPERATOR)?)
            .env("HOMEWARD_LEASE_NAMESPACE", OPERATOR_NAMESPACE)
            .env("HOMEWARD_LOG", &self.log_filter)
            .env("HOMEWARD_LISTEN", self.operator_listens(index).to_string())
            .env("HOMEWARD_LEASE_IDENTITY", format!("operator-{index}"))
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        self.operators[index] = Some(spawn_logged(command, &self.world, &log)?);
        Ok(())
    }

    /// The processes that run, by name.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        let mut all: Vec<(String, u32)> = Vec::new();
        let plane = self.plane.processes().into_iter();
        all.extend(plane.map(|(name, id)| (name.into(), id)));
        for (index, operator) in self.operators.iter().enumerate() {
            all.extend(
                operator
                    .as_ref()
                    .map(|operator| (format!("operator {index}"), operator.id())),
            );
        }
        all
    }

    /// Starts again what has ended without being told to; its names.
    ///
    /// # Errors
    ///
    /// When a program does not get ready.
    pub async fn mend(&mut self) -> Result<Vec<String>> {
        let mut mended: Vec<String> = Vec::new();
        mended.extend(self.plane.mend().await?.into_iter().map(Into::into));
        for index in 0..self.operators.len() {
            let ended = match &mut self.operators[index] {
                Some(operator) => operator.exit_status()?.is_some(),
                None => false,
            };
            if ended {
                self.start_operator(index)?;
                mended.push(format!("operator {index}"));
            }
        }
        Ok(mended)
    }

    /// Kills one operator.
    pub fn kill_operator(&mut self, index: usize) {
        self.operators[index] = None;
    }

    /// Tells an operator to end, as a kubelet does, and waits until it has: how it ended.
    ///
    /// # Errors
    ///
    /// When it does not run, or does not end.
    pub async fn end_operator(&mut self, index: usize) -> Result<ExitStatus> {
        self.signal_operator(index, Signal::TERM)?;
        let operator = self.operators[index].as_mut();
        let operator = operator.with_context(|| format!("operator {index} does not run"))?;
        let ended = wait::eventually(LIMIT, "the operator ends", async || {
            Ok(operator.exit_status()?)
        });
        let status = ended.await?;
        self.operators[index] = None;
        Ok(status)
    }

    /// Where an operator serves its probes and metrics.
    #[must_use]
    pub fn operator_listens(&self, index: usize) -> SocketAddr {
        SocketAddr::new(self.address(index).into(), LISTENS)
    }

    /// Stops an operator in its tracks.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn freeze_operator(&self, index: usize) -> Result<()> {
        self.signal_operator(index, Signal::STOP)
    }

    /// Lets a frozen operator go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn thaw_operator(&self, index: usize) -> Result<()> {
        self.signal_operator(index, Signal::CONT)
    }

    fn signal_operator(&self, index: usize, signal: Signal) -> Result<()> {
        let operator = self.operators[index]
            .as_ref()
            .with_context(|| format!("operator {index} does not run"))?;
        Ok(operator.signal(signal)?)
    }

    /// Kills all operators.
    pub fn kill_operators(&mut self) {
        self.operators
            .iter_mut()
            .for_each(|operator| *operator = None);
    }

    /// Checks that no operator has ended by itself.
    ///
    /// # Errors
    ///
    /// When one has; the message has the end of its log.
    pub fn check_operators(&mut self) -> Result<()> {
        for index in 0..self.operators.len() {
            let log = self.operator_log(index);
            if let Some(operator) = &mut self.operators[index] {
                if let Some(status) = operator.exit_status()? {
                    anyhow::bail!("operator {index} ended with {status}\n{}", tail(&log));
                }
            }
        }
        Ok(())
    }

    /// Applies the vault.
    pub(super) async fn apply_vault(&self, spec: Value) -> Result<()> {
        let vault = json!({
            "apiVersion": "homeward.dev/v1alpha1",
            "kind": "RecoveryVault",
            "metadata": {"name": VAULT},
            "spec": spec,
        });
        self.vaults()
            .patch(VAULT, &apply(), &Patch::Apply(vault))
            .await
            .context("the vault was refused")?;
        Ok(())
    }

    /// Waits until the operator has connected the vault to both sites.
    ///
    /// # Errors
    ///
    /// When it does not, or an operator has ended.
    pub async fn until_connected(&mut self) -> Result<()> {
        let connected = wait::until(
            &self.vaults(),
            VAULT,
            LIMIT,
            "the vault is Ready",
            |vault: &RecoveryVault| {
                let conditions = vault.status.iter().flat_map(|status| &status.conditions);
                is_true(conditions, "Ready")
            },
        )
        .await;
        self.check_operators()?;
        match connected {
            Ok(_) => Ok(()),
            Err(error) => Err(error.context(tail(&self.operator_log(0)))),
        }
    }

    /// Makes a Secret, or gives it other contents.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn apply_secret<const N: usize>(
        &self,
        name: &str,
        kind: Option<&str>,
        data: [(&str, Vec<u8>); N],
    ) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let secret = Secret {
            metadata: kube::api::ObjectMeta {
                name: Some(name.to_owned()),
                ..kube::api::ObjectMeta::default()
            },
            type_: kind.map(str::to_owned),
            data: Some(
                data.into_iter()
                    .map(|(key, bytes)| (key.to_owned(), ByteString(bytes)))
                    .collect(),
            ),
            ..Secret::default()
        };
        secrets
            .patch(name, &apply(), &Patch::Apply(&secret))
            .await
            .with_context(|| format!("the secret {name} was refused"))?;
        Ok(())
    }

    /// Asks Homeward to keep a VM at a site; `change` may add to the resource's spec.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn protect(
        &self,
        vm: &Vm,
        placement: Site,
        change: impl FnOnce(&mut Value),
    ) -> Result<ProtectedVirtualMachine> {
        self.protect_named(&vm.name, placement, change).await
    }

    /// As [`Cluster::protect`], by the VM's name.
    ///
    /// # Errors
    ///
    /// As [`Cluster::protect`].
    pub async fn protect_named(
        &self,
        name: &str,
        placement: Site,
        change: impl FnOnce(&mut Value),
    ) -> Result<ProtectedVirtualMachine> {
        let mut resource = json!({
            "apiVersion": "homeward.dev/v1alpha1",
            "kind": "ProtectedVirtualMachine",
            "metadata": {"name": name},
            "spec": {"vaultRef": {"name": VAULT}, "placement": placement},
        });
        change(&mut resource["spec"]);
        let resource = serde_json::from_value(resource).context("the spec makes no sense")?;
        self.vms()
            .create(&PostParams::default(), &resource)
            .await
            .with_context(|| format!("{name} was refused"))
    }

    /// Merges a change into the spec of a VM, as `kubectl patch` does.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn patch_vm(&self, name: &str, spec: Value) -> Result<()> {
        self.vms()
            .patch(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await
            .with_context(|| format!("{name} was not changed"))?;
        Ok(())
    }

    /// Gives an answer on a Failover.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn answer(&self, failover: &str, spec: Value) -> Result<()> {
        self.failovers()
            .patch(
                failover,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await
            .with_context(|| format!("{failover} was not answered"))?;
        Ok(())
    }

    /// Asks for another place.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn place(&self, name: &str, placement: Site) -> Result<()> {
        self.patch_vm(name, json!({"placement": placement})).await
    }

    /// The Failovers of a VM, oldest first.
    ///
    /// # Errors
    ///
    /// When they cannot be listed.
    pub async fn failovers_of(&self, vm: &str) -> Result<Vec<Failover>> {
        let mut found: Vec<Failover> = self
            .failovers()
            .list(&ListParams::default())
            .await?
            .items
            .into_iter()
            .filter(|failover| failover.spec.virtual_machine.name == vm)
            .collect();
        found.sort_by_key(|failover| number_of(&failover.name_any()));
        Ok(found)
    }

    /// Waits until a VM is as it should be.
    ///
    /// # Errors
    ///
    /// When it is not in time; the message says how it and its Failovers stand.
    pub async fn until_vm(
        &self,
        name: &str,
        what: &str,
        met: impl FnMut(&ProtectedVirtualMachine) -> bool,
    ) -> Result<ProtectedVirtualMachine> {
        match wait::until(&self.vms(), name, LIMIT, what, met).await {
            Ok(vm) => Ok(vm),
            Err(error) => {
                let failovers = self.failovers_of(name).await.unwrap_or_default();
                let last = failovers.last().map_or_else(String::new, |failover| {
                    format!("\n{}:\n{}", failover.name_any(), wait::status_of(failover))
                });
                Err(error.context(format!("{name}{last}")))
            }
        }
    }

    /// Waits until a VM is settled at a site: it has the right to run there, no move is under way, and it is protected.
    ///
    /// # Errors
    ///
    /// When it is not in time.
    pub async fn until_settled(&self, name: &str, site: Site) -> Result<ProtectedVirtualMachine> {
        self.until_vm(name, &format!("settled at {site}"), |vm| {
            is_settled(vm, site)
        })
        .await
    }

    /// Waits until the Failover after number `after` is as it should be.
    ///
    /// # Errors
    ///
    /// When it is not in time.
    pub async fn until_failover(
        &self,
        name: &str,
        what: &str,
        met: impl FnMut(&Failover) -> bool,
    ) -> Result<Failover> {
        wait::until(&self.failovers(), name, LIMIT, what, met).await
    }

    /// The name that the next Failover of a VM will have.
    ///
    /// # Errors
    ///
    /// When the VM cannot be read.
    pub async fn next_failover(&self, name: &str) -> Result<String> {
        let vm = self.vms().get(name).await?;
        let counter = vm.status.and_then(|status| status.failover_counter);
        Ok(format!("{name}-{}", counter.unwrap_or(0) + 1))
    }
}

/// Whether a VM has the right to run at a site, no move is under way, and it is protected.
#[must_use]
pub fn is_settled(vm: &ProtectedVirtualMachine, site: Site) -> bool {
    let Some(status) = &vm.status else {
        return false;
    };
    let current = status.observed_generation == vm.metadata.generation;
    current
        && status.active_site == Some(site)
        && status.current_failover.is_none()
        && ["Ready", "Placed", "Protected"]
            .iter()
            .all(|kind| is_true(&status.conditions, kind))
}

/// Whether a condition is True.
#[must_use]
pub fn is_true<'a>(
    conditions: impl IntoIterator<Item = &'a homeward::api::Condition>,
    kind: &str,
) -> bool {
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

fn number_of(failover: &str) -> u64 {
    let number = failover.rsplit_once('-').map(|(_, number)| number.parse());
    number.and_then(Result::ok).unwrap_or(0)
}

fn apply() -> PatchParams {
    PatchParams::apply("homeward-playground").force()
}
