use std::path::Path;

use homeward::agent::hypervisor::GuestDisk;

use super::*;
use crate::{
    guest_image::{ConsoleLine, console_lines, highest_acknowledged},
    records::read_disks,
    tools::{self, Tool},
};

const DEADLINE: Duration = Duration::from_secs(20);

fn guest(folder: &Path) -> GuestDefinition {
    let disks = ["a", "b"].map(|id| {
        let path = folder.join(format!("{id}.raw"));
        let file = fs::File::create_new(&path).unwrap();
        file.set_len(2 << 20).unwrap();
        GuestDisk {
            id: id.to_owned(),
            path,
        }
    });
    GuestDefinition {
        uuid: Uuid::new_v4(),
        name: "web".into(),
        cpus: 1,
        memory_mib: 1,
        disks: disks.into(),
        networks: Vec::new(),
        boot: GuestBoot::Kernel {
            kernel: "/nowhere".into(),
            initramfs: None,
            command_line: "homeward.vm=web homeward.site={site} homeward.records_per_second=200"
                .into(),
        },
    }
}

/// Ends the guest when a test fails.
struct Guard(String);

impl Guard {
    fn of(hypervisor: &ProcessHypervisor, guest: &GuestDefinition) -> Self {
        Self(hypervisor.mark(guest.uuid))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for process in processes::with_environment(&self.0).unwrap_or_default() {
            process.signal(Signal::KILL);
        }
    }
}

fn hypervisor(folder: &Path) -> ProcessHypervisor {
    ProcessHypervisor::new(folder.join("guests"), tools::find(Tool::Recorder).unwrap())
}

fn spec() -> StartSpec {
    StartSpec {
        site: "OnPremises".into(),
        host: "hv01".into(),
        generation: Some(Uuid::new_v4()),
    }
}

async fn until_record(hypervisor: &ProcessHypervisor, guest: &GuestDefinition, number: u64) {
    let deadline = Instant::now() + DEADLINE;
    while highest_acknowledged(&said(hypervisor, guest)) < number {
        assert!(Instant::now() < deadline, "{}", said(hypervisor, guest));
        sleep(LOOK_AGAIN).await;
    }
}

fn said(hypervisor: &ProcessHypervisor, guest: &GuestDefinition) -> String {
    fs::read_to_string(hypervisor.console(guest)).unwrap_or_default()
}

#[tokio::test]
async fn a_guest_outlives_its_hypervisor_and_is_stopped_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(folder.path());
    let first = hypervisor(folder.path());
    let _guard = Guard::of(&first, &guest);
    first.check(&guest).unwrap();
    assert_eq!(first.power(&guest).await, GuestPower::Gone);
    first.start(&guest, &spec()).await.unwrap();
    assert!(matches!(
        first.start(&guest, &spec()).await,
        Err(HypervisorError::WrongPower { .. })
    ));
    until_record(&first, &guest, 5).await;

    // As if the agent had died before it noted which process it is.
    first.write_note(guest.uuid, Note::default()).unwrap();
    let second = hypervisor(folder.path());
    let found = second.recover(&guest).await.unwrap();
    assert_eq!(found.power, GuestPower::Running);
    assert!(second.quit(&guest).await.is_err());
    assert_eq!(
        second.power_down(&guest, DEADLINE).await.unwrap(),
        Stopped::Gone
    );
    second.quit(&guest).await.unwrap();
    assert_eq!(second.power(&guest).await, GuestPower::Gone);
    let lines = console_lines(&said(&second, &guest));
    assert!(
        matches!(lines.last(), Some(ConsoleLine::Stopped { .. })),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_point_in_time_is_one_over_all_disks() {
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(folder.path());
    let hypervisor = hypervisor(folder.path());
    let _guard = Guard::of(&hypervisor, &guest);
    hypervisor.start(&guest, &spec()).await.unwrap();
    until_record(&hypervisor, &guest, 20).await;
    let point = hypervisor
        .begin_point(&guest, None, Uuid::new_v4())
        .await
        .unwrap();
    assert!(
        hypervisor
            .begin_point(&guest, None, Uuid::new_v4())
            .await
            .is_err()
    );
    assert_eq!(hypervisor.power(&guest).await, GuestPower::Running);
    let copies: Vec<_> = point
        .disks
        .into_iter()
        .map(|mut disk| {
            let mut bytes = vec![0; usize::try_from(disk.size).unwrap()];
            disk.source.read_at(0, &mut bytes).unwrap();
            let path = folder.path().join(format!("{}.copy", disk.id));
            fs::write(&path, bytes).unwrap();
            path
        })
        .collect();
    let report = read_disks(&copies).unwrap();
    report.ensure_consistent().unwrap();
    assert!(report.last >= 20);
    until_record(&hypervisor, &guest, report.last + 5).await;

    // A dead agent leaves the point and a stopped guest; the next one clears both.
    hypervisor
        .process(guest.uuid)
        .unwrap()
        .unwrap()
        .signal(Signal::STOP);
    while hypervisor.power(&guest).await == GuestPower::Running {
        sleep(LOOK_AGAIN).await;
    }
    let recovered = hypervisor.recover(&guest).await.unwrap();
    assert_eq!(
        (recovered.power, recovered.mended.len()),
        (GuestPower::Running, 2)
    );
    assert_eq!(hypervisor.power_off(&guest).await.unwrap(), Stopped::Gone);
    read_disks(
        &guest
            .disks
            .iter()
            .map(|disk| disk.path.clone())
            .collect::<Vec<_>>(),
    )
    .unwrap()
    .ensure_consistent()
    .unwrap();
}

#[tokio::test]
async fn a_deaf_guest_is_reported_and_left_running() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = guest(folder.path());
    if let GuestBoot::Kernel { command_line, .. } = &mut guest.boot {
        command_line.push_str(" homeward.ignore_power_button=1");
    }
    let hypervisor = hypervisor(folder.path());
    let _guard = Guard::of(&hypervisor, &guest);
    hypervisor.start(&guest, &spec()).await.unwrap();
    let answer = hypervisor
        .power_down(&guest, Duration::from_millis(200))
        .await;
    assert!(matches!(answer, Err(HypervisorError::Deadline { .. })));
    assert_eq!(hypervisor.power(&guest).await, GuestPower::Running);
    hypervisor.power_off(&guest).await.unwrap();
}
