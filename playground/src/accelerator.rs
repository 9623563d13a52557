//! Whether the processor's virtualisation really works here.
//!
//! A device `/dev/kvm` proves nothing: inside a cloud machine it can be there, accept a guest and never run it. So a guest is
//! started and has to say something.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use crate::{child::Child, guest_image::GuestImage, tools};

/// Answers the question without a try: `kvm` or `tcg`.
const CHOICE: &str = "HOMEWARD_ACCELERATOR";
/// A kernel says its first word well within this time.
const LIMIT: Duration = Duration::from_secs(4);

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
    let console = folder.join("console");
    let mut command = Command::new(tools::find_qemu()?);
    command
        .args(["-machine", "q35", "-accel", "kvm", "-m", "128"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-append", "console=ttyS0 earlyprintk=ttyS0"])
        .arg("-kernel")
        .arg(image.kernel)
        .arg("-initrd")
        .arg(image.initramfs)
        .args(["-serial", &format!("file:{}", console.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut qemu = Child::spawn(command).context("cannot start QEMU")?;
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline && qemu.exit_status()?.is_none() {
        if fs::metadata(&console).is_ok_and(|found| found.len() > 0) {
            return Ok(true);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}
