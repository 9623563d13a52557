//! The emulator as a program.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use homeward_asr_emulator::{Emulator, FabricKind, Options, Seed, Settings, Time};

#[derive(Clone, Copy, ValueEnum)]
enum Fabric {
    /// Hosts with a provider each.
    #[value(name = "HyperVSite", alias = "hypervsite")]
    HyperVSite,
    /// A management server with the only provider.
    #[value(name = "VMM", alias = "vmm")]
    Vmm,
}

/// An emulator of the Azure Site Recovery REST service for Hyper-V.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 takes any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The state file; a restart goes on from it.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Where to write the certificate of the emulator's CA.
    #[arg(long)]
    ca_out: Option<PathBuf>,
    /// What the vault holds at first, as JSON.
    #[arg(long, conflicts_with_all = ["vms", "fabric"])]
    seed_file: Option<PathBuf>,
    /// How the service behaves, as JSON.
    #[arg(long)]
    settings_file: Option<PathBuf>,
    /// Protected VMs of a made-up vault.
    #[arg(long, default_value_t = 3)]
    vms: usize,
    /// The kind of its fabric.
    #[arg(long, value_enum, default_value_t = Fabric::HyperVSite)]
    fabric: Fabric,
    /// How many times as fast as the world's time passes.
    #[arg(long, default_value_t = 1, conflicts_with = "manual_time")]
    speed: u32,
    /// Time stands still until `POST /_emulator/time` moves it.
    #[arg(long)]
    manual_time: bool,
    /// A further name or address in the certificate; may be given again.
    #[arg(long = "name")]
    names: Vec<String>,
}

fn json<T: serde::de::DeserializeOwned>(path: &PathBuf) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let arguments = Arguments::parse();
    let seed: Seed = match &arguments.seed_file {
        Some(path) => json(path)?,
        None => {
            let kind = match arguments.fabric {
                Fabric::HyperVSite => FabricKind::HyperVSite,
                Fabric::Vmm => FabricKind::Vmm,
            };
            Seed::of(kind, arguments.vms)
        }
    };
    let settings: Settings = match &arguments.settings_file {
        Some(path) => json(path)?,
        None => Settings::default(),
    };
    let emulator = Emulator::start(Options {
        listen: arguments.listen,
        seed,
        settings,
        time: if arguments.manual_time {
            Time::Manual { start: None }
        } else {
            Time::Real {
                speed: arguments.speed,
            }
        },
        state: arguments.state,
        ca_out: arguments.ca_out,
        names: arguments.names,
    })
    .await?;
    println!("listening on {}", emulator.url);
    println!("vault {}", emulator.vault_url());
    let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = ended.recv() => {}
    }
    Ok(())
}
