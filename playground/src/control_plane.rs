//! A real control plane: etcd and kube-apiserver on loopback, for as long as a [`ControlPlane`] lives.
//!
//! There is no controller manager and no kubelet: nothing collects garbage by owner reference, no Job ever runs, no
//! namespace is ever emptied. Everything is in one folder: certificates, tokens, logs (`etcd.log`, `kube-apiserver.log`)
//! and the admin's `admin.kubeconfig`.

mod crds;
mod credentials;
mod manifests;

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::Signal;
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep},
};

use crate::{
    child::Child,
    tools::{self, Tool},
};
use credentials::Credentials;

const START_LIMIT: Duration = Duration::from_mins(2);
const PORT_ATTEMPTS: usize = 5;
const ADMIN: &str = "admin";

/// Somebody who may log in with a token beside the admin. Without a role they may do nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Their name in role bindings.
    pub name: String,
    /// The groups they are in.
    pub groups: Vec<String>,
}

impl User {
    /// A user in no group.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            groups: Vec::new(),
        }
    }
}

/// How a control plane differs from the default one.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// Who may log in beside the admin.
    pub users: Vec<User>,
    /// Further arguments of kube-apiserver.
    pub apiserver_arguments: Vec<String>,
}

/// A running etcd and kube-apiserver. Dropping it ends both.
#[derive(Debug)]
pub struct ControlPlane {
    folder: PathBuf,
    options: ControlPlaneOptions,
    credentials: Credentials,
    etcd_ports: EtcdPorts,
    apiserver_port: u16,
    // Before etcd, so that it is dropped first.
    apiserver: Apiserver,
    etcd: Child,
}

#[derive(Clone, Copy, Debug)]
struct EtcdPorts {
    client: u16,
    peer: u16,
}

#[derive(Debug)]
enum Apiserver {
    Running(Child),
    /// Holds the port, so that nobody else is given it: it is bound and refuses connections.
    Stopped {
        _port: TcpSocket,
    },
    /// A start that failed.
    Lost,
}

impl ControlPlane {
    /// Starts a control plane whose files are in `folder`, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the tools are missing, or a part does not get ready; the message has the end of its log.
    pub async fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, ControlPlaneOptions::default()).await
    }

    /// As [`Self::start`], with options.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn start_with(folder: &Path, options: ControlPlaneOptions) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot find {}", folder.display()))?;
        let credentials = Credentials::create(&folder, ADMIN, &options.users)?;
        let (mut etcd, etcd_ports) = start_etcd(&folder).await?;
        let mut attempt = 1;
        loop {
            let port = hold_port(0)?;
            let mut plane = Self {
                folder: folder.clone(),
                options: options.clone(),
                credentials: credentials.clone(),
                etcd_ports,
                apiserver_port: port.local_addr()?.port(),
                apiserver: Apiserver::Stopped { _port: port },
                etcd,
            };
            plane.write_kubeconfigs()?;
            match plane.start_apiserver().await {
                Ok(()) => return Ok(plane),
                Err(error)
                    if attempt < PORT_ATTEMPTS
                        && port_was_taken(&plane.log_file("kube-apiserver")) =>
                {
                    tracing::debug!(%error, "the port was taken, trying another");
                    let Self { etcd: kept, .. } = plane;
                    etcd = kept;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The admin's kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_path(ADMIN)
    }

    /// The kubeconfig file of `user`, one of those in the options.
    ///
    /// # Errors
    ///
    /// When there is no such user.
    pub fn kubeconfig_for(&self, user: &str) -> Result<PathBuf> {
        self.token_for(user)
            .with_context(|| format!("there is no user {user}"))?;
        Ok(self.kubeconfig_path(user))
    }

    /// The address of the API server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.apiserver_port)
    }

    /// The certificate authority of the API server, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.credentials.ca_pem
    }

    /// The token of `user` (`admin`, or one of those in the options).
    #[must_use]
    pub fn token_for(&self, user: &str) -> Option<&str> {
        self.credentials
            .tokens
            .iter()
            .find(|(name, _)| name == user)
            .map(|(_, token)| token.as_str())
    }

    /// A client of the admin.
    ///
    /// # Errors
    ///
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        client_of(&self.kubeconfig(), true).await
    }

    /// A client of `user`, one of those in the options.
    ///
    /// # Errors
    ///
    /// When there is no such user.
    pub async fn client_for(&self, user: &str) -> Result<Client> {
        client_of(&self.kubeconfig_for(user)?, true).await
    }

    /// Kills the API server. What it had confirmed is in etcd; its port stays reserved and refuses connections.
    ///
    /// # Errors
    ///
    /// When the port cannot be reserved.
    pub async fn stop_apiserver(&mut self) -> Result<()> {
        if let Apiserver::Running(mut child) =
            std::mem::replace(&mut self.apiserver, Apiserver::Lost)
        {
            child.kill();
        }
        if !matches!(self.apiserver, Apiserver::Stopped { .. }) {
            self.apiserver = Apiserver::Stopped {
                _port: hold_port_again(self.apiserver_port).await?,
            };
        }
        Ok(())
    }

    /// Starts the API server again, on the same port, and waits until it is ready. Does nothing while it runs.
    ///
    /// # Errors
    ///
    /// When it does not get ready; the message has the end of its log.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        if matches!(self.apiserver, Apiserver::Running(_)) {
            return Ok(());
        }
        // Until here the port was reserved.
        drop(std::mem::replace(&mut self.apiserver, Apiserver::Lost));
        let mut child = start_logged(self.apiserver_command()?, &self.log_file("kube-apiserver"))?;
        let ready = self.wait_until_ready(&mut child).await;
        if let Err(error) = ready {
            return Err(error.context(tail(&self.log_file("kube-apiserver"))));
        }
        self.apiserver = Apiserver::Running(child);
        Ok(())
    }

    /// The processes that run, by name.
    #[must_use]
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let mut all = vec![("etcd", self.etcd.id())];
        if let Apiserver::Running(child) = &self.apiserver {
            all.push(("kube-apiserver", child.id()));
        }
        all
    }

    /// Starts again what has ended without being told to, with all that was stored; the names of those programs.
    ///
    /// # Errors
    ///
    /// When one does not get ready; the message has the end of its log.
    pub async fn mend(&mut self) -> Result<Vec<&'static str>> {
        let mut mended = Vec::new();
        if self.etcd.exit_status()?.is_some() {
            let log = self.log_file("etcd");
            self.etcd = start_logged(etcd_command(&self.folder, self.etcd_ports)?, &log)?;
            wait_for_etcd(&mut self.etcd, &log)
                .await
                .with_context(|| tail(&log))?;
            mended.push("etcd");
        }
        if let Apiserver::Running(child) = &mut self.apiserver
            && child.exit_status()?.is_some()
        {
            self.apiserver = Apiserver::Lost;
        }
        if matches!(self.apiserver, Apiserver::Lost) {
            self.start_apiserver().await?;
            mended.push("kube-apiserver");
        }
        Ok(mended)
    }

    /// Stops the API server in its tracks: connections stay open and nothing is answered.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn freeze_apiserver(&self) -> Result<()> {
        self.signal_apiserver(Signal::STOP)
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn thaw_apiserver(&self) -> Result<()> {
        self.signal_apiserver(Signal::CONT)
    }

    /// Makes namespaces; those that are there already are left as they are.
    ///
    /// # Errors
    ///
    /// When the API server refuses one.
    pub async fn create_namespaces(&self, names: &[&str]) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client().await?);
        for name in names {
            let namespace = Namespace {
                metadata: ObjectMeta {
                    name: Some((*name).to_owned()),
                    ..ObjectMeta::default()
                },
                ..Namespace::default()
            };
            match namespaces.create(&PostParams::default(), &namespace).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make the namespace {name}"));
                }
            }
        }
        Ok(())
    }

    /// Applies the custom resource definitions in these YAML files (or in the YAML files of these folders) and waits
    /// until each is established and served. Returns their names.
    ///
    /// # Errors
    ///
    /// When a file holds something else, or the API server refuses one.
    pub async fn install_crds<P: AsRef<Path>>(&self, paths: &[P]) -> Result<Vec<String>> {
        crds::install(&self.client().await?, paths).await
    }

    /// Applies the resources of a file; those without a namespace are of the cluster, or go into `namespace`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or the API server refuses one.
    pub async fn apply(&self, path: &Path, namespace: Option<&str>) -> Result<()> {
        manifests::apply(&self.client().await?, path, namespace).await
    }

    fn signal_apiserver(&self, signal: Signal) -> Result<()> {
        let Apiserver::Running(child) = &self.apiserver else {
            bail!("the API server does not run")
        };
        child.signal(signal).context("cannot signal the API server")
    }

    fn kubeconfig_path(&self, user: &str) -> PathBuf {
        // A colon, as in the name of a service account, would part two files in $KUBECONFIG.
        self.folder
            .join(format!("{}.kubeconfig", user.replace(':', ".")))
    }

    fn log_file(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.log"))
    }

    fn write_kubeconfigs(&self) -> Result<()> {
        for (user, token) in &self.credentials.tokens {
            let text = credentials::kubeconfig(&self.url(), &self.credentials.ca_pem, user, token)?;
            credentials::write_private(&self.kubeconfig_path(user), &text)?;
        }
        Ok(())
    }

    fn apiserver_command(&self) -> Result<Command> {
        let Self {
            folder,
            options,
            etcd_ports,
            apiserver_port,
            ..
        } = self;
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(tools::find(Tool::KubeApiserver)?);
        command
            .arg(format!(
                "--etcd-servers=http://127.0.0.1:{}",
                etcd_ports.client
            ))
            .arg("--bind-address=127.0.0.1")
            .arg("--advertise-address=127.0.0.1")
            .arg(format!("--secure-port={apiserver_port}"))
            .arg(format!("--cert-dir={}", file("certificates")))
            .arg(format!(
                "--tls-cert-file={}",
                file(credentials::SERVER_CERTIFICATE)
            ))
            .arg(format!(
                "--tls-private-key-file={}",
                file(credentials::SERVER_KEY)
            ))
            .arg(format!("--token-auth-file={}", file(credentials::TOKENS)))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!(
                "--service-account-key-file={}",
                file(credentials::SERVICE_ACCOUNT_PUBLIC_KEY)
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file(credentials::SERVICE_ACCOUNT_KEY)
            ))
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--disable-admission-plugins=ServiceAccount")
            .arg("--endpoint-reconciler-type=none")
            .args(&options.apiserver_arguments);
        Ok(command)
    }

    async fn wait_until_ready(&self, child: &mut Child) -> Result<()> {
        // Without retries, so that an answer of "not yet" comes back at once.
        let client = client_of(&self.kubeconfig(), false).await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = child.exit_status()? {
                bail!("kube-apiserver ended with {status}");
            }
            let request =
                kube::core::Request::new("/readyz").list(&kube::api::ListParams::default())?;
            let ready =
                tokio::time::timeout(Duration::from_secs(5), client.request_text(request)).await;
            let last_error = match ready {
                // The default namespace is made a moment after the server calls itself ready.
                Ok(Ok(_)) => match namespaces.get_opt("default").await {
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => "there is no default namespace yet".to_owned(),
                    Err(error) => error.to_string(),
                },
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer within 5 s".to_owned(),
            };
            if Instant::now() >= deadline {
                bail!(
                    "kube-apiserver was not ready within {} s: {last_error}",
                    START_LIMIT.as_secs()
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn client_of(kubeconfig: &Path, retries: bool) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    config.default_retry = retries;
    Client::try_from(config).context("cannot make a client")
}

/// Starts etcd on ports that were free a moment ago, and again on others when somebody was faster.
async fn start_etcd(folder: &Path) -> Result<(Child, EtcdPorts)> {
    let log = folder.join("etcd.log");
    for attempt in 1.. {
        let (clients, peers) = (hold_port(0)?, hold_port(0)?);
        let ports = EtcdPorts {
            client: clients.local_addr()?.port(),
            peer: peers.local_addr()?.port(),
        };
        drop((clients, peers));
        let command = etcd_command(folder, ports)?;
        let mut child = start_logged(command, &log)?;
        match wait_for_etcd(&mut child, &log).await {
            Ok(()) => return Ok((child, ports)),
            Err(error) => {
                drop(child);
                if attempt >= PORT_ATTEMPTS || !port_was_taken(&log) {
                    return Err(error.context(tail(&log)));
                }
                let _ = std::fs::remove_dir_all(folder.join("etcd"));
            }
        }
    }
    bail!("no port for etcd")
}

fn etcd_command(folder: &Path, ports: EtcdPorts) -> Result<Command> {
    let client_url = format!("http://127.0.0.1:{}", ports.client);
    let peer_url = format!("http://127.0.0.1:{}", ports.peer);
    let mut command = Command::new(tools::find(Tool::Etcd)?);
    command
        .arg("--name=default")
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg("--unsafe-no-fsync")
        .arg(format!("--listen-client-urls={client_url}"))
        .arg(format!("--advertise-client-urls={client_url}"))
        .arg(format!("--listen-peer-urls={peer_url}"))
        .arg(format!("--initial-advertise-peer-urls={peer_url}"))
        .arg(format!("--initial-cluster=default={peer_url}"));
    Ok(command)
}

/// Asks etcd's own log: at its port somebody else might answer.
async fn wait_for_etcd(child: &mut Child, log: &Path) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if std::fs::read_to_string(log)
            .is_ok_and(|text| text.contains("serving client traffic insecurely"))
        {
            return Ok(());
        }
        if let Some(status) = child.exit_status()? {
            bail!("etcd ended with {status}");
        }
        if Instant::now() >= deadline {
            bail!("etcd was not ready within {} s", START_LIMIT.as_secs());
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A port of loopback (0: any that is free) that nobody else gets while the socket lives; nothing listens on it.
fn hold_port(port: u16) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4().context("cannot make a socket")?;
    // Connections of the last owner linger for a while and would keep the port from being bound.
    socket
        .set_reuseaddr(true)
        .context("cannot set up a socket")?;
    socket
        .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .with_context(|| format!("cannot bind port {port}"))?;
    Ok(socket)
}

async fn hold_port_again(port: u16) -> Result<TcpSocket> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match hold_port(port) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

fn start_logged(mut command: Command, log: &Path) -> Result<Child> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = output.try_clone().context("cannot share the log")?;
    let program = command.get_program().to_owned();
    command
        .stdin(std::process::Stdio::null())
        .stdout(output)
        .stderr(errors);
    Child::spawn(command).with_context(|| format!("cannot start {}", program.display()))
}

fn port_was_taken(log: &Path) -> bool {
    std::fs::read_to_string(log).is_ok_and(|text| text.contains("address already in use"))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(15)..];
    format!("the end of {}:\n{}", log.display(), last.join("\n"))
}
