//! Guests that outlive all that their host knew of them.

use std::fs;
use std::time::Duration;

use homeward::agent::api::{
    Command, OperationErrorKind, OperationState, Power, PowerSwitch, ProblemKind, RefusalKind,
};
use homeward::api::Site;
use homeward::domain::{Action, Alternate, Claim, Fact, Mark, Stage, Submission};
use homeward::driver::ReplicationDriver;
use homeward::driver::agents::{AgentsDriver, AgentsHost};
use uuid::Uuid;

use crate::fake::PID;
use crate::site::{Sites, VM};

fn driver(sites: &Sites) -> AgentsDriver {
    let hosts =
        [(&sites.hv, Site::OnPremises), (&sites.az, Site::Azure)].map(|(host, site)| AgentsHost {
            name: host.name.into(),
            site,
            client: host.client().clone(),
        });
    AgentsDriver::new(hosts.into(), Duration::from_secs(1))
}

/// What the driver says of the VM, all of it and asked for it alone.
async fn contradiction(driver: &AgentsDriver) -> String {
    let whole = driver.observe().await.unwrap();
    let part = driver.observe_some(&["app".to_owned()].into()).await;
    assert_eq!(whole.vms["app"].stage, part.unwrap().vms["app"].stage);
    match &whole.vms["app"].stage {
        Fact::Known(Stage::Contradiction { seen }) => seen.clone(),
        other => panic!("{other:?}"),
    }
}

/// The VM had come to Azure by a move: its definition is in the `stateDir` that is lost there.
#[tokio::test(flavor = "multi_thread")]
async fn s03_a_guest_whose_host_knows_nothing_any_more_is_not_started_at_the_other() {
    let mut sites = Sites::protected().await;
    sites.cut_over(&sites.hv, &sites.az, 2).await;
    sites.commit(&sites.hv, &sites.az, 2).await;
    sites.az.kill();
    fs::remove_dir_all(sites.az.folder.join("state")).unwrap();
    sites.az.fake.lose_records(VM);
    sites.az.start();

    let state = sites.az.state().await;
    let seen = sites.az.vm().await;
    assert_eq!((seen.name.as_str(), seen.power), ("app", Power::Unknown));
    assert!(seen.register.is_none() && seen.definition.is_none());
    let process = format!("process {PID}");
    assert!(seen.power_reason.unwrap().contains(&process));
    let mut told = state.problems.iter();
    let told = told.find(|problem| problem.kind == ProblemKind::Stranger);
    let told = &told.expect("the host tells of it").message;
    assert!(
        told.contains(&process) && told.contains(&VM.to_string()),
        "{told}"
    );
    let client = sites.az.client();
    assert_eq!(client.state_of(&[VM]).await.unwrap().vms.len(), 1);
    let other = client.state_of(&[Uuid::from_u128(1)]).await.unwrap();
    assert_eq!(other.vms, [], "it was not asked for");

    let driver = driver(&sites);
    let words = contradiction(&driver).await;
    assert!(words.contains(&process), "{words}");
    // Somebody takes the other host for the one where the VM lives, and does there what the runbook says.
    sites.hv.kill();
    fs::remove_dir_all(sites.hv.folder.join("state/registers")).unwrap();
    sites.hv.start();
    let words = contradiction(&driver).await;
    assert!(words.contains(&process), "{words}");
    let adopt = Submission {
        action: Action::Adopt {
            at: Site::OnPremises,
            takeover: None,
        },
        mark: Mark { epoch: 3, step: 1 },
        claim: Claim {
            cluster: "cluster".into(),
            vm_uid: "pvm".into(),
        },
        failover: None,
        alternate: Alternate::default(),
        encryption_key: None,
        attempt: None,
    };
    let refused = driver.submit("app", &adopt).await.unwrap_err().to_string();
    assert!(refused.contains(&process), "{refused}");
    assert!(sites.hv.vm().await.register.is_none());

    // Nor is it taken on where it runs before its process has ended.
    let definition = fs::read_to_string(sites.hv.folder.join("definitions/app.yaml")).unwrap();
    let places = format!("../storage/{VM}/");
    let here = definition.replace("path: ../", &format!("path: {places}"));
    fs::write(sites.az.folder.join("definitions/app.yaml"), here).unwrap();
    let take_on = || sites.order(3, Command::Adopt { takeover: None });
    let refused = sites.az.give(take_on()).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::PowerUnknown);
    assert!(refused.message.contains(&process), "{}", refused.message);
    sites.az.fake.reboot();
    let problems = sites.az.state().await.problems;
    assert_eq!(problems, [], "it has ended");
    sites.az.ok(take_on()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_guest_is_told_of_until_its_process_has_ended() {
    let sites = Sites::new();
    sites.az.fake.run_stray(VM);
    assert_eq!(sites.az.vm().await.power, Power::Unknown);
    sites.az.fake.reboot();
    let state = sites.az.state().await;
    assert_eq!((state.vms, state.problems), (vec![], vec![]));
}

/// The peer that is asked before a start says what runs there, where no register of its own gives it a right to.
#[tokio::test(flavor = "multi_thread")]
async fn s03_a_guest_is_not_started_while_one_runs_at_the_peer() {
    let mut sites = Sites::protected().await;
    let switch = |state| Command::Power {
        state,
        force: false,
        on_other_disks: false,
    };
    sites.hv.ok(sites.order(1, switch(PowerSwitch::Off))).await;
    sites.az.kill();
    fs::remove_dir_all(sites.az.folder.join("state")).unwrap();
    sites.az.fake.run_stray(VM);
    sites.az.start();
    let start = || sites.order(1, switch(PowerSwitch::On));
    let failed = sites.hv.give(start()).await.unwrap();
    assert_eq!(failed.state, OperationState::Failed, "{failed:?}");
    let failed = failed.error.unwrap();
    assert_eq!(failed.kind, OperationErrorKind::PeerRefused);
    let process = format!("process {PID}");
    assert!(failed.message.contains(&process), "{}", failed.message);
    assert!(!sites.hv.fake.running(VM));
    // A hypervisor that does not answer hinders no more than a peer that does not.
    sites.az.fake.reboot();
    sites
        .az
        .fake
        .hung
        .store(true, std::sync::atomic::Ordering::SeqCst);
    sites.hv.ok(start()).await;
}
