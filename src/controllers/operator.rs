//! The operator as a whole: waits for its definitions, holds the lease, and works while it holds it.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::runtime::applier;
use kube::runtime::controller::{Action, Config, ReconcileRequest};
use kube::runtime::reflector::Store;
use kube::{Api, Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use super::announce::Announcer;
use super::backoff::Backoff;
use super::context::{Context, Resources, VmGroup};
use super::factory::DriverFactory;
use super::feed::{Guarded, Touch, Watched, feed};
use super::groups::Groups;
use super::hub::Hub;
use super::key::Key;
use super::kubernetes::Within;
use super::lease::{Keeper, LeadershipProof};
use super::recent::Recent;
use super::settings::Settings;
use super::unreadable::Unreadable;
use super::{failovers, vaults, virtual_machines};
use crate::api::{Failover, ProtectedVirtualMachine, RecoveryVault};
use crate::domain::ErrorClass;
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
        let context =
            Arc::new(self.context(&client, cluster, proof, hub, &lookers, &wakes, &feeding));
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

    #[allow(clippy::too_many_arguments)] // the parts of a term, put together in one place
    fn context(
        &self,
        client: &Client,
        cluster: String,
        proof: LeadershipProof,
        hub: Arc<Hub>,
        lookers: &Arc<vaults::Lookers>,
        wakes: &Wakes,
        feeding: &CancellationToken,
    ) -> Context {
        let vm_groups: Arc<Groups<VmGroup>> = Arc::default();
        let failover_groups: Arc<Groups<String>> = Arc::default();
        let vaults = self.vaults(client, wakes, &hub, &vm_groups, lookers, feeding);
        let failovers = self.failovers(client, wakes, &failover_groups, feeding);
        let vms = self.vms(client, wakes, &hub, &vm_groups, feeding);
        Context {
            client: client.clone(),
            settings: self.settings.clone(),
            within: Within(self.settings.timeouts.api),
            proof,
            cluster,
            hub,
            vaults,
            vms,
            failovers,
            vm_groups,
            failover_groups,
            wake_failover: wakes.failovers.clone(),
            announcer: Announcer::new(client.clone(), &self.settings.lease.identity),
            unreadable: Unreadable::default(),
            metrics: self.metrics.clone(),
        }
    }

    fn vaults(
        &self,
        client: &Client,
        wakes: &Wakes,
        hub: &Arc<Hub>,
        groups: &Arc<Groups<VmGroup>>,
        lookers: &Arc<vaults::Lookers>,
        feeding: &CancellationToken,
    ) -> Resources<RecoveryVault> {
        let recent: Arc<Recent<RecoveryVault>> = Arc::default();
        let backoff: Arc<Backoff> = Arc::default();
        let (forget, passed) = (recent.clone(), backoff.clone());
        let (wakes, hub, lookers) = (wakes.clone(), hub.clone(), lookers.clone());
        let groups = groups.clone();
        let store = feed(
            client,
            &self.settings.namespaces,
            (self.health.clone(), "watch of vaults"),
            feeding.child_token(),
            move |touch| match touch {
                Touch::Changed(key, guarded) => {
                    wakes.vault(key);
                    if kube::Resource::meta(guarded).deletion_timestamp.is_some() {
                        // Those that wait for a vault that nobody can look at need not wait for this one.
                        for vm in groups.members(&VmGroup::Vault(key.clone())) {
                            wakes.vm(&vm);
                        }
                    }
                }
                Touch::Gone(key) => {
                    forget.forget(key);
                    passed.clear(key);
                    lookers.end(key);
                    // Its VMs are told, also when somebody took its finalizer off.
                    hub.withdraw(key, None);
                }
            },
        );
        Resources {
            store,
            recent,
            backoff,
        }
    }

    fn vms(
        &self,
        client: &Client,
        wakes: &Wakes,
        hub: &Arc<Hub>,
        groups: &Arc<Groups<VmGroup>>,
        feeding: &CancellationToken,
    ) -> Resources<ProtectedVirtualMachine> {
        let recent: Arc<Recent<ProtectedVirtualMachine>> = Arc::default();
        let backoff: Arc<Backoff> = Arc::default();
        let (forget, passed) = (recent.clone(), backoff.clone());
        let (wakes, hub) = (wakes.clone(), hub.clone());
        let (groups, metrics) = (groups.clone(), self.metrics.clone());
        let store = feed(
            client,
            &self.settings.namespaces,
            (self.health.clone(), "watch of virtual machines"),
            feeding.child_token(),
            move |touch: Touch<'_, ProtectedVirtualMachine>| match touch {
                Touch::Changed(key, guarded) => {
                    if let Ok(vm) = &guarded.0 {
                        groups.set(key, vm_groups(key, vm));
                    }
                    wakes.vm(key);
                }
                Touch::Gone(key) => {
                    forget.forget(key);
                    passed.clear(key);
                    hub.forget(key);
                    metrics.fleet.forget(&key.namespace, &key.name);
                    // Who waited for this one to be gone: another claimant, or the vault.
                    for other in groups.remove(key) {
                        wakes.vm(&other);
                    }
                    for vault in hub.vaults(&key.namespace) {
                        wakes.vault(&vault);
                    }
                }
            },
        );
        Resources {
            store,
            recent,
            backoff,
        }
    }

    fn failovers(
        &self,
        client: &Client,
        wakes: &Wakes,
        groups: &Arc<Groups<String>>,
        feeding: &CancellationToken,
    ) -> Resources<Failover> {
        let recent: Arc<Recent<Failover>> = Arc::default();
        let backoff: Arc<Backoff> = Arc::default();
        let (forget, passed) = (recent.clone(), backoff.clone());
        let (wakes, groups) = (wakes.clone(), groups.clone());
        let store = feed(
            client,
            &self.settings.namespaces,
            (self.health.clone(), "watch of failovers"),
            feeding.child_token(),
            move |touch: Touch<'_, Failover>| match touch {
                Touch::Changed(key, guarded) => {
                    if let Ok(failover) = &guarded.0 {
                        let vm = &failover.spec.virtual_machine;
                        groups.set(key, vec![vm.uid.clone()]);
                        wakes.vm(&Key::new(&key.namespace, &vm.name));
                    } else if let Some((vm, _)) = key.name.rsplit_once('-') {
                        // What it holds cannot be read; a VM whose move it is says so.
                        wakes.vm(&Key::new(&key.namespace, vm));
                    }
                    wakes.failover(key);
                }
                Touch::Gone(key) => {
                    forget.forget(key);
                    passed.clear(key);
                    groups.remove(key);
                    if let Some((vm, _)) = key.name.rsplit_once('-') {
                        wakes.vm(&Key::new(&key.namespace, vm));
                    }
                }
            },
        );
        Resources {
            store,
            recent,
            backoff,
        }
    }
}

fn vm_groups(key: &Key, vm: &ProtectedVirtualMachine) -> Vec<VmGroup> {
    let vault = Key::new(&key.namespace, &vm.spec.vault_ref.name);
    let name = vm
        .spec
        .virtual_machine_name
        .clone()
        .unwrap_or_else(|| key.name.clone());
    let identity = vm
        .status
        .as_ref()
        .and_then(|status| status.virtual_machine_id.clone());
    let mut groups = vec![VmGroup::Vault(vault.clone()), VmGroup::Name(vault, name)];
    groups.extend(identity.map(VmGroup::Identity));
    groups
}

/// Where passes are asked for. The receivers are gone only while a term ends.
#[derive(Clone)]
struct Wakes {
    vaults: UnboundedSender<Key>,
    vms: UnboundedSender<Key>,
    failovers: UnboundedSender<Key>,
}

impl Wakes {
    fn vault(&self, key: &Key) {
        let _ = self.vaults.unbounded_send(key.clone());
    }

    fn vm(&self, key: &Key) {
        let _ = self.vms.unbounded_send(key.clone());
    }

    fn failover(&self, key: &Key) {
        let _ = self.failovers.unbounded_send(key.clone());
    }
}

type Failure = (ErrorClass, String);

/// Passes over the resources of one kind, one at a time for each resource and `workers` at once, until `stop`; then those under way
/// end.
async fn work<K, F, Fut>(
    name: &'static str,
    context: &Arc<Context>,
    of: fn(&Context) -> &Resources<K>,
    woken: UnboundedReceiver<Key>,
    workers: u16,
    stop: CancellationToken,
    pass: F,
) where
    K: Watched,
    F: Fn(Arc<Guarded<K>>, Arc<Context>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Failure>> + Send + 'static,
{
    let store: Store<Guarded<K>> = of(context).store.clone();
    let queue = woken
        .map(|key| Ok::<_, Infallible>(ReconcileRequest::from(key.reference::<Guarded<K>>())))
        .take_until(stop.clone().cancelled_owned());
    let reconcile = move |resource: Arc<Guarded<K>>, context: Arc<Context>| {
        let pass = pass.clone();
        let stop = stop.clone();
        // A task of its own: passes run side by side, and end even when nobody waits for them any more.
        let task = tokio::spawn(async move {
            if stop.is_cancelled() {
                return Action::await_change();
            }
            one(name, of, resource, context, pass).await
        });
        let ended: Pin<Box<dyn Future<Output = Result<Action, Infallible>> + Send>> = task
            .map(move |ended| {
                Ok(ended.unwrap_or_else(|error| {
                    tracing::error!(controller = name, %error, "a pass did not end as it should");
                    Action::requeue(Duration::from_secs(30))
                }))
            })
            .boxed();
        ended
    };
    applier(
        reconcile,
        |_, never: &Infallible, _| match *never {},
        context.clone(),
        store,
        queue,
        Config::default().concurrency(workers),
    )
    .for_each(|_| std::future::ready(()))
    .await;
}

/// One pass, and what follows when it failed.
async fn one<K, F, Fut>(
    name: &'static str,
    of: fn(&Context) -> &Resources<K>,
    resource: Arc<Guarded<K>>,
    context: Arc<Context>,
    pass: F,
) -> Action
where
    K: Watched,
    F: Fn(Arc<Guarded<K>>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, Failure>>,
{
    let meta = kube::Resource::meta(resource.as_ref());
    let (key, generation) = (Key::of(meta), meta.generation);
    let backoff = &of(&context).backoff;
    if let Some(left) = backoff.left(&key, generation, Instant::now()) {
        return Action::requeue(left);
    }
    match pass(resource, context.clone()).await {
        Ok(action) => {
            backoff.clear(&key);
            context.metrics.pass(name, "ok");
            action
        }
        Err((class, error)) => {
            context.metrics.pass(name, class.as_str());
            let delay = backoff.failed(&key, generation, class, Instant::now());
            said(name, &key, class, &error, delay);
            Action::requeue(delay)
        }
    }
}

fn said(name: &str, key: &impl Display, class: ErrorClass, error: &str, delay: Duration) {
    if class == ErrorClass::Conflict {
        tracing::debug!(controller = name, resource = %key, class = class.as_str(), error, ?delay, "a pass is repeated");
    } else {
        tracing::warn!(controller = name, resource = %key, class = class.as_str(), error, ?delay, "a pass is repeated");
    }
}
