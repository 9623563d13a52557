//! A world whose VMs are moved by Azure Site Recovery, or what answers like it.
//!
//! ```text
//!   cluster: etcd, kube-apiserver, homeward run (one or more)
//!                  |
//!                  | https, a token for the client secret
//!            homeward-asr-emulator      the vault, its jobs, and what is true of each VM
//! ```
//!
//! As in the agents' [`World`](super::World) every part is a process of its own, with addresses that stay, and nothing outlives it.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use homeward::api::{ProtectedVirtualMachine, Site};
use homeward_asr_emulator::{FabricKind, Seed, Settings};
use serde_json::{Value, json};

use super::{
    Cluster, Credentials, Emulator, Ground, credentials::SECRET, free_network, is_true,
    options::ClusterOptions,
};

/// The file with the token of the operators' service account, as a webhook would put it into their pods.
const FEDERATED: &str = "federated-token";

/// How a world of the service is made.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// What the vault holds at first.
    pub seed: Seed,
    /// How the service behaves.
    pub settings: Settings,
    /// How many times as fast as the world's the service's time passes.
    pub speed: u32,
    /// How many operators run at once.
    pub operators: usize,
    /// How often operators look, from rarely to often: nothing moves, data is copied, a VM is down.
    pub looks: [Duration; 3],
    /// How soon after one look the next may come, however urgent it is.
    pub shortest_pause: Duration,
    /// How late a request can act, as the operators take it: decided, and sent within; sent, and acted upon within.
    pub limits: Option<[Duration; 2]>,
    /// Log filter of the operators.
    pub log: String,
}

impl ServiceOptions {
    /// A vault with one fabric of that kind and VMs `vm-1`, `vm-2`, ...; jobs of the service take a second or two.
    #[must_use]
    pub fn new(kind: FabricKind, vms: usize) -> Self {
        Self {
            seed: Seed::of(kind, vms),
            settings: Settings::default(),
            speed: 10,
            operators: 1,
            looks: [1000, 200, 100].map(Duration::from_millis),
            shortest_pause: Duration::from_millis(150),
            limits: None,
            log: "info,homeward=debug".to_owned(),
        }
    }

    fn cluster(&self, folder: &Path) -> Result<ClusterOptions> {
        let mut options = ClusterOptions::new(self.operators, &self.log, self.looks);
        options.set("HOMEWARD_POLL_SERVICE", self.shortest_pause);
        if let Some([send_within, request_life]) = self.limits {
            options.set("HOMEWARD_SERVICE_SEND_WITHIN", send_within);
            options.set("HOMEWARD_SERVICE_REQUEST_LIFE", request_life);
        }
        let principal = self.seed.principals.first().context("nobody may ask")?;
        let file = folder.join(FEDERATED).display().to_string();
        let of_pod = [
            ("AZURE_TENANT_ID", self.seed.tenant.clone()),
            ("AZURE_CLIENT_ID", principal.client_id.clone()),
            ("AZURE_FEDERATED_TOKEN_FILE", file),
        ];
        let of_pod = of_pod.map(|(name, value)| (name.to_owned(), value));
        options.settings.extend(of_pod);
        Ok(options)
    }
}

/// Everything, in one folder. Fields end in this order: whoever gives orders first, what they stand on last.
pub struct ServiceWorld {
    /// The cluster.
    pub cluster: Cluster,
    /// The service.
    pub emulator: Emulator,
    options: ServiceOptions,
    ground: Ground,
}

impl ServiceWorld {
    /// Starts everything, and waits until the operator has connected the vault.
    ///
    /// # Errors
    ///
    /// When something is missing or does not start; the message says what, and what to do.
    pub async fn start(options: ServiceOptions) -> Result<Self> {
        Self::start_with(options, |_| {}).await
    }

    /// As [`ServiceWorld::start`], telling `progress` what it is at.
    ///
    /// # Errors
    ///
    /// As [`ServiceWorld::start`].
    pub async fn start_with(options: ServiceOptions, progress: impl Fn(&str)) -> Result<Self> {
        let secret = Credentials::ClientSecret(options.secret()?.to_owned());
        let mut world = Self::start_unconnected(options, &secret, progress).await?;
        world.cluster.until_connected().await?;
        Ok(world)
    }

    /// Starts everything with any credentials, and does not wait until the vault is connected.
    ///
    /// # Errors
    ///
    /// As [`ServiceWorld::start`].
    pub async fn start_unconnected(
        options: ServiceOptions,
        credentials: &Credentials,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        let ground = Ground::new()?;
        let [second, third] = free_network()?;
        let address = |last| Ipv4Addr::new(127, second, third, last);
        progress("etcd, kube-apiserver and the emulator of Azure Site Recovery");
        let (cluster, emulator) = tokio::join!(
            Cluster::start(
                &ground.folder,
                "cluster",
                address(10),
                options.cluster(&ground.folder)?
            ),
            Emulator::start(&ground.folder, address(1), &options),
        );
        let mut world = Self {
            cluster: cluster?,
            emulator: emulator?,
            options,
            ground,
        };
        progress("the operator");
        world.cluster.start_operators()?;
        world.use_credentials(credentials).await?;
        world.cluster.apply_vault(world.vault(credentials)?).await?;
        Ok(world)
    }

    fn vault(&self, credentials: &Credentials) -> Result<Value> {
        let url = self.emulator.url();
        let seed = &self.options.seed;
        let vault = &seed.vault;
        let principal = seed.principals.first().context("nobody may ask")?;
        Ok(json!({"azureSiteRecovery": {
            "cloud": "Custom",
            "custom": {
                "endpoint": url,
                "audience": "https://management.azure.com",
                "authority": url,
                "caBundle": self.emulator.ca_pem,
            },
            "subscriptionId": vault.subscription,
            "resourceGroup": vault.resource_group,
            "vaultName": vault.name,
            "credentials": credentials.spec(&seed.tenant, &principal.client_id),
        }}))
    }

    /// Gives the operators another secret of the application.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn use_secret(&self, secret: &str) -> Result<()> {
        let secret = Credentials::ClientSecret(secret.to_owned());
        self.use_credentials(&secret).await
    }

    /// Gives the operators other credentials of the kind that the vault names.
    ///
    /// # Errors
    ///
    /// When the API server refuses them, or the file cannot be written.
    pub async fn use_credentials(&self, credentials: &Credentials) -> Result<()> {
        match credentials {
            Credentials::ClientSecret(secret) => {
                let data = [("clientSecret", secret.as_bytes().to_vec())];
                self.cluster.apply_secret(SECRET, None, data).await
            }
            Credentials::ClientCertificate(it) => {
                let data = [("tls.crt", &it.certificate), ("tls.key", &it.key)]
                    .map(|(name, pem)| (name, pem.as_bytes().to_vec()));
                let kind = Some("kubernetes.io/tls");
                self.cluster.apply_secret(SECRET, kind, data).await
            }
            Credentials::WorkloadIdentity(token) => {
                let (file, whole) = (self.folder().join(FEDERATED), self.folder().join("token"));
                // As a kubelet does: another file takes its place.
                std::fs::write(&whole, token)?;
                std::fs::rename(&whole, &file).context("the token cannot be put in its place")
            }
        }
    }

    /// How it was made.
    #[must_use]
    pub const fn options(&self) -> &ServiceOptions {
        &self.options
    }

    /// Asks Homeward to keep a VM of the vault on the premises, where it runs, and waits until it does; `change` may add to the resource's
    /// spec.
    ///
    /// # Errors
    ///
    /// When it is not kept in time.
    pub async fn keep(
        &self,
        vm: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<ProtectedVirtualMachine> {
        self.cluster
            .protect_named(vm, Site::OnPremises, change)
            .await?;
        self.cluster.until_settled(vm, Site::OnPremises).await
    }

    /// Starts again what has ended without being told to; the names of it.
    ///
    /// # Errors
    ///
    /// When a program does not get ready.
    pub async fn mend(&mut self) -> Result<Vec<String>> {
        let mut mended = self.cluster.mend().await?;
        if self.emulator.mend().await? {
            mended.push(EMULATOR.into());
        }
        Ok(mended)
    }

    /// The processes that run, by name: those that [`ServiceWorld::mend`] starts again.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        let mut all = self.cluster.processes();
        all.extend(self.emulator.process_id().map(|id| (EMULATOR.into(), id)));
        all
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.ground.folder
    }

    /// Whether the folder is kept for a look at its logs, when all else ends.
    pub const fn keep_logs(&mut self, keep: bool) {
        self.ground.keep = keep;
    }
}

const EMULATOR: &str = "the emulator of Azure Site Recovery";

impl ServiceOptions {
    /// The secret that is right.
    ///
    /// # Errors
    ///
    /// When the seed has none.
    pub fn secret(&self) -> Result<&str> {
        let principal = self.seed.principals.first().context("nobody may ask")?;
        Ok(principal.secrets.first().context("there is no secret")?)
    }
}

/// Whether a VM has the right to run in Azure and no move is under way. The service protects nothing there.
#[must_use]
pub fn rests_in_azure(vm: &ProtectedVirtualMachine) -> bool {
    let Some(status) = &vm.status else {
        return false;
    };
    status.observed_generation == vm.metadata.generation
        && status.active_site == Some(Site::Azure)
        && status.current_failover.is_none()
        && ["Ready", "Placed"]
            .iter()
            .all(|kind| is_true(&status.conditions, kind))
}
