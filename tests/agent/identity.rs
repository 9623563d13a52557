//! Who may ask, who may send, and which orders count.

use std::fs;

use homeward::agent::api::{
    Command, OperationErrorKind, OperationState, Order, PowerSwitch, RefusalKind,
};
use homeward::agent::client::ClientError;
use homeward::pki::{Authority, Usages};

use crate::site::{Sites, VM, client};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_gets_no_answer() {
    let sites = Sites::new();
    let other = tempfile::tempdir().unwrap();
    Authority::create(other.path(), "other")
        .unwrap()
        .issue("homeward-operator", &[], Usages::Client)
        .unwrap();
    // It believes the server, but the server does not believe it.
    fs::copy(
        sites.folder.path().join("ca.pem"),
        other.path().join("ca.pem"),
    )
    .unwrap();
    let error = client(other.path(), "homeward-operator", sites.hv.control)
        .state()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::NoAnswer { .. } | ClientError::Unreachable { .. }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_allowed_is_refused() {
    let sites = Sites::new();
    for name in ["stranger", "az01"] {
        let ClientError::Refused(refusal) = client(sites.folder.path(), name, sites.hv.control)
            .state()
            .await
            .unwrap_err()
        else {
            panic!()
        };
        assert_eq!(refusal.kind, RefusalKind::NotAllowed);
        assert!(refusal.message.contains(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_allowed_sends_nothing() {
    let mut sites = Sites::prepare();
    sites
        .az
        .change_config("allowedAgents: [hv01]", "allowedAgents: [hv02]");
    sites.hv.start();
    sites.az.start();
    sites
        .hv
        .ok(sites.order(1, Command::Adopt { takeover: None }))
        .await;
    sites
        .hv
        .ok(sites.order(
            1,
            Command::Power {
                state: PowerSwitch::On,
                force: false,
                on_other_disks: false,
            },
        ))
        .await;
    sites.enroll(1).await;
    sites.hv.ok(sites.pass(&sites.az, 1)).await;
    let failed = sites
        .hv
        .until("the pass fails", |vm| {
            vm.replication.as_ref()?.last_error.clone()
        })
        .await;
    assert_eq!(failed.kind, OperationErrorKind::PeerRefused);
    assert!(
        failed.message.contains("hv01") && failed.message.contains("allowedAgents"),
        "{}",
        failed.message
    );
    assert!(sites.hv.vm().await.replication.unwrap().last.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_own_the_vm_sends_nothing() {
    let sites = Sites::new();
    sites
        .hv
        .ok(sites.order(1, Command::Adopt { takeover: None }))
        .await;
    // The name is allowed, but this replica belongs to another host.
    let mut owner = sites.hv.address();
    owner.host = "hv02".into();
    let definition = Box::new(sites.definition().await);
    sites
        .az
        .ok(sites.order(1, Command::Enroll { definition, owner }))
        .await;
    sites.hv.ok(sites.pass(&sites.az, 1)).await;
    let failed = sites
        .hv
        .until("the pass fails", |vm| {
            vm.replication.as_ref()?.last_error.clone()
        })
        .await;
    assert_eq!(failed.kind, OperationErrorKind::PeerRefused);
    assert!(
        failed.message.contains("from hv02, not from hv01"),
        "{}",
        failed.message
    );
    // Enrolled by its owner it is taken.
    sites.enroll(1).await;
    sites.replicate(&sites.hv, &sites.az, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_are_used_without_a_restart() {
    let sites = Sites::new();
    let folder = sites.folder.path();
    sites.hv.state().await;
    // A new authority and new certificates take the place of the old.
    let new = tempfile::tempdir().unwrap();
    let authority = Authority::create(new.path(), "new").unwrap();
    authority
        .issue("hv01", &["127.0.0.1".into()], Usages::ServerAndClient)
        .unwrap();
    authority
        .issue("homeward-operator", &[], Usages::Client)
        .unwrap();
    for file in ["ca.pem", "hv01.pem", "hv01-key.pem"] {
        fs::copy(new.path().join(file), folder.join(file)).unwrap();
    }
    client(new.path(), "homeward-operator", sites.hv.control)
        .state()
        .await
        .unwrap();
    // A broken set is not used.
    fs::write(folder.join("hv01.pem"), "nonsense").unwrap();
    client(new.path(), "homeward-operator", sites.hv.control)
        .state()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s02_old_epochs_and_steps_are_refused_and_replays_return_the_result() {
    let sites = Sites::protected().await;
    let (hv, az) = (&sites.hv, &sites.az);
    let stop = sites.order(
        2,
        Command::Stop {
            target: "az01".into(),
            force: false,
        },
    );
    let first = hv.give(stop.clone()).await.unwrap();
    assert_eq!(first.state, OperationState::Succeeded);
    let again = hv.give(stop.clone()).await.unwrap();
    assert_eq!(first, again);
    let reused = Order {
        command: Command::Stop {
            target: "az01".into(),
            force: true,
        },
        ..stop.clone()
    };
    assert_eq!(
        hv.give(reused).await.unwrap_err().kind,
        RefusalKind::StepReused
    );
    assert_eq!(
        hv.give(Order {
            epoch: 1,
            step: 999,
            ..stop
        })
        .await
        .unwrap_err()
        .kind,
        RefusalKind::Stale
    );
    let refusal = az
        .give(sites.order(
            1,
            Command::Power {
                state: PowerSwitch::On,
                force: false,
                on_other_disks: false,
            },
        ))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::WrongRole);
    assert!(refusal.register.is_some() && refusal.message.contains("Replica"));
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_a_missing_register_is_a_fence() {
    let sites = Sites::new();
    let order = sites.order(
        1,
        Command::Power {
            state: PowerSwitch::On,
            force: false,
            on_other_disks: false,
        },
    );
    assert_eq!(
        sites.hv.give(order.clone()).await.unwrap_err().kind,
        RefusalKind::NoRegister
    );
    assert_eq!(
        sites.az.give(order).await.unwrap_err().kind,
        RefusalKind::NoRegister
    );
    assert!(!sites.hv.fake.running(VM));
    assert!(sites.hv.vm().await.register.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn s04_a_damaged_register_is_a_fence() {
    let mut sites = Sites::protected().await;
    sites.hv.end();
    fs::write(
        sites.hv.folder.join(format!("state/registers/{VM}.json")),
        "{",
    )
    .unwrap();
    sites.hv.start();
    let vm = sites.hv.vm().await;
    assert!(vm.register.is_none() && !vm.problems.is_empty());
    let refused = sites
        .hv
        .give(sites.order(9, Command::Adopt { takeover: None }))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Storage);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded_and_checked() {
    let sites = Sites::new();
    let mut order = sites.order(1, Command::Adopt { takeover: None });
    order.failover = Some("../../etc".into());
    assert_eq!(
        sites.hv.give(order.clone()).await.unwrap_err().kind,
        RefusalKind::Invalid
    );
    order.failover = Some("x".repeat(2 * 1024 * 1024));
    let error = sites.hv.client().order(VM, &order).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Unexpected { status: 413, .. } | ClientError::NoAnswer { .. }
        ),
        "{error}"
    );
}
