//! Two hosts on loopback: certificates, configurations, agents that can be killed and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use homeward::agent::api::{
    Claim, Command, HostState, Operation, OperationState, Order, OrderResult, PeerAddress, Refusal,
    StopRecord, VmDefinition, VmState,
};
use homeward::agent::client::{AgentClient, ClientError};
use homeward::agent::config::Config;
use homeward::agent::failpoint::Failpoints;
use homeward::agent::hypervisor::Hypervisor;
use homeward::agent::run_with;
use homeward::pki::{Authority, Usages};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fake::{Fake, World};

pub const VM: Uuid = Uuid::from_u128(0xa11ce);
pub const MIB: usize = 1024 * 1024;

pub struct Sites {
    pub folder: TempDir,
    pub world: Arc<World>,
    pub hv: Host,
    pub az: Host,
    step: AtomicU64,
}

pub struct Host {
    pub name: &'static str,
    pub folder: PathBuf,
    pub fake: Arc<Fake>,
    pub failpoints: Failpoints,
    /// Real guests instead of the fake's.
    pub qemu: bool,
    pub control: u16,
    pub data: u16,
    client: AgentClient,
    agent: Option<(tokio::runtime::Runtime, CancellationToken)>,
}

/// A port that nobody else gets: below those that the kernel hands out for a moment, and each one once in this process. Tests side by side would
/// otherwise find each other's agents behind a port that was free when it was looked at.
fn port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const FIRST: u64 = 10_000;
    const COUNT: u64 = 20_000;
    let own = u64::from(std::process::id()) * 1_009;
    loop {
        let at = FIRST + (own + NEXT.fetch_add(1, Ordering::SeqCst)) % COUNT;
        let port = u16::try_from(at).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn client(folder: &Path, name: &str, port: u16) -> AgentClient {
    let read = |file: String| fs::read(folder.join(file)).unwrap();
    let url = format!("https://127.0.0.1:{port}");
    AgentClient::new(
        &url,
        &read("ca.pem".into()),
        &read(format!("{name}.pem")),
        &read(format!("{name}-key.pem")),
    )
    .unwrap()
}

impl Sites {
    /// Certificates, folders, and a VM with two disks defined at the first host. No agent runs yet.
    pub fn prepare() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test").unwrap();
        for host in ["hv01", "az01", "hv02"] {
            authority
                .issue(host, &["127.0.0.1".into()], Usages::ServerAndClient)
                .unwrap();
        }
        for name in ["homeward-operator", "stranger"] {
            authority.issue(name, &[], Usages::Client).unwrap();
        }
        let world = Arc::new(World::default());
        let hv = Host::prepare(folder.path(), "hv01", "OnPremises", "az01", &world);
        let az = Host::prepare(folder.path(), "az01", "Azure", "hv01", &world);
        let sites = Self {
            folder,
            world,
            hv,
            az,
            step: AtomicU64::new(0),
        };
        sites.define();
        sites
    }

    pub fn new() -> Self {
        let mut sites = Self::prepare();
        sites.hv.start();
        sites.az.start();
        sites
    }

    fn define(&self) {
        for (disk, size, fill) in [("root", 4 * MIB, 1), ("data", 2 * MIB + 512, 2)] {
            let mut content = vec![0u8; size];
            for (at, byte) in content.iter_mut().enumerate() {
                *byte = if at % 131_072 < 65_536 { fill } else { 0 };
            }
            fs::write(self.hv.folder.join(format!("{disk}.raw")), content).unwrap();
        }
        let text = format!(
            "uuid: {VM}\nname: app\ncpus: 1\nmemoryMiB: 64\nnetworks: [{{ name: lan }}]\nboot: {{ from: disk }}\n\
             disks: [{{ id: root, path: ../root.raw }}, {{ id: data, path: ../data.raw }}]\n"
        );
        fs::write(self.hv.folder.join("definitions/app.yaml"), text).unwrap();
    }

    pub fn next_step(&self) -> u64 {
        self.step.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn order(&self, epoch: u64, command: Command) -> Order {
        Order {
            vm: VM,
            epoch,
            step: self.next_step(),
            claim: Some(claim()),
            failover: None,
            command,
        }
    }

    /// Adopted and running at hv01, enrolled at az01, one pass whole.
    pub async fn protected() -> Self {
        let sites = Self::new();
        sites.protect().await;
        sites
    }

    pub async fn protect(&self) {
        self.hv
            .ok(self.order(1, Command::Adopt { takeover: None }))
            .await;
        self.hv
            .ok(self.order(
                1,
                Command::Power {
                    state: homeward::agent::api::PowerSwitch::On,
                    force: false,
                    on_other_disks: false,
                },
            ))
            .await;
        self.enroll(1).await;
        self.replicate(&self.hv, &self.az, 1).await;
    }

    pub async fn enroll(&self, epoch: u64) {
        let definition = self.definition().await;
        self.az
            .ok(self.order(
                epoch,
                Command::Enroll {
                    definition: Box::new(definition),
                    owner: self.hv.address(),
                },
            ))
            .await;
    }

    pub async fn definition(&self) -> VmDefinition {
        let seen = self.hv.vm().await;
        let mut definition = seen.definition.unwrap();
        for disk in &mut definition.disks {
            disk.size_bytes = seen
                .disks
                .iter()
                .find(|shape| shape.id == disk.id)
                .map(|shape| shape.size_bytes);
        }
        definition
    }

    /// Orders a pass and waits until it is whole.
    pub async fn replicate(
        &self,
        from: &Host,
        to: &Host,
        epoch: u64,
    ) -> homeward::agent::api::PassReport {
        let order = self.pass(to, epoch);
        let id = order.id();
        from.ok(order).await;
        from.until("the pass is whole", |vm| {
            let last = vm.replication.as_ref()?.last.clone()?;
            (last.began_after >= id).then_some(last)
        })
        .await
    }

    /// A pass that comes to nothing, and why.
    pub async fn fails_to_replicate(&self, from: &Host, to: &Host, epoch: u64) -> String {
        from.ok(self.pass(to, epoch)).await;
        let failed = from
            .until("the pass fails", |vm| {
                vm.replication.as_ref()?.last_error.clone()
            })
            .await;
        failed.message
    }

    /// The order for a pass right now.
    pub fn pass(&self, to: &Host, epoch: u64) -> Order {
        self.order(
            epoch,
            Command::Replicate {
                peer: to.address(),
                interval_seconds: 3600,
                immediate: true,
            },
        )
    }

    pub async fn stop(&self, from: &Host, to: &Host, epoch: u64) -> StopRecord {
        match from
            .ok(self.order(
                epoch,
                Command::Stop {
                    target: to.name.into(),
                    force: false,
                },
            ))
            .await
        {
            OrderResult::Stopped { record } => record,
            other => panic!("{other:?}"),
        }
    }

    /// Stops here, brings the last delta and starts there; nothing is committed.
    pub async fn cut_over(&self, from: &Host, to: &Host, epoch: u64) {
        let record = self.stop(from, to, epoch).await;
        let deliver = Command::Deliver {
            peer: to.address(),
            mode: homeward::agent::api::DeliverMode::Delta,
        };
        from.ok(self.order(epoch, deliver)).await;
        to.ok(self.order(epoch, Command::Start { stop: record }))
            .await;
    }

    /// The move is accepted: the source becomes the replica.
    pub async fn commit(&self, from: &Host, to: &Host, epoch: u64) {
        let committed = to.ok(self.order(epoch, Command::Commit {})).await;
        let OrderResult::Committed { record: commit } = committed else {
            panic!("{committed:?}")
        };
        from.ok(self.order(epoch, Command::Retire { commit })).await;
    }

    pub fn disk(&self, host: &Host, disk: &str) -> Vec<u8> {
        fs::read(self.path(host, disk)).unwrap()
    }

    pub fn path(&self, host: &Host, disk: &str) -> PathBuf {
        if host.name == self.hv.name {
            return host.folder.join(format!("{disk}.raw"));
        }
        let folder = host.folder.join("storage").join(VM.to_string());
        folder.join(format!("{disk}.raw"))
    }

    pub fn same_disks(&self) {
        for disk in ["root", "data"] {
            assert!(
                self.disk(&self.hv, disk) == self.disk(&self.az, disk),
                "disk {disk} differs"
            );
        }
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.world.check();
        }
    }
}

pub fn claim() -> Claim {
    Claim {
        cluster: "cluster".into(),
        pvm: "pvm".into(),
    }
}

impl Host {
    fn prepare(
        certificates: &Path,
        name: &'static str,
        site: &str,
        peer: &str,
        world: &Arc<World>,
    ) -> Self {
        let folder = certificates.join(format!("host-{name}"));
        fs::create_dir_all(folder.join("definitions")).unwrap();
        fs::write(folder.join("boot_id"), "first").unwrap();
        let (control, data) = (port(), port());
        let text = format!(
            "host: {name}\nsite: {site}\ncontrol: {{ listen: '127.0.0.1:{control}' }}\ndata: {{ listen: '127.0.0.1:{data}' }}\n\
             tls: {{ ca: ../ca.pem, certificate: ../{name}.pem, key: ../{name}-key.pem, allowedOperators: [homeward-operator], allowedAgents: [{peer}] }}\n\
             stateDir: state\nstorageDir: storage\ndefinitionsDir: definitions\nnetworks: [lan]\nbootIdFile: boot_id\n\
             hypervisor: {{ qemu: {{ shutdownDeadlineSeconds: 1 }} }}\n"
        );
        fs::write(folder.join("agent.yaml"), text).unwrap();
        Self {
            name,
            fake: Fake::new(name, world, folder.join("guests")),
            failpoints: Failpoints::default(),
            qemu: false,
            control,
            data,
            client: client(certificates, "homeward-operator", control),
            agent: None,
            folder,
        }
    }

    pub fn change_config(&self, from: &str, to: &str) {
        let path = self.folder.join("agent.yaml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }

    pub fn start(&mut self) {
        self.failpoints = Failpoints::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shutdown = CancellationToken::new();
        let began = Instant::now();
        loop {
            let config = Config::read(&self.folder.join("agent.yaml")).unwrap();
            let hypervisor: Arc<dyn Hypervisor> = if self.qemu {
                homeward::agent::hypervisor(&config).unwrap()
            } else {
                Arc::clone(&self.fake) as Arc<dyn Hypervisor>
            };
            let (stop, failpoints) = (shutdown.clone(), self.failpoints.clone());
            let agent = runtime.spawn(run_with(config, hypervisor, stop, failpoints));
            loop {
                if agent.is_finished() {
                    break;
                }
                if std::net::TcpStream::connect(("127.0.0.1", self.control)).is_ok() {
                    self.agent = Some((runtime, shutdown));
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            // What a killed agent still holds is let go soon.
            assert!(
                began.elapsed() < Duration::from_mins(1),
                "the agent of {} does not start",
                self.name
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As if the process had been killed.
    pub fn kill(&mut self) {
        if let Some((runtime, _)) = self.agent.take() {
            runtime.shutdown_background();
            self.silent();
        }
    }

    /// As on a signal.
    pub fn end(&mut self) {
        if let Some((runtime, shutdown)) = self.agent.take() {
            shutdown.cancel();
            // A runtime cannot be dropped inside another.
            std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)))
                .join()
                .unwrap();
            self.silent();
        }
    }

    /// Waits until nobody listens any more.
    fn silent(&self) {
        while std::net::TcpStream::connect(("127.0.0.1", self.control)).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn address(&self) -> PeerAddress {
        PeerAddress {
            host: self.name.into(),
            control: format!("https://127.0.0.1:{}", self.control),
            data: format!("127.0.0.1:{}", self.data),
        }
    }

    pub async fn state(&self) -> HostState {
        self.client.state().await.unwrap()
    }

    pub async fn vm(&self) -> VmState {
        self.state()
            .await
            .vms
            .into_iter()
            .find(|vm| vm.uuid == VM)
            .expect("the VM is not in the inventory")
    }

    pub fn client(&self) -> &AgentClient {
        &self.client
    }

    /// Orders and waits for the end.
    pub async fn give(&self, order: Order) -> Result<Operation, Refusal> {
        let id = order.id();
        let answer = match self.client.order(order.vm, &order).await {
            Ok(answer) => answer,
            Err(ClientError::Refused(refusal)) => return Err(*refusal),
            Err(other) => panic!("{}: {other}", self.name),
        };
        if answer.operation.state != OperationState::Running {
            return Ok(answer.operation);
        }
        Ok(self
            .until("the order has ended", |vm| {
                let operation = vm.operation.clone()?;
                let ended = operation.epoch == id.epoch
                    && operation.step == id.step
                    && operation.state != OperationState::Running;
                ended.then_some(operation)
            })
            .await)
    }

    /// Orders what must succeed.
    pub async fn ok(&self, order: Order) -> OrderResult {
        let kind = order.command.kind();
        match self.give(order).await {
            Ok(operation) if operation.state == OperationState::Succeeded => {
                operation.result.unwrap()
            }
            other => panic!("{} at {}: {other:?}", kind, self.name),
        }
    }

    pub async fn until<T>(&self, what: &str, mut seen: impl FnMut(&VmState) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            let vm = self.vm().await;
            if let Some(found) = seen(&vm) {
                return found;
            }
            assert!(
                began.elapsed()
                    < if self.qemu {
                        Duration::from_mins(3)
                    } else {
                        Duration::from_secs(20)
                    },
                "{}: {what} never came: {vm:#?}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
