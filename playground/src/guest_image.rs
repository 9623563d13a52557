//! The test guest: a kernel and an initramfs whose only program writes numbered records to its disks.
//!
//! What the guest says on its console is parsed by [`console_lines`]; what it wrote is read by [`crate::records`].

use std::{fmt, path::PathBuf, str::FromStr};

use anyhow::{Context as _, Result};

use crate::tools::{self, Tool};

/// The files of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestImage {
    /// For `-kernel`.
    pub kernel: PathBuf,
    /// For `-initrd`.
    pub initramfs: PathBuf,
}

impl GuestImage {
    /// Finds the files that `tools/setup guest` has built.
    ///
    /// # Errors
    ///
    /// When they are not there; the message says what to run.
    pub fn find() -> Result<Self> {
        Ok(Self {
            kernel: tools::find(Tool::GuestKernel)?,
            initramfs: tools::find(Tool::GuestInitramfs)?,
        })
    }
}

/// How a guest behaves. Its text form is the kernel command line, for `-append`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSettings {
    /// Its identity, written into every record. At most 63 characters, no blanks.
    pub vm: String,
    /// Where it runs, written into every record. At most 31 characters, no blanks.
    pub site: String,
    /// The pace of the records; 0 is as fast as the disks allow.
    pub records_per_second: u32,
    /// Scribbling beside the records.
    pub dirty_kib_per_second: u32,
    /// Bounds the scribbled area of each disk. Counts when blank disks are first used.
    pub dirty_area_mib: Option<u32>,
    /// Bounds the ring of records of each disk. Counts when blank disks are first used.
    pub ring_kib: Option<u32>,
    /// A guest that does not hear a request to shut down.
    pub ignore_power_button: bool,
}

impl GuestSettings {
    /// A guest that writes 20 records a second and nothing else.
    #[must_use]
    pub fn new(vm: impl Into<String>, site: impl Into<String>) -> Self {
        Self {
            vm: vm.into(),
            site: site.into(),
            records_per_second: 20,
            dirty_kib_per_second: 0,
            dirty_area_mib: None,
            ring_kib: None,
            ignore_power_button: false,
        }
    }

    /// The kernel command line.
    #[must_use]
    pub fn kernel_command_line(&self) -> String {
        self.to_string()
    }

    /// Reads a kernel command line as the guest's own init script does: unknown words are passed over, absent ones have
    /// the guest's defaults.
    ///
    /// # Errors
    ///
    /// When a number is none.
    pub fn from_kernel_command_line(line: &str) -> Result<Self> {
        let mut settings = Self::new("guest", "unknown");
        for word in line.split_ascii_whitespace() {
            let Some((name, value)) = word
                .strip_prefix("homeward.")
                .and_then(|word| word.split_once('='))
            else {
                continue;
            };
            let number = || {
                value
                    .parse::<u32>()
                    .with_context(|| format!("homeward.{name}={value} is not a number"))
            };
            match name {
                "vm" => value.clone_into(&mut settings.vm),
                "site" => value.clone_into(&mut settings.site),
                "records_per_second" => settings.records_per_second = number()?,
                "dirty_kib_per_second" => settings.dirty_kib_per_second = number()?,
                "dirty_area_mib" => settings.dirty_area_mib = Some(number()?),
                "ring_kib" => settings.ring_kib = Some(number()?),
                "ignore_power_button" => settings.ignore_power_button = number()? != 0,
                _ => {}
            }
        }
        Ok(settings)
    }

    /// The arguments of the recorder when it runs as a plain process, without its disks.
    #[must_use]
    pub fn recorder_arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            ("--vm", self.vm.clone()),
            ("--site", self.site.clone()),
            ("--rate", self.records_per_second.to_string()),
            ("--dirty-kib", self.dirty_kib_per_second.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        for (name, value) in [
            ("--dirty-area-mib", self.dirty_area_mib),
            ("--ring-kib", self.ring_kib),
        ] {
            if let Some(value) = value {
                arguments.extend([name.to_owned(), value.to_string()]);
            }
        }
        arguments
    }
}

impl fmt::Display for GuestSettings {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vm,
            site,
            records_per_second,
            dirty_kib_per_second,
            dirty_area_mib,
            ring_kib,
            ignore_power_button,
        } = self;
        write!(
            to,
            "console=ttyS0 quiet panic=-1 homeward.vm={vm} homeward.site={site}"
        )?;
        write!(to, " homeward.records_per_second={records_per_second}")?;
        write!(to, " homeward.dirty_kib_per_second={dirty_kib_per_second}")?;
        if let Some(area) = dirty_area_mib {
            write!(to, " homeward.dirty_area_mib={area}")?;
        }
        if let Some(ring) = ring_kib {
            write!(to, " homeward.ring_kib={ring}")?;
        }
        if *ignore_power_button {
            write!(to, " homeward.ignore_power_button=1")?;
        }
        Ok(())
    }
}

/// One line that the recorder said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleLine {
    /// It has looked at its disks.
    Boot {
        /// Where it runs.
        site: String,
        /// The highest record it found.
        last: u64,
        /// What this run is called in the records it writes.
        boot: u64,
    },
    /// Every record that must be there was.
    Verified {
        /// The highest record.
        last: u64,
    },
    /// Something is wrong with the disks; the recorder has stopped.
    NotVerified {
        /// What it said about it.
        reason: String,
    },
    /// A record is durable.
    Ack {
        /// Its number.
        number: u64,
        /// The name of its disk.
        disk: String,
        /// Where it was written.
        site: String,
        /// The guest's clock before the write, in milliseconds of Unix time.
        unix_milliseconds: u64,
    },
    /// Asked to stop, it has stopped writing.
    Stopped {
        /// The highest record.
        last: u64,
    },
    /// A disk could not be read or written; the recorder has stopped.
    Error {
        /// What it said about it.
        reason: String,
    },
}

impl FromStr for ConsoleLine {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (word, rest) = line.split_once(' ').context("one word")?;
        Ok(match word {
            "BOOT" => Self::Boot {
                site: field(rest, "site")?.to_owned(),
                last: field(rest, "last")?.parse()?,
                boot: u64::from_str_radix(field(rest, "boot")?, 16)?,
            },
            "VERIFY" => match rest.split_once(' ') {
                Some(("ok", rest)) => Self::Verified {
                    last: field(rest, "last")?.parse()?,
                },
                Some(("FAIL", rest)) => Self::NotVerified {
                    reason: rest.to_owned(),
                },
                _ => anyhow::bail!("neither ok nor FAIL"),
            },
            "ACK" => Self::Ack {
                number: rest.split(' ').next().unwrap_or_default().parse()?,
                disk: field(rest, "disk")?.to_owned(),
                site: field(rest, "site")?.to_owned(),
                unix_milliseconds: field(rest, "t")?.parse()?,
            },
            "STOPPED" => Self::Stopped {
                last: field(rest, "last")?.parse()?,
            },
            "ERROR" => Self::Error {
                reason: rest.to_owned(),
            },
            _ => anyhow::bail!("not the recorder's"),
        })
    }
}

fn field<'a>(text: &'a str, name: &str) -> Result<&'a str> {
    text.split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .with_context(|| format!("no field {name}"))
}

/// What the recorder said on a console or its standard output, in order. Other lines and an unfinished last line are
/// left out.
#[must_use]
pub fn console_lines(text: &str) -> Vec<ConsoleLine> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .filter_map(|line| line.trim_end_matches('\r').parse().ok())
        .collect()
}

/// The highest record that was acknowledged on a console, 0 when none was.
#[must_use]
pub fn highest_acknowledged(text: &str) -> u64 {
    console_lines(text)
        .into_iter()
        .filter_map(|line| {
            if let ConsoleLine::Ack { number, .. } = line {
                Some(number)
            } else {
                None
            }
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_what_was_set() {
        let mut settings = GuestSettings::new("web", "Azure");
        settings.ring_kib = Some(64);
        assert_eq!(
            settings.kernel_command_line(),
            "console=ttyS0 quiet panic=-1 homeward.vm=web homeward.site=Azure homeward.records_per_second=20 \
             homeward.dirty_kib_per_second=0 homeward.ring_kib=64"
        );
        assert_eq!(
            settings.recorder_arguments().join(" "),
            "--vm web --site Azure --rate 20 --dirty-kib 0 --ring-kib 64"
        );
    }

    #[test]
    fn a_command_line_is_read_as_it_was_written() {
        let mut settings = GuestSettings::new("web", "Azure");
        settings.dirty_kib_per_second = 512;
        settings.dirty_area_mib = Some(4);
        settings.ignore_power_button = true;
        let read = GuestSettings::from_kernel_command_line(&settings.to_string()).unwrap();
        assert_eq!(read, settings);
        assert!(GuestSettings::from_kernel_command_line("homeward.ring_kib=x").is_err());
    }

    #[test]
    fn console_text_is_parsed_past_noise_and_an_unfinished_line() {
        let text = "BOOT site=Azure last=7 boot=00000000000000ff vm=web disks=2\r\n\
                    [    1.0] kernel noise\n\
                    VERIFY ok last=7\n\
                    ACK 8 disk=web-0 site=Azure t=1700000000123\n\
                    STOPPED last=8\nACK 99 disk=web-0 site=Azure t=17";
        assert_eq!(
            console_lines(text),
            [
                ConsoleLine::Boot {
                    site: "Azure".into(),
                    last: 7,
                    boot: 255
                },
                ConsoleLine::Verified { last: 7 },
                ConsoleLine::Ack {
                    number: 8,
                    disk: "web-0".into(),
                    site: "Azure".into(),
                    unix_milliseconds: 1_700_000_000_123
                },
                ConsoleLine::Stopped { last: 8 },
            ]
        );
        assert_eq!(highest_acknowledged(text), 8);
    }

    #[test]
    fn a_failed_verification_keeps_its_reason() {
        assert_eq!(
            console_lines("VERIFY FAIL last=9 missing=4\n"),
            [ConsoleLine::NotVerified {
                reason: "last=9 missing=4".into()
            }]
        );
    }
}
