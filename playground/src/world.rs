//! A whole world in one folder: a control plane, operators, one host at each site with its agent, and VMs.
//!
//! ```text
//!   cluster: etcd, kube-apiserver, homeward run (one or more)
//!                  |
//!                  | mutual TLS
//!        +---------+---------+
//!        |                   |
//!   hv01 (OnPremises)   az01 (Azure)      homeward agent with QEMU, or process-agent
//!        |  ---- data ---->  |
//!      guests              guests
//! ```
//!
//! Every part is a process of its own that can be killed, stopped in its tracks and started again. Hosts have an address of
//! their own on loopback, so that their ports stay theirs while an agent is down. When a [`World`] is dropped, or its
//! process dies in whatever way, nothing is left running.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use homeward::{
    agent::{
        api::{Command, Order, PowerSwitch, Role, VmState},
        client::ClientError,
    },
    api::Site,
};
use serde_json::json;
use uuid::Uuid;

mod agents_vault;
mod cluster;
mod credentials;
mod emulator;
mod host;
mod keeper;
mod options;
mod pki;
mod programs;
mod service;
mod wait;

pub use cluster::{Cluster, NAMESPACE, VAULT, is_settled, is_true};
pub use credentials::{ClientCertificate, Credentials};
pub use emulator::Emulator;
pub use host::Host;
pub use keeper::keep;
pub use options::{HypervisorKind, Vm, VmOptions, WorldOptions};
pub use pki::Certificate;
pub use programs::{Program, find as find_program};
pub use service::{ServiceOptions, ServiceWorld, rests_in_azure};
pub use wait::{LIMIT, eventually, status_of, until};

use keeper::Keeper;
use pki::Pki;

use crate::records::{Report, read_disks};

/// In the environment of an agent and of its guests: the host's folder.
const HOST_MARK: &str = "HOMEWARD_HOST";
/// Set, it keeps the folder of a world for a look at its logs.
const KEEP: &str = "HOMEWARD_KEEP";

/// Everything, in one folder. Fields end in this order: whoever gives orders before those who carry them out, and what they
/// stand on last.
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Further clusters that know the same hosts.
    pub others: Vec<Cluster>,
    hosts: Vec<Host>,
    vms: Vec<Vm>,
    options: WorldOptions,
    pki: Pki,
    net: [u8; 3],
    ground: Ground,
}

impl World {
    /// Starts everything but VMs, and waits until the operator has connected both sites.
    ///
    /// # Errors
    ///
    /// When something is missing or does not start; the message says what, and what to do.
    pub async fn start(options: WorldOptions) -> Result<Self> {
        Self::start_with(options, |_| {}).await
    }

    /// As [`World::start`], telling `progress` what it is at.
    ///
    /// # Errors
    ///
    /// As [`World::start`].
    pub async fn start_with(options: WorldOptions, progress: impl Fn(&str)) -> Result<Self> {
        let ground = Ground::new()?;
        let folder = ground.folder.clone();
        progress("certificates and hosts");
        let pki = Pki::create(&folder.join("pki"))?;
        let net = free_network()?;
        let make = |name: &str, site, peer: &str, last| {
            let address = Ipv4Addr::new(127, net[0], net[1], last);
            Host::make(&folder, name, site, address, &[peer], &pki, &options)
        };
        let mut hosts = vec![
            make("hv01", Site::OnPremises, "az01", 1)?,
            make("az01", Site::Azure, "hv01", 2)?,
        ];
        progress("etcd, kube-apiserver and the agents");
        let (first, rest) = hosts.split_at_mut(1);
        let (cluster, here, there) = tokio::join!(
            Cluster::start(
                &folder,
                "cluster",
                Ipv4Addr::new(127, net[0], net[1], 10),
                options.cluster()
            ),
            first[0].start(),
            rest[0].start()
        );
        let mut cluster = cluster?;
        here?;
        there?;
        if options.operators > 0 {
            progress("the operator");
            cluster.start_operators()?;
            agents_vault::apply(&cluster, &hosts, &pki, &options).await?;
            cluster.until_connected().await?;
        }
        Ok(Self {
            cluster,
            others: Vec::new(),
            hosts,
            vms: Vec::new(),
            options,
            pki,
            net: [127, net[0], net[1]],
            ground,
        })
    }

    /// Starts again what has ended without being told to, as a service manager would; the names of it. What a caller has killed or
    /// stopped through this world stays as it is.
    ///
    /// # Errors
    ///
    /// When a program does not get ready.
    pub async fn mend(&mut self) -> Result<Vec<String>> {
        let mut mended = self.cluster.mend().await?;
        for host in &mut self.hosts {
            if host.mend()? {
                mended.push(format!("the agent of {}", host.name));
            }
        }
        Ok(mended)
    }

    /// The processes that run, by name: those that [`World::mend`] starts again.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        let mut all = self.cluster.processes();
        for host in &self.hosts {
            all.extend(
                host.process_id()
                    .map(|id| (format!("the agent of {}", host.name), id)),
            );
        }
        all
    }

    /// Starts another cluster beside the first, with a vault of the same hosts.
    ///
    /// # Errors
    ///
    /// As [`World::start`].
    pub async fn add_cluster(&mut self) -> Result<&mut Cluster> {
        let number = self.others.len() + 2;
        let name = format!("cluster-{number}");
        let [first, second, third] = self.net;
        let address = Ipv4Addr::new(first, second, third, u8::try_from(10 * number)?);
        let mut cluster =
            Cluster::start(&self.ground.folder, &name, address, self.options.cluster()).await?;
        cluster.start_operators()?;
        agents_vault::apply(&cluster, &self.hosts, &self.pki, &self.options).await?;
        cluster.until_connected().await?;
        self.others.push(cluster);
        self.others.last_mut().context("it was pushed")
    }

    /// What a person types to ask the agent of a site: the program, and who asks. The subcommand goes in between.
    ///
    /// # Errors
    ///
    /// When the program is not there.
    pub fn by_hand(&self, site: Site) -> Result<(PathBuf, String)> {
        let (ca, certificate, key) = (
            self.pki.ca(),
            self.pki.certificate(pki::OPERATOR),
            self.pki.key(pki::OPERATOR),
        );
        let arguments = format!(
            "--agent {} --ca {} --certificate {} --key {}",
            self.host(site).url(),
            ca.display(),
            certificate.display(),
            key.display()
        );
        Ok((programs::find(programs::Program::Homeward)?, arguments))
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

    /// How it was made.
    #[must_use]
    pub const fn options(&self) -> &WorldOptions {
        &self.options
    }

    /// The host of a site.
    ///
    /// # Panics
    ///
    /// Never: each site has one.
    #[must_use]
    pub fn host(&self, site: Site) -> &Host {
        match site {
            Site::OnPremises => &self.hosts[0],
            Site::Azure => &self.hosts[1],
        }
    }

    /// The host of a site, to be changed.
    ///
    /// # Panics
    ///
    /// Never: each site has one.
    pub fn host_mut(&mut self, site: Site) -> &mut Host {
        match site {
            Site::OnPremises => &mut self.hosts[0],
            Site::Azure => &mut self.hosts[1],
        }
    }

    /// The VMs, in the order in which they were made.
    #[must_use]
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// Makes a VM on the premises: blank disks and a definition. It is nobody's, and off.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn define(&mut self, options: &VmOptions) -> Result<Vm> {
        let host = self.host(Site::OnPremises);
        let uuid = Uuid::new_v4();
        let mut disks = Vec::new();
        let mut defined = Vec::new();
        for (index, size) in options.disks.iter().enumerate() {
            let id = format!("{}-{index}", options.name);
            let path = host.folder().join("disks").join(format!("{id}.raw"));
            File::create_new(&path)
                .and_then(|file| file.set_len(*size))
                .with_context(|| format!("cannot make {}", path.display()))?;
            defined.push(json!({"id": id, "path": path}));
            disks.push(path);
        }
        let definition = json!({
            "uuid": uuid,
            "name": options.name,
            "cpus": 1,
            "memoryMiB": options.memory_mib,
            "disks": defined,
            "networks": [{"name": "lan"}],
            "boot": {"from": "profile", "name": "guest", "commandLine": options.guest.kernel_command_line()},
        });
        let path = host.definitions().join(format!("{}.yaml", options.name));
        write_at_once(&path, &serde_yaml::to_string(&definition)?)?;
        let vm = Vm {
            name: options.name.clone(),
            uuid,
            disks,
        };
        self.vms.push(vm.clone());
        Ok(vm)
    }

    /// Adds a blank disk to the definition of a VM on the premises.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn add_disk(&self, vm: &Vm, size: u64) -> Result<Vm> {
        let host = self.host(Site::OnPremises);
        let id = format!("{}-{}", vm.name, vm.disks.len());
        let disk = host.folder().join("disks").join(format!("{id}.raw"));
        File::create_new(&disk)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot make {}", disk.display()))?;
        self.change_disks(vm, |disks| disks.push(json!({"id": id, "path": disk})))?;
        let mut grown = vm.clone();
        grown.disks.push(disk);
        Ok(grown)
    }

    /// Takes the last disk out of the definition of a VM on the premises; its file stays.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn remove_last_disk(&self, vm: &Vm) -> Result<()> {
        self.change_disks(vm, |disks| drop(disks.pop()))
    }

    fn change_disks(
        &self,
        vm: &Vm,
        change: impl FnOnce(&mut Vec<serde_json::Value>),
    ) -> Result<()> {
        let host = self.host(Site::OnPremises);
        let path = host.definitions().join(format!("{}.yaml", vm.name));
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut definition: serde_json::Value = serde_yaml::from_str(&text)?;
        let disks = definition["disks"]
            .as_array_mut()
            .context("a definition has disks")?;
        change(disks);
        write_at_once(&path, &serde_yaml::to_string(&definition)?)
    }

    /// Gives the operators of the first cluster another certificate, through the Secret.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or the API server refuses it.
    pub async fn use_certificate(&self, which: Certificate) -> Result<()> {
        let pair = self.pki.operators(which)?;
        agents_vault::apply_client_certificate(&self.cluster, pair).await
    }

    /// Makes a VM on the premises, has it protected there, switches it on and waits until its first replica is whole.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn add(&mut self, options: &VmOptions) -> Result<Vm> {
        self.add_with(options, |_| {}).await
    }

    /// As [`World::add`]; `change` may add to the spec of the resource.
    ///
    /// # Errors
    ///
    /// As [`World::add`].
    pub async fn add_with(
        &mut self,
        options: &VmOptions,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Result<Vm> {
        let vm = self.define(options)?;
        self.cluster.protect(&vm, Site::OnPremises, change).await?;
        let name = vm.name.clone();
        self.cluster
            .until_vm(&name, "adopted", |vm| {
                vm.status
                    .as_ref()
                    .is_some_and(|status| status.active_site == Some(Site::OnPremises))
            })
            .await?;
        self.power(&vm, PowerSwitch::On).await?;
        self.cluster.until_settled(&name, Site::OnPremises).await?;
        Ok(vm)
    }

    /// Switches a VM on or off where it may run, as a person does.
    ///
    /// # Errors
    ///
    /// When no host may run it, or the agent refuses.
    pub async fn power(&self, vm: &Vm, state: PowerSwitch) -> Result<()> {
        eventually(
            LIMIT,
            &format!("{} is switched {state:?}", vm.name),
            async || self.try_power(vm, state).await,
        )
        .await
    }

    async fn try_power(&self, vm: &Vm, state: PowerSwitch) -> Result<Option<()>> {
        let Some((site, found)) = self.owner(vm).await? else {
            return Ok(None);
        };
        let register = found.register.context("an owner has a register")?;
        let order = Order {
            vm: vm.uuid,
            epoch: register.epoch,
            step: register.step + 1,
            claim: None,
            failover: None,
            command: Command::Power {
                state,
                force: false,
                on_other_disks: false,
            },
        };
        match self.host(site).client().order(vm.uuid, &order).await {
            Ok(answer) => match answer.operation.error {
                None => Ok(Some(())),
                Some(error) => bail!("{}: {}", vm.name, error.message),
            },
            // Somebody else's order came in between.
            Err(ClientError::Refused(refusal)) => {
                tracing::debug!(%refusal, "refused, asking again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The host that may run a VM, and what it says of it.
    ///
    /// # Errors
    ///
    /// When an agent does not answer, or two hosts may.
    pub async fn owner(&self, vm: &Vm) -> Result<Option<(Site, VmState)>> {
        let mut owner = None;
        for site in Site::BOTH {
            if let Some(found) = self.host(site).vm(vm.uuid).await?
                && found
                    .register
                    .as_ref()
                    .is_some_and(|it| it.role == Role::Owner)
            {
                ensure!(owner.is_none(), "two hosts may run {}", vm.name);
                owner = Some((site, found));
            }
        }
        Ok(owner)
    }

    /// The disks of a VM at a site, in the order in which the guest has them.
    ///
    /// # Errors
    ///
    /// When the agent does not answer or does not know the VM.
    pub async fn disks(&self, vm: &Vm, site: Site) -> Result<Vec<PathBuf>> {
        if site == Site::OnPremises {
            return Ok(vm.disks.clone());
        }
        let found = self.host(site).vm(vm.uuid).await?;
        let definition = found
            .and_then(|found| found.definition)
            .with_context(|| format!("{} is not known at {site}", vm.name))?;
        Ok(definition.disks.into_iter().map(|disk| disk.path).collect())
    }

    /// What the disks of a VM hold at a site. While its guest runs, the last record may be half there.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn records(&self, vm: &Vm, site: Site) -> Result<Report> {
        read_disks(&self.disks(vm, site).await?)
    }

    /// Everything that a guest said on its console at a site.
    #[must_use]
    pub fn console(&self, vm: &Vm, site: Site) -> String {
        self.host(site).console(vm.uuid)
    }
}

/// The agent may look at any moment.
fn write_at_once(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The folder, and what remains in it: guests that outlive their agents.
struct Ground {
    keeper: Keeper,
    folder: PathBuf,
    keep: bool,
}

impl Ground {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("homeward-")
            .tempdir()
            .context("cannot make a folder")?
            .keep()
            .canonicalize()?;
        Ok(Self {
            keeper: Keeper::start(&folder)?,
            folder,
            keep: std::env::var_os(KEEP).is_some(),
        })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        clear(&self.folder, self.keep);
        self.keeper.dismiss();
    }
}

/// Ends everything that runs in the folder, and removes it unless somebody will want to see the logs.
fn clear(folder: &Path, keep: bool) {
    if let Err(error) = keeper::sweep(folder) {
        tracing::error!("{error:#}");
    }
    if keep || std::thread::panicking() {
        eprintln!("the world's logs are kept in {}", folder.display());
    } else if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!("{} is left: {error}", folder.display());
    }
}

/// A network of loopback whose first hosts' ports nobody uses: the second and third byte of its addresses.
fn free_network() -> Result<[u8; 2]> {
    for _ in 0..100 {
        let [second, third, ..] = *Uuid::new_v4().as_bytes();
        if second == 0 {
            continue;
        }
        let free = [1, 2].iter().all(|last| {
            let address = Ipv4Addr::new(127, second, third, *last);
            [7443, 7444]
                .iter()
                .all(|port| TcpListener::bind((address, *port)).is_ok())
        });
        if free {
            return Ok([second, third]);
        }
    }
    bail!("no network of loopback is free: is 127.0.0.0/8 there?")
}
