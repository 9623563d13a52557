//! The simulated driver, with both sets of capabilities.

use async_trait::async_trait;
use homeward::api::Site;
use homeward::domain::Capabilities;
use homeward::driver::ReplicationDriver;
use homeward::driver::simulated::{self, BEAT, SimulatedDriver, Simulation};

use super::contract::Bench;

struct Simulated(SimulatedDriver);

#[async_trait]
impl Bench for Simulated {
    fn driver(&self) -> &dyn ReplicationDriver {
        &self.0
    }

    fn vm(&self) -> &'static str {
        "app"
    }

    async fn wait(&mut self) {
        self.0.simulation().advance(BEAT);
    }

    async fn switch_on(&mut self, site: Site) {
        self.0.simulation().switch("app", site, true);
    }

    async fn runs(&self, site: Site) -> bool {
        self.0.simulation().guest("app", site).running
    }

    async fn disconnect(&mut self) {
        self.0.simulation().connect(Site::Azure, false);
    }
}

fn bench(capabilities: Capabilities) -> Box<dyn Bench> {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut simulation = Simulation::new(capabilities, now);
    simulation.define("app", Site::OnPremises, false);
    Box::new(Simulated(SimulatedDriver::new(simulation)))
}

pub async fn agents_like() -> Box<dyn Bench> {
    bench(simulated::agents_like())
}

pub async fn service_like() -> Box<dyn Bench> {
    bench(simulated::service_like())
}
