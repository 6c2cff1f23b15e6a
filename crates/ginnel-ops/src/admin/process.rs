//! What the system says of this process: `/proc/self`. On a system without it, or where it is hidden, nothing is said.

use std::fs;
use std::sync::OnceLock;
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// The numbers; `None` for what cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) open_descriptors: Option<f64>,
    pub(super) descriptors_max: Option<f64>,
    pub(super) start_seconds: Option<f64>,
}

/// Clock ticks per second in `/proc`: fixed for user space on every Linux of the last twenty years (`USER_HZ`, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).ok();
        let stat = text("/proc/self/stat");
        Self {
            cpu_seconds: stat.as_deref().and_then(cpu_seconds),
            resident_bytes: text("/proc/self/status").and_then(|text| after(&text, "VmRSS:")).map(|kib| kib * 1024.0),
            open_descriptors: open_descriptors(),
            descriptors_max: text("/proc/self/limits").and_then(|text| after(&text, "Max open files")),
            start_seconds: booted()
                .zip(stat.as_deref().and_then(|stat| field(stat, 22)))
                .map(|(booted, ticks)| booted + ticks / TICKS_PER_SECOND),
        }
    }
}

/// When the machine was started, in seconds since 1970. `/proc/stat` has it as well, but a hardened service does not see that file.
fn booted() -> Option<f64> {
    // Worked out once: a start that moved with every reading would look like a restart.
    static BOOTED: OnceLock<Option<f64>> = OnceLock::new();
    *BOOTED.get_or_init(|| {
        let up = clock_gettime(ClockId::Boottime);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(now.as_secs_f64() - (up.tv_sec as f64 + up.tv_nsec as f64 / 1e9))
    })
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS_PER_SECOND)
}

/// A field of `/proc/self/stat`, counted from one. The second is the program's name in brackets, which may hold anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first number after a word at the beginning of a line.
fn after(text: &str, word: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<f64> {
    // The one with which the directory is read does not count.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(open).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_numbers_beside_a_hostile_program_name() {
        let stat = "7 (a) S (b c) R 1 7 7 0 -1 4194560 12 0 0 0 150 50 0 0 20 0 3 0 12345 1000 200";
        assert_eq!((cpu_seconds(stat), field(stat, 22)), (Some(2.0), Some(12345.0)));
        assert_eq!((cpu_seconds("nonsense"), cpu_seconds("7 (a) R")), (None, None));
        assert_eq!(after("VmPeak:\t 9 kB\nVmRSS:\t   42 kB\n", "VmRSS:"), Some(42.0));
        assert_eq!(after("Max open files            1024    4096  files\n", "Max open files"), Some(1024.0));
        assert_eq!(after("Max open files   unlimited unlimited files\n", "Max open files"), None);
    }

    #[test]
    fn reads_this_process() {
        let Process { cpu_seconds, resident_bytes, open_descriptors, start_seconds, .. } = Process::read();
        assert!(cpu_seconds.is_some() && resident_bytes.is_some_and(|bytes| bytes > 100_000.0));
        assert!(open_descriptors.is_some_and(|open| open >= 3.0) && start_seconds.is_some());
    }

    #[test]
    fn this_process_started_between_the_machine_and_this_moment() {
        let before = fs::read_to_string("/proc/stat").ok().and_then(|text| after(&text, "btime")).unwrap_or(1e9);
        let started = Process::read().start_seconds.unwrap();
        assert_eq!(Process::read().start_seconds, Some(started), "the start does not move");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        // Both ends are rounded, one to a second and one to a tick.
        assert!(started >= before - 1.0 && started <= now + 0.1, "{before} {started} {now}");
    }
}
