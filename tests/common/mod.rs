//! What the tests of the operator share: a control plane for each test binary, resources, and waiting with a deadline.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod fake_driver;
pub mod fake_service;
mod observed;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use homeward::api::{Failover, ProtectedVirtualMachine, RecoveryVault, Site};
use homeward::controllers::{DriverFactory, Operator, Settings};
use homeward::telemetry::{Health, Metrics};
use homeward_playground::control_plane::ControlPlane;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take here. Long, because other work shares the machine; nothing waits for it to pass.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The folder of the definitions.
pub fn crds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds")
}

/// A folder for this test binary that is empty at first.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// The control plane that the tests of a binary share, with the definitions applied.
pub async fn plane() -> &'static ControlPlane {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    PLANE
        .get_or_init(|| async {
            let name = format!("plane-{}", std::process::id());
            let plane = ControlPlane::start(&folder(&name)).await.unwrap();
            plane.install_crds(&[crds()]).await.unwrap();
            plane
        })
        .await
}

/// The configuration of the admin's client.
pub async fn config(plane: &ControlPlane) -> kube::Config {
    let file = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .unwrap()
}

/// Waits until `look` finds something.
pub async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A namespace of its own, and what a test does in it.
pub struct Bench {
    pub namespace: String,
    pub client: Client,
    pub config: kube::Config,
}

impl Bench {
    pub async fn new(namespace: &str) -> Self {
        Self::on(plane().await, namespace).await
    }

    pub async fn on(plane: &ControlPlane, namespace: &str) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,homeward=debug".into()),
            )
            .with_test_writer()
            .try_init();
        plane.create_namespaces(&[namespace]).await.unwrap();
        Self {
            namespace: namespace.into(),
            client: plane.client().await.unwrap(),
            config: config(plane).await,
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Settings with a fast pace, for this namespace only.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new("test", &self.namespace);
        settings.namespaces = vec![self.namespace.clone()];
        settings.paces.steady = Duration::from_millis(200);
        settings.paces.busy = Duration::from_millis(50);
        settings.paces.urgent = Duration::from_millis(20);
        settings.secrets_every = Duration::from_millis(300);
        settings.lease.duration = Duration::from_secs(5);
        settings.lease.renew_every = Duration::from_secs(1);
        settings.lease.retry_every = Duration::from_millis(300);
        settings
    }

    pub fn run(&self, factory: impl DriverFactory + 'static) -> Running {
        self.run_with(factory, self.settings())
    }

    pub fn run_with(&self, factory: impl DriverFactory + 'static, settings: Settings) -> Running {
        Running::start(self.config.clone(), settings, Arc::new(factory))
    }

    /// A Secret with these bytes.
    pub async fn secret(&self, name: &str, bytes: &[u8]) {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(
                "tls.key".to_owned(),
                ByteString(bytes.to_vec()),
            )])),
            ..Secret::default()
        };
        self.api::<Secret>()
            .patch(
                name,
                &PatchParams::apply("test").force(),
                &Patch::Apply(&secret),
            )
            .await
            .unwrap();
    }

    /// UID of the cluster.
    pub async fn cluster(&self) -> String {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        until("namespace kube-system", || async {
            namespaces
                .get_opt("kube-system")
                .await
                .unwrap()
                .and_then(|namespace| namespace.metadata.uid)
        })
        .await
    }

    /// A Failover that nobody asked for.
    pub async fn failover(&self, name: &str, vm: &str, uid: &str) {
        let failover: Failover = serde_json::from_value(json!({
            "apiVersion": "homeward.dev/v1alpha1", "kind": "Failover",
            "metadata": {"name": name, "labels": {homeward::api::VM_LABEL: vm}},
            "spec": {
                "virtualMachine": {"name": vm, "uid": uid}, "from": "OnPremises", "to": "Azure", "dataSync": "Auto",
                "start": "Approved", "cutover": "Approved",
            },
        }))
        .unwrap();
        self.api::<Failover>()
            .create(&PostParams::default(), &failover)
            .await
            .unwrap();
    }

    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>()
            .delete(name, &kube::api::DeleteParams::default())
            .await
            .unwrap();
    }

    /// A vault and the Secrets that it names.
    pub async fn vault(&self, name: &str) {
        for secret in ["ca", "client"] {
            self.secret(secret, b"not a key").await;
        }
        self.vault_without_secrets(name).await;
    }

    pub async fn vault_without_secrets(&self, name: &str) {
        let vault: RecoveryVault = serde_json::from_value(json!({
            "apiVersion": "homeward.dev/v1alpha1", "kind": "RecoveryVault", "metadata": {"name": name},
            "spec": {"agents": {
                "onPremises": {"hosts": [{"name": "hv1", "url": "https://hv1.example.com:7443"}]},
                "azure": {"hosts": [{"name": "az1", "url": "https://az1.example.com:7443"}]},
                "tls": {"caSecretRef": {"name": "ca"}, "clientCertificateSecretRef": {"name": "client"}},
            }},
        }))
        .unwrap();
        self.api::<RecoveryVault>()
            .create(&PostParams::default(), &vault)
            .await
            .unwrap();
    }

    /// A VM of vault `vault`; `more` is laid over its spec.
    pub async fn vm(&self, name: &str, placement: Site, more: Value) -> ProtectedVirtualMachine {
        let mut value = json!({
            "apiVersion": "homeward.dev/v1alpha1", "kind": "ProtectedVirtualMachine", "metadata": {"name": name},
            "spec": {"vaultRef": {"name": "vault"}, "placement": placement},
        });
        merge(&mut value["spec"], more);
        let vm: ProtectedVirtualMachine = serde_json::from_value(value).unwrap();
        self.api::<ProtectedVirtualMachine>()
            .create(&PostParams::default(), &vm)
            .await
            .unwrap()
    }

    pub async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>().get_opt(name).await.unwrap()
    }

    pub async fn change<K>(&self, name: &str, patch: impl Serialize + Debug) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    pub async fn place(&self, name: &str, site: Site) {
        self.change::<ProtectedVirtualMachine>(name, json!({"spec": {"placement": site}}))
            .await;
    }

    /// Waits until the VM satisfies `good`.
    pub async fn vm_is(
        &self,
        name: &str,
        what: &str,
        good: impl Fn(&ProtectedVirtualMachine) -> bool,
    ) -> ProtectedVirtualMachine {
        self.resource_is(name, what, good).await
    }

    /// Waits until the Failover satisfies `good`.
    pub async fn failover_is(
        &self,
        name: &str,
        what: &str,
        good: impl Fn(&Failover) -> bool,
    ) -> Failover {
        self.resource_is(name, what, good).await
    }

    pub async fn resource_is<K>(&self, name: &str, what: &str, good: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Serialize,
    {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let now: Option<K> = self.api::<K>().get_opt(name).await.ok().flatten();
            if let Some(now) = &now {
                if good(now) {
                    return now.clone();
                }
            }
            assert!(
                Instant::now() < deadline,
                "{name} is not in time: {what}\n{}",
                serde_yaml::to_string(&now).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    pub async fn is_gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        until(&format!("{name} is gone"), || async {
            self.get::<K>(name).await.is_none().then_some(())
        })
        .await;
    }
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) if !over.is_null() => *base = over,
        _ => {}
    }
}

/// `status/reason` of a condition, or nothing.
pub fn condition(resource: &impl Serialize, kind: &str) -> String {
    let value = serde_json::to_value(resource).unwrap();
    value["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .map(|condition| {
            format!(
                "{}/{}",
                condition["status"].as_str().unwrap_or_default(),
                condition["reason"].as_str().unwrap_or_default()
            )
        })
        .unwrap_or_default()
}

/// An operator in this process, with threads of its own.
pub struct Running {
    pub stop: CancellationToken,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    task: Option<JoinHandle<()>>,
    threads: Option<Runtime>,
}

impl Running {
    pub fn start(
        config: kube::Config,
        settings: Settings,
        factory: Arc<dyn DriverFactory>,
    ) -> Self {
        let (stop, health, metrics) = (
            CancellationToken::new(),
            Arc::<Health>::default(),
            Arc::<Metrics>::default(),
        );
        let operator = Operator {
            config,
            settings,
            factory,
            health: health.clone(),
            metrics: metrics.clone(),
        };
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let task = threads.spawn({
            let stop = stop.clone();
            async move { operator.run(stop).await.unwrap() }
        });
        Self {
            stop,
            health,
            metrics,
            task: Some(task),
            threads: Some(threads),
        }
    }

    /// Stops as on SIGTERM, and waits for the end.
    pub async fn end(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(DEADLINE, task)
                .await
                .expect("the operator ends in time")
                .unwrap();
        }
    }

    /// Dies in the middle of whatever it does, without a word.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
