//! Each kind of credentials against the token endpoint, and others in their place while the operator runs. Those of a client secret are in
//! [`secrets`](crate::secrets); a managed identity is given out by the machine that the operator runs on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use homeward::api::Site;
use homeward_asr_emulator::FabricKind;
use homeward_playground::world::{ClientCertificate, Credentials, ServiceOptions, ServiceWorld};

use crate::lane::{Lane, finish, quick, run};
use crate::secrets::{denied_for, ready, told_nowhere};

/// Nothing is known of any secret, and time passes as it does here: assertions have a time in which they are valid.
fn without_secrets() -> ServiceOptions {
    let mut options = quick(FabricKind::HyperVSite, 1);
    options.speed = 1;
    let timings = &mut options.settings.timings;
    (timings.placeholder, timings.task) = (50, 100);
    timings.initial_replication = 300;
    timings.tasks.clear();
    options.looks = [1000, 200, 100].map(Duration::from_millis);
    options.seed.principals[0].secrets.clear();
    options.log = "info,homeward=trace,azure_core=debug,azure_identity=debug".into();
    options
}

async fn start(options: ServiceOptions, credentials: &Credentials) -> Result<ServiceWorld> {
    let mut world = ServiceWorld::start_unconnected(options, credentials, |_| {}).await?;
    world.keep_logs(true);
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_the_next_one() {
    run(async {
        let [first, second, stranger] = [
            ClientCertificate::create()?,
            ClientCertificate::create()?,
            ClientCertificate::create()?,
        ];
        let mut options = without_secrets();
        for known in [&first, &second] {
            let certificates = &mut options.seed.principals[0].certificates;
            certificates.push(known.certificate.clone());
        }
        let show = |it: &ClientCertificate| Credentials::ClientCertificate(it.clone());
        // One that nobody has registered signs as well as any other.
        let world = start(options, &show(&stranger)).await?;
        denied_for(&world, "aadsts700027").await?;

        world.use_credentials(&show(&first)).await?;
        ready(&world).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;

        // The key of another certificate.
        let mixed = ClientCertificate {
            certificate: second.certificate.clone(),
            key: first.key.clone(),
        };
        world.use_credentials(&show(&mixed)).await?;
        denied_for(&world, "aadsts700027").await?;
        world.use_credentials(&show(&second)).await?;
        ready(&world).await?;
        lane.travel(Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;

        by_assertion_alone(&world).await?;
        for key in [&first.key, &second.key, &stranger.key] {
            // The first ones are the same in every RSA key.
            let line = key.lines().nth(6).context("a key has many lines")?;
            told_nowhere(&world, line).await?;
        }
        finish(world).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_identity_whose_token_is_rotated() {
    const TOKENS: [&str; 2] = ["the-first-projected-token", "the-second-projected-token"];
    // As well made as any, and known to nobody.
    const STRANGER: &str = "eyJhbGciOiJSUzI1NiJ9.e30.c3RyYW5nZXI";
    run(async {
        let mut options = without_secrets();
        options.seed.principals[0].federated_tokens = TOKENS.map(String::from).to_vec();
        let show = |it: &str| Credentials::WorkloadIdentity(it.to_owned());
        let world = start(options, &show(TOKENS[0])).await?;
        ready(&world).await?;
        let lane = Lane::start(&world, "vm-1", "DeltaBeforeFailover").await?;
        lane.travel(Site::Azure).await?;

        // What stands there is read when a token is needed: at once, and not when the library would.
        world.use_credentials(&show(STRANGER)).await?;
        world.emulator.revoke_tokens().await?;
        denied_for(&world, "aadsts700213").await?;
        world.use_credentials(&show(TOKENS[1])).await?;
        ready(&world).await?;
        lane.travel(Site::OnPremises).await?;
        lane.runs_only_at(Site::OnPremises).await?;

        by_assertion_alone(&world).await?;
        for token in TOKENS.into_iter().chain([STRANGER]) {
            told_nowhere(&world, token).await?;
        }
        finish(world).await
    })
    .await;
}

/// Tokens were asked for with an assertion, and never with a secret.
async fn by_assertion_alone(world: &ServiceWorld) -> Result<()> {
    let requests = world.emulator.requests().await?;
    let mut count = 0_usize;
    for asked in requests.iter().filter(|it| it.path.ends_with("/token")) {
        let jwt = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        ensure!(
            asked.body["client_assertion_type"] == jwt
                && asked.body["scope"] == "https://management.azure.com/.default"
                && asked.body["client_secret"].is_null(),
            "{asked:#?}"
        );
        count += 1;
    }
    ensure!(count >= 4, "{count} tokens were asked for");
    Ok(())
}
