//! `homeward vm`: what a person does with the VMs of one host, through its agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use crate::agent::api::{
    Command as OrderCommand, HostState, Operation, OperationState, Order, PowerSwitch, VmState,
};
use crate::agent::client::AgentClient;

/// How often an order under way is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What `homeward vm` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Address of the agent, for example https://hv01.example.com:7443.
    #[arg(long, env = "HOMEWARD_AGENT_URL")]
    url: String,
    /// Certificates of the authorities that the agent's certificate must come from, as PEM.
    #[arg(long, env = "HOMEWARD_CA", value_name = "FILE")]
    ca: PathBuf,
    /// Own certificate, as PEM.
    #[arg(long, env = "HOMEWARD_CERTIFICATE", value_name = "FILE")]
    certificate: PathBuf,
    /// Key of the own certificate, as PEM.
    #[arg(long, env = "HOMEWARD_KEY", value_name = "FILE")]
    key: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the VMs of the host: whether they run and what its register says.
    List,
    /// Starts a VM that this host has the right to run.
    Start {
        /// Name or UUID of the VM.
        vm: String,
    },
    /// Shuts a VM down.
    Stop {
        /// Name or UUID of the VM.
        vm: String,
        /// Pull the plug instead of asking the guest.
        #[arg(long)]
        force: bool,
    },
    /// Prints the end of a VM's console.
    Console {
        /// Name or UUID of the VM.
        vm: String,
        /// How many bytes.
        #[arg(long, default_value_t = 16384)]
        tail: u64,
    },
}

/// Does what the arguments say.
pub async fn vm(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        url,
        ca,
        certificate,
        key,
        command,
    } = arguments;
    let client = AgentClient::new(&url, &read(&ca)?, &read(&certificate)?, &read(&key)?)?;
    let state = client.state().await?;
    match command {
        Command::List => {
            print!("{}", table(&state));
            Ok(())
        }
        Command::Start { vm } => switch(&client, find(&state, &vm)?, PowerSwitch::On, false).await,
        Command::Stop { vm, force } => {
            switch(&client, find(&state, &vm)?, PowerSwitch::Off, force).await
        }
        Command::Console { vm, tail } => {
            print!("{}", client.console(find(&state, &vm)?.uuid, tail).await?);
            Ok(())
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn find<'a>(state: &'a HostState, name: &str) -> anyhow::Result<&'a VmState> {
    let mut found = state
        .vms
        .iter()
        .filter(|vm| vm.name == name || vm.uuid.to_string() == name);
    match (found.next(), found.next()) {
        (Some(vm), None) => Ok(vm),
        (Some(_), Some(_)) => bail!("{} has several VMs named {name}: give the UUID", state.host),
        (None, _) => bail!("{} knows no VM {name}", state.host),
    }
}

/// One line a VM.
fn table(state: &HostState) -> String {
    let mut lines = vec![[
        "NAME".to_owned(),
        "UUID".into(),
        "POWER".into(),
        "ROLE".into(),
        "EPOCH".into(),
        "CLAIMED".into(),
    ]];
    for vm in &state.vms {
        let of_register = |text: fn(&crate::agent::api::Register) -> String| {
            vm.register.as_ref().map_or_else(|| "-".to_owned(), text)
        };
        lines.push([
            vm.name.clone(),
            vm.uuid.to_string(),
            format!("{:?}", vm.power),
            of_register(|register| format!("{:?}", register.role)),
            of_register(|register| format!("{}.{}", register.epoch, register.step)),
            of_register(|register| {
                if register.claim.is_some() {
                    "yes"
                } else {
                    "no"
                }
                .into()
            }),
        ]);
    }
    let mut widths = [0; 6];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

async fn switch(
    client: &AgentClient,
    vm: &VmState,
    state: PowerSwitch,
    force: bool,
) -> anyhow::Result<()> {
    let Some(register) = &vm.register else {
        bail!(
            "{} has no register on this host, so nothing may start or stop it here: apply a ProtectedVirtualMachine for it first",
            vm.name
        );
    };
    let order = Order {
        vm: vm.uuid,
        epoch: register.epoch,
        step: register.step + 1,
        claim: None,
        failover: None,
        command: OrderCommand::Power { state, force },
    };
    let mut operation = client.order(vm.uuid, &order).await?.operation;
    loop {
        match operation.state {
            OperationState::Succeeded => {
                println!("{}: done", vm.name);
                return Ok(());
            }
            OperationState::Failed | OperationState::Interrupted => {
                let why = operation
                    .error
                    .map_or_else(|| "it was cut short".to_owned(), |error| error.message);
                bail!("{}: {why}", vm.name);
            }
            OperationState::Running => {
                tokio::time::sleep(LOOK).await;
                operation = newest(&client.state().await?, vm, &order)?;
            }
        }
    }
}

fn newest(state: &HostState, vm: &VmState, order: &Order) -> anyhow::Result<Operation> {
    find(state, &vm.uuid.to_string())?
        .operation
        .clone()
        .filter(|operation| (operation.epoch, operation.step) == (order.epoch, order.step))
        .with_context(|| {
            format!(
                "{}: another order came in between; look at it with `homeward vm list`",
                vm.name
            )
        })
}
