//! An agent whose guests are plain processes. Configured as `homeward agent` is, with `--config FILE`; of the `hypervisor`
//! section only the deadline for a shutdown counts.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use clap::Parser;
use homeward::agent::{self, config::Config, failpoint::Failpoints};
use homeward_playground::{
    process_hypervisor::ProcessHypervisor,
    stop_asked,
    tools::{self, Tool},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
struct Arguments {
    /// The agent's configuration.
    #[arg(long)]
    config: PathBuf,
    /// Dies, as if it were killed, at this place between two effects.
    #[arg(long, env = "HOMEWARD_FAILPOINT")]
    failpoint: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let config = Config::read(&arguments.config)?;
    let recorder = tools::find(Tool::Recorder).context("the guests of this agent")?;
    let folder = config.state_dir.join("processes");
    let hypervisor = Arc::new(ProcessHypervisor::new(folder, recorder));
    let shutdown = CancellationToken::new();
    let asked = shutdown.clone();
    tokio::spawn(async move {
        stop_asked().await;
        asked.cancel();
    });
    let failpoints = Failpoints::default();
    if let Some(place) = arguments.failpoint {
        failpoints.arm(&place);
        let failpoints = failpoints.clone();
        tokio::spawn(async move {
            failpoints.reached(&place).await;
            tracing::error!(place, "dies here, as it was told");
            std::process::abort();
        });
    }
    agent::run_with(config, hypervisor, shutdown, failpoints).await
}
