//! What a person reads with `kubectl describe` and `kubectl get events`: of a whole move, and of what was refused.

use std::collections::BTreeSet;

use crate::common::fake_driver::{FakeFactory, FakeVault};
use crate::common::{Bench, condition, until};
use crate::succeeded;
use homeward::api::Site;
use homeward::domain::{ActionKind, ErrorClass};
use homeward::driver::DriverError;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

/// Kind and name of the object, type and reason, note.
type Told = (String, String, String);

async fn told(bench: &Bench) -> Vec<Told> {
    let api: Api<Event> = bench.api();
    let listed = api.list(&ListParams::default()).await.unwrap();
    listed
        .items
        .into_iter()
        .map(|event| {
            let about = event.regarding.unwrap_or_default();
            (
                format!(
                    "{}/{}",
                    about.kind.unwrap_or_default(),
                    about.name.unwrap_or_default()
                ),
                format!(
                    "{} {}",
                    event.type_.unwrap_or_default(),
                    event.reason.unwrap_or_default()
                ),
                event.note.unwrap_or_default(),
            )
        })
        .collect()
}

fn reasons(told: &[Told], about: &str) -> BTreeSet<String> {
    told.iter()
        .filter(|(whom, _, _)| whom == about)
        .map(|(_, reason, _)| reason.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_told_phase_by_phase_and_holds_no_secret() {
    let bench = Bench::new("events").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    bench
        .vm_is("web", "protected", |vm| {
            condition(vm, "Protected") == "True/Replicating"
        })
        .await;
    bench.place("web", Site::Azure).await;
    bench.failover_is("web-1", "succeeded", succeeded).await;
    let vm = "ProtectedVirtualMachine/web";
    // The way home is told in its own words, and not as more of the same.
    bench.place("web", Site::OnPremises).await;
    bench.failover_is("web-2", "succeeded", succeeded).await;
    until("both ends are told", || async {
        let all = told(&bench).await;
        let ended = |name: &str| {
            all.iter().any(|(whom, reason, note)| {
                whom == vm && reason == "Normal FailoverEnded" && note.starts_with(name)
            })
        };
        (ended("web-1 from OnPremises") && ended("web-2 from Azure")).then_some(())
    })
    .await;
    let all = until("the end of the move is told", || async {
        let all = told(&bench).await;
        reasons(&all, vm)
            .contains("Normal FailoverEnded")
            .then_some(all)
    })
    .await;
    for expected in ["Normal Adopted", "Normal Protected"] {
        assert!(reasons(&all, vm).contains(expected), "{expected}: {all:?}");
    }
    for about in [vm, "Failover/web-1"] {
        let reasons = reasons(&all, about);
        for expected in ["Normal FailoverCreated", "Normal PhaseChanged"] {
            assert!(reasons.contains(expected), "{about}: {reasons:?}");
        }
        assert!(
            !reasons.iter().any(|reason| reason.starts_with("Warning")),
            "nothing went wrong: {all:?}"
        );
    }
    for phase in [
        "CuttingOver",
        "Committing",
        "ReverseReplicating",
        "Succeeded",
    ] {
        assert!(
            all.iter()
                .any(|(about, _, note)| about == "Failover/web-1" && note.contains(phase)),
            "{phase}: {all:?}"
        );
    }
    let text = format!("{all:?}");
    assert!(
        !text.contains("BEGIN") && !text.contains("PRIVATE"),
        "{text}"
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_a_warning_and_a_race_is_not() {
    let bench = Bench::new("refusals").await;
    let vault = FakeVault::new().with_vm("web", "id-web", Site::OnPremises);
    for (class, words) in [
        (ErrorClass::Conflict, "the step was used by another order"),
        (ErrorClass::Denied, "the agent does not know this operator"),
    ] {
        let refused = (ActionKind::Adopt, DriverError::refused(class, words));
        vault.state.lock().unwrap().refusals.push_back(refused);
    }
    let running = bench.run(FakeFactory::of("vault", &vault));
    bench.vault("vault").await;
    bench.vm("web", Site::OnPremises, json!({})).await;
    bench
        .vm_is("web", "protected", |vm| {
            condition(vm, "Protected") == "True/Replicating"
        })
        .await;
    let about = |(about, reason, _): &&Told| {
        about == "ProtectedVirtualMachine/web" && reason == "Warning ActionRefused"
    };
    let all = until("the refusal is told", || async {
        let all = told(&bench).await;
        all.iter().any(|one| about(&one)).then_some(all)
    })
    .await;
    let notes: Vec<&str> = all
        .iter()
        .filter(about)
        .map(|(_, _, note)| note.as_str())
        .collect();
    assert_eq!(
        notes,
        ["Adopt: the agent does not know this operator"],
        "{all:?}"
    );
    running.end().await;
}
