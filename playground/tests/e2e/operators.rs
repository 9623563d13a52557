//! Two operators at once: one works, the other takes over when it dies or stands still, and nothing is done twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
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

/// One page of an operator: the status line, and the rest.
async fn page(address: std::net::SocketAddr, path: &str) -> Result<(String, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: operator\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    Ok((head.lines().next().unwrap_or_default().into(), body.into()))
}

/// What a kubelet does to a pod: it asks, it tells it to end, and another one is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_told_to_end_gives_its_lease_away() {
    run(async {
        let mut options = processes();
        options.operators = 2;
        let mut lane = Lane::start(options, &VmOptions::small("told")).await?;
        for _ in 0..2 {
            let first = leader(&lane).await?;
            for index in 0..lane.world.cluster.operators() {
                let address = lane.world.cluster.operator_listens(index);
                for probe in ["/livez", "/readyz"] {
                    let (status, body) = page(address, probe).await?;
                    ensure!(status.contains(" 200 "), "{index}{probe}: {status} {body}");
                }
            }
            let (_, metrics) = page(lane.world.cluster.operator_listens(first), "/metrics").await?;
            for name in [
                "homeward_vm_recovery_point_age_seconds",
                "homeward_lease_held 1",
            ] {
                ensure!(metrics.contains(name), "no {name}:\n{metrics}");
            }
            // In the middle of a move, which the other brings to its end.
            let to = lane.site().await?.other();
            let failover = lane.begin(to).await?;
            lane.until(&failover, "it is under way", |it| pending(it).is_some())
                .await?;
            let first = leader(&lane).await?;
            let status = lane.world.cluster.end_operator(first).await?;
            ensure!(status.success(), "it ended with {status}");
            // Given away, not run out: nobody waits for that.
            let holder = leader(&lane).await.ok();
            ensure!(
                holder != Some(first),
                "the lease is still held by who has ended"
            );
            lane.until_ended(&failover, FailoverOutcome::Succeeded)
                .await?;
            lane.world.cluster.start_operator(first)?;
            lane.until_settled(to).await?;
            lane.until_writing(to).await?;
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
