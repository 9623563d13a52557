//! What processes have used: processor time and memory, as the kernel counts them.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// What one process has used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time, in seconds.
    pub seconds: f64,
    /// Memory that it has now, in KiB.
    pub resident_kib: u64,
    /// The most that it has had.
    pub most_kib: u64,
}

/// What each of these processes has used, by its name.
///
/// # Errors
///
/// When one of them has ended.
pub fn of(processes: &[(String, u32)]) -> Result<BTreeMap<String, Usage>> {
    processes
        .iter()
        .map(|(name, id)| Ok((name.clone(), usage_of(*id)?)))
        .collect()
}

fn usage_of(id: u32) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // After the name, which stands in brackets, field 3 is the first; 14 and 15 are the times.
    let (_, fields) = stat.rsplit_once(')').context("a name in brackets")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let a_second: f64 = rustix::param::clock_ticks_per_second()
        .to_string()
        .parse()?;
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = |field: &str| -> Result<u64> {
        let line = status.lines().find(|line| line.starts_with(field));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number
            .with_context(|| format!("{field} is not there"))?
            .parse()?)
    };
    Ok(Usage {
        seconds: ticks / a_second,
        resident_kib: kib("VmRSS:")?,
        most_kib: kib("VmHWM:")?,
    })
}
