//! The command line: arguments, the configuration that follows from them, and the subcommands. The only place that picks concrete
//! drivers.

mod agent;
mod crds;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Runs the agent beside this host's hypervisor.
    Agent(agent::Arguments),
    /// Prints, writes or checks the CustomResourceDefinitions.
    Crds(crds::Arguments),
    /// Runs the operator.
    Run(Box<run::Arguments>),
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Agent(arguments) => block_on(agent::run(arguments)),
        Command::Crds(arguments) => crds::crds(&arguments),
        Command::Run(arguments) => block_on(run::run(*arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homeward: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
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
