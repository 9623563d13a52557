//! The same agents with real guests: QEMU under TCG and the recorder guest. Needs `tools/setup guest`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use homeward::agent::api::{
    CandidatesUsed, Command, DeliverMode, ManifestSource, OrderResult, Power, PowerSwitch,
};
use homeward::agent::hypervisor::{GuestBoot, GuestDefinition};
use homeward_playground::guest_image::{GuestImage, GuestSettings, highest_acknowledged};
use homeward_playground::records::{Report, read_disks};
use homeward_playground::tools;

use crate::site::{Host, Sites, VM};

/// Ends the guests of a test, also of one that failed.
struct Guests(Vec<PathBuf>);

impl Drop for Guests {
    fn drop(&mut self) {
        let configs = std::mem::take(&mut self.0);
        let ending = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            for path in configs {
                let config = homeward::agent::config::Config::read(&path).unwrap();
                let hypervisor = homeward::agent::hypervisor(&config).unwrap();
                let guest = GuestDefinition {
                    uuid: VM,
                    name: "app".into(),
                    cpus: 1,
                    memory_mib: 256,
                    disks: vec![],
                    networks: vec![],
                    boot: GuestBoot::Disk { firmware: None },
                };
                let _ = runtime.block_on(hypervisor.power_off(&guest));
                let _ = runtime.block_on(hypervisor.quit(&guest));
            }
        });
        let _ = ending.join();
    }
}

fn real() -> (Sites, Guests) {
    let mut sites = Sites::prepare();
    let image = GuestImage::find().unwrap();
    let mut settings = GuestSettings::new("app", "OnPremises");
    settings.records_per_second = 50;
    settings.dirty_kib_per_second = 256;
    settings.ring_kib = Some(4096);
    for disk in ["root", "data"] {
        let file = fs::File::create(sites.path(&sites.hv, disk)).unwrap();
        file.set_len(24 << 20).unwrap();
    }
    let command_line = settings
        .kernel_command_line()
        .replace("homeward.site=OnPremises", "homeward.site={site}");
    let path = sites.hv.folder.join("definitions/app.yaml");
    let boot = format!(
        "boot: {{ from: kernel, kernel: '{}', initramfs: '{}', commandLine: {command_line:?} }}",
        image.kernel.display(),
        image.initramfs.display()
    );
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.replace("boot: { from: disk }", &boot)
            .replace("memoryMiB: 64", "memoryMiB: 256"),
    )
    .unwrap();
    let qemu = tools::find_qemu().unwrap().display().to_string();
    let mut configs = Vec::new();
    for host in [&mut sites.hv, &mut sites.az] {
        let settings = format!(
            "hypervisor: {{ qemu: {{ binary: '{qemu}', accelerator: tcg, netdevs: {{ lan: 'user,restrict=on' }}, shutdownDeadlineSeconds: 120 }} }}"
        );
        host.change_config(
            "hypervisor: { qemu: { shutdownDeadlineSeconds: 1 } }",
            &settings,
        );
        host.qemu = true;
        configs.push(host.folder.join("agent.yaml"));
        host.start();
    }
    (sites, Guests(configs))
}

/// Waits until the guest has acknowledged so many records on this host's console.
async fn acknowledged(host: &Host, least: u64) -> u64 {
    let began = Instant::now();
    loop {
        let seen = highest_acknowledged(&host.client().console(VM, 1 << 20).await.unwrap());
        if seen >= least {
            return seen;
        }
        assert!(
            began.elapsed() < Duration::from_mins(3),
            "{}: {seen} of {least} records",
            host.name
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the guest wrote, read from the disks; it counts its disks by their ids in order.
fn records(sites: &Sites, host: &Host) -> Report {
    let report = read_disks(&[sites.path(host, "data"), sites.path(host, "root")]).unwrap();
    report.ensure_consistent().unwrap();
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_to_s17_a_real_guest_moves_there_and_back_without_losing_a_write() {
    let (mut sites, _guests) = real();
    sites.protect().await;
    acknowledged(&sites.hv, 20).await;
    let pass = sites.replicate(&sites.hv, &sites.az, 1).await;
    assert_eq!(
        pass.candidates,
        CandidatesUsed::Ranges,
        "{}",
        pass.candidates_reason
    );
    records(&sites, &sites.az);

    let record = sites.stop(&sites.hv, &sites.az, 2).await;
    assert_eq!(record.manifest, ManifestSource::CarriedOver);
    let before = acknowledged(&sites.hv, 20).await;
    let deliver = |to: &Host| Command::Deliver {
        peer: to.address(),
        mode: DeliverMode::Delta,
    };
    let delivered = sites.hv.ok(sites.order(2, deliver(&sites.az))).await;
    let OrderResult::Delivered { pass } = delivered else {
        panic!("{delivered:?}")
    };
    assert_eq!(
        pass.candidates,
        CandidatesUsed::Ranges,
        "{}",
        pass.candidates_reason
    );
    sites.same_disks();
    assert!(records(&sites, &sites.az).gaps().is_empty());

    sites
        .az
        .ok(sites.order(2, Command::Start { stop: record }))
        .await;
    acknowledged(&sites.az, before + 10).await;
    // The guest outlives its agent.
    sites.az.kill();
    sites.az.start();
    assert_eq!(sites.az.vm().await.power, Power::Running);
    let committed = sites.az.ok(sites.order(2, Command::Commit {})).await;
    let OrderResult::Committed { record: commit } = committed else {
        panic!("{committed:?}")
    };
    sites
        .hv
        .ok(sites.order(2, Command::Retire { commit }))
        .await;
    let reverse = sites.replicate(&sites.az, &sites.hv, 2).await;
    assert_eq!(
        reverse.candidates,
        CandidatesUsed::Ranges,
        "{}",
        reverse.candidates_reason
    );

    let record = sites.stop(&sites.az, &sites.hv, 3).await;
    let before = acknowledged(&sites.az, 30).await;
    sites.az.ok(sites.order(3, deliver(&sites.hv))).await;
    sites.same_disks();
    assert!(records(&sites, &sites.hv).gaps().is_empty());
    sites
        .hv
        .ok(sites.order(3, Command::Start { stop: record }))
        .await;
    acknowledged(&sites.hv, before + 10).await;
    sites.hv.ok(sites.order(3, Command::Commit {})).await;
    sites
        .hv
        .ok(sites.order(
            3,
            Command::Power {
                state: PowerSwitch::Off,
                force: false,
                on_other_disks: false,
            },
        ))
        .await;
    assert!(records(&sites, &sites.hv).gaps().is_empty());
}

/// The whole `stateDir` goes, and the definition with it: only the process is left to tell of the guest.
#[tokio::test(flavor = "multi_thread")]
async fn s03_a_real_guest_that_outlives_all_that_its_host_knew_is_found_by_its_process() {
    let (mut sites, _guests) = real();
    let adopt = sites.order(1, Command::Adopt { takeover: None });
    sites.hv.ok(adopt).await;
    let on = Command::Power {
        state: PowerSwitch::On,
        force: false,
        on_other_disks: false,
    };
    sites.hv.ok(sites.order(1, on)).await;
    sites.hv.end();
    fs::remove_dir_all(sites.hv.folder.join("state")).unwrap();
    fs::remove_file(sites.hv.folder.join("definitions/app.yaml")).unwrap();
    sites.hv.start();
    let state = sites.hv.state().await;
    let [seen] = &state.vms[..] else {
        panic!("{:?}", state.vms)
    };
    assert_eq!((seen.name.as_str(), seen.uuid), ("app", VM));
    assert_eq!(seen.power, Power::Unknown);
    let why = seen.power_reason.as_ref().unwrap();
    let pid = why.split(' ').nth(1).unwrap();
    let told = &state.problems[0].message;
    assert!(told.contains(&format!("process {pid} runs")), "{told}");
    // What people are told to do, where the guest cannot be reached.
    let ended = std::process::Command::new("kill").arg(pid).status();
    assert!(ended.unwrap().success());
    let began = Instant::now();
    while let [seen, ..] = &sites.hv.state().await.vms[..] {
        assert!(began.elapsed() < Duration::from_mins(1), "{seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sites.hv.state().await.problems, []);
}
