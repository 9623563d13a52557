//! From the resource that a person applies to the data sync that its way home takes.

use homeward::api::{
    Approval, DataSync, DataSyncRequest, FailoverPhase, FailoverStatus, ProtectedVirtualMachine,
    ProtectedVirtualMachineStatus, Site,
};
use homeward::domain::{
    BySite, Connection, CurrentFailover, Fact, Intent, ProtectionState, Stage, VaultView, World,
    decide,
};
use homeward::driver::simulated::agents_like;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::store::{Store, spec};
use super::tables::{Asked, claim, observation, world};

fn resource(spec: &Value) -> ProtectedVirtualMachine {
    serde_json::from_value(json!({
        "apiVersion": "homeward.dev/v1alpha1",
        "kind": "ProtectedVirtualMachine",
        "metadata": {"name": "app", "namespace": "team", "uid": "uid-of-app"},
        "spec": spec,
    }))
    .unwrap()
}

fn at_home(more: Value) -> Value {
    let mut spec = json!({"vaultRef": {"name": "main"}, "placement": "OnPremises"});
    let (into, from) = (spec.as_object_mut().unwrap(), more);
    into.extend(from.as_object().unwrap().clone());
    spec
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    let intent = Intent::parse(&resource(&at_home(json!({})))).unwrap();
    assert_eq!(
        intent,
        Intent {
            name: "app".into(),
            uid: "uid-of-app".into(),
            vm_name: "app".into(),
            vault: "main".into(),
            placement: Site::OnPremises,
            data_sync: DataSyncRequest::Auto,
            alternate: homeward::domain::Alternate::default(),
            encryption_key: None,
            full_download_after: SignedDuration::from_hours(720),
            cutover: Approval::Automatic,
            commit: Approval::Automatic,
            reverse_replication: Approval::Automatic,
            suspend: false,
            history_limit: 10,
            deleting: false,
            takeover: None,
            seen_running: None,
        }
    );
}

#[test]
fn what_is_said_is_taken() {
    let said = at_home(json!({
        "virtualMachineName": "db01",
        "placement": "Azure",
        "failback": {"dataSync": "DeltaBeforeFailover", "fullDownloadAfter": "36h"},
        "cutover": {"approval": "Manual"},
        "commit": {"approval": "Manual"},
        "reverseReplication": "Manual",
        "suspend": true,
        "failoverHistoryLimit": 0,
    }));
    let mut vm = resource(&said);
    vm.metadata.annotations = Some([("homeward.dev/take-over-claim".into(), "a/b".into())].into());
    let intent = Intent::parse(&vm).unwrap();
    assert_eq!(
        intent,
        Intent {
            name: "app".into(),
            uid: "uid-of-app".into(),
            vm_name: "db01".into(),
            vault: "main".into(),
            placement: Site::Azure,
            data_sync: DataSyncRequest::DeltaBeforeFailover,
            alternate: homeward::domain::Alternate::default(),
            encryption_key: None,
            full_download_after: SignedDuration::from_hours(36),
            cutover: Approval::Manual,
            commit: Approval::Manual,
            reverse_replication: Approval::Manual,
            suspend: true,
            history_limit: 0,
            deleting: false,
            takeover: Some("a/b".into()),
            seen_running: None,
        }
    );
}

#[test]
fn what_admission_should_have_refused_names_field_and_remedy() {
    let negative = json!({"failback": {"fullDownloadAfter": "-1h"}});
    let nameless = json!({"vaultRef": {"name": ""}});
    for (more, field) in [
        (negative, "spec.failback.fullDownloadAfter"),
        (nameless, "spec.vaultRef.name"),
    ] {
        let wrong = Intent::parse(&resource(&at_home(more.clone()))).unwrap_err();
        assert_eq!(wrong.field, field);
        assert!(!wrong.remedy.is_empty() && wrong.to_string().contains(wrong.remedy));
        // To be let go of, nothing else has to be right.
        let mut leaving = resource(&at_home(more));
        leaving.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH),
        );
        if field != "spec.vaultRef.name" {
            assert!(Intent::parse(&leaving).unwrap().deleting);
        }
    }
}

/// The data sync of a way home that begins `hours` after Azure began to run the VM and `behind` hours after the last whole pass back.
fn home(after: &str, hours: i64, behind: Option<i64>) -> (DataSync, String) {
    let intent = Intent::parse(&resource(&at_home(
        json!({"failback": {"fullDownloadAfter": after}}),
    )))
    .unwrap();
    let now: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let ago = |hours| now - SignedDuration::from_hours(hours);
    let store = Store::new(spec(Site::OnPremises));
    let in_azure = Fact::Known(Stage::Settled { site: Site::Azure });
    let mut vm = observation(&in_azure, &claim(&store));
    vm.active_since = Some(ago(hours));
    if let Fact::Known(protection) = &mut vm.protection {
        protection.state = ProtectionState::Failing("hv01: no space".into());
        match (behind, &mut protection.last_whole) {
            (Some(behind), Some(whole)) => whole.point = ago(behind),
            (_, whole) => *whole = None,
        }
    }
    let mut asked = Asked::new(intent.uid.clone());
    (asked.0.from, asked.0.to) = (Site::Azure, Site::OnPremises);
    let status = FailoverStatus {
        phase: Some(FailoverPhase::Preparing),
        ..FailoverStatus::default()
    };
    let before = ProtectedVirtualMachineStatus::default();
    let vault = VaultView {
        renamed: None,
        sites: &BySite::from_fn(|_| Connection::Connected),
        capabilities: &agents_like(),
        vm: Fact::Known(&vm),
    };
    let moving = CurrentFailover::Known(asked.view(&status));
    let decision = decide(&World {
        now,
        ..world(&intent, &before, moving, vault, claim(&store))
    });
    let choice = decision.failover.unwrap().data_sync.unwrap();
    (choice.chosen, choice.reason)
}

#[test]
fn auto_goes_by_the_time_that_the_resource_names() {
    for (after, hours, behind, chosen) in [
        ("24h", 23, None, DataSync::DeltaBeforeFailover),
        ("24h", 25, None, DataSync::FullDuringFailover),
        ("24h", 500, Some(1), DataSync::DeltaBeforeFailover),
        ("24h", 500, Some(30), DataSync::FullDuringFailover),
        ("720h", 500, Some(30), DataSync::DeltaBeforeFailover),
    ] {
        let (took, reason) = home(after, hours, behind);
        assert_eq!(took, chosen, "{after} {hours} {behind:?}: {reason}");
        assert!(reason.contains(&format!("longer than {after}")), "{reason}");
    }
}
