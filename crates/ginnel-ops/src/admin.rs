//! How a running process is seen and controlled: what it shows, and to whom.
//!
//! | module | does |
//! |---|---|
//! | `listen` | the two listeners: an address for reading, a Unix socket for control |
//! | `answer`, `revoke` | questions and answers, apart from any socket |
//! | `page`, `plot`, `samples` | the status page |
//! | `metrics`, `process` | `/metrics` |
//! | `health` | gRPC health |
//! | [`client`] | asking such a process |
//! | `socket` | the Unix socket, and who may use it |

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use ginnel_core::denial::Kind;
use ginnel_core::id::RequestId;
pub use ginnel_core::status::EndedSessions;
use ginnel_core::status::{Denied, Request, Revoked, Status, Verdict};

mod answer;
pub(crate) mod body;
pub mod client;
mod health;
mod listen;
mod metrics;
mod page;
mod plot;
mod process;
mod revoke;
mod samples;
mod socket;

pub use self::listen::{Admin, AdminError};
use self::metrics::Metrics;
use self::samples::{Sample, Samples};
pub use self::socket::SocketError;
use crate::reload::Fault;

/// What an admin listener shows of its process, and what the admin socket asks it to do.
pub trait Observed: Send + Sync + 'static {
    /// What the process says of itself.
    fn status(&self) -> Status;

    /// The sessions that are carried or being opened, oldest first.
    fn sessions(&self) -> Vec<Request>;

    /// One request, as long as this process remembers it.
    fn request(&self, id: RequestId) -> Option<Request>;

    /// What the policy says; `None` if this process has no policy.
    ///
    /// # Errors
    /// A sentence about what is wrong with the question.
    fn judge(&self, question: &Question) -> Option<Result<Vec<Verdict>, String>>;

    /// Tells sessions to end; gives how many were told.
    fn end_sessions(&self, which: &Which) -> u64;

    /// What is denied; `None` if nothing can be denied at this process.
    fn denials(&self) -> Option<Vec<Denied>>;

    /// Denies something, or undoes that. What is answered is in force, and on disk where the process has a place for it.
    ///
    /// # Errors
    /// Why it stays as it is.
    fn revoke(&self, order: Revocation) -> Pin<Box<dyn Future<Output = Result<Revoked, NotRevoked>> + Send + '_>>;

    /// Reads the configuration again; says what changed.
    ///
    /// # Errors
    /// Why it stays as it is.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, Fault>> + Send + '_>>;
}

/// What is asked of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// May this client reach this target?
    One {
        /// The client's name.
        client: String,
        /// The target, as host:port.
        target: String,
        /// The address that the client comes from; `None` asks about wherever a rule wants it to.
        from: Option<String>,
    },
    /// Everything: each client with each target pattern of its rules.
    All,
}

/// A demand to deny something, or to undo that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// How it is named.
    pub kind: Kind,
    /// Which, as it was spelled.
    pub text: String,
    /// Whether a denial is to be undone.
    pub undo: bool,
    /// Why, in the words of whoever asks.
    pub reason: Option<String>,
    /// Who asks, as far as the system tells.
    pub by: String,
}

/// Why a denial did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRevoked {
    /// Nothing can be denied at this process.
    NotHere,
    /// The demand is wrong, in a sentence.
    Question(String),
    /// It could not be made to last, or there is no room for it, in a sentence. Nothing has changed.
    Failed(String),
}

/// Which sessions are meant: those for which everything that is set holds. At least one thing is set, or `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// The request id.
    pub request: Option<RequestId>,
    /// The client: its principal or its name alone.
    pub client: Option<String>,
    /// The agent: its principal, its name alone, or its instance id.
    pub agent: Option<String>,
    /// The target: `host:port`, or the host alone.
    pub target: Option<String>,
    /// The rule that allowed it.
    pub rule: Option<String>,
    /// Every session.
    pub all: bool,
}

/// What all connections share.
struct Shared {
    observed: Arc<dyn Observed>,
    metrics: Metrics,
    samples: Mutex<Samples>,
}

impl Shared {
    fn new(observed: Arc<dyn Observed>) -> Self {
        Self { metrics: Metrics::new(Arc::clone(&observed)), observed, samples: Mutex::default() }
    }

    fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    fn take_sample(&self) {
        let sample = Sample::of(&self.observed.status());
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).add(sample);
    }
}

/// The parser of questions, opened to fuzzing: no program is built with it.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use super::{Question, Revocation, Which, answer, revoke};

    /// Reads the query of a policy test.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn question(query: &str) -> Result<Question, String> {
        answer::question(query)
    }

    /// Reads what is to be denied.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn revocation(query: &str) -> Result<Revocation, String> {
        revoke::revocation(query, String::new())
    }

    /// Reads which sessions are to end.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn which(query: &str) -> Result<Which, String> {
        answer::which(query)
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod monitoring;
