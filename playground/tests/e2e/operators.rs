//! Two operators at once: one works, the other takes over when it dies or stands still, and nothing is done twice.

use std::time::Duration;

use anyhow::{Context as _, Result};
use homeward::api::FailoverOutcome;
use homeward_playground::world::VmOptions;

use crate::{
    lane::{FAR_APART, Lane, STEPS, pending, processes, run},
    sampler::Sampler,
};

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_do_nothing_twice() {
    let mut sampler = Sampler::new("operators");
    let steps = sampler.choose(STEPS.to_vec(), 0, |step| *step);
    run(async {
        let mut options = processes();
        options.operators = 2;
        options.replication_interval = FAR_APART;
        let mut lane = Lane::start(options, &VmOptions::small("two")).await?;
        for step in steps {
            let freeze = sampler.below(2) == 0;
            one(&mut lane, step, freeze)
                .await
                .with_context(|| format!("{step}, freeze: {freeze}"))?;
        }
        lane.finish(0).await
    })
    .await;
}

/// Whoever leads is stopped in its tracks or killed at a step; it wakes up when the other has taken over.
async fn one(lane: &mut Lane, step: &str, freeze: bool) -> Result<()> {
    let to = lane.site().await?.other();
    let failover = lane.begin(to).await?;
    lane.until(&failover, step, |it| pending(it) == Some(step))
        .await?;
    let leader = leader(lane).await?;
    let cluster = &mut lane.world.cluster;
    if freeze {
        cluster.freeze_operator(leader)?;
    } else {
        cluster.kill_operator(leader);
    }
    lane.until_ended(&failover, FailoverOutcome::Succeeded)
        .await?;
    // The late one wakes up with all that it was about to do.
    let cluster = &mut lane.world.cluster;
    if freeze {
        cluster.thaw_operator(leader)?;
    } else {
        cluster.start_operator(leader)?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    lane.until_settled(to).await?;
    lane.until_writing(to).await?;
    lane.check(0)
}

/// The one that holds the lease.
async fn leader(lane: &Lane) -> Result<usize> {
    use k8s_openapi::api::coordination::v1::Lease;
    let leases: kube::Api<Lease> = kube::Api::all(lane.world.cluster.client().clone());
    let found = leases.list(&kube::api::ListParams::default()).await?;
    let holder = found
        .items
        .into_iter()
        .filter_map(|lease| lease.spec?.holder_identity)
        .find_map(|holder| {
            (0..lane.world.cluster.operators())
                .find(|index| holder.contains(&format!("operator-{index}")))
        });
    holder.context("nobody leads")
}
