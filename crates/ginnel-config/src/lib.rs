//! Configuration files: YAML in, typed models or located errors out.
//!
//! A file is read in three steps, each of which reports all that it finds:
//!
//! ```text
//! text ─ tree::parse ─▶ tree with places ─ overrides ─▶ the same ─ shape: declarations ─▶ model
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`finding`] | what is wrong, and where |
//! | [`tree`] | plain data with places, from YAML |
//! | [`shape`] | declarations: how a setting is read and described |
//! | [`overrides`] | environment and flags |
//! | [`load`](mod@load) | the three steps in a row |
//! | [`schema`](mod@schema), [`example`](mod@example) | what else comes out of a declaration |
//! | [`model`] | the configuration of server, agent, client and the process that enrols |
//!
//! All modules but the last know nothing of the tunnel and serve other programs as well.
//!
//! A file is judged by itself: the files that it names are opened by whoever needs them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ginnel_core::audit::Timestamp;
use ginnel_core::principal::Role;

pub mod example;
mod expiry;
pub mod finding;
pub mod load;
pub mod model;
pub mod overrides;
pub mod schema;
pub mod shape;
pub mod tree;

pub use finding::{Finding, Findings, LoadError, Place};
pub use load::Source;
pub use model::{
    Address, Admin, AgentConfig, AgentTrust, AllowedSources, CaPool, CasIssuer, CasTier, ClientConfig, ClientTrust,
    CloudLogging, Credential, Dial, EnrolmentConfig, EnrolmentSection, Forward, GoogleSection, Identity, IssuerKind,
    IssuerSection, Listen, OidcIssuer, OidcSubject, PerRole, PublicKeys, RemoteIssuer, ServerConfig, ServerIssuer,
    ServerSection, TokenBinding, Upstream, WorkloadIdentity, WorkloadMethod,
};
pub use overrides::Overrides;

/// What has a configuration: a program for each role, and one that only enrols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// `ginnel server`.
    Server,
    /// `ginnel agent`.
    Agent,
    /// `ginnel client`.
    Client,
    /// `ginnel enrolment`.
    Enrolment,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Server, Self::Agent, Self::Client, Self::Enrolment];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Client => "client",
            Self::Enrolment => "enrolment",
        }
    }
}

impl From<Role> for Daemon {
    fn from(role: Role) -> Self {
        match role {
            Role::Server => Self::Server,
            Role::Agent => Self::Agent,
            Role::Client => Self::Client,
        }
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no program with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is one of server, agent, client, enrolment")]
pub struct UnknownDaemon;

impl FromStr for Daemon {
    type Err = UnknownDaemon;

    fn from_str(text: &str) -> Result<Self, UnknownDaemon> {
        Self::ALL.into_iter().find(|daemon| daemon.as_str() == text).ok_or(UnknownDaemon)
    }
}

/// The JSON Schema of a configuration.
pub fn schema(daemon: impl Into<Daemon>) -> serde_json::Value {
    let daemon = daemon.into();
    schema::document(&format!("Configuration of ginnel {daemon}"), &kind(daemon))
}

/// A commented example of a configuration, which passes [`check`].
pub fn example(daemon: impl Into<Daemon>) -> String {
    let daemon = daemon.into();
    example::document(&model::heading(daemon), &kind(daemon))
}

/// Judges a file by itself: no overrides count, and the files that it names need not exist. Gives what is right and will soon not be, or was:
/// rules that have expired or are about to.
///
/// # Errors
/// [`LoadError`] if the file cannot be read or is wrong.
pub fn check(daemon: impl Into<Daemon>, path: &Path, now: Timestamp) -> Result<Vec<Finding>, LoadError> {
    let overrides = Overrides::none();
    match daemon.into() {
        Daemon::Server => ServerConfig::load(path, &overrides).map(|config| expiry::notes(&config.rules, path, now)),
        Daemon::Agent => AgentConfig::load(path, &overrides).map(|_| Vec::new()),
        Daemon::Client => ClientConfig::load(path, &overrides).map(|_| Vec::new()),
        Daemon::Enrolment => EnrolmentConfig::load(path, &overrides).map(|_| Vec::new()),
    }
}

/// What a configuration may hold.
pub(crate) fn kind(daemon: Daemon) -> shape::Kind {
    match daemon {
        Daemon::Server => shape::section(model::server::declaration),
        Daemon::Agent => shape::section(model::agent::declaration),
        Daemon::Client => shape::section(model::client::declaration),
        Daemon::Enrolment => shape::section(model::enrolment::declaration),
    }
}

#[cfg(test)]
mod tests;
