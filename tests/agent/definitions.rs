//! Definition files that break or go while their guests run: what runs is asked of the hypervisor, never of a file.

use std::fs;

use homeward::agent::api::{Command, OrderResult, Power, ProblemKind, RefusalKind};

use crate::site::{Sites, VM};

/// The VM is back where its file lies, started and not committed.
async fn home_uncommitted() -> Sites {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    sites.cut_over(hv, az, 2).await;
    sites.commit(hv, az, 2).await;
    sites.replicate(az, hv, 2).await;
    sites.cut_over(az, hv, 3).await;
    assert!(hv.fake.running(VM));
    sites
}

async fn roll_back(sites: &Sites) {
    let (hv, az) = (&sites.hv, &sites.az);
    let fenced = hv.ok(sites.order(4, Command::Fence {})).await;
    assert!(
        !hv.fake.running(VM),
        "a fence is a promise that nothing runs here"
    );
    let OrderResult::Fenced { record: fence } = fenced else {
        panic!("{fenced:?}")
    };
    assert!(fence.was_started);
    az.ok(sites.order(4, Command::Resume { fence })).await;
    assert!(az.fake.running(VM));
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_guest_whose_definition_breaks_still_runs_and_is_fenced() {
    let sites = home_uncommitted().await;
    let file = sites.hv.folder.join("definitions/app.yaml");
    fs::write(&file, "{").unwrap();
    let seen = sites.hv.vm().await;
    assert_eq!(seen.power, Power::Running);
    assert!(
        seen.problems
            .iter()
            .any(|problem| problem.kind == ProblemKind::Definition),
        "{:?}",
        seen.problems
    );
    roll_back(&sites).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_a_definition_that_went_is_remembered_by_a_new_agent() {
    let mut sites = home_uncommitted().await;
    sites.hv.kill();
    fs::remove_file(sites.hv.folder.join("definitions/app.yaml")).unwrap();
    sites.hv.start();
    let seen = sites.hv.vm().await;
    assert_eq!(seen.power, Power::Running);
    assert_eq!(seen.definition.unwrap().disks.len(), 2);
    roll_back(&sites).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s03_without_any_definition_the_hypervisor_is_asked_by_uuid() {
    let mut sites = home_uncommitted().await;
    sites.hv.kill();
    fs::remove_file(sites.hv.folder.join("definitions/app.yaml")).unwrap();
    for kind in ["remembered", "definitions"] {
        let kept = sites.hv.folder.join(format!("state/{kind}/{VM}.json"));
        let _there_or_not = fs::remove_file(kept);
    }
    sites.hv.start();
    assert_eq!(sites.hv.vm().await.power, Power::Running);
    let fence = sites.hv.give(sites.order(4, Command::Fence {})).await;
    // Nothing is known of its disks, so that no record comes of it; but the guest is off.
    assert!(!sites.hv.fake.running(VM), "{fence:?}");
    let operation = sites.hv.vm().await.operation.unwrap();
    assert!(operation.result.is_none(), "{operation:?}");
    assert!(operation.error.unwrap().message.contains("definitionsDir"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_let_go_is_not_remembered() {
    let sites = Sites::protected().await;
    sites.hv.ok(sites.order(1, Command::Detach {})).await;
    fs::remove_file(sites.hv.folder.join("definitions/app.yaml")).unwrap();
    assert!(sites.hv.vm().await.definition.is_none());
    assert_eq!(
        sites.hv.vm().await.power,
        Power::Running,
        "what runs is the hypervisor's to say"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_changed_under_a_running_guest_hold_passes_and_the_fence() {
    let sites = Sites::protected().await;
    let hv = &sites.hv;
    let file = hv.folder.join("definitions/app.yaml");
    let text = fs::read_to_string(&file).unwrap();
    // A copy, as somebody makes who moves a disk to another folder and forgets that the guest runs on the old one.
    fs::copy(hv.folder.join("root.raw"), hv.folder.join("moved.raw")).unwrap();
    for (changed, said) in [
        (
            text.replace("../root.raw", "../moved.raw"),
            "and the guest runs on",
        ),
        (
            text.replace(", { id: data, path: ../data.raw }", ""),
            "the guest still runs on disk data",
        ),
        (
            text.replace(
                "{ id: root,",
                "{ id: more, path: ../moved.raw }, { id: root,",
            ),
            "the guest runs without disk more",
        ),
    ] {
        assert_ne!(changed, text, "{said}");
        fs::write(&file, changed).unwrap();
        let problems = hv.vm().await.problems;
        assert!(
            problems
                .iter()
                .any(|problem| problem.kind == ProblemKind::Definition
                    && problem.message.contains(said)),
            "{said}: {problems:?}"
        );
        let refused = hv
            .give(sites.order(
                2,
                Command::Stop {
                    target: "az01".into(),
                    force: false,
                },
            ))
            .await
            .unwrap_err();
        assert_eq!(refused.kind, RefusalKind::DisksDiffer);
        assert!(refused.message.contains(said), "{}", refused.message);
        assert!(hv.fake.running(VM), "{said}");
        hv.ok(sites.pass(&sites.az, 1)).await;
        hv.until("the pass is refused", |vm| {
            let failed = vm.replication.as_ref()?.last_error.as_ref()?;
            failed.message.contains(said).then_some(())
        })
        .await;
    }
    fs::write(&file, text).unwrap();
    assert_eq!(hv.vm().await.problems, []);
    sites.cut_over(hv, &sites.az, 2).await;
    sites.same_disks();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_received_into_a_disk_that_another_vm_has_too() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let other = az.folder.join("definitions/other.yaml");
    let text = format!(
        "uuid: 00000000-0000-0000-0000-00000000beef\nname: other\ncpus: 1\nmemoryMiB: 64\n\
         disks: [{{ id: os, path: '../storage/./{VM}/root.raw' }}]\nnetworks: []\nboot: {{ from: disk }}\n"
    );
    let text = text.replace("../storage", az.folder.join("storage").to_str().unwrap());
    fs::write(&other, text).unwrap();
    let seen = az.vm().await;
    let told = seen
        .problems
        .iter()
        .find(|problem| problem.message.contains("also a disk of VM other"));
    assert!(told.is_some(), "{:?}", seen.problems);
    let before = sites.disk(az, "root");
    hv.fake.write(VM, "root", 0, b"must not arrive");
    let why = sites.fails_to_replicate(hv, az, 1).await;
    assert!(why.contains("also a disk of VM other"), "{why}");
    assert!(sites.disk(az, "root") == before);
    let definition = sites.definition().await;
    let again = Command::Enroll {
        definition: Box::new(definition),
        owner: hv.address(),
    };
    let refused = az.give(sites.order(1, again)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::DisksDiffer);
    fs::remove_file(other).unwrap();
    assert!(az.vm().await.problems.is_empty());
    sites.replicate(hv, az, 1).await;
    assert!(sites.disk(az, "root") != before);
}
