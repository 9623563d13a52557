//! The emulator of Azure Site Recovery as a process, and what a person does in the portal.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use homeward_asr_emulator::{
    Button, Fault, JobFailure, Machine, Record, Rule, Settings, Violation,
};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    host::{spawn_logged, tail},
    programs::{self, Program},
    service::ServiceOptions,
    wait::{LIMIT, eventually},
};
use crate::child::Child;

const PORT: u16 = 7443;

/// The service, as a process that can be killed and started again.
pub struct Emulator {
    process: Option<Child>,
    world: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    speed: u32,
    client: reqwest::Client,
    /// The certificate of its CA, in PEM.
    pub ca_pem: String,
}

impl Emulator {
    /// Starts it, and waits until it answers.
    pub(super) async fn start(
        world: &Path,
        address: Ipv4Addr,
        options: &ServiceOptions,
    ) -> Result<Self> {
        // More than one crypto provider may be built in; which one counts is said once for each process.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = world.join("service");
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let write = |name: &str, value: String| {
            fs::write(folder.join(name), value)
                .with_context(|| format!("cannot write {name} of the emulator"))
        };
        write("seed.json", serde_json::to_string_pretty(&options.seed)?)?;
        write(
            "settings.json",
            serde_json::to_string_pretty(&options.settings)?,
        )?;
        let mut emulator = Self {
            process: None,
            world: world.to_owned(),
            folder,
            address: SocketAddr::new(address.into(), PORT),
            speed: options.speed,
            client: reqwest::Client::new(),
            ca_pem: String::new(),
        };
        emulator.start_again().await?;
        Ok(emulator)
    }

    /// Starts it where it stood, and waits until it answers. Does nothing while it runs.
    ///
    /// # Errors
    ///
    /// When it does not answer; the message has the end of its log.
    pub async fn start_again(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            if process.exit_status()?.is_none() {
                return Ok(());
            }
        }
        let (log, ca) = (self.log(), self.folder.join("ca.pem"));
        let mut command = Command::new(programs::find(Program::AsrEmulator)?);
        command
            .args(["--listen", &self.address.to_string()])
            .args(["--speed", &self.speed.to_string()])
            .arg("--state")
            .arg(self.folder.join("state.json"))
            .arg("--ca-out")
            .arg(&ca)
            .arg("--seed-file")
            .arg(self.folder.join("seed.json"))
            .arg("--settings-file")
            .arg(self.folder.join("settings.json"));
        let mut process = spawn_logged(command, &self.world, &log)?;
        eventually(LIMIT, "the emulator listens", async || {
            if let Some(status) = process.exit_status()? {
                bail!("the emulator ended with {status}\n{}", tail(&log));
            }
            // The CA is written before it listens.
            let connected = tokio::net::TcpStream::connect(self.address).await;
            Ok(connected.is_ok().then_some(()))
        })
        .await?;
        self.process = Some(process);
        self.ca_pem = fs::read_to_string(&ca).context("the emulator wrote no CA")?;
        let authority = reqwest::Certificate::from_pem(self.ca_pem.as_bytes())?;
        self.client = reqwest::Client::builder()
            .tls_certs_only([authority])
            .build()
            .context("no connection to the emulator can be set up")?;
        Ok(())
    }

    /// Kills it; what it had answered it knows again when it is started.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again when it has ended without being told to; whether it had.
    pub(super) async fn mend(&mut self) -> Result<bool> {
        let ended = match &mut self.process {
            Some(process) => process.exit_status()?.is_some(),
            None => false,
        };
        if ended {
            self.start_again().await?;
        }
        Ok(ended)
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Its log, over all its lives.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("emulator.log")
    }

    /// The file with the certificate of its CA.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The address of the resource manager and of the sign-in service.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many times as fast as the world's its time passes.
    #[must_use]
    pub const fn speed(&self) -> u32 {
        self.speed
    }

    /// Every request since it was started, the oldest first.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn requests(&self) -> Result<Vec<Record>> {
        self.list("requests").await
    }

    /// What should never have been and was.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn violations(&self) -> Result<Vec<Violation>> {
        self.list("violations").await
    }

    /// What is true of a VM.
    ///
    /// # Errors
    ///
    /// When it does not answer, or there is no such VM.
    pub async fn machine(&self, vm: &str) -> Result<Machine> {
        let value = self
            .control(Method::GET, &format!("machines/{vm}"), None)
            .await?;
        serde_json::from_value(value).context("the emulator told of no machine")
    }

    /// How many requests it holds back.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn held(&self) -> Result<usize> {
        Ok(self.list::<Value>("held").await?.len())
    }

    /// Lets the requests that it holds back act now.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn release(&self) -> Result<()> {
        self.control(Method::POST, "held/release", Some(json!({})))
            .await?;
        Ok(())
    }

    /// Something is to befall the next POST whose path this regular expression is found in.
    ///
    /// # Errors
    ///
    /// When it does not answer, or the expression cannot be read.
    pub async fn befall(&self, path: &str, fault: Fault) -> Result<()> {
        self.befall_any(&Rule::next("POST", path, fault)).await
    }

    /// Something is to befall the requests that the rule names.
    ///
    /// # Errors
    ///
    /// As [`Emulator::befall`].
    pub async fn befall_any(&self, rule: &Rule) -> Result<()> {
        let rule = serde_json::to_value(rule)?;
        self.control(Method::POST, "faults", Some(rule)).await?;
        Ok(())
    }

    /// Nothing befalls any request from now on.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn clear_faults(&self) -> Result<()> {
        self.control(Method::DELETE, "faults", None).await?;
        Ok(())
    }

    /// How many faults still wait for their request.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn faults_left(&self) -> Result<usize> {
        let value = self.control(Method::GET, "faults", None).await?;
        Ok(value["rules"].as_array().map_or(0, Vec::len))
    }

    /// The next job of a scenario is to fail.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn fail_job(&self, failure: &JobFailure) -> Result<()> {
        let failure = serde_json::to_value(failure)?;
        self.control(Method::POST, "faults/job", Some(failure))
            .await?;
        Ok(())
    }

    /// Behaves like this from now on; jobs that have begun go on as they were.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn behave(&self, settings: &Settings) -> Result<()> {
        let settings = serde_json::to_value(settings)?;
        self.control(Method::PUT, "settings", Some(settings))
            .await?;
        Ok(())
    }

    /// Presses a button of the portal; the job's name where there is one.
    ///
    /// # Errors
    ///
    /// When it does not answer, or there is nothing to press it for.
    pub async fn press(&self, button: &Button) -> Result<Option<String>> {
        let button = serde_json::to_value(button)?;
        let value = self.control(Method::POST, "portal", Some(button)).await?;
        Ok(value["job"].as_str().map(str::to_owned))
    }

    /// Nobody is told of a job any more; what it does goes on.
    ///
    /// # Errors
    ///
    /// When it does not answer, or there is no such job.
    pub async fn purge(&self, job: &str) -> Result<()> {
        self.control(Method::POST, &format!("jobs/{job}/purge"), None)
            .await?;
        Ok(())
    }

    /// A provider goes silent, or comes back.
    ///
    /// # Errors
    ///
    /// When it does not answer, or there is no such provider.
    pub async fn connect_provider(&self, host: &str, connected: bool) -> Result<()> {
        let order = json!({"provider": host, "connected": connected, "silentSeconds": 3600});
        self.control(Method::POST, "providers", Some(order)).await?;
        Ok(())
    }

    /// A provider goes silent, and the service goes on calling it connected.
    ///
    /// # Errors
    ///
    /// As [`Emulator::connect_provider`].
    pub async fn silence_unnoticed(&self, host: &str) -> Result<()> {
        let order =
            json!({"provider": host, "connected": false, "silentSeconds": 3600, "unnoticed": true});
        self.control(Method::POST, "providers", Some(order)).await?;
        Ok(())
    }

    /// Every token that was given out becomes invalid.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn revoke_tokens(&self) -> Result<()> {
        self.control(Method::POST, "tokens/revoke", Some(json!({})))
            .await?;
        Ok(())
    }

    async fn list<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>> {
        let mut value = self.control(Method::GET, what, None).await?;
        serde_json::from_value(value["value"].take())
            .with_context(|| format!("the emulator told of no {what}"))
    }

    async fn control(&self, method: Method, what: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self
            .client
            .request(method, format!("{}/_emulator/{what}", self.url()));
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request
            .send()
            .await
            .with_context(|| format!("the emulator does not answer to {what}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("the emulator answered {status} to {what} {body:?}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{what} was answered with no JSON"))
    }
}
