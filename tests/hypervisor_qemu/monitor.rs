//! What a person with access to the host could do: talk to the monitor, send signals, mount a small file system.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

pub struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub fn open(path: &Path) -> Self {
        let mut monitor = Self(BufReader::new(UnixStream::connect(path).unwrap()));
        monitor.line();
        monitor.run("qmp_capabilities", &json!({}));
        monitor
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub fn try_run(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let answer = self.line();
            if let Some(error) = answer.get("error") {
                return Err(error.to_string());
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    pub fn run(&mut self, command: &str, arguments: &Value) -> Value {
        self.try_run(command, arguments).unwrap()
    }
}

pub fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// A small file system in memory, unmounted when dropped.
pub struct SmallArea(PathBuf);

impl SmallArea {
    pub fn mount(at: &Path, size: &str) -> Option<Self> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .status();
        status
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallArea {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A file as a block device, detached when dropped.
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    pub fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(path.trim().into()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}
