//! The operator when the world around it fails: no definitions, bad resources, two replicas, an API server that goes away.

use std::time::Duration;

use crate::common::fake_driver::{FakeFactory, FakeVault};
use crate::common::{Bench, condition, crds, folder, until};
use crate::{protected, succeeded};
use homeward::api::{ProtectedVirtualMachine, Site};
use homeward::domain::ActionKind;
use homeward_playground::control_plane::ControlPlane;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use serde_json::json;

/// Definitions that take any placement, as those of a later version might.
fn loose_definitions(into: &std::path::Path) {
    std::fs::create_dir_all(into).unwrap();
    for (name, text) in homeward::cli::crd_files().unwrap() {
        let mut value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        if name == "protectedvirtualmachine.yaml" {
            let placement = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
                ["spec"]["properties"]["placement"];
            placement.as_mapping_mut().unwrap().remove("enum").unwrap();
        }
        std::fs::write(into.join(name), serde_yaml::to_string(&value).unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_its_definitions_and_a_bad_resource_stops_no_other() {
    let at = folder("waits");
    let plane = ControlPlane::start(&at).await.unwrap();
    let bench = Bench::on(&plane, "early").await;
    let vault = FakeVault::new()
        .with_vm("web", "id-web", Site::OnPremises)
        .with_vm("db", "id-db", Site::OnPremises);
    let mut settings = bench.settings();
    settings.namespaces.clear();
    let running = bench.run_with(FakeFactory::of("vault", &vault), settings);
    until("it says what it waits for", || async {
        let (ready, text) = running.health.readiness();
        assert!(!ready);
        text.contains("CustomResourceDefinition of RecoveryVault")
            .then_some(())
    })
    .await;
    let loose = at.join("loose");
    loose_definitions(&loose);
    plane.install_crds(&[loose]).await.unwrap();
    until("it is ready", || async {
        running.health.readiness().0.then_some(())
    })
    .await;
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;

    let moon = json!({
        "apiVersion": "homeward.dev/v1alpha1", "kind": "ProtectedVirtualMachine", "metadata": {"name": "moon"},
        "spec": {"vaultRef": {"name": "vault"}, "placement": "Moon"},
    });
    let api: Api<DynamicObject> = Api::namespaced_with(
        bench.client.clone(),
        &bench.namespace,
        &ApiResource::erase::<ProtectedVirtualMachine>(&()),
    );
    api.create(
        &PostParams::default(),
        &serde_json::from_value(moon).unwrap(),
    )
    .await
    .unwrap();
    until("it is told", || async {
        let moon = api.get("moon").await.unwrap();
        let text = moon.data["status"].to_string();
        (condition(&moon, "Stalled") == "True/InvalidSpec" && text.contains("Moon")).then_some(())
    })
    .await;
    // Others that come later are worked on as if nothing were wrong.
    bench.vm("db", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    protected(&bench, "db").await;
    let before = api.get("moon").await.unwrap().metadata.resource_version;
    bench.place("db", Site::Azure).await;
    bench.failover_is("db-1", "succeeded", succeeded).await;
    assert_eq!(
        api.get("moon").await.unwrap().metadata.resource_version,
        before
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_go_away_are_waited_for_again() {
    let at = folder("goes");
    let plane = ControlPlane::start(&at).await.unwrap();
    plane.install_crds(&[crds()]).await.unwrap();
    let bench = Bench::on(&plane, "gone").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    assert!(running.health.readiness().0);
    let definitions: Api<CustomResourceDefinition> = Api::all(bench.client.clone());
    definitions
        .delete("failovers.homeward.dev", &DeleteParams::default())
        .await
        .unwrap();
    until("it says what is gone", || async {
        let (ready, text) = running.health.readiness();
        (!ready && text.contains("CustomResourceDefinition of Failover")).then_some(())
    })
    .await;
    plane.install_crds(&[crds()]).await.unwrap();
    until("it is ready again", || async {
        running.health.readiness().0.then_some(())
    })
    .await;
    bench.place("web", Site::Azure).await;
    bench.failover_is("web-1", "succeeded", succeeded).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_acts_and_the_other_takes_over() {
    let bench = Bench::new("replicas").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    let named = |identity: &str| {
        let mut settings = bench.settings();
        settings.lease.identity = identity.into();
        let factory = FakeFactory::of("vault", &vault);
        (bench.run_with(factory.clone(), settings), factory)
    };
    let holder = || async {
        let lease = bench.get::<Lease>("homeward").await?;
        let holder = lease.spec?.holder_identity?;
        (!holder.is_empty()).then_some(holder)
    };
    let (first, _) = named("first");
    until("the first holds the lease", || async {
        holder().await?.starts_with("first_").then_some(())
    })
    .await;
    let (second, idle) = named("second");
    until("the second is ready", || async {
        second.health.readiness().0.then_some(())
    })
    .await;
    protected(&bench, "web").await;
    assert!(
        idle.inputs.lock().unwrap().is_empty(),
        "a replica that waits looks at nothing"
    );
    // Released on the way out: the other does not wait for the end of the lease.
    first.end().await;
    until("the second holds the lease", || async {
        holder().await?.starts_with("second_").then_some(())
    })
    .await;
    bench.place("web", Site::Azure).await;
    bench.failover_is("web-1", "succeeded", succeeded).await;
    // A replica that dies without a word is followed once its lease has run out.
    let (third, _) = named("third");
    second.kill();
    until("the third holds the lease", || async {
        holder().await?.starts_with("third_").then_some(())
    })
    .await;
    bench.place("web", Site::OnPremises).await;
    bench.failover_is("web-2", "succeeded", succeeded).await;
    let lease = bench.get::<Lease>("homeward").await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(2));
    third.end().await;
    until("the lease is free", || async {
        holder().await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_renew_stops_acting_and_an_outage_is_outlived() {
    let at = folder("outage");
    let mut plane = ControlPlane::start(&at).await.unwrap();
    plane.install_crds(&[crds()]).await.unwrap();
    let bench = Bench::on(&plane, "outage").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    vault.hold(ActionKind::StopSource);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    bench.place("web", Site::Azure).await;
    until("the source stops", || async {
        vault
            .kinds("web")
            .contains(&ActionKind::StopSource)
            .then_some(())
    })
    .await;
    bench
        .failover_is("web-1", "it is on record", |failover| {
            failover
                .status
                .as_ref()
                .is_some_and(|status| status.pending_action.is_some())
        })
        .await;
    // The API server answers nothing, and the work goes on underneath.
    plane.freeze_apiserver().unwrap();
    until("it stops acting", || async {
        running
            .metrics
            .text()
            .unwrap()
            .contains("homeward_lease_held 0.0")
            .then_some(())
    })
    .await;
    let taken = vault.kinds("web").len();
    vault.let_end(ActionKind::StopSource);
    let looks = || vault.state.lock().unwrap().looks;
    // Whoever does not hold the lease does not look either; if it still looks, it does so without acting.
    let seen = looks();
    until("time for an action", || async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Some(())
    })
    .await;
    assert_eq!(
        vault.kinds("web").len(),
        taken,
        "acted without the lease, after {} more looks",
        looks() - seen
    );
    plane.thaw_apiserver().unwrap();
    bench.failover_is("web-1", "succeeded", succeeded).await;

    // And a restart of the API server, in the middle of a move back.
    vault.hold(ActionKind::StopSource);
    bench.place("web", Site::OnPremises).await;
    until("the source stops again", || async {
        (vault
            .kinds("web")
            .iter()
            .filter(|kind| **kind == ActionKind::StopSource)
            .count()
            == 2)
            .then_some(())
    })
    .await;
    plane.stop_apiserver().await.unwrap();
    vault.let_end(ActionKind::StopSource);
    plane.start_apiserver().await.unwrap();
    bench.failover_is("web-2", "succeeded", succeeded).await;
    protected(&bench, "web").await;
    assert_eq!(
        vault
            .kinds("web")
            .iter()
            .filter(|kind| **kind == ActionKind::StopSource)
            .count(),
        2
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_stops_lets_what_it_asked_for_be_answered() {
    let bench = Bench::new("stops").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    protected(&bench, "web").await;
    let gate = vault.gate.clone();
    let held = gate.acquire_many(1000).await.unwrap();
    bench.place("web", Site::Azure).await;
    bench
        .failover_is("web-1", "asks", |failover| {
            failover
                .status
                .as_ref()
                .is_some_and(|status| status.pending_action.is_some())
        })
        .await;
    let stop = running.stop.clone();
    let ending = tokio::spawn(running.end());
    stop.cancelled().await;
    assert!(!vault.kinds("web").contains(&ActionKind::Synchronize));
    drop(held);
    ending.await.unwrap();
    assert!(
        vault.kinds("web").contains(&ActionKind::Synchronize),
        "it was answered before the end"
    );
    let lease = bench.get::<Lease>("homeward").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity, None, "released");
}
