//! What a service was asked for, as the records of its emulator tell.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use homeward_asr_emulator::Record;
use jiff::{SignedDuration, Timestamp};

/// Something that the service can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intent {
    /// Planned failover to Azure.
    Failover,
    /// Planned failover to the premises.
    Failback,
    /// "Complete failover".
    Resume,
    /// Cancel of a job.
    Cancel,
    /// Commit, of either.
    Commit,
    /// Reverse replication.
    Reprotect,
}

/// What a move to Azure and one back with a delta take, each once.
pub const THERE_AND_BACK: [Intent; 6] = [
    Intent::Failover,
    Intent::Commit,
    Intent::Failback,
    Intent::Resume,
    Intent::Commit,
    Intent::Reprotect,
];

/// A request for it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What for.
    pub intent: Intent,
    /// When it came; a held one when it acted.
    pub at: Timestamp,
    /// What it was answered; none when no answer was sent.
    pub status: Option<u16>,
    /// What befell it on purpose.
    pub fault: Option<String>,
    /// Whether it was acted upon.
    pub acted: bool,
    /// The job that it made.
    pub job: Option<String>,
}

/// What was asked for of a VM, by the name of its item, in order. A request that was held back stands there twice: as it came, and as it acted.
#[must_use]
pub fn of_vm(records: &[Record], item: &str) -> Vec<Asked> {
    let mut jobs: BTreeSet<String> = BTreeSet::new();
    let mut all = Vec::new();
    let item = format!("/replicationProtectedItems/{item}/").to_ascii_lowercase();
    for record in records.iter().filter(|it| it.method == "POST") {
        let path = record.path.to_ascii_lowercase();
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let of_job = jobs
            .iter()
            .any(|job| path.contains(&format!("/replicationjobs/{job}/")));
        let intent = match last.as_str() {
            "plannedfailover"
                if record.body["properties"]["failoverDirection"] == "PrimaryToRecovery" =>
            {
                Intent::Failover
            }
            "plannedfailover" => Intent::Failback,
            "failovercommit" => Intent::Commit,
            "reprotect" => Intent::Reprotect,
            "resume" if of_job => Intent::Resume,
            "cancel" if of_job => Intent::Cancel,
            _ => continue,
        };
        if !of_job && !path.contains(&item) {
            continue;
        }
        jobs.extend(record.job.iter().map(|job| job.to_ascii_lowercase()));
        all.push(Asked {
            intent,
            at: record.at,
            status: record.status,
            fault: record.fault.clone(),
            acted: record.acted,
            job: record.job.clone(),
        });
    }
    all
}

/// Checks that each intent was acted on once, in this order, and that none was asked for again without proof that it had had no effect: an
/// answer that says so, or as much time as a request can live.
///
/// # Errors
///
/// When it was otherwise; the message has all that was asked for.
pub fn each_once(asked: &[Asked], expected: &[Intent], life: SignedDuration) -> Result<()> {
    let acted: Vec<Intent> = asked
        .iter()
        .filter(|it| it.acted)
        .map(|it| it.intent)
        .collect();
    ensure!(acted == expected, "acted on: {acted:?}\n{asked:#?}");
    for pair in asked.windows(2) {
        let [first, second] = pair else { continue };
        // As it came, and as it acted.
        if first.fault.as_deref() == Some("hold") {
            ensure!(
                second.fault.as_deref() == Some("held") && second.intent == first.intent,
                "something was asked for while a request was on its way\n{asked:#?}"
            );
            continue;
        }
        if first.acted {
            continue;
        }
        ensure!(
            first.intent == second.intent,
            "something else was asked for before it was known what became of the last\n{asked:#?}"
        );
        let refused = matches!(first.status, Some(status) if status < 500);
        ensure!(
            refused || second.at.duration_since(first.at) >= life,
            "asked for again without proof\n{asked:#?}"
        );
    }
    Ok(())
}
