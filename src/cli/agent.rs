//! `homeward agent`: the process beside a hypervisor.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::stop_on_signal;
use crate::agent;
use crate::agent::config::Config;
use crate::telemetry::{self, LogFormat};

/// What `homeward agent` takes; the rest stands in the file.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The agent's configuration (YAML).
    #[arg(long, env = "HOMEWARD_AGENT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// How log lines look: text or json.
    #[arg(long, env = "HOMEWARD_LOG_FORMAT", default_value = "text", value_parser = super::log_format)]
    log_format: LogFormat,
    /// Which log lines are written, for example `info` or `info,homeward=debug`.
    #[arg(long, env = "HOMEWARD_LOG", default_value = "info")]
    log: String,
}

/// Runs the agent until it is told to stop. Guests go on running after it.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    telemetry::start_log(arguments.log_format, &arguments.log)?;
    let config = Config::read(&arguments.config)?;
    let hypervisor = agent::hypervisor(&config)?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    agent::run(config, hypervisor, stop).await?;
    tracing::info!("ended as asked");
    Ok(())
}
