//! Whether the processor's virtualisation really works here.
//!
//! A device `/dev/kvm` proves nothing: inside a cloud machine it can be there, accept a guest, and leave it hanging somewhere in
//! its boot. So the test guest is booted, and has to come to its first word.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use crate::{
    child::Child,
    guest_image::{GuestImage, GuestSettings, highest_acknowledged},
    tools,
};

/// Answers the question without a try: `kvm` or `tcg`.
const CHOICE: &str = "HOMEWARD_ACCELERATOR";
/// Under virtualisation the guest has booted well within this time.
const LIMIT: Duration = Duration::from_secs(15);
/// A guest that says nothing new for so long will not go on.
const SILENCE: Duration = Duration::from_millis(2500);

/// Whether guests can run on KVM; by emulation they always can.
///
/// # Errors
///
/// When QEMU or the guest are missing, or `HOMEWARD_ACCELERATOR` holds something else than `kvm` or `tcg`.
pub async fn kvm_works() -> Result<bool> {
    match env::var(CHOICE).as_deref() {
        Ok("kvm") => return Ok(true),
        Ok("tcg") => return Ok(false),
        Ok(other) => bail!("{CHOICE}={other} is neither kvm nor tcg"),
        Err(_) => {}
    }
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    guest_speaks(folder.path()).await
}

async fn guest_speaks(folder: &Path) -> Result<bool> {
    let image = GuestImage::find()?;
    let (console, disk) = (folder.join("console"), folder.join("disk"));
    File::create_new(&disk)?.set_len(2 << 20)?;
    let mut settings = GuestSettings::new("probe", "here");
    settings.ignore_power_button = true;
    let mut command = Command::new(tools::find_qemu()?);
    command
        .args(["-machine", "q35", "-accel", "kvm", "-m", "192"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args([
            "-append",
            &format!("earlyprintk=ttyS0 {}", settings.kernel_command_line()),
        ])
        .arg("-kernel")
        .arg(image.kernel)
        .arg("-initrd")
        .arg(image.initramfs)
        .args(["-serial", &format!("file:{}", console.display())])
        .args([
            "-blockdev",
            &format!("driver=file,node-name=disk,filename={}", disk.display()),
        ])
        .args(["-device", "nvme,drive=disk,serial=probe-0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut qemu = Child::spawn(command).context("cannot start QEMU")?;
    let began = Instant::now();
    let (mut said, mut said_at) = (0, began);
    while began.elapsed() < LIMIT && said_at.elapsed() < SILENCE && qemu.exit_status()?.is_none() {
        let text = fs::read(&console).unwrap_or_default();
        if highest_acknowledged(&String::from_utf8_lossy(&text)) > 0 {
            return Ok(true);
        }
        if text.len() > said {
            (said, said_at) = (text.len(), Instant::now());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}
