//! The agent's configuration file: YAML, unknown fields refused, every error names the field and the remedy.
//!
//! Relative paths are taken from the folder of the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::api::{Site, check_name};

/// Everything an agent is told about its host.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Name of the host; the certificate must carry it as a DNS name.
    pub host: String,
    /// Where the host stands.
    pub site: Site,
    /// The control API.
    pub control: Control,
    /// The data plane.
    pub data: Data,
    /// Certificates and who may connect.
    pub tls: Tls,
    /// Registers, definitions that arrived, what is known of disks, the hypervisor's own files.
    pub state_dir: PathBuf,
    /// Disks of replicas made here.
    pub storage_dir: PathBuf,
    /// VM definitions that people wrote, one YAML file a VM. Without it the host has only VMs that arrive.
    #[serde(default)]
    pub definitions_dir: Option<PathBuf>,
    /// Networks (virtual switches) that VMs can have here.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Kernels by name, so that a definition fits hosts that keep them in other places.
    #[serde(default)]
    pub boots: BTreeMap<String, BootProfile>,
    /// Upper bound of what replication sends, all VMs together. Without it there is none.
    #[serde(default)]
    pub bandwidth_limit_bytes_per_second: Option<u64>,
    /// How many passes that come round by themselves are under way at once; those that a move waits for come on top.
    #[serde(default = "default_passes")]
    pub max_concurrent_passes: NonZeroU16,
    /// What runs the guests.
    #[serde(default)]
    pub hypervisor: HypervisorSettings,
    /// The file that changes with every boot of the host.
    #[serde(default = "default_boot_id_file")]
    pub boot_id_file: PathBuf,
}

/// The control API.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Control {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// The data plane.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Data {
    /// Where it listens.
    pub listen: SocketAddr,
    /// `address:port` under which peers reach it. Default: `listen`.
    #[serde(default)]
    pub advertise: Option<String>,
}

/// Certificates and who may connect. The files are read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// The authority that signs operators and agents, PEM.
    pub ca: PathBuf,
    /// This host's certificate, PEM, for server and client.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Names that may give orders.
    pub allowed_operators: Vec<String>,
    /// Names that may send data. Empty: this host is never a target.
    #[serde(default)]
    pub allowed_agents: Vec<String>,
}

/// A kernel that definitions name.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BootProfile {
    /// Path of the kernel.
    pub kernel: PathBuf,
    /// Path of the initial file system.
    #[serde(default)]
    pub initramfs: Option<PathBuf>,
}

/// What runs the guests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HypervisorSettings {
    /// QEMU.
    #[serde(default)]
    pub qemu: Qemu,
}

/// QEMU on this host.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Qemu {
    /// The program: a path, or a name to be found in `PATH`.
    pub binary: PathBuf,
    /// How guest code is executed.
    pub accelerator: Accelerator,
    /// How QEMU uses the page cache.
    pub cache: Cache,
    /// Network name to `-netdev` value without its id; a network that is not named here is `user`.
    pub netdevs: BTreeMap<String, String>,
    /// How long a guest may take to shut down.
    pub shutdown_deadline_seconds: u64,
    /// And then.
    pub on_shutdown_deadline: OnShutdownDeadline,
    /// Added to every command line.
    pub extra_arguments: Vec<String>,
}

impl Default for Qemu {
    fn default() -> Self {
        Self {
            binary: "qemu-system-x86_64".into(),
            accelerator: Accelerator::Kvm,
            cache: Cache::Writeback,
            netdevs: BTreeMap::new(),
            shutdown_deadline_seconds: 120,
            on_shutdown_deadline: OnShutdownDeadline::Fail,
            extra_arguments: Vec::new(),
        }
    }
}

/// How guest code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Accelerator {
    /// The processor's virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

/// How QEMU uses the page cache. One that ignores flushes is not offered (S12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cache {
    /// Through it; flushes are honoured.
    Writeback,
    /// Around it.
    None,
}

/// What happens to a guest that does not shut down in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum OnShutdownDeadline {
    /// The order fails, the guest runs on, people decide.
    Fail,
    /// Its power is taken away.
    PowerOff,
}

const fn default_passes() -> NonZeroU16 {
    NonZeroU16::MIN.saturating_add(3)
}

fn default_boot_id_file() -> PathBuf {
    "/proc/sys/kernel/random/boot_id".into()
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// The first thing that is wrong: which field, and what it must be.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            anyhow::anyhow!("cannot read the configuration {}: {error}", path.display())
        })?;
        // The folder that a service manager starts the agent in may be another one each time.
        let path = std::path::absolute(path)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        Self::parse(&text, folder).map_err(|wrong| anyhow::anyhow!("{}: {wrong}", path.display()))
    }

    /// Parses and checks the text of a file that lies in `folder`.
    ///
    /// # Errors
    /// The first thing that is wrong: which field, and what it must be.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut config: Self = serde_yaml::from_str(text).map_err(|error| {
            format!("{error} (fields are described in docs/agent.md; unknown ones are refused)")
        })?;
        config.resolve(folder);
        config.check()?;
        Ok(config)
    }

    fn resolve(&mut self, folder: &Path) {
        let absolute = |path: &mut PathBuf| {
            if path.is_relative() {
                let joined = folder.join(&*path);
                // Without the dots on the way: these paths are shown, written down and compared.
                *path = std::path::absolute(&joined).unwrap_or(joined);
            }
        };
        for path in [
            &mut self.tls.ca,
            &mut self.tls.certificate,
            &mut self.tls.key,
            &mut self.state_dir,
            &mut self.storage_dir,
        ] {
            absolute(path);
        }
        if let Some(path) = &mut self.definitions_dir {
            absolute(path);
        }
        for boot in self.boots.values_mut() {
            absolute(&mut boot.kernel);
            if let Some(initramfs) = &mut boot.initramfs {
                absolute(initramfs);
            }
        }
        absolute(&mut self.boot_id_file);
        // A program without a slash is looked up in PATH.
        if self.hypervisor.qemu.binary.components().count() > 1 {
            absolute(&mut self.hypervisor.qemu.binary);
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong: which field, and what it must be.
    pub fn check(&self) -> Result<(), String> {
        check_name("host", &self.host)?;
        if let Some(advertise) = &self.data.advertise
            && !advertise.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        {
            return Err(format!(
                "data.advertise: {advertise:?} must be address:port, as peers reach it"
            ));
        }
        if self.data.advertise.is_none() && self.data.listen.ip().is_unspecified() {
            return Err("data.advertise: must be given when data.listen is every address; write address:port as peers reach it".into());
        }
        if self.tls.allowed_operators.is_empty() {
            return Err("tls.allowedOperators: nobody could give orders; name the DNS name in the operator's certificate".into());
        }
        for (field, names) in [
            ("tls.allowedOperators", &self.tls.allowed_operators),
            ("tls.allowedAgents", &self.tls.allowed_agents),
        ] {
            for name in names {
                check_name(field, name)?;
            }
        }
        for network in &self.networks {
            check_name("networks", network)?;
        }
        if let Some(name) = self
            .hypervisor
            .qemu
            .netdevs
            .keys()
            .find(|name| !self.networks.contains(name))
        {
            return Err(format!(
                "hypervisor.qemu.netdevs: {name} does not stand in `networks`"
            ));
        }
        for name in self.boots.keys() {
            check_name("boots", name)?;
        }
        if let Some(limit) = self.bandwidth_limit_bytes_per_second
            && limit < 64 * 1024
        {
            return Err(format!(
                "bandwidthLimitBytesPerSecond: {limit} is below one block a second; at least 65536, or leave it out"
            ));
        }
        let deadline = self.hypervisor.qemu.shutdown_deadline_seconds;
        if deadline == 0 || deadline > 24 * 3600 {
            return Err(
                "hypervisor.qemu.shutdownDeadlineSeconds: between 1 second and a day".into(),
            );
        }
        if self.state_dir == self.storage_dir {
            return Err("storageDir: must be another folder than stateDir".into());
        }
        Ok(())
    }

    /// `address:port` under which peers reach the data plane.
    #[must_use]
    pub fn data_address(&self) -> String {
        self.data
            .advertise
            .clone()
            .unwrap_or_else(|| self.data.listen.to_string())
    }

    /// How long a guest may take to shut down.
    #[must_use]
    pub const fn shutdown_deadline(&self) -> Duration {
        Duration::from_secs(self.hypervisor.qemu.shutdown_deadline_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_good() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/agent/agent.yaml");
        let config = Config::read(&example).unwrap();
        assert_eq!(config.host, "hv01");
    }

    const GOOD: &str = "
host: hv01
site: OnPremises
control: { listen: 127.0.0.1:7443 }
data: { listen: 127.0.0.1:7444 }
tls: { ca: ca.pem, certificate: hv01.pem, key: hv01-key.pem, allowedOperators: [homeward-operator], allowedAgents: [az01] }
stateDir: state
storageDir: /var/lib/homeward
networks: [lan]
";

    /// Paths are written down and compared, by an agent that is started in another folder the next time.
    #[test]
    fn a_file_that_is_named_from_where_one_stands_has_whole_paths() {
        let config = Config::read(Path::new("deploy/agent/../agent/agent.yaml")).unwrap();
        let text = GOOD.replace("/var/lib/homeward", "./replicas");
        let relative = Config::parse(&text, Path::new("hv01")).unwrap();
        for path in [
            &config.tls.ca,
            &config.state_dir,
            &relative.storage_dir,
            &relative.state_dir,
        ] {
            assert!(path.is_absolute(), "{}", path.display());
            assert!(
                !path.to_string_lossy().contains("/./"),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_good_file_is_read_from_its_folder() {
        let config = Config::parse(GOOD, Path::new("/etc/homeward")).unwrap();
        assert_eq!(config.tls.ca, Path::new("/etc/homeward/ca.pem"));
        assert_eq!(config.storage_dir, Path::new("/var/lib/homeward"));
        assert_eq!(config.data_address(), "127.0.0.1:7444");
        assert_eq!(config.shutdown_deadline(), Duration::from_mins(2));
        assert_eq!(
            config.hypervisor.qemu.on_shutdown_deadline,
            OnShutdownDeadline::Fail
        );
    }

    #[test]
    fn each_error_names_its_field() {
        let cases = [
            ("host: hv01", "host: ../x", "host:"),
            ("networks: [lan]", "networks: [lan]\nbogus: 1", "bogus"),
            (
                "listen: 127.0.0.1:7443",
                "listen: nowhere",
                "control.listen",
            ),
            (
                "data: { listen: 127.0.0.1:7444 }",
                "data: { listen: '0.0.0.0:7444' }",
                "data.advertise",
            ),
            (
                "data: { listen: 127.0.0.1:7444 }",
                "data: { listen: 127.0.0.1:7444, advertise: here }",
                "data.advertise",
            ),
            ("[homeward-operator]", "[]", "tls.allowedOperators"),
            (
                "networks: [lan]",
                "bandwidthLimitBytesPerSecond: 10",
                "bandwidthLimitBytesPerSecond",
            ),
            (
                "networks: [lan]",
                "hypervisor: { qemu: { cache: unsafe } }",
                "hypervisor.qemu.cache",
            ),
            (
                "networks: [lan]",
                "hypervisor: { qemu: { shutdownDeadlineSeconds: 0 } }",
                "shutdownDeadlineSeconds",
            ),
            ("site: OnPremises", "site: Moon", "site"),
        ];
        for (from, to, field) in cases {
            let wrong = Config::parse(&GOOD.replace(from, to), Path::new("/")).unwrap_err();
            assert!(wrong.contains(field), "{to}: {wrong}");
        }
    }
}
