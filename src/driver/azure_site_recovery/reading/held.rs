//! What holds a VM: for a person to mend, or for a while.

use jiff::Timestamp;

use crate::api::Site;
use crate::domain::{Job, JobKind, JobState, MissingJob, PerhapsDown, Stage};
use crate::driver::azure_site_recovery::book::LOST_AFTER;
use crate::driver::azure_site_recovery::jobs;
use crate::driver::azure_site_recovery::wire::item::Item;
use crate::driver::azure_site_recovery::wire::problem::one_line;

pub fn health(item: &Item) -> String {
    let worst = item
        .health_errors
        .iter()
        .find(|error| error.critical)
        .or(item.health_errors.first());
    match worst {
        Some(error) => one_line(&format!(
            "{}: {}{}",
            error.code,
            error.message,
            error
                .recommended
                .as_ref()
                .map_or_else(String::new, |it| format!(" Recommended: {it}"))
        )),
        None => format!("the service calls its health {}", item.replication_health),
    }
}

/// What must be mended before anything is begun.
pub fn obstacles(item: &Item) -> Vec<String> {
    let mut all = Vec::new();
    if !item
        .instance_type
        .eq_ignore_ascii_case("HyperVReplicaAzure")
    {
        let kind = if item.instance_type.is_empty() {
            "of a kind that the service does not name"
        } else {
            &item.instance_type
        };
        all.push(format!(
            "the VM is replicated as {kind}, and Homeward moves Hyper-V VMs to Azure only (HyperVReplicaAzure)"
        ));
    }
    if !item.test_failover_state.is_empty() {
        all.push(format!(
            "a test failover stands ({}): clean it up in the portal",
            item.test_failover_state
        ));
    }
    all
}

/// The job of another kind that works on the VM: a resynchronisation, the end of an initial replication, or what else somebody began.
pub fn busy(live: Option<&Job>) -> Option<String> {
    let job = live.filter(|job| job.does == JobKind::Other)?;
    Some(format!(
        "job {} of the service, which works on the VM: {}",
        job.id,
        job.doing
            .as_deref()
            .unwrap_or("it does not say what it does")
    ))
}

/// What must be mended before the VM is moved.
pub fn protection_obstacles(item: &Item, stage: &Stage, live: Option<&Job>) -> Vec<String> {
    let mut all = Vec::new();
    if live.is_some() {
        return all;
    }
    match stage {
        Stage::Settled {
            site: Site::OnPremises,
        } => {
            let nothing = !item.allows("PlannedFailover") && !item.allows("ReverseReplicate");
            let copies = item
                .protection_state
                .to_ascii_lowercase()
                .contains("initialreplication");
            if nothing && !copies {
                all.push(format!(
                    "the service lets no planned failover be done now: it calls the VM {} ({}){}",
                    item.protection_state,
                    item.protection_state_description,
                    if item.health_errors.is_empty() {
                        String::new()
                    } else {
                        format!("; {}", health(item))
                    }
                ));
            }
        }
        Stage::Settled { site: Site::Azure }
            if !item.allows("Failback") && !item.allows("PlannedFailover") =>
        {
            all.push(format!(
                "the service lets no failback be done now: it calls the VM {} ({})",
                item.protection_state, item.protection_state_description
            ));
        }
        _ => {}
    }
    all
}

/// What leads the move of this VM and of others too.
pub fn led_elsewhere(live: Option<&Job>) -> Option<String> {
    let job = live.filter(|job| matches!(job.does, JobKind::Failover | JobKind::Failback))?;
    let plan = job.plan.as_ref()?;
    Some(format!(
        "recovery plan {plan} of the service, which moves this VM together with others (job {})",
        job.id
    ))
}

/// The job by which the service holds the VM, or may do so, and that it does not know. While an item names a job, or lets nothing be done, nothing
/// proves that the job has ended (S18): not even what the item offers, for it may offer that while a failback waits.
pub fn missing_job(item: &Item, jobs: &[Job], now: Timestamp) -> Option<MissingJob> {
    let named = |job: &&Job| {
        let holder = item.scenario.job.as_deref();
        holder.is_none_or(|holder| holder.eq_ignore_ascii_case(&job.id))
    };
    let under_way = jobs.iter().rev().filter(|job| !job.state.is_final());
    // Beside one that is named no other holds the VM.
    let (job, since) = under_way
        .filter(named)
        .find_map(|job| Some((job, job.missed?)))?;
    let what = job.doing.as_deref().unwrap_or("no more is known of it");
    let at = since.strftime("%Y-%m-%d %H:%M UTC");
    if now.duration_since(since) < LOST_AFTER {
        return Some(MissingJob {
            what: format!(
                "job {} of the service ({what}) to be told of again, or to have ended: the service, which may be late, has not known it since {at}",
                job.id
            ),
            is_stuck: false,
        });
    }
    let holds = if item.scenario.job.is_some() {
        "still names it as what holds the VM"
    } else {
        "lets nothing be done with the VM"
    };
    let copy = match (job.does, item.active) {
        (JobKind::Failback, Some(Site::Azure)) => " Do not start the VM on-premises meanwhile.",
        _ => "",
    };
    Some(MissingJob {
        what: format!(
            "the end of job {} of the service ({what}), which the service has not known since {at}, though it {holds}: it may still act, so that nothing else is asked for, and Homeward can neither complete nor cancel it. In the portal, look at Site Recovery jobs of the vault, and at the VM under Replicated items: complete or cancel the job where it is shown; where it is not, have Azure support end it.{copy} Homeward goes on by itself once the service is free of the job",
            job.id
        ),
        is_stuck: true,
    })
}

/// The move that had told the VM to stop where it stands, and broke off: the service starts nothing again, and tells of no power.
pub fn perhaps_down(all: &[Job], stage: &Stage) -> Option<PerhapsDown> {
    // What broke off before it came to the stop says nothing of what the move before it had left.
    // Of one that was lost the worst is believed: it may have gone on after it was last told of.
    let touched = |job: &&Job| {
        matches!(job.state, JobState::Succeeded | JobState::Lost)
            || jobs::has_stopped_the_source(job)
    };
    let moves = |job: &&Job| matches!(job.does, JobKind::Failover | JobKind::Failback);
    let newest = all.iter().rev().filter(moves).find(touched)?;
    let (did, ended) = match newest.state {
        JobState::Failed { .. } => ("told", "failed"),
        JobState::Cancelled => ("told", "was cancelled"),
        JobState::Lost => ("perhaps told", "was not known to the service any more"),
        _ => return None,
    };
    let left = match newest.does {
        JobKind::Failback => Site::Azure,
        _ => Site::OnPremises,
    };
    (*stage == Stage::Settled { site: left }).then(|| PerhapsDown {
        job: newest.id.clone(),
        what: format!(
            "job {} of the service {did} the VM in {left} to stop, and then {ended}; the service does not say whether it runs",
            newest.id
        ),
    })
}
