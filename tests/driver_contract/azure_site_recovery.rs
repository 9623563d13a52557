//! Azure Site Recovery on the emulator, over real TLS, with the register that stands in a resource kept beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::{HttpClient, Transport};
use homeward::api::{KeptRegister, Site};
use homeward::domain::{Capabilities, Submission, VaultObservation, kept};
use homeward::driver::azure_site_recovery::{
    AzureSiteRecoveryDriver, Clock, Identity, Settings, SignIn,
};
use homeward::driver::{DriverError, ReplicationDriver};
use homeward_asr_emulator as emulator;
use homeward_asr_emulator::{Emulator, FabricKind, Options, Seed};
use jiff::Timestamp;

use super::contract::Bench;

const VM: &str = "vm-1";

/// As the controllers do: what the driver shows is read with the register, and what is asked of it is stored there first.
struct WithRegisters {
    driver: AzureSiteRecoveryDriver,
    registers: Mutex<BTreeMap<String, KeptRegister>>,
}

impl WithRegisters {
    fn shown(&self, mut seen: VaultObservation) -> VaultObservation {
        let now = Timestamp::now();
        let mut registers = self.registers.lock().unwrap();
        for (name, vm) in &mut seen.vms {
            if let Some(register) = registers.get_mut(name) {
                *register = kept::settle(register, vm, kept::Limits::default(), now);
            }
            *vm = kept::show(registers.get(name), vm, kept::Limits::default(), now);
        }
        seen
    }
}

#[async_trait]
impl ReplicationDriver for WithRegisters {
    fn capabilities(&self) -> &Capabilities {
        self.driver.capabilities()
    }

    async fn observe(&self) -> Result<VaultObservation, DriverError> {
        Ok(self.shown(self.driver.observe().await?))
    }

    async fn observe_some(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<VaultObservation, DriverError> {
        Ok(self.shown(self.driver.observe_some(names).await?))
    }

    async fn submit(&self, vm: &str, submission: &Submission) -> Result<(), DriverError> {
        let seen = self.driver.observe().await?;
        let look = &seen.vms[vm];
        let now = Timestamp::now();
        let admitted = {
            let mut registers = self.registers.lock().unwrap();
            let register = registers
                .get(vm)
                .map(|register| kept::settle(register, look, kept::Limits::default(), now));
            let admitted = kept::admit(
                register.as_ref(),
                look,
                submission,
                kept::Limits::default(),
                now,
            )
            .map_err(|refusal| DriverError {
                class: refusal.class,
                message: refusal.message,
                ambiguous: refusal.ambiguous,
            })?;
            match &admitted.register {
                Some(register) => registers.insert(vm.to_owned(), register.clone()),
                None => registers.remove(vm),
            };
            admitted
        };
        let Some(attempt) = admitted.send else {
            return Ok(());
        };
        let sent = Submission {
            attempt: Some(attempt),
            ..submission.clone()
        };
        let answer = self.driver.submit(vm, &sent).await;
        let mut registers = self.registers.lock().unwrap();
        if let Some(register) = registers.get_mut(vm) {
            match &answer {
                Ok(()) => *register = kept::accepted(register),
                Err(error) if error.ambiguous => {}
                Err(_) => *register = kept::refused(register),
            }
        }
        answer
    }
}

struct AzureBench {
    driver: WithRegisters,
    emulator: Option<Emulator>,
}

fn there(site: Site) -> emulator::Site {
    match site {
        Site::OnPremises => emulator::Site::OnPremises,
        Site::Azure => emulator::Site::Azure,
    }
}

#[async_trait]
impl Bench for AzureBench {
    fn driver(&self) -> &dyn ReplicationDriver {
        &self.driver
    }

    fn vm(&self) -> &'static str {
        VM
    }

    async fn wait(&mut self) {
        if let Some(emulator) = &self.emulator {
            emulator.advance(Duration::from_secs(1));
        }
    }

    async fn switch_on(&mut self, _: Site) {
        // The VMs of the vault run.
    }

    async fn runs(&self, site: Site) -> bool {
        let emulator = self.emulator.as_ref().expect("it runs");
        let service = emulator.now();
        assert!(
            service.violations().is_empty(),
            "{:?}",
            service.violations()
        );
        let machine = service
            .machines()
            .find(|machine| machine.name == VM)
            .expect("the VM is there");
        machine.runs(there(site))
    }

    async fn disconnect(&mut self) {
        self.emulator = None;
        // A connection that is open may carry one more answer.
        while self.driver.observe().await.is_ok() {}
    }
}

async fn bench(kind: FabricKind) -> Box<dyn Bench> {
    // More than one crypto provider may be built in; which one counts is said once for each process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let seed = Seed::of(kind, 3);
    let (vault, tenant) = (seed.vault.clone(), seed.tenant.clone());
    let principal = seed.principals[0].clone();
    let emulator = Emulator::start(Options::manual(seed)).await.unwrap();
    let ca = reqwest::Certificate::from_pem(emulator.ca_pem.as_bytes()).unwrap();
    let client: Arc<dyn HttpClient> = Arc::new(
        reqwest::Client::builder()
            .tls_certs_only([ca])
            .retry(reqwest::retry::never())
            .build()
            .unwrap(),
    );
    let transport = Transport::new(client);
    let identity = Identity::ClientSecret {
        tenant_id: tenant,
        client_id: principal.client_id,
        secret: principal.secrets[0].clone(),
    };
    let sign_in = SignIn::new(identity, &emulator.url, transport.clone()).unwrap();
    let settings = Settings {
        endpoint: emulator.url.parse().unwrap(),
        scope: "https://management.azure.com/.default".into(),
        subscription_id: vault.subscription,
        resource_group: vault.resource_group,
        vault_name: vault.name,
        fabric_name: None,
        shortest_pause: Duration::ZERO,
        clock: Clock::default(),
    };
    Box::new(AzureBench {
        driver: WithRegisters {
            driver: AzureSiteRecoveryDriver::new(settings, transport, sign_in),
            registers: Mutex::default(),
        },
        emulator: Some(emulator),
    })
}

pub async fn hyper_v_site() -> Box<dyn Bench> {
    bench(FabricKind::HyperVSite).await
}

pub async fn vmm() -> Box<dyn Bench> {
    bench(FabricKind::Vmm).await
}
