//! Looking for a text in everything that a process has in memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

mod scalar;

pub use scalar::{Scalar, scalars};

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// What a hunt saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hunt {
    /// Places where one of the needles was found.
    pub hits: usize,
    /// Bytes that could be read; a hunt that read little proves little.
    pub bytes_read: usize,
}

/// Counts the occurrences of each of `needles` in all readable memory of the process `pid`.
///
/// # Errors
/// If the process may not be read.
pub fn hunt(pid: u32, needles: &[&[u8]]) -> Result<Hunt> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("opening the memory")?;
    let mut total = Hunt::default();
    for (start, end) in maps(pid, |permissions, _| permissions.starts_with('r'))? {
        let found = hunt_range(&memory, start, end, needles);
        total.hits += found.hits;
        total.bytes_read += found.bytes_read;
    }
    Ok(total)
}

/// The ranges of memory whose permissions and name are wanted.
fn maps(pid: u32, is_wanted: impl Fn(&str, &str) -> bool) -> Result<Vec<(u64, u64)>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading the memory map")?;
    Ok(maps.lines().filter_map(|line| range(line, &is_wanted)).collect())
}

/// The range of one line of `/proc/PID/maps`, if it is wanted and can be read.
fn range(line: &str, is_wanted: impl Fn(&str, &str) -> bool) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let name = fields.nth(3).unwrap_or_default();
    // The kernel's own pages at the end of the address space refuse to be read through this file.
    let kernels = name.starts_with("[vvar") || name.starts_with("[vsyscall");
    if kernels || !is_wanted(permissions, name) {
        return None;
    }
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

fn hunt_range(memory: &File, start: u64, end: u64, needles: &[&[u8]]) -> Hunt {
    // Windows overlap, so that a needle on a border is seen; what is looked at twice is shorter than the needle.
    let overlap = needles.iter().map(|needle| needle.len()).max().unwrap_or(1) - 1;
    let mut window: Vec<u8> = Vec::with_capacity(WINDOW + overlap);
    let mut found = Hunt::default();
    let mut at = start;
    while at < end {
        let wanted = WINDOW.min(usize::try_from(end - at).unwrap_or(WINDOW));
        let kept = window.len();
        window.resize(kept + wanted, 0);
        // A page that is unmapped while we look is skipped with the rest of its range.
        let Ok(n) = memory.read_at(&mut window[kept..], at) else { break };
        if n == 0 {
            break;
        }
        window.truncate(kept + n);
        found.bytes_read += n;
        for needle in needles {
            let fresh = kept.saturating_sub(needle.len() - 1);
            found.hits += count(&window[fresh..], needle);
        }
        at += n as u64;
        window.drain(..window.len().saturating_sub(overlap));
    }
    found
}

/// Counts the places where `needle` begins in `haystack`, each byte counted once.
pub fn count(haystack: &[u8], needle: &[u8]) -> usize {
    memchr::memmem::find_iter(haystack, needle).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_place_once() {
        assert_eq!(count(b"abcabcab", b"abc"), 2);
        assert_eq!(count(b"aaaa", b"aa"), 2);
        assert_eq!(count(b"ab", b"abc"), 0);
        assert_eq!(count(b"", b"a"), 0);
    }

    #[test]
    fn finds_what_this_process_holds() {
        let half = format!("{:032x}", std::process::id());
        let held = std::hint::black_box(format!("{half}-marker-{half}"));
        let found = hunt(std::process::id(), &[held.as_bytes()]).expect("own memory");
        assert!(found.hits >= 1, "{found:?}");
        assert!(found.bytes_read > 1 << 20, "{found:?}");
    }
}
