//! The operator as a whole: waits for its definitions, holds the lease, and works while it holds it.

use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::unbounded;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::announce::Announcer;
use super::context::{Context, VmGroup};
use super::factory::DriverFactory;
use super::feed::{Guarded, Watched};
use super::groups::Groups;
use super::hub::Hub;
use super::kubernetes::Within;
use super::lease::{Keeper, LeadershipProof};
use super::settings::Settings;
use super::unreadable::Unreadable;
use super::watches::{Wakes, Watches};
use super::work::work;
use super::{failovers, vaults, virtual_machines};
use crate::api::{Failover, ProtectedVirtualMachine, RecoveryVault};
use crate::telemetry::{Health, Metrics};

/// Name of this part in readiness.
const PART: &str = "resources";
/// How often the definitions are looked for while they are missing.
const LOOK_FOR_DEFINITIONS: Duration = Duration::from_secs(2);

/// Why the operator could not run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The lease cannot be kept with these settings.
    #[error("lease settings: {0}")]
    Lease(String),
    /// What keeps the lease broke off; the log says where.
    #[error("the lease was not kept to the end; start the operator again, and report its log")]
    LeaseNotKept,
    /// No client could be made from the configuration.
    #[error("cannot make a client of the API server: {0}")]
    Client(Box<kube::Error>),
}

/// The operator.
pub struct Operator {
    /// How the API server is reached.
    pub config: kube::Config,
    /// What can be set.
    pub settings: Settings,
    /// Makes drivers.
    pub factory: Arc<dyn DriverFactory>,
    /// Whether the process lives and is ready.
    pub health: Arc<Health>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Operator {
    /// Works until `stop`; then takes up nothing new, lets effects under way end and releases the lease.
    ///
    /// # Errors
    /// When it cannot begin. What fails later is tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), OperatorError> {
        let client = |retry| {
            let mut config = self.config.clone();
            config.default_retry = retry;
            Client::try_from(config).map_err(|error| OperatorError::Client(Box::new(error)))
        };
        let (client, lease_client) = (client(true)?, client(false)?);
        let (keeper, mut told) = Keeper::new(
            lease_client,
            self.settings.lease.clone(),
            self.health.clone(),
            self.metrics.clone(),
        )
        .map_err(|error| OperatorError::Lease(error.to_string()))?;
        let cluster = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            cluster = self.prepare(&client) => cluster,
        };
        let release = CancellationToken::new();
        // Should nobody wait for this any more, the lease is let go of all the same.
        let _release = release.clone().drop_guard();
        let keeping = tokio::spawn(keeper.keep(release.clone()));
        loop {
            let proof = told.borrow_and_update().clone();
            let Some(proof) = proof else {
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = told.changed() => if changed.is_err() { break },
                }
                continue;
            };
            let term_over = stop.child_token();
            let term = self.term(client.clone(), cluster.clone(), proof, term_over.clone());
            let mut term = std::pin::pin!(term);
            tokio::select! {
                () = &mut term => {}
                () = async {
                    // Ends when leadership is lost, or when the operator stops.
                    tokio::select! {
                        () = stop.cancelled() => {}
                        _ = told.changed() => {}
                    }
                } => {
                    term_over.cancel();
                    let grace = self.settings.grace();
                    tracing::info!("takes up nothing new; work under way gets up to {} s to end", grace.as_secs());
                    if tokio::time::timeout(grace, term).await.is_err() {
                        tracing::warn!("some work did not end within {} s and is left behind", grace.as_secs());
                    }
                }
            }
            self.metrics.fleet.clear();
            // Without a keeper there will be no other term: end, so that the process is started again.
            if stop.is_cancelled() || told.has_changed().is_err() {
                break;
            }
        }
        release.cancel();
        keeping.await.map_err(|_| OperatorError::LeaseNotKept)
    }

    /// Waits for the definitions of the kinds, then finds out the identity of the cluster.
    async fn prepare(&self, client: &Client) -> String {
        loop {
            match self.try_prepare(client).await {
                Ok(cluster) => {
                    self.health.ready(PART);
                    return cluster;
                }
                Err(missing) => {
                    tracing::warn!(%missing, "waits");
                    self.health.waits(PART, missing);
                    tokio::time::sleep(LOOK_FOR_DEFINITIONS).await;
                }
            }
        }
    }

    async fn try_prepare(&self, client: &Client) -> Result<String, String> {
        self.served::<RecoveryVault>(client).await?;
        self.served::<ProtectedVirtualMachine>(client).await?;
        self.served::<Failover>(client).await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let system = Within(self.settings.timeouts.api)
            .call("read namespace kube-system", namespaces.get("kube-system"))
            .await
            .map_err(|error| error.to_string())?;
        system
            .uid()
            .ok_or_else(|| "namespace kube-system has no UID".to_owned())
    }

    async fn served<K: Watched>(&self, client: &Client) -> Result<(), String> {
        let api: Api<Guarded<K>> = match self.settings.namespaces.first() {
            None => Api::all(client.clone()),
            Some(namespace) => Api::namespaced(client.clone(), namespace),
        };
        let listed = Within(self.settings.timeouts.api)
            .call("list", api.list(&ListParams::default().limit(1)))
            .await;
        match listed {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(format!(
                "the CustomResourceDefinition of {}: apply what `homeward crds` prints",
                K::kind(&())
            )),
            Err(error) => Err(format!("{}: {error}", K::kind(&()))),
        }
    }

    /// Works for as long as this replica holds the lease.
    async fn term(
        &self,
        client: Client,
        cluster: String,
        proof: LeadershipProof,
        stop: CancellationToken,
    ) {
        let (vault_wakes, vault_woken) = unbounded();
        let (vm_wakes, vm_woken) = unbounded();
        let (failover_wakes, failover_woken) = unbounded();
        let wakes = Wakes {
            vaults: vault_wakes,
            vms: vm_wakes,
            failovers: failover_wakes,
        };
        // The watches go on until the passes have ended.
        let feeding = CancellationToken::new();
        let _stop_feeding = feeding.clone().drop_guard();
        let hub = Hub::new(
            wakes.vms.clone(),
            wakes.vaults.clone(),
            self.settings.stale_after(),
        );
        let lookers = Arc::new(vaults::Lookers::new(
            self.factory.clone(),
            feeding.child_token(),
        ));
        let watches = Watches {
            client,
            namespaces: self.settings.namespaces.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            hub,
            lookers: lookers.clone(),
            wakes,
            stop: feeding.clone(),
        };
        let context = Arc::new(self.context(watches, cluster, proof));
        let stores_ready = async {
            let _ = context.vaults.store.wait_until_ready().await;
            let _ = context.vms.store.wait_until_ready().await;
            let _ = context.failovers.store.wait_until_ready().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = stores_ready => {}
        }
        let workers = self.settings.workers;
        let of_vaults = work(
            "vaults",
            &context,
            |context| &context.vaults,
            vault_woken,
            workers,
            stop.clone(),
            move |vault, context| {
                let lookers = lookers.clone();
                async move {
                    vaults::pass(vault, context, lookers)
                        .await
                        .map_err(|error| (error.class(), error.to_string()))
                }
            },
        );
        let of_vms = work(
            "virtual_machines",
            &context,
            |context| &context.vms,
            vm_woken,
            workers,
            stop.clone(),
            |vm, context| async move {
                // Boxed: it is the largest future by far.
                Box::pin(virtual_machines::pass(vm, context))
                    .await
                    .map_err(|error| (error.class(), error.to_string()))
            },
        );
        let of_failovers = work(
            "failovers",
            &context,
            |context| &context.failovers,
            failover_woken,
            workers,
            stop.clone(),
            |failover, context| async move {
                failovers::pass(failover, context)
                    .await
                    .map_err(|error| (error.class(), error.to_string()))
            },
        );
        tokio::join!(of_vaults, of_vms, of_failovers);
    }

    /// The parts of a term, put together.
    fn context(&self, watches: Watches, cluster: String, proof: LeadershipProof) -> Context {
        let vm_groups: Arc<Groups<VmGroup>> = Arc::default();
        let failover_groups: Arc<Groups<String>> = Arc::default();
        Context {
            vaults: watches.vaults(&vm_groups),
            vms: watches.vms(&vm_groups),
            failovers: watches.failovers(&failover_groups),
            settings: self.settings.clone(),
            within: Within(self.settings.timeouts.api),
            proof,
            cluster,
            vm_groups,
            failover_groups,
            announcer: Announcer::new(watches.client.clone(), &self.settings.lease.identity),
            client: watches.client,
            hub: watches.hub,
            wake_failover: watches.wakes.failovers,
            unreadable: Unreadable::default(),
            metrics: self.metrics.clone(),
        }
    }
}
