//! Where an audit log is, when it goes on in another file, and how long its files are kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Size from which a log goes on in another file unless its configuration says otherwise: some 100,000 records, which any tool can still open.
pub const ROTATE_SIZE: u64 = 64 << 20;

/// Age from which it does: a file for each day of a busy log.
pub const ROTATE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where an audit log is, and how long its files are kept. What is not said is kept for ever: evidence is removed only if somebody wants that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    /// The directory, which has nothing but the log and what belongs to it.
    pub directory: PathBuf,
    /// Bytes from which the log goes on in another file.
    pub rotate_size: u64,
    /// Age of its first record from which it does.
    pub rotate_age: Duration,
    /// Bytes that all files together may have; beyond them the oldest are removed. The file that is being written does not count.
    pub keep_size: Option<u64>,
    /// How long a file is kept after its last record.
    pub keep_for: Option<Duration>,
}

impl From<PathBuf> for LogFiles {
    /// A directory, and the settings that nobody changed.
    fn from(directory: PathBuf) -> Self {
        Self { directory, rotate_size: ROTATE_SIZE, rotate_age: ROTATE_AGE, keep_size: None, keep_for: None }
    }
}

impl From<&Path> for LogFiles {
    fn from(directory: &Path) -> Self {
        directory.to_owned().into()
    }
}

impl From<&PathBuf> for LogFiles {
    fn from(directory: &PathBuf) -> Self {
        directory.clone().into()
    }
}

/// A file that the log no longer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldFile {
    /// Its size.
    pub bytes: u64,
    /// When it was written last.
    pub until: SystemTime,
}

impl LogFiles {
    /// Whether anything is ever removed.
    pub fn removes(&self) -> bool {
        self.keep_size.is_some() || self.keep_for.is_some()
    }

    /// How many of `old`, the oldest first, are to be removed at `now`.
    pub fn to_remove(&self, old: &[OldFile], now: SystemTime) -> usize {
        let too_old = |file: &OldFile| {
            // A file from the future is not old.
            self.keep_for.is_some_and(|keep| now.duration_since(file.until).is_ok_and(|age| age > keep))
        };
        let by_age = old.iter().take_while(|file| too_old(file)).count();
        let mut kept: u64 = 0;
        let fits = |file: &&OldFile| {
            kept = kept.saturating_add(file.bytes);
            self.keep_size.is_none_or(|most| kept <= most)
        };
        let by_size = old.len() - old.iter().rev().take_while(fits).count();
        by_age.max(by_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn only_the_oldest_go_and_only_as_many_as_must() {
        let now = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        // Ages in hours and sizes, the oldest first.
        let old: Vec<_> = [(50, 10), (40, 30), (30, 20), (3, 40)]
            .map(|(age, bytes)| OldFile { bytes, until: now - age * HOUR })
            .to_vec();
        let cases = [
            (None, None, 0),
            (Some(100), None, 0),
            (Some(99), None, 1),
            (Some(60), None, 2),
            (Some(59), None, 3),
            (Some(0), None, 4),
            (None, Some(50), 0),
            (None, Some(49), 1),
            (None, Some(2), 4),
            (Some(60), Some(49), 2),
            (Some(100), Some(10), 3),
        ];
        for (keep_size, keep_for, removed) in cases {
            let keep_for = keep_for.map(|hours| hours * HOUR);
            let files = LogFiles { keep_size, keep_for, ..LogFiles::from(Path::new("audit")) };
            assert_eq!(files.to_remove(&old, now), removed, "{keep_size:?} {keep_for:?}");
            assert_eq!(files.removes(), keep_size.is_some() || keep_for.is_some());
        }
    }

    #[test]
    fn a_file_of_the_future_is_kept_with_all_that_is_newer() {
        let now = SystemTime::UNIX_EPOCH + 1000 * HOUR;
        let files = LogFiles { keep_for: Some(HOUR), ..LogFiles::from(Path::new("audit")) };
        let old = [OldFile { bytes: 1, until: now + HOUR }, OldFile { bytes: 1, until: now - 5 * HOUR }];
        assert_eq!(files.to_remove(&old, now), 0);
    }
}
