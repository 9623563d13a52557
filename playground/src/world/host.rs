//! One host: a folder with its disks and an agent.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use homeward::{
    agent::{
        api::{HostState, VmState},
        client::AgentClient,
    },
    api::Site,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    HypervisorKind, WorldOptions, keeper,
    pki::{OPERATOR, Pki},
    programs::{self, Program},
    wait::{LIMIT, PACE},
};
use crate::{child::Child, guest_image::GuestImage, tools};

const CONTROL_PORT: u16 = 7443;
const DATA_PORT: u16 = 7444;

/// The agent of one host and what it stands on.
#[derive(Debug)]
pub struct Host {
    /// Name of the host.
    pub name: String,
    /// Its site.
    pub site: Site,
    folder: PathBuf,
    world: PathBuf,
    address: Ipv4Addr,
    program: (PathBuf, Vec<String>),
    log_filter: String,
    agent: Option<Child>,
    client: AgentClient,
}

impl Host {
    /// Makes the host's folder, certificate and configuration; the agent is not started yet.
    pub(super) fn make(
        world: &Path,
        name: &str,
        site: Site,
        address: Ipv4Addr,
        peers: &[&str],
        pki: &Pki,
        options: &WorldOptions,
    ) -> Result<Self> {
        let folder = world.join(name);
        for inside in ["disks", "definitions", "storage", "state"] {
            let path = folder.join(inside);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        pki.issue_agent(name, address)?;
        let program = match options.hypervisor {
            HypervisorKind::Qemu { .. } => {
                (programs::find(Program::Homeward)?, vec!["agent".to_owned()])
            }
            HypervisorKind::Process => (programs::find(Program::ProcessAgent)?, Vec::new()),
        };
        let host = Self {
            name: name.to_owned(),
            site,
            client: pki.client(&format!("https://{address}:{CONTROL_PORT}"))?,
            world: world.to_owned(),
            address,
            program,
            log_filter: options.log.clone(),
            agent: None,
            folder,
        };
        host.write_boot_id()?;
        host.write_config(peers, pki, options)?;
        Ok(host)
    }

    fn write_boot_id(&self) -> Result<()> {
        let path = self.boot_id_file();
        fs::write(&path, format!("{}\n", Uuid::new_v4()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn write_config(&self, peers: &[&str], pki: &Pki, options: &WorldOptions) -> Result<()> {
        let image = GuestImage::find()?;
        let mut qemu = BTreeMap::from([(
            "shutdownDeadlineSeconds",
            json!(options.shutdown_deadline.as_secs()),
        )]);
        if let HypervisorKind::Qemu { kvm } = options.hypervisor {
            qemu.insert("binary", json!(tools::find_qemu()?));
            qemu.insert("accelerator", json!(if kvm { "kvm" } else { "tcg" }));
        }
        let mut config = json!({
            "host": self.name,
            "site": self.site,
            "control": {"listen": SocketAddrV4::new(self.address, CONTROL_PORT)},
            "data": {"listen": SocketAddrV4::new(self.address, DATA_PORT)},
            "tls": {
                "ca": pki.ca(),
                "certificate": pki.certificate(&self.name),
                "key": pki.key(&self.name),
                "allowedOperators": [OPERATOR],
                "allowedAgents": peers,
            },
            "stateDir": self.folder.join("state"),
            "storageDir": self.folder.join("storage"),
            "definitionsDir": self.folder.join("definitions"),
            "networks": ["lan"],
            "boots": {"guest": {"kernel": image.kernel, "initramfs": image.initramfs}},
            "hypervisor": {"qemu": qemu},
            "bootIdFile": self.boot_id_file(),
        });
        if let Some(limit) = options.bandwidth_limit {
            config["bandwidthLimitBytesPerSecond"] = json!(limit);
        }
        let path = self.config_file();
        let text = serde_yaml::to_string(&config).context("cannot write a configuration")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Address of the agent's control API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{CONTROL_PORT}", self.address)
    }

    /// `address:port` of the agent's data plane.
    #[must_use]
    pub fn data_address(&self) -> String {
        format!("{}:{DATA_PORT}", self.address)
    }

    /// The folder that holds everything of this host.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The agent's configuration.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("agent.yaml")
    }

    /// The agent's log, over all its lives.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// What the agent wrote to its log, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where people put definitions of VMs.
    #[must_use]
    pub fn definitions(&self) -> PathBuf {
        self.folder.join("definitions")
    }

    fn boot_id_file(&self) -> PathBuf {
        self.folder.join("boot_id")
    }

    /// A client of the agent, with the rights of the operator.
    #[must_use]
    pub const fn client(&self) -> &AgentClient {
        &self.client
    }

    /// Starts the agent and waits until it answers. Does nothing while it runs.
    ///
    /// # Errors
    ///
    /// When it does not answer; the message has the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let Err(error) = self.client.state().await else {
                return Ok(());
            };
            if let Some(status) = self.ended()? {
                bail!(
                    "the agent of {} ended with {status}\n{}",
                    self.name,
                    tail(&self.log_file())
                );
            }
            ensure!(
                Instant::now() < deadline,
                "the agent of {} does not answer: {error}\n{}",
                self.name,
                tail(&self.log_file())
            );
            sleep(PACE).await;
        }
    }

    /// Starts the agent and waits for nothing. Does nothing while it runs.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        if self.agent.is_some() && self.ended()?.is_none() {
            return Ok(());
        }
        let (program, arguments) = &self.program;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config_file())
            .env("RUST_LOG", &self.log_filter)
            .env("HOMEWARD_LOG", &self.log_filter);
        self.agent = Some(spawn_logged(command, &self.world, &self.log_file())?);
        Ok(())
    }

    /// Starts the agent again if it has ended without being told to. Whether it had.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn mend(&mut self) -> Result<bool> {
        let ended = self.ended()?.is_some();
        if ended {
            self.spawn()?;
        }
        Ok(ended)
    }

    /// The agent's process, while it runs or until it is noticed that it does not.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        match &mut self.agent {
            Some(agent) => Ok(agent.exit_status()?),
            None => Ok(None),
        }
    }

    /// Kills the agent; guests go on.
    pub fn kill(&mut self) {
        self.agent = None;
    }

    /// Stops the agent in its tracks: connections stay open and nothing is answered.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen agent go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks the agent to end.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// How the agent ended, once it has.
    ///
    /// # Errors
    ///
    /// When it was never started.
    pub fn exit_status(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let name = &self.name;
        let agent = self
            .agent
            .as_mut()
            .with_context(|| format!("the agent of {name} was not started"))?;
        Ok(agent.exit_status()?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let agent = self
            .agent
            .as_ref()
            .with_context(|| format!("the agent of {} does not run", self.name))?;
        Ok(agent.signal(signal)?)
    }

    /// The host loses its power: the agent and all guests are gone at once. The next start of the agent is after a boot.
    ///
    /// # Errors
    ///
    /// When a guest does not die.
    pub fn lose_power(&mut self) -> Result<()> {
        self.kill();
        keeper::sweep_mark(&format!("{}={}", super::HOST_MARK, self.folder.display()))?;
        self.write_boot_id()
    }

    /// What the agent says of everything.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn state(&self) -> Result<HostState> {
        Ok(self.client.state().await?)
    }

    /// What the agent says of a VM; nothing when it does not know it.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn vm(&self, uuid: Uuid) -> Result<Option<VmState>> {
        Ok(self
            .state()
            .await?
            .vms
            .into_iter()
            .find(|vm| vm.uuid == uuid))
    }

    /// Everything that a guest said on its console here, over all its starts.
    #[must_use]
    pub fn console(&self, uuid: Uuid) -> String {
        let mut text = String::new();
        for name in ["console.log.1", "console.log"] {
            if let Some(path) = find(&self.folder.join("state"), &uuid.to_string(), name) {
                text.push_str(&String::from_utf8_lossy(
                    &fs::read(path).unwrap_or_default(),
                ));
            }
        }
        text
    }
}

/// The file of that name in the folder of that name, at any depth.
fn find(root: &Path, folder: &str, name: &str) -> Option<PathBuf> {
    let direct = root.join(folder).join(name);
    if direct.is_file() {
        return Some(direct);
    }
    fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| find(&entry.path(), folder, name))
}

/// Starts a program of the world in `world`, its output added to a log file.
pub(super) fn spawn_logged(mut command: Command, world: &Path, log: &Path) -> Result<Child> {
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let errors = output.try_clone().context("cannot share the log")?;
    let program = command.get_program().to_owned();
    command
        .env(keeper::MARK, world)
        .env(super::HOST_MARK, log.parent().unwrap_or(world))
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    Child::spawn(command).with_context(|| format!("cannot start {}", program.display()))
}

/// The end of a log, for error messages.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(15)..];
    format!("the end of {}:\n{}", log.display(), last.join("\n"))
}
