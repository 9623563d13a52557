//! Which data sync `Auto` takes, and why.

use jiff::{SignedDuration, Timestamp};

use super::fact::Fact;
use crate::api::{DataSync, DataSyncChoice, DataSyncRequest, Site};

/// What the choice rests on.
#[derive(Clone, Debug)]
pub struct Basis<'a> {
    /// What was asked for.
    pub asked: DataSyncRequest,
    /// Where the move goes.
    pub to: Site,
    /// Since when the source has run the VM.
    pub active_since: Option<Timestamp>,
    /// For how long the replica may have fallen behind and the delta is still taken.
    pub full_download_after: SignedDuration,
    /// It goes to another host than the one it came from.
    pub to_another_host: bool,
    /// Whether anything of the VM is left at the target.
    pub replica_present: &'a Fact<bool>,
    /// The point in time of the last whole pass from the source to the target, if there was one.
    pub replicated_at: Option<Timestamp>,
    /// Why the target could not take a full download.
    pub full_download_obstacles: &'a [String],
    /// Now.
    pub now: Timestamp,
}

/// Chooses; nothing is chosen while a fact that decides it is unknown, and the words say which.
///
/// # Errors
/// What is not known yet.
pub fn choose(basis: &Basis<'_>) -> Result<DataSyncChoice, String> {
    let chosen = |chosen, reason: String| Ok(DataSyncChoice { chosen, reason });
    match basis.asked {
        DataSyncRequest::DeltaBeforeFailover => {
            return chosen(
                DataSync::DeltaBeforeFailover,
                "asked for by spec.failback.dataSync".into(),
            );
        }
        DataSyncRequest::FullDuringFailover => {
            return chosen(
                DataSync::FullDuringFailover,
                "asked for by spec.failback.dataSync".into(),
            );
        }
        DataSyncRequest::Auto => {}
    }
    if basis.to == Site::Azure {
        return chosen(
            DataSync::DeltaBeforeFailover,
            "the replica in Azure is kept up to date".into(),
        );
    }
    if basis.to_another_host {
        return chosen(
            DataSync::DeltaBeforeFailover,
            "to another host the service brings a VM with the delta".into(),
        );
    }
    match basis.replica_present {
        Fact::Unknown(why) => return Err(format!("whether a replica is left on-premises: {why}")),
        Fact::Absent | Fact::Known(false) => {
            return chosen(
                DataSync::FullDuringFailover,
                "no replica is left on-premises".into(),
            );
        }
        Fact::Known(true) => {}
    }
    let replicated = basis
        .replicated_at
        .filter(|at| basis.active_since.is_none_or(|since| *at > since));
    let Some(since) = replicated.or(basis.active_since) else {
        return chosen(
            DataSync::DeltaBeforeFailover,
            "a replica is left on-premises".into(),
        );
    };
    let behind = basis.now.duration_since(since).max(SignedDuration::ZERO);
    let told = match replicated {
        Some(_) => format!(
            "the replica on-premises was brought up to date {} ago",
            span(behind)
        ),
        None => format!("Azure has run the VM for {}", span(behind)),
    };
    let limit = span(basis.full_download_after);
    if behind <= basis.full_download_after {
        return chosen(
            DataSync::DeltaBeforeFailover,
            format!("{told}, not longer than {limit}"),
        );
    }
    if !basis.full_download_obstacles.is_empty() {
        return chosen(
            DataSync::DeltaBeforeFailover,
            format!(
                "{told}, longer than {limit}, but a full download is not possible ({}) and a replica is left on-premises",
                basis.full_download_obstacles.join("; ")
            ),
        );
    }
    chosen(
        DataSync::FullDuringFailover,
        format!("{told}, longer than {limit}"),
    )
}

fn span(time: SignedDuration) -> String {
    if time.as_hours() >= 1 {
        format!("{}h", time.as_hours())
    } else {
        format!("{}m", time.as_mins())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000_000;

    fn basis(replica: &Fact<bool>) -> Basis<'_> {
        Basis {
            asked: DataSyncRequest::Auto,
            to: Site::OnPremises,
            to_another_host: false,
            active_since: Some(Timestamp::from_second(NOW - 3600 * 100).unwrap()),
            full_download_after: SignedDuration::from_hours(720),
            replica_present: replica,
            replicated_at: None,
            full_download_obstacles: &[],
            now: Timestamp::from_second(NOW).unwrap(),
        }
    }

    #[test]
    fn auto_takes_the_full_download_only_when_the_delta_would_not_pay() {
        let present = Fact::Known(true);
        let gone = Fact::Known(false);
        let short = basis(&present);
        let long = Basis {
            full_download_after: SignedDuration::from_hours(99),
            ..basis(&present)
        };
        let exactly = Basis {
            full_download_after: SignedDuration::from_hours(100),
            ..basis(&present)
        };
        let hours_ago = |hours: i64| Some(Timestamp::from_second(NOW - 3600 * hours).unwrap());
        let fresh = Basis {
            replicated_at: hours_ago(2),
            ..long.clone()
        };
        // Replication that has not got through for long keeps nothing up to date.
        let stuck = Basis {
            full_download_after: SignedDuration::from_hours(50),
            replicated_at: hours_ago(60),
            ..long.clone()
        };
        // A pass of the time before the VM went to Azure.
        let earlier = Basis {
            replicated_at: hours_ago(200),
            ..long.clone()
        };
        // The clock of the host that took the point is ahead.
        let ahead = Basis {
            replicated_at: hours_ago(-1),
            ..long.clone()
        };
        let no_room = ["hv01: make room".to_owned()];
        let cramped = Basis {
            full_download_obstacles: &no_room,
            ..long.clone()
        };
        let elsewhere = Basis {
            to_another_host: true,
            ..basis(&gone)
        };
        let towards_azure = Basis {
            to: Site::Azure,
            ..basis(&gone)
        };
        for (basis, chosen, word) in [
            (
                &short,
                DataSync::DeltaBeforeFailover,
                "100h, not longer than 720h",
            ),
            (
                &exactly,
                DataSync::DeltaBeforeFailover,
                "100h, not longer than 100h",
            ),
            (&long, DataSync::FullDuringFailover, "100h, longer than 99h"),
            (
                &cramped,
                DataSync::DeltaBeforeFailover,
                "not possible (hv01: make room)",
            ),
            (
                &fresh,
                DataSync::DeltaBeforeFailover,
                "up to date 2h ago, not longer than 99h",
            ),
            (
                &stuck,
                DataSync::FullDuringFailover,
                "up to date 60h ago, longer than 50h",
            ),
            (
                &earlier,
                DataSync::FullDuringFailover,
                "run the VM for 100h, longer than 99h",
            ),
            (&ahead, DataSync::DeltaBeforeFailover, "up to date 0m ago"),
            (&basis_of(&gone), DataSync::FullDuringFailover, "no replica"),
            (&elsewhere, DataSync::DeltaBeforeFailover, "another host"),
            (
                &towards_azure,
                DataSync::DeltaBeforeFailover,
                "kept up to date",
            ),
        ] {
            let choice = choose(basis).unwrap();
            assert_eq!(choice.chosen, chosen, "{}", choice.reason);
            assert!(
                choice.reason.contains(word),
                "{} does not say {word}",
                choice.reason
            );
        }
    }

    fn basis_of(replica: &Fact<bool>) -> Basis<'_> {
        basis(replica)
    }

    #[test]
    fn what_was_asked_for_is_taken_whatever_is_known() {
        let unknown = Fact::Unknown("the host is silent".to_owned());
        for (asked, chosen) in [
            (
                DataSyncRequest::DeltaBeforeFailover,
                DataSync::DeltaBeforeFailover,
            ),
            (
                DataSyncRequest::FullDuringFailover,
                DataSync::FullDuringFailover,
            ),
        ] {
            let choice = choose(&Basis {
                asked,
                ..basis(&unknown)
            })
            .unwrap();
            assert_eq!(choice.chosen, chosen);
        }
    }

    #[test]
    fn s07_nothing_is_chosen_from_an_unknown_replica() {
        let unknown = Fact::Unknown("the host is silent".to_owned());
        let why = choose(&basis(&unknown)).unwrap_err();
        assert!(why.contains("the host is silent"), "{why}");
    }
}
