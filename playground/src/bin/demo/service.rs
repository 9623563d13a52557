//! The same by Azure Site Recovery, or rather by what answers like it: no Azure is needed, and none is touched.

use anyhow::{Context as _, Result, ensure};
use homeward::api::{FailoverOutcome, FailoverPhase, Site};
use homeward_asr_emulator::{FabricKind, Record, SeedVm, Site as There};
use homeward_playground::{
    asked::{self, Asked, Intent, THERE_AND_BACK},
    narrator::{Narrator, milliseconds},
    world::{ServiceOptions, ServiceWorld, rests_in_azure, status_of},
};
use jiff::SignedDuration;
use serde_json::json;

use crate::{
    follow::{Followed, follow, unsigned},
    table::{Row, phases, render},
};

const VM: &str = "orders-db";

/// Moves a VM to Azure and home again.
pub async fn tell(narrator: &Narrator) -> Result<()> {
    narrator.print(
        "Homeward: a VM goes to Azure and comes home, by the emulator of Azure Site Recovery\n",
    );
    let mut options = ServiceOptions::new(FabricKind::HyperVSite, 1);
    options.seed.fabrics[0].vms = vec![SeedVm::named(VM)];
    // Slow enough to be followed.
    options.speed = 3;
    let step = narrator.step("Starting a cluster and the service");
    let world = ServiceWorld::start_with(options, |at| step.now(at)).await?;
    step.done(format!("everything is in {}", world.folder().display()));

    let step = narrator.step(format!("Taking on {VM}, which the service protects"));
    world
        .keep(VM, |spec| {
            spec["cutover"] = json!({"approval": "Manual"});
            spec["commit"] = json!({"approval": "Manual"});
        })
        .await?;
    step.done("it runs on the premises; cutover and commit wait for a person");

    let mut moves = Vec::new();
    for to in [Site::Azure, Site::OnPremises] {
        moves.push(move_to(&world, to, narrator).await?);
    }
    let records = world.emulator.requests().await?;
    prove(&world, &records, narrator).await?;
    narrator.print(format!("\n{}", table(&moves, &records)));
    Ok(())
}

async fn move_to(world: &ServiceWorld, to: Site, narrator: &Narrator) -> Result<Followed> {
    let cluster = &world.cluster;
    narrator.print("");
    narrator.say(format!(
        "kubectl patch pvm {VM} --type merge -p '{{\"spec\":{{\"placement\":\"{to}\"}}}}'"
    ));
    let name = cluster.next_failover(VM).await?;
    cluster.place(VM, to).await?;
    let followed = follow(cluster, &name, narrator, async |phase| {
        let gate = match phase {
            FailoverPhase::AwaitingCutover => "cutover",
            FailoverPhase::AwaitingCommit => "commit",
            _ => return Ok(()),
        };
        let machine = world.emulator.machine(VM).await?;
        narrator.say(format!(
            "  {VM} {} on the premises, and {} in Azure",
            runs(machine.runs(There::OnPremises)),
            runs(machine.runs(There::Azure))
        ));
        narrator.say(format!(
            "  kubectl patch fo {name} --type merge -p '{{\"spec\":{{\"{gate}\":\"Approved\"}}}}'"
        ));
        cluster.answer(&name, json!({gate: "Approved"})).await
    })
    .await?;
    let status = followed.failover.status.as_ref();
    let outcome = status.and_then(|status| status.outcome);
    ensure!(
        outcome == Some(FailoverOutcome::Succeeded),
        "{name} ended {outcome:?}\n{}",
        status_of(&followed.failover)
    );
    let vm = match to {
        Site::OnPremises => cluster.until_settled(VM, to).await?,
        Site::Azure => {
            cluster
                .until_vm(VM, "at rest in Azure", rests_in_azure)
                .await?
        }
    };
    let conditions = vm.status.iter().flat_map(|status| &status.conditions);
    let protected = conditions
        .into_iter()
        .find(|it| it.type_ == "Protected")
        .context("it is said whether it is protected")?;
    narrator.say(format!(
        "  Protected={}, {}: {}",
        protected.status, protected.reason, protected.message
    ));
    Ok(followed)
}

const fn runs(it: bool) -> &'static str {
    if it { "runs" } else { "does not run" }
}

async fn prove(world: &ServiceWorld, records: &[Record], narrator: &Narrator) -> Result<()> {
    narrator.print("\nProofs, from the records of the service and what is true of its VMs:");
    let asked = mutations(records);
    asked::each_once(&asked, &THERE_AND_BACK, SignedDuration::ZERO)?;
    ensure!(
        asked.len() == THERE_AND_BACK.len(),
        "asked for twice: {asked:#?}"
    );
    let posts = records
        .iter()
        .filter(|it| it.method != "GET" && !is_sign_in(it) && !is_control(it));
    let posts = posts.count();
    ensure!(
        posts == THERE_AND_BACK.len(),
        "{posts} requests would change something"
    );
    narrator.print(format!(
        "  each intent was one request, and there was no other: {posts} of them, {THERE_AND_BACK:?}"
    ));

    let violations = world.emulator.violations().await?;
    ensure!(violations.is_empty(), "{violations:#?}");
    let machine = world.emulator.machine(VM).await?;
    ensure!(
        machine.runs(There::OnPremises) && !machine.runs(There::Azure),
        "it is not home: {machine:#?}"
    );
    narrator.print(
        "  it never ran at both sites, nor from disks that were older or half written; it runs at home",
    );
    let home = machine.on_premises.as_ref().context("it is at home")?;
    ensure!(
        home.consistent && home.version == machine.newest,
        "its disks are not the newest: {machine:#?}"
    );
    // One run before the moves, one in Azure, one at home.
    narrator.print(format!(
        "  its disks are the newest there have been: version {} after {} runs",
        home.version, machine.newest
    ));

    let secret = world.options().secret()?;
    let log = std::fs::read_to_string(world.cluster.operator_log(0))?;
    ensure!(!log.contains(secret), "the secret stands in the log");
    let reads = records
        .iter()
        .filter(|it| it.method == "GET" && !is_control(it))
        .count();
    narrator.print(format!(
        "  the service was read {reads} times, a token was asked for {} times, and the log tells no secret",
        records.iter().filter(|it| is_sign_in(it)).count()
    ));
    Ok(())
}

fn mutations(records: &[Record]) -> Vec<Asked> {
    asked::of_vm(records, &SeedVm::named(VM).item_name())
}

fn is_sign_in(record: &Record) -> bool {
    record.path.ends_with("/oauth2/v2.0/token")
}

fn is_control(record: &Record) -> bool {
    record.path.starts_with("/_emulator")
}

fn table(moves: &[Followed], records: &[Record]) -> String {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |name: &str, value: &dyn Fn(&Followed) -> Option<String>| {
        let value = |it| value(it).unwrap_or_else(|| "unknown".into());
        rows.push((name.to_owned(), moves.iter().map(value).collect()));
    };
    row("direction", &|it| {
        let spec = &it.failover.spec;
        Some(format!("{} -> {}", spec.from, spec.to))
    });
    row("data sync", &|it| {
        let choice = it.failover.status.as_ref()?.data_sync.as_ref()?;
        Some(choice.chosen.as_str().to_owned())
    });
    row("  because", &|it| {
        Some(
            it.failover
                .status
                .as_ref()?
                .data_sync
                .as_ref()?
                .reason
                .clone(),
        )
    });
    row("downtime", &|it| {
        let downtime = it.failover.status.as_ref()?.downtime.as_ref()?;
        Some(milliseconds(unsigned(downtime.actual_milliseconds?)))
    });
    row("jobs of the service", &|it| {
        let tasks = &it.failover.status.as_ref()?.tasks;
        let jobs = tasks.iter().filter_map(|task| {
            let job = task.job.as_ref()?;
            Some(format!("{} {}", task.name, job.get(..8).unwrap_or(job)))
        });
        Some(jobs.collect::<Vec<_>>().join(", "))
    });
    row("requests that it took", &|it| {
        let asked = mutations(records);
        // A failback is the first request of the way home.
        let home = asked.iter().position(|it| it.intent == Intent::Failback)?;
        let (there, back) = asked.split_at(home);
        let of = match it.failover.spec.to {
            Site::Azure => there,
            Site::OnPremises => back,
        };
        let words: Vec<String> = of.iter().map(|it| format!("{:?}", it.intent)).collect();
        Some(format!("{}: {}", of.len(), words.join(", ")))
    });
    rows.extend(phases(&moves.iter().collect::<Vec<_>>()));
    render(&rows)
}
