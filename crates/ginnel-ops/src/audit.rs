//! The audit log on disk: `audit.jsonl` in a directory of its own, only ever appended to, and older files beside it.
//!
//! Invariant: when a [`Durable`] resolves to `Ok`, the record is on disk and stays there. One thread writes; whatever has queued up
//! while it was busy goes out as one group with one write and one sync. When a write fails, everything of that group is told so, what
//! was half written is taken back, and the log counts as failed until the same records could be written after all. Meanwhile nothing
//! that needs a record beforehand ([`Kind::Permit`]) is accepted; what has happened is kept, within a bound, and written first.
//!
//! Every record is sealed: with a hash that runs on from record to record, and a MAC by a key that exists only until the next record. A run of
//! records with keys of its own is a *chapter*; its first record and the *checkpoints* in it are signed. [`verify`] says which record is not
//! what was written. docs/security/audit.md has the scheme.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::{self, JoinHandle};

#[cfg(doc)]
use ginnel_core::audit::Kind;
use ginnel_core::audit::{Checkpoint, Event, LogFiles};
use ginnel_core::cause::Cause;
use ginnel_core::id::InstanceId;
use ginnel_core::status;
use tokio::sync::oneshot;

pub use self::chain::state::{KEY_NAME, PUBLIC_NAME};
use self::queue::Queue;
use self::writer::{Medium, Retry, Writer};

mod chain;
pub mod compare;
mod file;
mod follow;
pub mod forward;
mod lines;
mod queue;
pub mod show;
pub mod verify;
mod writer;

/// Name of the log in its directory.
pub const FILE_NAME: &str = "audit.jsonl";

/// Why there is no log, or why something is not on record.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log was closed: the process is ending.
    #[error("the audit log is closed")]
    Closed,
    /// The directory could not be made (environment).
    #[error("creating the audit directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process writes this log (environment).
    #[error("the audit log {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file has no record near its end, so it is something else, or was tampered with (environment).
    #[error("{} does not end in audit records", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// The log and what its chain keeps beside it do not belong together (environment): somebody changed one of them, or put an older copy back.
    #[error("the audit log {} is not whole: {what}; look at it with `ginnel audit verify`, and move all files of its directory away to begin a new one", path.display())]
    NotWhole {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file could not be opened or read (environment).
    #[error("opening the audit log {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More records wait than the log accepts.
    #[error("too many audit records wait to be written")]
    Overloaded,
    /// The thread that writes could not be started (environment).
    #[error("starting the audit writer")]
    Thread(#[source] io::Error),
    /// The log cannot be written; the process's own log says why.
    #[error("the audit log cannot be written")]
    Unavailable,
}

impl AuditError {
    /// Why a session is refused that cannot be put on record.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Overloaded => Cause::Overloaded,
            Self::Closed
            | Self::Directory { .. }
            | Self::InUse { .. }
            | Self::NotALog { .. }
            | Self::NotWhole { .. }
            | Self::Open { .. }
            | Self::Thread(_)
            | Self::Unavailable => Cause::AuditUnavailable,
        }
    }
}

/// A handle on the log. Clones write to the same log; when the last is dropped, the log is closed as by [`AuditLog::close`].
#[derive(Clone)]
pub struct AuditLog {
    open: Arc<Open>,
}

impl AuditLog {
    /// Opens the log in a directory and makes both (modes 0700 and 0600) if need be; `boot` is the process that writes. A directory alone stands
    /// for one with the settings that nobody changed.
    ///
    /// Numbers and the chain go on from the last record in the files. A last line that a crash cut off stays as it is, on a line of its own, and
    /// the first record that follows says so.
    ///
    /// # Errors
    /// [`AuditError`] if the file cannot be had, is in use, is something else, or does not end as it is known to have ended.
    pub fn open(files: impl Into<LogFiles>, boot: InstanceId) -> Result<Self, AuditError> {
        let files = files.into();
        let (file, start) = file::open(&files)?;
        Self::start(Writer::new(file, boot, start, files, Retry::default()))
    }

    fn start<M: Medium>(writer: Writer<M>) -> Result<Self, AuditError> {
        let queue = Arc::clone(writer.queue());
        let thread =
            thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run()).map_err(AuditError::Thread)?;
        Ok(Self { open: Arc::new(Open { queue, thread: Mutex::new(Some(thread)) }) })
    }

    /// Puts an event on record, and never waits for the disk.
    ///
    /// The record has its place in the order when this returns, and is durable when the returned future says so; it is written whether
    /// or not the future is kept. On an error the event must not be relied on to be in the log: a permit is not, so what it would
    /// permit must not happen; a fact or a refusal will be if the log recovers and there was room for it.
    ///
    /// # Errors
    /// [`AuditError::Closed`], [`AuditError::Overloaded`], or [`AuditError::Unavailable`] while the log cannot be written.
    pub fn record(&self, event: Event) -> Result<Durable, AuditError> {
        self.open.queue.push(event).map(Durable)
    }

    /// Whether the last write succeeded, so that new sessions may be allowed.
    pub fn healthy(&self) -> bool {
        self.open.queue.healthy()
    }

    /// How many records wait to be written.
    pub fn waiting(&self) -> u64 {
        self.open.queue.waiting()
    }

    /// The newest record that is signed and durable, which whoever keeps it elsewhere can hold the log to; none before the first record.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.open.queue.checkpoint()
    }

    /// What a process shows of its log.
    pub fn status(&self) -> status::Audit {
        status::Audit { healthy: self.healthy(), waiting: self.waiting(), checkpoint: self.checkpoint(), sink: None }
    }

    /// Writes what is queued and ends the writer; blocks until both are done. Later records are refused.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`] if records were left that could not be written.
    pub fn close(&self) -> Result<(), AuditError> {
        self.open.close()
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

/// Resolves when the record is on disk.
///
/// It resolves to [`AuditError::Unavailable`] as soon as writing it has failed once. The log then goes on trying, so the record may
/// still appear, which errs on the side of saying too much. Dropping this changes nothing.
#[derive(Debug)]
pub struct Durable(oneshot::Receiver<()>);

impl Future for Durable {
    type Output = Result<(), AuditError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let written = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(written.map_err(|_| AuditError::Unavailable))
    }
}

/// What all handles share; owns the writer's thread.
struct Open {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Open {
    fn close(&self) -> Result<(), AuditError> {
        self.queue.close();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = thread.take().map_or(Ok(()), JoinHandle::join);
        if ended.is_err() || self.queue.gave_up() { Err(AuditError::Unavailable) } else { Ok(()) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The writer has logged what it could not write; nobody is left to be told.
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests;
