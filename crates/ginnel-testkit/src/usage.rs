//! What processes cost, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of a process so far, its own and the kernel's for it.
///
/// # Errors
/// If there is no such process.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading CPU time")?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("the name of the process")?;
    let fields = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks = fields.map(|field| field.parse::<u64>().context("a number of ticks")).sum::<Result<u64>>()?;
    Ok(Duration::from_nanos(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())))
}

/// KiB of memory that a process has in use.
///
/// # Errors
/// If there is no such process.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let number = line.split_ascii_whitespace().next().context("no number")?;
    number.parse().context("a number of KiB")
}

/// CPU time of the calling thread so far.
pub fn cpu_of_this_thread() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_this_process_does() {
        let pid = std::process::id();
        let (before, own) = (cpu(pid).expect("own CPU time"), cpu_of_this_thread());
        while cpu_of_this_thread() < own + Duration::from_millis(50) {
            std::hint::black_box(crate::stream::bytes(1, 1 << 16));
        }
        assert!(cpu(pid).expect("own CPU time") > before);
        assert!(resident_kib(pid).expect("own memory") > 100);
    }
}
