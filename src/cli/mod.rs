//! The command line: arguments, the configuration that follows from them, and the subcommands. The only place that picks concrete
//! drivers.

mod agent;
mod crds;
mod drivers;
mod pki;
mod run;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry::LogFormat;

pub use crds::files as crd_files;

/// Brings virtual machines to the site that their resources name, on-premises or in Azure, and keeps them protected.
#[derive(Debug, Parser)]
#[command(name = "homeward", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints, writes or checks the CustomResourceDefinitions.
    Crds(crds::Arguments),
    /// Runs the operator.
    Run(Box<run::Arguments>),
    /// Runs the agent of one host, beside its hypervisor.
    Agent(agent::Arguments),
    /// Makes a certificate authority and certificates.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Asks one agent for its VMs, or to switch one on or off.
    #[command(subcommand)]
    Vm(vm::Command),
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Crds(arguments) => crds::crds(&arguments),
        Command::Run(arguments) => block_on(run::run(*arguments)),
        Command::Agent(arguments) => block_on(agent::run(arguments)),
        Command::Pki(command) => pki::pki(&command),
        Command::Vm(command) => block_on(vm::vm(command)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homeward: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How long threads that block are waited for at the end.
const LET_GO: std::time::Duration = std::time::Duration::from_secs(3);

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    // A thread that waits for a peer or a disk must not keep the process: whatever it has not synced does not count (S12).
    runtime.shutdown_timeout(LET_GO);
    done
}

fn log_format(word: &str) -> Result<LogFormat, String> {
    match word {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".into()),
    }
}

/// Cancels `stop` at SIGTERM or SIGINT.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stops: takes up nothing new and lets what is under way end");
        stop.cancel();
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    /// The lines of our own documents that begin a command of this program, continuations joined and remarks taken off.
    fn commands_in(text: &str) -> Vec<String> {
        let joined = text.replace("\\\n", " ");
        let begins = |line: &str| {
            let line = line.trim_start_matches('#').trim();
            let command = line
                .strip_prefix("ExecStart=/usr/local/bin/")
                .unwrap_or(line);
            let words = command.split(" #").next().unwrap_or_default().trim();
            words.starts_with("homeward ").then(|| words.to_owned())
        };
        joined.lines().filter_map(begins).collect()
    }

    #[test]
    fn the_commands_in_the_documents_are_those_that_there_are() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut waiting = ["README.md", "docs", "examples", "deploy"]
            .map(|at| root.join(at))
            .to_vec();
        let mut checked = 0;
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            for command in commands_in(&std::fs::read_to_string(&path).unwrap()) {
                let parsed = Arguments::try_parse_from(command.split_whitespace());
                assert!(
                    parsed.is_ok(),
                    "{}: {command}: {}",
                    path.display(),
                    parsed.unwrap_err()
                );
                checked += 1;
            }
        }
        assert!(checked >= 8, "{checked}");
    }

    #[test]
    fn every_value_has_help_and_options_tell_their_default() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(
                    argument.get_help().is_some(),
                    "{} {id} has no help",
                    command.get_name()
                );
            }
            for child in command.get_subcommands() {
                check(child);
            }
        }
        check(&Arguments::command());
    }
}
