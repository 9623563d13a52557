//! What every driver must do, told once against the trait. A driver more is one line at the end of this file.

#[path = "../agent/fake.rs"]
#[allow(dead_code)]
mod fake;
#[path = "../agent/site.rs"]
#[allow(dead_code)]
mod site;

mod agents;
mod azure_site_recovery;
mod contract;
mod simulated;

/// All of the contract for one driver.
macro_rules! passes {
    ($driver:ident, $make:expr) => {
        mod $driver {
            use super::contract;

            async fn subject() -> contract::Subject {
                contract::Subject::new($make.await)
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn asking_twice_is_asking_once() {
                contract::asking_twice_is_asking_once(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_look_tells_of_the_operation() {
                contract::a_look_tells_of_the_operation(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_look_at_some_is_as_good() {
                contract::a_look_at_some_is_as_good(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn s02_stale_marks_are_refused() {
                contract::stale_marks_are_refused(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn there_and_back() {
                contract::there_and_back(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn cancelled_in_each_phase() {
                contract::cancelled_in_each_phase(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn rolled_back() {
                contract::rolled_back(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn s05_commit_needs_a_started_target() {
                contract::commit_needs_a_started_target(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn s02_a_late_start_is_refused() {
                contract::a_late_start_is_refused(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn s07_unknown_when_disconnected() {
                contract::unknown_when_disconnected(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn s01_another_failover_is_refused() {
                contract::another_failover_is_refused(subject().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn s01_another_claim_is_refused() {
                contract::another_claim_is_refused(subject().await).await;
            }
        }
    };
}

passes!(simulated_like_agents, crate::simulated::agents_like());
passes!(simulated_like_a_service, crate::simulated::service_like());
passes!(over_agents, crate::agents::pair());
passes!(
    over_a_hyper_v_site_in_azure,
    crate::azure_site_recovery::hyper_v_site()
);
passes!(over_vmm_in_azure, crate::azure_site_recovery::vmm());
