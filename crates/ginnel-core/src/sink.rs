//! Audit records on their way to a sink beyond the disk: what each looks like there, how many go at once, and what a failure means.
//!
//! The log on disk comes first and decides alone whether a session is allowed. A sink is fed from what stands there, in order, one batch
//! after the other, and nothing moves on before the sink has said that it has it. A batch may come a second time; an entry carries an id by which
//! the sink knows it again.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::entry::{Field, LogEntry, Payload, Severity};
pub use self::queue::{Next, Queue, Settled};
use crate::audit::Timestamp;

mod entry;
mod queue;

/// Entries in one batch: the most that Cloud Logging's own clients send at once.
pub const BATCH_ENTRIES_MAX: usize = 1000;

/// Bytes of the entries in one batch, as [`LogEntry::bytes`] counts them. The service takes 10 MB; a tenth of it goes through a slow line within a
/// deadline, and holds as many records as a batch has.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one entry. The service takes some 256 KB by a count of its own; what is larger here is not tried.
pub const ENTRY_BYTES_MAX: usize = 200 * 1024;

/// What takes audit records beyond the disk.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Hands entries over: all of them, or those that can be taken. It ends within a bound of its own.
    fn write<'a>(&'a self, entries: &'a [&'a LogEntry]) -> Writing<'a>;

    /// Where they go, for people and so that a mark that was made for another place is not believed.
    fn place(&self) -> String;
}

/// The answer to a batch, to come.
pub type Writing<'a> = Pin<Box<dyn Future<Output = Result<(), WriteError>> + Send + 'a>>;

/// Why entries were not taken.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// None was.
    #[error("no entry was taken ({kind})")]
    All {
        /// What went wrong.
        kind: FailureKind,
        /// When the sink wants to be asked again, if it said so.
        retry_after: Option<Duration>,
        /// What was said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// These were not, by their place in the batch; all others were.
    #[error("{} entries of a batch were not taken", kinds.len())]
    Some {
        /// What is wrong with each.
        kinds: BTreeMap<usize, FailureKind>,
        /// What was said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl WriteError {
    /// The kinds of failure in it, each once.
    pub fn kinds(&self) -> Vec<FailureKind> {
        match self {
            Self::All { kind, .. } => vec![*kind],
            Self::Some { kinds, .. } => {
                let mut kinds: Vec<_> = kinds.values().copied().collect();
                kinds.sort_unstable();
                kinds.dedup();
                kinds
            }
        }
    }

    /// When the sink wants to be asked again, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::All { retry_after, .. } => *retry_after,
            Self::Some { .. } => None,
        }
    }
}

/// What went wrong at a sink: the label of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// There is no connection to it, or it broke; TLS included (environment).
    Connection,
    /// It does not take this entry, whenever it comes (us).
    Invalid,
    /// There are no credentials, or they may not write there (configuration).
    Permission,
    /// It takes no more for the moment (environment).
    Quota,
    /// It does not do what is asked: there is no such project, say (configuration).
    Refused,
    /// It did not answer in time (environment).
    Timeout,
    /// It does not take so much (us).
    TooLarge,
    /// It failed (environment).
    Unavailable,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::Invalid,
        Self::Permission,
        Self::Quota,
        Self::Refused,
        Self::Timeout,
        Self::TooLarge,
        Self::Unavailable,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Invalid => "invalid",
            Self::Permission => "permission",
            Self::Quota => "quota",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::TooLarge => "tooLarge",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether it is about what was sent, so that the same will never be taken; anything else passes, or somebody mends it.
    pub fn is_of_the_entries(self) -> bool {
        match self {
            Self::Invalid | Self::TooLarge => true,
            Self::Connection | Self::Permission | Self::Quota | Self::Refused | Self::Timeout | Self::Unavailable => {
                false
            }
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a sink has got: the last record that it has, by which the way goes on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The process that wrote that record; empty before the first.
    pub boot: String,
    /// The record's number.
    pub seq: u64,
    /// The record's time.
    pub time: Timestamp,
    /// Lines behind that record that are none and were handed over as well.
    pub others: u64,
    /// Where the record begins in its file. Files are renamed and cut: what stands there decides whether this is right.
    pub at: u64,
}
