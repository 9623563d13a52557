//! The agent's life: finds what is there, carries on, serves until it is told to end.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::api::Power;
use super::config::{Accelerator, Cache, Config};
use super::definitions::Definitions;
use super::failpoint::Failpoints;
use super::host::{Host, Vm, lock};
use super::hypervisor::Hypervisor;
use super::hypervisor::qemu::{self, Qemu, QemuConfig};
use super::store::Store;
use super::tls::Identity;
use super::{console, keep_running, last_disks, orders, receive, replication, server, stray};

/// The hypervisor that a configuration names: QEMU.
///
/// # Errors
/// When its settings would break a safety rule, or its folders cannot be made.
pub fn hypervisor(config: &Config) -> anyhow::Result<Arc<dyn Hypervisor>> {
    let settings = &config.hypervisor.qemu;
    // Short: a Unix socket's path has at most 107 bytes.
    let mut qemu = QemuConfig::new(
        config.state_dir.join("guests"),
        config.storage_dir.join("scratch"),
    );
    for folder in [&qemu.state_dir, &qemu.scratch_dir] {
        fs::create_dir_all(folder)
            .map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))?;
    }
    qemu.binary.clone_from(&settings.binary);
    qemu.accelerator = match settings.accelerator {
        Accelerator::Kvm => qemu::Accelerator::Kvm,
        Accelerator::Tcg => qemu::Accelerator::Tcg,
    };
    qemu.cache = match settings.cache {
        Cache::Writeback => qemu::CacheMode::Writeback,
        Cache::None => qemu::CacheMode::None,
    };
    let netdev = |name: &String| {
        (
            name.clone(),
            settings
                .netdevs
                .get(name)
                .map_or("user", String::as_str)
                .to_owned(),
        )
    };
    qemu.networks = config.networks.iter().map(netdev).collect();
    qemu.extra_arguments.clone_from(&settings.extra_arguments);
    Ok(Arc::new(Qemu::new(qemu)?))
}

/// How long the agent looks at what is there before it serves. Guests that are silent, or whose disks hang, are looked at on.
const LOOK: Duration = Duration::from_secs(10);

/// Runs the agent of one host until `shutdown` is cancelled. Guests go on running after it.
///
/// # Errors
/// When it cannot begin: files, certificates or addresses that cannot be used. Each error says which and what to do.
pub async fn run(
    config: Config,
    hypervisor: Arc<dyn Hypervisor>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    run_with(config, hypervisor, shutdown, Failpoints::default()).await
}

/// As [`run`], with places at which a test lets it die.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    hypervisor: Arc<dyn Hypervisor>,
    shutdown: CancellationToken,
    failpoints: Failpoints,
) -> anyhow::Result<()> {
    config
        .check()
        .map_err(|wrong| anyhow::anyhow!("configuration: {wrong}"))?;
    for (field, folder) in [
        ("stateDir", &config.state_dir),
        ("storageDir", &config.storage_dir),
    ] {
        fs::create_dir_all(folder)
            .map_err(|error| anyhow::anyhow!("{field} {}: {error}", folder.display()))?;
    }
    let identity = Identity::load(&config.tls, &config.host)?;
    let store = Store::open(&config.state_dir)?;
    let definitions = Definitions::open(&config, &store)?;
    let boot_id = fs::read_to_string(&config.boot_id_file)
        .map_err(|error| anyhow::anyhow!("bootIdFile {}: {error}", config.boot_id_file.display()))?
        .trim()
        .to_owned();
    let control = server::bind(config.control.listen).await?;
    let data = receive::listen(config.data.listen)?;
    let host = Arc::new(Host::new(
        config,
        hypervisor,
        store,
        definitions,
        identity,
        boot_id,
        failpoints,
        shutdown,
    )?);
    tracing::info!(host = %host.config.host, site = %host.config.site, boot_id = %host.boot_id, control = %host.config.control.listen, data = %host.config.data.listen, "agent started");
    find(&host).await;
    tokio::spawn(console::keep_short(Arc::clone(&host)));
    let serving = tokio::try_join!(
        server::serve(Arc::clone(&host), control),
        receive::serve(Arc::clone(&host), data)
    );
    end(&host).await;
    tracing::info!(host = %host.config.host, "agent ended; guests go on");
    serving.map(|_| ())
}

/// What is there, and what goes on by itself.
async fn find(host: &Arc<Host>) {
    let looking: Vec<_> = host
        .vms()
        .into_iter()
        .map(|vm| {
            let host = Arc::clone(host);
            tokio::spawn(async move {
                // Orders for this VM wait; those for the others do not wait for this one.
                let _turn = vm.turn.lock().await;
                found_one(&host, &vm).await;
                replication::ensure(&host, &vm);
            })
        })
        .collect();
    let (all, looked) = (looking.len(), futures::future::join_all(looking));
    if tokio::time::timeout(LOOK, looked).await.is_err() {
        tracing::warn!(
            vms = all,
            seconds = LOOK.as_secs(),
            "some guests or their disks have not answered yet; the others are served, these when they answer"
        );
    }
    match stray::look(host, LOOK).await {
        Ok(strays) => {
            for guest in &strays {
                tracing::error!(vm = %guest.uuid, pid = guest.pid, problem = %stray::problem(guest).message, "a guest runs that this host does not know");
            }
        }
        Err(problem) => tracing::error!(problem = %problem.message, "processes"),
    }
    let found = lock(&host.found).clone();
    tracing::info!(
        rebooted = found.rebooted,
        running = found.running.len(),
        started = found.started.len(),
        interrupted = found.interrupted.len(),
        open_journals = found.open_journals.len(),
        "found"
    );
}

async fn found_one(host: &Arc<Host>, vm: &Arc<Vm>) {
    let found = &host.found;
    replication::recover(host, vm, &host.process(vm.uuid)).await;
    if orders::interrupt(host, vm).await {
        lock(found).interrupted.push(vm.uuid);
    }
    let Some(register) = vm.register() else {
        return;
    };
    let defined = host.definitions.get(vm.uuid).is_some();
    if defined {
        match host.volume(vm).await {
            Ok(volume) if volume.content().kind == super::api::ContentKind::Partial => {
                lock(found).open_journals.push(vm.uuid);
            }
            Ok(_) => {}
            Err(failed) => {
                tracing::error!(vm = %vm.uuid, error = %failed.message, "the VM's disks cannot be opened");
            }
        }
    }
    let rebooted = register.boot_id != host.boot_id;
    lock(found).rebooted |= rebooted;
    let (power, _) = host.power(vm.uuid).await;
    if matches!(power, Power::Running | Power::Paused) {
        lock(found).running.push(vm.uuid);
        tracing::info!(vm = %vm.uuid, epoch = register.epoch, step = register.step, role = %register.role, "guest found running");
        if orders::runs_without_right(vm) {
            tracing::error!(vm = %vm.uuid, role = %register.role, "the guest runs though this host has no right to run it");
        }
    }
    if let Err(failed) = last_disks::found(host, vm).await {
        tracing::warn!(vm = %vm.uuid, error = %failed.message, "which disks the guest has could not be written down; the next pass tries again");
    }
    // Also without a definition: what follows from the reboot is then owed until there is one.
    if rebooted && keep_running::after_reboot(host, vm).await {
        lock(found).started.push(vm.uuid);
    }
    if (!rebooted || !defined) && orders::owes_a_start(vm) {
        keep_running::until_it_runs(
            host,
            vm,
            "the agent ended before the guest that it was starting had come up; it is tried again",
        );
    }
}

/// Lets go: passes and orders are cut short, and say so in the registers.
async fn end(host: &Arc<Host>) {
    host.shutdown.cancel();
    let wait = async {
        for vm in host.vms() {
            let running = lock(&vm.running).clone();
            if let Some(running) = running {
                running.ended.wait().await;
            }
            // Whoever sends to this host finds the door closed, and comes again when the next agent opens it.
            let volume = vm.volume.lock().await.clone();
            if let Some(volume) = volume {
                let _closed = tokio::task::spawn_blocking(move || volume.gate.close_all()).await;
            }
            drop(vm.replication.quiet().await);
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .is_err()
    {
        tracing::warn!("an order or a pass did not let go in time; it will be found interrupted");
    }
}
