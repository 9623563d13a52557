//! `homeward vm`: what a person asks of one agent: which VMs it has, switching one on or off, its console.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::agent::api::{
    Command as OrderCommand, HostState, MAX_CONSOLE, OperationState, Order, PowerSwitch, Problem,
    ProblemKind, VmState,
};
use crate::agent::client::AgentClient;

/// What `homeward vm` does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Lists the VMs of a host.
    List(Agent),
    /// Switches a VM on. Only where its register says that it may run.
    Start(Start),
    /// Shuts a VM down.
    Stop(Stop),
    /// Prints the end of a VM's console.
    Console(Console),
}

/// Where the agent is, and who asks.
#[derive(Debug, clap::Args)]
pub struct Agent {
    /// Control API of the agent, for example <https://hv01:7443>.
    #[arg(long = "agent", env = "HOMEWARD_AGENT", value_name = "URL")]
    url: String,
    /// Certificates of the authorities that the agent's certificate must come from (PEM).
    #[arg(long, env = "HOMEWARD_AGENT_CA", value_name = "FILE")]
    ca: PathBuf,
    /// Own certificate (PEM); its name must be one of the agent's `allowedOperators`.
    #[arg(long, env = "HOMEWARD_AGENT_CERTIFICATE", value_name = "FILE")]
    certificate: PathBuf,
    /// Key of the own certificate (PEM).
    #[arg(long, env = "HOMEWARD_AGENT_KEY", value_name = "FILE")]
    key: PathBuf,
}

/// One VM of a host.
#[derive(Debug, clap::Args)]
pub struct Named {
    #[command(flatten)]
    agent: Agent,
    /// Name of the VM.
    name: String,
}

/// Arguments of `start`.
#[derive(Debug, clap::Args)]
pub struct Start {
    #[command(flatten)]
    vm: Named,
    /// Start it on the disks that its definition names now, although it last ran on others that are still there: gives up what the guest wrote
    /// to those, and the replica is overwritten with what these hold.
    #[arg(long)]
    on_other_disks: bool,
}

/// Arguments of `stop`.
#[derive(Debug, clap::Args)]
pub struct Stop {
    #[command(flatten)]
    vm: Named,
    /// Pull the plug instead of asking the guest.
    #[arg(long)]
    force: bool,
}

/// Arguments of `console`.
#[derive(Debug, clap::Args)]
pub struct Console {
    #[command(flatten)]
    vm: Named,
    /// How many bytes from its end, at most 1048576.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..=MAX_CONSOLE))]
    tail: u64,
}

impl Agent {
    fn client(&self) -> anyhow::Result<AgentClient> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
        Ok(AgentClient::new(
            &self.url,
            &read(&self.ca)?,
            &read(&self.certificate)?,
            &read(&self.key)?,
        )?)
    }
}

/// Writes to standard output; whoever reads there may have heard enough.
fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Does it.
pub async fn vm(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(agent) => say(&table(&agent.client()?.state().await?)),
        Command::Start(start) => {
            let power = OrderCommand::Power {
                state: PowerSwitch::On,
                force: false,
                on_other_disks: start.on_other_disks,
            };
            switch(&start.vm, power).await
        }
        Command::Stop(stop) => {
            let power = OrderCommand::Power {
                state: PowerSwitch::Off,
                force: stop.force,
                on_other_disks: false,
            };
            switch(&stop.vm, power).await
        }
        Command::Console(Console { vm, tail }) => {
            let client = vm.agent.client()?;
            let state = client.state().await?;
            say(&client.console(find(&state, &vm.name)?.uuid, tail).await?)
        }
    }
}

fn find<'a>(state: &'a HostState, name: &str) -> anyhow::Result<&'a VmState> {
    let mut named = state.vms.iter().filter(|vm| vm.name == name);
    match (named.next(), named.next()) {
        (Some(vm), None) => Ok(vm),
        (Some(_), Some(_)) => bail!(
            "host {} knows several VMs named {name}; mend its definitions",
            state.host
        ),
        (None, _) => bail!(
            "host {} knows no VM named {name}; `homeward vm list` shows those it knows",
            state.host
        ),
    }
}

async fn switch(vm: &Named, command: OrderCommand) -> anyhow::Result<()> {
    let client = vm.agent.client()?;
    let state = client.state().await?;
    let seen = find(&state, &vm.name)?;
    let Some(register) = &seen.register else {
        bail!("{}", no_register(&state.host, seen));
    };
    let order = Order {
        vm: seen.uuid,
        epoch: register.epoch,
        step: register.step + 1,
        claim: None,
        failover: None,
        command,
    };
    let answer = client.order(seen.uuid, &order).await?;
    match answer.operation.state {
        OperationState::Succeeded => println!("{}: done", vm.name),
        OperationState::Running => println!(
            "{}: under way; `homeward vm list` shows when it is done",
            vm.name
        ),
        OperationState::Failed | OperationState::Interrupted => {
            let why = answer
                .operation
                .error
                .map_or_else(|| "it was interrupted".to_owned(), |error| error.message);
            bail!("{}: {why}", vm.name);
        }
    }
    Ok(())
}

/// Why a VM without a register is not switched. A guest that runs all the same is to be ended by whoever finds it, and so its process is named.
fn no_register(host: &str, vm: &VmState) -> String {
    let why = if is_damaged(vm) {
        format!(
            "the register of {} on {host} cannot be read, and the VM may not run there before: see the runbook on contradicting registers",
            vm.name
        )
    } else {
        format!(
            "{} has no register on {host}: a VM that was never taken on may not run (make a ProtectedVirtualMachine for it first); where a register was lost, see the runbook on contradicting registers",
            vm.name
        )
    };
    match &vm.power_reason {
        Some(reason) => format!("{why}. Its power is {:?}: {reason}", vm.power),
        None => why,
    }
}

/// A register that is there and cannot be read: it is to be mended, not made anew.
fn is_damaged(vm: &VmState) -> bool {
    let of_register = |problem: &Problem| problem.kind == ProblemKind::Register;
    vm.problems.iter().any(of_register)
}

fn table(state: &HostState) -> String {
    let mut rows = vec![["NAME", "POWER", "MAY RUN", "EPOCH", "UUID"].map(ToOwned::to_owned)];
    rows.extend(state.vms.iter().map(|vm| {
        let (role, epoch) = match &vm.register {
            Some(register) => (format!("{:?}", register.role), register.epoch.to_string()),
            None if is_damaged(vm) => ("unreadable".to_owned(), "-".to_owned()),
            None => ("no register".to_owned(), "-".to_owned()),
        };
        [
            vm.name.clone(),
            format!("{:?}", vm.power),
            role,
            epoch,
            vm.uuid.to_string(),
        ]
    }));
    let widths: Vec<usize> = (0..5)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text: String = rows
        .iter()
        .map(|row| {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", line.join("  ").trim_end())
        })
        .collect();
    let mut remark = |name: &str, words: &str| text += &format!("\n{name}: {words}\n");
    for problem in &state.problems {
        remark(&state.host, &problem.message);
    }
    for vm in &state.vms {
        if let Some(why) = &vm.power_reason {
            remark(&vm.name, &format!("power {:?}: {why}", vm.power));
        }
        for problem in &vm.problems {
            remark(&vm.name, &problem.message);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::api::Power;

    fn state(problems: &serde_json::Value) -> HostState {
        let vm = json!({
            "uuid": "6b0c3f0e-7d7e-4b43-9a53-30d1e43a1c11", "name": "web", "power": "Off", "disks": [],
            "content": {"kind": "Unknown"}, "problems": problems,
        });
        serde_json::from_value(json!({
            "host": "hv01", "site": "OnPremises", "version": "0", "bootId": "b",
            "startedAt": "2026-01-01T00:00:00Z", "now": "2026-01-01T00:00:00Z", "dataAddress": "h:1",
            "freeBytes": 0, "networks": [],
            "found": {"rebooted": false, "running": [], "started": [], "interrupted": [], "openJournals": []},
            "vms": [vm],
        }))
        .unwrap()
    }

    #[test]
    fn a_register_that_cannot_be_read_is_not_called_missing() {
        let none = table(&state(&json!([])));
        assert!(none.contains("no register"), "{none}");
        let problems = json!([{"kind": "Register", "message": "its checksum is wrong"}]);
        let damaged = table(&state(&problems));
        assert!(damaged.contains("unreadable"), "{damaged}");
        assert!(!damaged.contains("no register"), "{damaged}");
        assert!(damaged.contains("web: its checksum is wrong"), "{damaged}");
    }

    #[test]
    fn a_power_that_is_not_known_is_shown_with_its_reason() {
        let mut silent = state(&json!([]));
        silent.vms[0].power = Power::Unknown;
        silent.vms[0].power_reason = Some("process 42 runs it".to_owned());
        let refused = no_register("hv01", &silent.vms[0]);
        assert!(
            refused.ends_with("Its power is Unknown: process 42 runs it"),
            "{refused}"
        );
        let text = table(&silent);
        assert!(
            text.contains("web: power Unknown: process 42 runs it"),
            "{text}"
        );
    }
}
