//! Denials on disk, so that they outlive the process: on disk before whoever asked is told so, and whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ginnel_core::audit::Timestamp;
use ginnel_core::denial::{Denial, Denials, Subject, TooMany};
use ginnel_core::report::Chain;

use self::text::{Malformed, read, write};
use crate::admin::{NotRevoked, Revocation};

mod text;

/// Bytes of a file that are read: more than twice what the most denials take with the longest reasons.
const BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why denials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum DenialsError {
    /// The file is not what this program writes (environment). Nothing starts without the denials that it holds.
    #[error(
        "{}:{line}:{column}: {message}; put the file back from a copy, or, if nothing in it is needed any more, remove it and deny anew what has to be",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// The directory is missing or not readable (configuration, environment).
    #[error("there is no directory {} for the denials, or it cannot be read; make it, writable for this process alone", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More entries than may be (environment).
    #[error("{}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// How many.
        #[source]
        source: TooMany,
    },
    /// The file is there and cannot be read (environment).
    #[error("reading the denials in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file could not be replaced (environment): the old one stands.
    #[error("writing the denials to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How well a file that was replaced is kept. Either way the new one is what a restart reads.
#[derive(Debug)]
#[must_use]
pub enum Replaced {
    /// A crash of the process or the machine does not bring the old one back.
    Lasting,
    /// A crash of the machine may bring the old one back: its directory could not be synced, for this reason.
    UntilCrash(io::Error),
}

impl Replaced {
    /// What whoever asked for the change should know, if anything.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Lasting => None,
            Self::UntilCrash(why) => Some(format!(
                "The file is replaced, and this may not outlast a crash of the machine: its directory cannot be synced ({why}). Run sync when the disk is in order."
            )),
        }
    }
}

/// The denials with what was asked for, which are on disk where there is a file for them.
///
/// # Errors
/// [`NotRevoked::Failed`]; then the file is as it was. What whoever asked should know besides goes into `notes`.
pub fn revised(
    before: &Denials,
    subject: &Subject,
    order: &Revocation,
    file: Option<&DenialFile>,
    notes: &mut Vec<String>,
) -> Result<Denials, NotRevoked> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        NotRevoked::Failed(format!("Nothing has changed: {}.", Chain(error)))
    };
    let denials = if order.undo {
        before.without(subject)
    } else {
        let since = Timestamp::from(SystemTime::now());
        let denial = Denial::new(subject.clone(), since, order.by.clone(), order.reason.as_deref());
        before.with(denial).map_err(|error| failed(&error))?
    };
    if let Some(file) = file {
        let replaced = file.write(&denials).map_err(|error| failed(&error))?;
        notes.extend(replaced.note());
    }
    Ok(denials)
}

/// The file of one process's denials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialFile {
    path: PathBuf,
}

impl DenialFile {
    /// Reads the file; one that is not there holds no denials.
    ///
    /// # Errors
    /// [`DenialsError`] unless it is whole.
    pub fn open(path: &Path) -> Result<(Self, Denials), DenialsError> {
        let file = Self { path: path.to_owned() };
        let directory = file.directory();
        // Found out at the start, not when somebody has to be shut out in a hurry.
        fs::read_dir(&directory).map_err(|source| DenialsError::Directory { path: directory.clone(), source })?;
        let failed = |source| DenialsError::Read { path: path.to_owned(), source };
        let opened = match File::open(path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, Denials::default())),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(opened, BYTES_MAX), &mut bytes).map_err(failed)?;
        let denials = read(&bytes).map_err(|Malformed { line, column, message }| DenialsError::Broken {
            path: path.to_owned(),
            line,
            column,
            message,
        })?;
        let denials = Denials::new(denials).map_err(|source| DenialsError::Full { path: path.to_owned(), source })?;
        Ok((file, denials))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file, and says whether a crash of the machine may bring the old one back.
    ///
    /// # Errors
    /// [`DenialsError::Write`]; the old file stands then.
    pub fn write(&self, denials: &Denials) -> Result<Replaced, DenialsError> {
        self.write_synced(denials, |directory| File::open(directory)?.sync_all())
    }

    /// [`Self::write`], with what makes the change of the directory last.
    fn write_synced(
        &self,
        denials: &Denials,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Replaced, DenialsError> {
        self.replace(denials).map_err(|source| DenialsError::Write { path: self.path.clone(), source })?;
        // From here on the new file is what everybody reads: to call that a failure would leave a denial on disk that is not in force.
        Ok(sync(&self.directory()).map_or_else(Replaced::UntilCrash, |()| Replaced::Lasting))
    }

    fn replace(&self, denials: &Denials) -> io::Result<()> {
        let next = self.next();
        let written = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&write(denials)?)?;
            file.sync_all()
        };
        if let Err(error) = written() {
            // What is left of it is of no use; the error that counts is the first.
            let _ = fs::remove_file(&next);
            return Err(error);
        }
        fs::rename(&next, &self.path)
    }

    /// Where the next state is written before it takes the file's place.
    fn next(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".next");
        self.path.with_file_name(name)
    }

    fn directory(&self) -> PathBuf {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
    }
}

#[cfg(test)]
mod tests;
