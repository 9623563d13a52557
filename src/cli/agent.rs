//! `homeward agent`: the process beside a hypervisor.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::agent::{self, config::Config};
use crate::telemetry::{self, LogFormat};

/// What `homeward agent` takes. All else stands in its configuration.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration of this host's agent.
    #[arg(long, env = "HOMEWARD_AGENT_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// How log lines look: text or json.
    #[arg(long, env = "HOMEWARD_LOG_FORMAT", default_value = "text", value_parser = super::run::log_format)]
    log_format: LogFormat,
    /// Which log lines are written, for example `info` or `info,homeward=debug`.
    #[arg(long, env = "HOMEWARD_LOG", default_value = "info")]
    log: String,
}

/// Runs the agent until it is told to stop; guests go on.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments {
        config,
        log_format,
        log,
    } = arguments;
    telemetry::start_log(log_format, &log)?;
    let config = Config::read(&config)?;
    let hypervisor = agent::hypervisor(&config)?;
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone())?;
    agent::run(config, hypervisor, shutdown).await
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
