//! Which files the log in a directory is made of.

use std::io;
use std::path::{Path, PathBuf};

use super::FILE_NAME;

/// The files of the log in a directory, oldest first; the last is the one that is written.
///
/// # Errors
/// If the directory cannot be looked into.
pub(super) fn in_order(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let path = directory.join(FILE_NAME);
    Ok(if path.try_exists()? { vec![path] } else { Vec::new() })
}
