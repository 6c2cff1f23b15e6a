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
//! | [`model`] | the configuration of server, agent and client |
//!
//! All modules but the last know nothing of the tunnel and serve other programs as well.
//!
//! A file is judged by itself: the files that it names are opened by whoever needs them.

use std::path::Path;

use ginnel_core::principal::Role;

pub mod example;
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
    Address, Admin, AgentConfig, AgentTrust, CaPool, CasIssuer, CasTier, ClientConfig, ClientTrust, Forward, Identity,
    IssuerKind, IssuerSection, Listen, PerRole, ServerConfig, ServerSection, Upstream,
};
pub use overrides::Overrides;

/// The JSON Schema of a role's configuration.
pub fn schema(role: Role) -> serde_json::Value {
    schema::document(&format!("Configuration of ginnel {role}"), &kind(role))
}

/// A commented example of a role's configuration, which passes [`check`].
pub fn example(role: Role) -> String {
    example::document(&model::heading(role), &kind(role))
}

/// Judges a file by itself: no overrides count, and the files that it names need not exist.
///
/// # Errors
/// [`LoadError`] if the file cannot be read or is wrong.
pub fn check(role: Role, path: &Path) -> Result<(), LoadError> {
    let overrides = Overrides::none();
    match role {
        Role::Server => ServerConfig::load(path, &overrides).map(drop),
        Role::Agent => AgentConfig::load(path, &overrides).map(drop),
        Role::Client => ClientConfig::load(path, &overrides).map(drop),
    }
}

/// What a role's configuration may hold.
pub(crate) fn kind(role: Role) -> shape::Kind {
    match role {
        Role::Server => shape::section(model::server::declaration),
        Role::Agent => shape::section(model::agent::declaration),
        Role::Client => shape::section(model::client::declaration),
    }
}

#[cfg(test)]
mod tests;
