//! What the machine allows this process: descriptors and memory.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// How many descriptors may be open; unlimited is the largest number.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many bytes of memory the process may use: the least of what its control groups, its own limit on addresses and the machine allow. `None` where
/// nobody says.
pub fn memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = group_files(&groups, Path::new("/sys/fs/cgroup")).into_iter().filter_map(|file| limit(&file));
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    of_groups.chain(getrlimit(Resource::As).current).chain(of_machine).min()
}

/// The files in which the limits of the process's control groups stand, those of the groups around it included.
fn group_files(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        // The unified hierarchy has no list of controllers; beside others it may be mounted in a place of its own.
        let (roots, name) = if controllers.is_empty() {
            (vec![root.to_owned(), root.join("unified")], "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (vec![root.join("memory")], "memory.limit_in_bytes")
        } else {
            continue;
        };
        let inside = Path::new(path.trim_start_matches('/'));
        let around = inside.ancestors();
        files.extend(around.flat_map(|group| roots.iter().map(move |root| root.join(group).join(name))));
    }
    files
}

/// `max`, or a number that no machine has, is no limit.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// What a machine has, as `/proc/meminfo` says it in kB.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_may_use_something() {
        assert!(descriptors() > 16);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_around_it_is_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("system.slice/memory.max", "536870912\n");
        write("system.slice/ginnel.service/memory.max", "max\n");
        write("memory/box/memory.limit_in_bytes", "1073741824\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let least = |groups: &str| group_files(groups, root.path()).iter().filter_map(|file| limit(file)).min();
        for (groups, expected) in [
            ("0::/system.slice/ginnel.service\n", Some(536_870_912)),
            ("5:memory:/box\n4:cpu,cpuacct:/\n", Some(1_073_741_824)),
            ("4:cpu:/system.slice\n", None),
            ("0::/elsewhere\n", None),
            ("nonsense\n\n", None),
        ] {
            assert_eq!(least(groups), expected, "{groups:?}");
        }
    }

    #[test]
    fn a_machines_memory_is_read_in_its_unit() {
        let cases = [
            ("MemFree: 1 kB\nMemTotal:       24100 kB\n", Some(24_100 * 1024)),
            ("MemTotal: 24100 MB\n", None),
            ("MemTotal: -1 kB\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(total(text), expected, "{text:?}");
        }
    }
}
