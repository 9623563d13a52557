//! From the last look to the status of a vault. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{HostStatus, RecoveryVaultStatus, Site};
use crate::controllers::hub::Blind;
use crate::domain::{
    ConditionType, Connection, ErrorClass, Reason, Said, Truth, VaultObservation, merge_conditions,
};

/// The status of a vault: what the last look says, who still uses it while it is being deleted, and why no driver can be made of what it says
/// now.
pub fn status(
    before: &RecoveryVaultStatus,
    generation: Option<i64>,
    look: Option<&Result<Arc<VaultObservation>, Blind>>,
    users: &[String],
    wrong: Option<&Blind>,
    now: Timestamp,
) -> RecoveryVaultStatus {
    if look.is_none() && users.is_empty() && wrong.is_none() && !before.conditions.is_empty() {
        // A new leader has seen nothing yet, and nothing has changed by that.
        return before.clone();
    }
    let mut said = standing(look, users, wrong);
    for (site, kind) in [
        (Site::OnPremises, ConditionType::OnPremisesConnected),
        (Site::Azure, ConditionType::AzureConnected),
    ] {
        said.push(connected(kind, site, look));
    }
    let (hosts, virtual_machines) = match look {
        Some(Ok(seen)) => (hosts(before, seen), i64::try_from(seen.vms.len()).ok()),
        // What was seen last stays; the conditions say that it is not seen now.
        Some(Err(_)) | None => (before.hosts.clone(), before.virtual_machines),
    };
    RecoveryVaultStatus {
        observed_generation: generation,
        conditions: merge_conditions(&before.conditions, said, generation, now),
        hosts,
        virtual_machines,
    }
}

/// `Ready`, and `Reconciling` or `Stalled` with it.
fn standing(
    look: Option<&Result<Arc<VaultObservation>, Blind>>,
    users: &[String],
    wrong: Option<&Blind>,
) -> Vec<Said> {
    let ready = |truth, reason, message: String, extra: Option<ConditionType>| {
        let mut said = vec![Said::new(
            ConditionType::Ready,
            truth,
            reason,
            message.clone(),
        )];
        said.extend(extra.map(|kind| Said::new(kind, Truth::True, reason, message)));
        said
    };
    if !users.is_empty() {
        let mut names = users[..users.len().min(10)].join(", ");
        if users.len() > 10 {
            names = format!("{names} and {} more", users.len() - 10);
        }
        return ready(
            Truth::False,
            Reason::Detaching,
            format!(
                "waits to be deleted until nothing uses it any more: delete {names} first (no VM is touched)"
            ),
            Some(ConditionType::Reconciling),
        );
    }
    let works = matches!(look, None | Some(Ok(_)));
    if let Some(wrong) = wrong.filter(|_| works) {
        let (reason, extra) = blinded(wrong.class);
        return ready(
            Truth::False,
            reason,
            format!(
                "{}; until then the vault is looked at with what was valid before",
                wrong.message
            ),
            Some(extra),
        );
    }
    match look {
        None => ready(
            Truth::False,
            Reason::VaultNotObserved,
            "waits for the first look".into(),
            Some(ConditionType::Reconciling),
        ),
        Some(Err(blind)) => {
            let (reason, extra) = blinded(blind.class);
            ready(Truth::False, reason, blind.message.clone(), Some(extra))
        }
        Some(Ok(seen)) => {
            let lost: Vec<String> = Site::BOTH
                .into_iter()
                .filter_map(|site| match &seen.sites[site] {
                    Connection::Connected => None,
                    Connection::Disconnected(why) => Some(format!("{site}: {why}")),
                })
                .collect();
            // A VM that one of these knows waits for it, whoever else of its site answers (S7).
            let silent: Vec<String> = seen
                .hosts
                .iter()
                .filter_map(|host| match &host.connection {
                    Connection::Connected => None,
                    Connection::Disconnected(why) => {
                        Some(format!("host {} in {}: {why}", host.name, host.site))
                    }
                })
                .collect();
            if lost.is_empty() && !silent.is_empty() {
                let message = format!(
                    "both sites are connected, but VMs that these hosts know wait for them: {}",
                    silent.join("; ")
                );
                let reconciling = Some(ConditionType::Reconciling);
                ready(Truth::False, Reason::SiteDisconnected, message, reconciling)
            } else if lost.is_empty() && !seen.missing_permissions.is_empty() {
                let message = format!(
                    "both sites are connected, but the service does not let Homeward do: {}; give its identity a role with these actions at the vault",
                    seen.missing_permissions.join(", ")
                );
                let stalled = Some(ConditionType::Stalled);
                ready(Truth::False, Reason::PermissionsMissing, message, stalled)
            } else if lost.is_empty() {
                ready(
                    Truth::True,
                    Reason::Connected,
                    "both sites are connected".into(),
                    None,
                )
            } else {
                ready(
                    Truth::False,
                    Reason::SiteDisconnected,
                    lost.join("; "),
                    Some(ConditionType::Reconciling),
                )
            }
        }
    }
}

/// What it means that nothing can be seen.
fn blinded(class: ErrorClass) -> (Reason, ConditionType) {
    match class {
        ErrorClass::Denied => (Reason::CredentialsInvalid, ConditionType::Stalled),
        ErrorClass::Invalid => (Reason::InvalidSpec, ConditionType::Stalled),
        ErrorClass::Transient
        | ErrorClass::Throttled
        | ErrorClass::Conflict
        | ErrorClass::Capacity
        | ErrorClass::Unresponsive => (Reason::SiteDisconnected, ConditionType::Reconciling),
    }
}

fn connected(
    kind: ConditionType,
    site: Site,
    look: Option<&Result<Arc<VaultObservation>, Blind>>,
) -> Said {
    match look {
        None => Said::new(
            kind,
            Truth::Unknown,
            Reason::VaultNotObserved,
            "waits for the first look",
        ),
        Some(Err(blind)) => Said::new(
            kind,
            Truth::Unknown,
            Reason::ObservationUnknown,
            blind.message.clone(),
        ),
        Some(Ok(seen)) => match &seen.sites[site] {
            Connection::Connected => Said::new(
                kind,
                Truth::True,
                Reason::Connected,
                "the site can be worked with",
            ),
            Connection::Disconnected(why) => {
                Said::new(kind, Truth::False, Reason::SiteDisconnected, why.clone())
            }
        },
    }
}

/// The hosts; the time of the last heartbeat is written when the connection changes, not at every beat.
fn hosts(before: &RecoveryVaultStatus, seen: &VaultObservation) -> Vec<HostStatus> {
    seen.hosts
        .iter()
        .map(|host| {
            let connected = host.connection.is_connected();
            let kept = before
                .hosts
                .iter()
                .find(|old| old.name == host.name && old.connected == connected);
            let last_heartbeat_time = match kept {
                Some(old) => old.last_heartbeat_time.clone(),
                None => host.last_heartbeat.map(whole_seconds),
            };
            HostStatus {
                name: host.name.clone(),
                site: host.site,
                connected,
                last_heartbeat_time,
                message: match &host.connection {
                    Connection::Connected if host.problems.is_empty() => None,
                    Connection::Connected => Some(host.problems.join("; ")),
                    Connection::Disconnected(why) => Some(why.clone()),
                },
            }
        })
        .collect()
}

/// The API server keeps whole seconds.
fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{BySite, HostObservation};

    fn seen(azure: Connection, beat: i64) -> Arc<VaultObservation> {
        Arc::new(VaultObservation {
            missing_permissions: Vec::new(),
            sites: BySite {
                on_premises: Connection::Connected,
                azure: azure.clone(),
            },
            hosts: vec![HostObservation {
                name: "az1".into(),
                site: Site::Azure,
                connection: azure,
                last_heartbeat: Timestamp::from_second(beat).ok(),
                problems: Vec::new(),
            }],
            vms: BTreeMap::new(),
            complete: Ok(()),
        })
    }

    fn reason(status: &RecoveryVaultStatus, kind: &str) -> String {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
            .map(|condition| format!("{}/{}", condition.status, condition.reason))
            .unwrap_or_default()
    }

    #[test]
    fn what_a_vault_says_of_itself() {
        let empty = RecoveryVaultStatus::default();
        let now = Timestamp::from_second(100).unwrap();
        let blind = |class| {
            Err(Blind {
                class,
                message: "words".into(),
            })
        };
        let lost = Connection::Disconnected("gone".into());
        for (look, users, ready, extra) in [
            (None, vec![], "False/VaultNotObserved", "Reconciling"),
            (
                Some(Ok(seen(Connection::Connected, 5))),
                vec![],
                "True/Connected",
                "",
            ),
            (
                Some(Ok(seen(lost, 5))),
                vec![],
                "False/SiteDisconnected",
                "Reconciling",
            ),
            (
                Some(blind(ErrorClass::Denied)),
                vec![],
                "False/CredentialsInvalid",
                "Stalled",
            ),
            (
                Some(blind(ErrorClass::Invalid)),
                vec![],
                "False/InvalidSpec",
                "Stalled",
            ),
            (
                Some(blind(ErrorClass::Transient)),
                vec![],
                "False/SiteDisconnected",
                "Reconciling",
            ),
            (
                Some(Ok(seen(Connection::Connected, 5))),
                vec!["web".to_owned()],
                "False/Detaching",
                "Reconciling",
            ),
        ] {
            let status = status(&empty, Some(1), look.as_ref(), &users, None, now);
            assert_eq!(reason(&status, "Ready"), ready);
            for kind in ["Reconciling", "Stalled"] {
                assert_eq!(reason(&status, kind).is_empty(), kind != extra, "{kind}");
            }
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_while_what_worked_before_goes_on() {
        let now = Timestamp::from_second(100).unwrap();
        let empty = RecoveryVaultStatus::default();
        let missing = Blind {
            class: ErrorClass::Denied,
            message: "Secret ns/tls does not exist; apply it".into(),
        };
        let look = Ok(seen(Connection::Connected, 5));
        let status = status(&empty, Some(1), Some(&look), &[], Some(&missing), now);
        assert_eq!(reason(&status, "Ready"), "False/CredentialsInvalid");
        assert_eq!(reason(&status, "Stalled"), "True/CredentialsInvalid");
        assert_eq!(reason(&status, "OnPremisesConnected"), "True/Connected");
        let said = serde_json::to_string(&status.conditions).unwrap();
        assert!(
            said.contains("looked at with what was valid before"),
            "{said}"
        );
    }

    #[test]
    fn a_leader_that_has_not_looked_yet_changes_nothing() {
        let now = Timestamp::from_second(100).unwrap();
        let look = Ok(seen(Connection::Connected, 5));
        let empty = RecoveryVaultStatus::default();
        let before = status(&empty, Some(1), Some(&look), &[], None, now);
        assert_eq!(status(&before, Some(2), None, &[], None, now), before);
        let deleting = status(&before, Some(2), None, &["web".to_owned()], None, now);
        assert_eq!(reason(&deleting, "Ready"), "False/Detaching");
    }

    #[test]
    fn a_heartbeat_alone_changes_nothing() {
        let now = Timestamp::from_second(100).unwrap();
        let later = Timestamp::from_second(200).unwrap();
        let first = status(
            &RecoveryVaultStatus::default(),
            Some(1),
            Some(&Ok(seen(Connection::Connected, 5))),
            &[],
            None,
            now,
        );
        let second = status(
            &first,
            Some(1),
            Some(&Ok(seen(Connection::Connected, 9))),
            &[],
            None,
            later,
        );
        assert_eq!(first, second);
        let lost = Connection::Disconnected("gone".into());
        let third = status(&second, Some(1), Some(&Ok(seen(lost, 9))), &[], None, later);
        assert_eq!(
            third.hosts[0].last_heartbeat_time,
            Timestamp::from_second(9).ok().map(Time)
        );
    }
}
