//! Certificates that are not right: nothing moves, the vault says why, and it goes on by itself once they are mended.

use anyhow::ensure;
use homeward::api::{FailoverOutcome, RecoveryVault, Site};
use homeward_playground::world::{Certificate, LIMIT, VAULT, VmOptions, is_true, until};

use crate::lane::{Lane, processes, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_holds_moves_and_says_so() {
    run(async {
        let lane = Lane::start(processes(), &VmOptions::small("tls")).await?;
        let vaults = lane.world.cluster.vaults();
        for bad in [Certificate::OfAnotherAuthority, Certificate::OfAStranger] {
            let from = lane.site().await?;
            lane.world.use_certificate(bad).await?;
            let told = until(
                &vaults,
                VAULT,
                LIMIT,
                "not Ready",
                |vault: &RecoveryVault| {
                    vault.status.as_ref().is_some_and(|status| {
                        let broken = status
                            .conditions
                            .iter()
                            .any(|it| it.type_ == "Ready" && it.status != "True");
                        broken && status.hosts.iter().all(|host| !host.connected)
                    })
                },
            )
            .await?;
            let said: Vec<String> = told
                .status
                .iter()
                .flat_map(|status| &status.hosts)
                .filter_map(|host| host.message.clone())
                .collect();
            println!("{bad:?}: {said:?}");
            ensure!(
                !said.is_empty() && said.iter().all(|it| !it.is_empty()),
                "the vault does not say why"
            );
            let failover = lane.begin(from.other()).await?;
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            lane.until_writing(from).await?;
            lane.world.use_certificate(Certificate::Good).await?;
            until(
                &vaults,
                VAULT,
                LIMIT,
                "Ready again",
                |vault: &RecoveryVault| {
                    vault
                        .status
                        .as_ref()
                        .is_some_and(|status| is_true(&status.conditions, "Ready"))
                },
            )
            .await?;
            lane.until_ended(&failover, FailoverOutcome::Succeeded)
                .await?;
            lane.until_settled(from.other()).await?;
        }
        ensure!(
            lane.site().await? == Site::OnPremises,
            "two moves lead home"
        );
        lane.finish(0).await
    })
    .await;
}
