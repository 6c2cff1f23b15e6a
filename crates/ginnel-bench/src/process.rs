//! The processes that are measured: starting our own, and what the kernel says about any and its children.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use ginnel_testkit::Daemon;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::topology::Side;

/// What a process is called, and its id. Its children count as part of it.
pub(crate) type Root = (&'static str, u32);

/// A process of this program, killed when dropped.
pub(crate) struct Started {
    pub(crate) daemon: Daemon,
    pub(crate) address: SocketAddr,
}

/// Says where a process listens, in the form that [`start`] waits for.
pub(crate) fn announce(address: SocketAddr) {
    announce_as("listening", address);
}

/// The same with another word, for a process with several addresses.
pub(crate) fn announce_as(message: &str, address: SocketAddr) {
    eprintln!("{{\"message\":\"{message}\",\"address\":\"{address}\"}}");
}

/// Starts this program with other words, and waits until it listens.
pub(crate) async fn start(side: &Side, name: &str, words: &[&str]) -> Result<Started> {
    let mut command = side.command(std::env::current_exe()?, Path::new("/"));
    command.args(words);
    let daemon = Daemon::spawn(name, command)?;
    let address = announced(&daemon, "listening").await?;
    Ok(Started { daemon, address })
}

/// Waits for an address that a process of this program announces.
pub(crate) async fn announced(daemon: &Daemon, message: &str) -> Result<SocketAddr> {
    let said = daemon.wait_for(message, |_| true).await?;
    said["address"].as_str().context("an address")?.parse().context("a socket address")
}

/// Lets this process, and those that it starts, have so many descriptors, as far as the system allows.
pub(crate) fn raise_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).context("raising the limit of descriptors")
}

/// CPU seconds of each process so far, its own and the kernel's for it, with its children, those that have ended included.
pub(crate) fn cpu_seconds(roots: &[Root]) -> Result<Vec<f64>> {
    let all = processes()?;
    let per_second = to_f64(rustix::param::clock_ticks_per_second());
    roots
        .iter()
        .map(|(name, pid)| {
            all.get(pid).with_context(|| format!("{name} has ended"))?;
            let ticks = family(&all, *pid).into_iter().filter_map(|pid| all.get(&pid)).map(|stat| stat.ticks);
            Ok(to_f64(ticks.sum()) / per_second)
        })
        .collect()
}

/// CPU seconds of this process so far, without its children.
pub(crate) fn own_cpu_seconds() -> Result<f64> {
    let all = processes()?;
    let stat = all.get(&std::process::id()).context("no entry for this process")?;
    Ok(to_f64(stat.ticks) / to_f64(rustix::param::clock_ticks_per_second()))
}

/// KiB of memory that each process and its children have resident.
pub(crate) fn resident_kib(roots: &[Root]) -> Result<Vec<f64>> {
    let all = processes()?;
    roots
        .iter()
        .map(|(name, pid)| {
            all.get(pid).with_context(|| format!("{name} has ended"))?;
            // A child may end between the list and the look at it; it occupies nothing then.
            Ok(family(&all, *pid).into_iter().filter_map(|pid| resident_of(pid).ok()).sum())
        })
        .collect()
}

fn resident_of(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("reading memory")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    let number = line.split_ascii_whitespace().next().context("no number")?;
    Ok(to_f64(number.parse()?))
}

/// What the kernel says about one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time, and that of children that have ended and were waited for.
    ticks: u64,
}

fn processes() -> Result<BTreeMap<u32, Stat>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that ends while the list is read is not of interest.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        all.insert(pid, parse_stat(&text).with_context(|| format!("the state of process {pid}"))?);
    }
    Ok(all)
}

/// Reads `/proc/PID/stat`: the name in brackets may hold anything; after it the parent is the 2nd field and the four times the 12th to 15th.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let times: Vec<u64> = fields.skip(9).take(4).map(str::parse).collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| Stat { parent, ticks: times.iter().sum() })
}

/// A process and all that descend from it.
fn family(all: &BTreeMap<u32, Stat>, root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    // Every process has one parent, so that each is found once.
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(pid, stat)| stat.parent == parent && **pid != root).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// A number for figures; beyond 2^53 it is rounded, and nothing measured here comes near.
pub(crate) fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(parent: u32, ticks: u64) -> Stat {
        Stat { parent, ticks }
    }

    #[test]
    fn a_state_is_read_whatever_the_process_is_called() {
        let text = "42 (a ) b) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6";
        assert_eq!(parse_stat(text), Some(stat(7, 127)));
        assert_eq!(parse_stat("42 (short) S 7 42"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_family_is_a_process_with_all_its_descendants() {
        let all = BTreeMap::from([(1, stat(0, 0)), (5, stat(1, 1)), (6, stat(5, 1)), (9, stat(6, 1)), (7, stat(1, 1))]);
        assert_eq!(family(&all, 5), [5, 6, 9]);
        assert_eq!(family(&all, 7), [7]);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let me = [("me", std::process::id())];
        assert!(cpu_seconds(&me).unwrap()[0] >= 0.0);
        assert!(resident_kib(&me).unwrap()[0] > 100.0);
        assert!(cpu_seconds(&[("nobody", u32::MAX)]).is_err());
    }
}
