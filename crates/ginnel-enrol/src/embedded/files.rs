//! How the embedded issuer's files are written: each is whole or not there, also after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ginnel_identity::file::{self, FileError};

use super::directory::OpenError;

/// How long another process may be in the directory: a step takes milliseconds, and a disk that is busy some more.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// How often it is looked whether it has left.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Makes the directory if it is missing, and checks that nobody else can look into it.
pub(super) fn make_directory(directory: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .or_else(|source| {
            // Something else of that name is told below.
            if source.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(source) }
        })
        .map_err(FileError::io("create", directory))?;
    check_directory(directory)
}

/// Checks that it is a directory that nobody else can look into.
pub(super) fn check_directory(directory: &Path) -> Result<(), OpenError> {
    let metadata = fs::metadata(directory).map_err(FileError::io("read", directory))?;
    if !metadata.is_dir() {
        return Err(OpenError::NotADirectory { path: directory.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Mode { path: directory.to_owned(), mode });
    }
    Ok(())
}

/// Keeps other processes out until the file is dropped.
pub(super) fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(FileError::io("create", &path))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_LOOK),
            Err(TryLockError::WouldBlock) => return Err(OpenError::Busy { path: directory.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(FileError::io("lock", &path)(source).into()),
        }
    }
}

pub(super) fn exists(path: &Path) -> Result<bool, FileError> {
    path.try_exists().map_err(FileError::io("read", path))
}

/// Puts a file of this content in place, of what may be there before too. It is either whole or not there, also after a power cut. Called with
/// the lock held.
pub(super) fn put(directory: &Path, path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let unfinished = unfinished(path);
    remove(&unfinished)?;
    interruption(&unfinished)?;
    file::create(&unfinished, content, mode)?;
    interruption(path)?;
    fs::rename(&unfinished, path).map_err(FileError::io("create", path))?;
    interruption(path)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(FileError::io("write", directory))
}

/// Where a file lies until it is whole.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    PathBuf::from(unfinished)
}

/// Removes a file that may be there.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    interruption(path)?;
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::io("remove", path)(error)),
    }
}

/// A moment at which the process may be killed. Tests make it fail there.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
fn interruption(_: &Path) -> Result<(), FileError> {
    Ok(())
}

#[cfg(test)]
fn interruption(path: &Path) -> Result<(), FileError> {
    let is_over = LEFT.with(|left| {
        let before = left.get();
        left.set(before.map(|count| count.saturating_sub(1)));
        before == Some(0)
    });
    if is_over { Err(FileError::io("write", path)(io::ErrorKind::Interrupted.into())) } else { Ok(()) }
}

#[cfg(test)]
thread_local! {
    static LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

/// Lets the files be touched so often, and then never again until this is called with `None`.
#[cfg(test)]
pub(super) fn interrupt_after(count: Option<u32>) {
    LEFT.with(|left| left.set(count));
}
