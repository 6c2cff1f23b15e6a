//! The processes that are measured: starting our own, and what the kernel says about any.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use ginnel_testkit::Daemon;
use ginnel_testkit::command::command;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A process of this program, killed when dropped.
pub(crate) struct Started {
    pub(crate) daemon: Daemon,
    pub(crate) address: SocketAddr,
}

/// Says where a process listens, in the form that [`start`] waits for.
pub(crate) fn announce(address: SocketAddr) {
    eprintln!("{{\"message\":\"listening\",\"address\":\"{address}\"}}");
}

/// Starts this program with other words, and waits until it listens.
pub(crate) async fn start(name: &str, words: &[&str]) -> Result<Started> {
    let mut command = command(std::env::current_exe()?, Path::new("/"));
    command.args(words);
    let daemon = Daemon::spawn(name, command)?;
    let said = daemon.wait_for("listening", |_| true).await?;
    let address = said["address"].as_str().context("an address")?.parse()?;
    Ok(Started { daemon, address })
}

/// Lets this process, and those that it starts, have so many descriptors, as far as the system allows.
pub(crate) fn raise_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).context("raising the limit of descriptors")
}

/// CPU seconds of a process so far, its own and the kernel's for it.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading CPU time")?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("the name of the process")?;
    let ticks: u64 = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().context("a number of ticks"))
        .sum::<Result<u64>>()?;
    Ok(to_f64(ticks) / to_f64(rustix::param::clock_ticks_per_second()))
}

/// KiB of memory that a process occupies: its share of what several have mapped, where the kernel says it.
pub(crate) fn memory_kib(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("reading memory")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    let number = line.split_ascii_whitespace().next().context("no number")?;
    Ok(to_f64(number.parse()?))
}

/// A number for figures; beyond 2^53 it is rounded, and nothing measured here comes near.
pub(crate) fn to_f64(number: u64) -> f64 {
    number as f64
}
