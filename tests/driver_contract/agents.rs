//! Two agents in this process, over TLS, each beside a hypervisor that plays guests.

use std::time::Duration;

use async_trait::async_trait;
use homeward::agent::api::{Command, PowerSwitch};
use homeward::api::Site;
use homeward::driver::ReplicationDriver;
use homeward::driver::agents::{AgentsDriver, AgentsHost};

use super::contract::Bench;
use super::site::{Host, Sites, VM};

struct Agents {
    sites: Sites,
    driver: AgentsDriver,
}

impl Agents {
    fn host(&self, site: Site) -> &Host {
        match site {
            Site::OnPremises => &self.sites.hv,
            Site::Azure => &self.sites.az,
        }
    }
}

#[async_trait]
impl Bench for Agents {
    fn driver(&self) -> &dyn ReplicationDriver {
        &self.driver
    }

    fn vm(&self) -> &'static str {
        "app"
    }

    async fn wait(&mut self) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn switch_on(&mut self, site: Site) {
        let host = self.host(site);
        let register = host.vm().await.register.expect("adopted before");
        let mut order = self.sites.order(
            register.epoch,
            Command::Power {
                state: PowerSwitch::On,
                force: false,
                on_other_disks: false,
            },
        );
        order.claim = None;
        order.step = register.step + 1;
        host.ok(order).await;
    }

    async fn runs(&self, site: Site) -> bool {
        self.host(site).fake.running(VM)
    }

    async fn disconnect(&mut self) {
        self.sites.az.end();
    }
}

pub async fn pair() -> Box<dyn Bench> {
    let sites = Sites::new();
    let hosts = [(&sites.hv, Site::OnPremises), (&sites.az, Site::Azure)]
        .map(|(host, site)| AgentsHost {
            name: host.name.into(),
            site,
            client: host.client().clone(),
        })
        .into();
    let driver = AgentsDriver::new(hosts, Duration::from_secs(1));
    Box::new(Agents { sites, driver })
}
