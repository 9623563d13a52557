//! The test guest under QEMU: it boots, records, hears the power button, and finds its records again.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use homeward_playground::{
    child::Child,
    guest_image::{ConsoleLine, GuestImage, GuestSettings, console_lines, highest_acknowledged},
    records::{Report, read_disks},
    tools,
};

const LIMIT: Duration = Duration::from_mins(2);

struct Guest {
    qemu: Child,
    console: PathBuf,
    monitor: Monitor,
}

impl Guest {
    fn boot(folder: &Path, settings: &GuestSettings) -> Self {
        let image = GuestImage::find().unwrap();
        let console = folder.join("console.log");
        let socket = folder.join("qmp.sock");
        let mut command = Command::new(tools::find_qemu().unwrap());
        command
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg",
                "-m",
                "256",
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none", "-no-shutdown"])
            .args(["-append", &settings.kernel_command_line()])
            .arg("-kernel")
            .arg(image.kernel)
            .arg("-initrd")
            .arg(image.initramfs)
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ]);
        for (index, disk) in disks(folder).iter().enumerate() {
            command
                .args([
                    "-blockdev",
                    &format!(
                        "driver=raw,node-name=disk{index},file.driver=file,file.filename={}",
                        disk.display()
                    ),
                ])
                .args([
                    "-device",
                    &format!("nvme,drive=disk{index},serial=web-{index}"),
                ]);
        }
        let log = File::create(folder.join("qemu.log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let qemu = Child::spawn(command).unwrap();
        let monitor = Monitor::connect(&socket);
        Self {
            qemu,
            console,
            monitor,
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn wait_for_record(&self, number: u64) {
        let deadline = Instant::now() + LIMIT;
        while highest_acknowledged(&self.said()) < number {
            assert!(
                Instant::now() < deadline,
                "no record {number}: {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn power_down(mut self) -> Vec<ConsoleLine> {
        if let Some(status) = self.qemu.exit_status().unwrap() {
            panic!("QEMU has ended by itself, {status}: {}", self.said());
        }
        self.monitor.execute("system_powerdown");
        self.monitor.wait_for_event("SHUTDOWN");
        self.monitor.execute("quit");
        let deadline = Instant::now() + LIMIT;
        while self.qemu.exit_status().unwrap().is_none() {
            assert!(Instant::now() < deadline, "QEMU does not quit");
            std::thread::sleep(Duration::from_millis(20));
        }
        console_lines(&self.said())
    }
}

/// As much of QMP as this test needs.
struct Monitor {
    reader: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Monitor {
    fn connect(socket: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no QMP socket: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut monitor = Self {
            reader: BufReader::new(stream),
            events: Vec::new(),
        };
        let greeting = monitor.receive();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        monitor.execute("qmp_capabilities");
        monitor
    }

    fn receive(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn execute(&mut self, command: &str) {
        let request = serde_json::json!({"execute": command});
        writeln!(self.reader.get_mut(), "{request}").unwrap();
        loop {
            let message = self.receive();
            match message["event"].as_str() {
                Some(event) => self.events.push(event.to_owned()),
                None => return assert!(message.get("return").is_some(), "{command}: {message}"),
            }
        }
    }

    fn wait_for_event(&mut self, name: &str) {
        while !self.events.iter().any(|event| event == name) {
            let message = self.receive();
            self.events
                .extend(message["event"].as_str().map(str::to_owned));
        }
    }
}

fn disks(folder: &Path) -> [PathBuf; 2] {
    ["a.raw", "b.raw"].map(|name| folder.join(name))
}

fn report(folder: &Path) -> Report {
    let report = read_disks(&disks(folder)).unwrap();
    report.ensure_consistent().unwrap();
    report
}

#[test]
fn a_guest_keeps_its_records_over_a_shutdown_and_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    for disk in disks(folder.path()) {
        File::create_new(disk).unwrap().set_len(32 << 20).unwrap();
    }

    let started = Instant::now();
    let guest = Guest::boot(folder.path(), &GuestSettings::new("web", "OnPremises"));
    guest.wait_for_record(1);
    println!("first record after {:?}", started.elapsed());
    guest.wait_for_record(30);
    let asked = Instant::now();
    let said = guest.power_down();
    println!("off after {:?}", asked.elapsed());
    assert!(
        matches!(
            &said[..2],
            [
                ConsoleLine::Boot { last: 0, .. },
                ConsoleLine::Verified { last: 0 }
            ]
        ),
        "{said:?}"
    );
    let Some(&ConsoleLine::Stopped { last }) = said.last() else {
        panic!("{said:?}")
    };
    let stopped = report(folder.path());
    assert_eq!((stopped.last, stopped.stopped_cleanly()), (last, true));

    // A crash while it writes as fast as it can, beside the records too.
    let mut settings = GuestSettings::new("web", "Azure");
    settings.dirty_kib_per_second = 4096;
    let mut guest = Guest::boot(folder.path(), &settings);
    guest.wait_for_record(last + 30);
    guest.qemu.kill();
    let crashed = report(folder.path());
    let acknowledged = highest_acknowledged(&guest.said());
    assert!(
        (acknowledged..=acknowledged + 1).contains(&crashed.last),
        "{} {acknowledged}",
        crashed.last
    );
    assert!(crashed.scribbles > 0);

    let guest = Guest::boot(folder.path(), &GuestSettings::new("web", "OnPremises"));
    guest.wait_for_record(crashed.last + 5);
    let said = guest.power_down();
    assert_eq!(said[1], ConsoleLine::Verified { last: crashed.last });
    let sites: Vec<String> = report(folder.path())
        .boots
        .into_iter()
        .map(|boot| boot.site)
        .collect();
    assert_eq!(sites, ["OnPremises", "Azure", "OnPremises"]);
}
