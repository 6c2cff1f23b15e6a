//! Opening the log: its directory, its lock, and where it left off.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ginnel_core::audit::Entry;
use tracing::warn;

use super::writer::Medium;
use super::{AuditError, FILE_NAME};

/// How far back from its end a log is searched for its last record. The longest record is some 2 KiB, so this much without any is no log.
const TAIL_MAX: u64 = 1024 * 1024;

pub(super) struct Opened {
    pub(super) file: LogFile,
    /// Number of the next record.
    pub(super) seq: u64,
    /// The last line has no end.
    pub(super) torn: bool,
}

/// The file, locked by this process.
pub(super) struct LogFile(pub(super) File);

impl Medium for LogFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started holds the descriptor, and with it the lock, until it has begun.
        let _ = self.0.unlock();
    }
}

pub(super) fn open(directory: &Path) -> Result<Opened, AuditError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| AuditError::Directory { path: directory.to_owned(), source })?;
    let path = directory.join(FILE_NAME);
    let failed = |source| AuditError::Open { path: path.clone(), source };

    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => AuditError::InUse { path: path.clone() },
        TryLockError::Error(source) => failed(source),
    })?;
    // A new file's name must survive a crash as well as its content.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;

    let (tail, complete) = tail(&mut file).map_err(failed)?;
    let torn = tail.last().is_some_and(|&byte| byte != b'\n');
    // A file that fits into the tail and has no record at all is new, or a crash cut off its first.
    let last = tail.rsplit(|&byte| byte == b'\n').find_map(seq).or(complete.then_some(0));
    let Some(seq) = last.and_then(|seq| seq.checked_add(1)) else {
        return Err(AuditError::NotALog { path });
    };
    if torn {
        warn!(path = %path.display(), "the last line of the audit log has no end; it is kept as it is");
    }
    Ok(Opened { file: LogFile(file), seq, torn })
}

/// The end of the file, and whether that is all of it.
fn tail(file: &mut File) -> io::Result<(Vec<u8>, bool)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut tail)?;
    Ok((tail, start == 0))
}

fn seq(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Entry>(line).ok().map(|entry| entry.seq)
}
