//! The commands that change the roots of an embedded issuer.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use ginnel_core::principal::Role;

#[derive(Subcommand)]
pub(crate) enum Issuer {
    /// Say how things stand with the roots, and what can be done next
    Status(Status),
    /// Make the next root of a role, and publish it beside the one in use
    Prepare(Step),
    /// Sign with the next root, with what leads whoever trusts only the old one to it
    Activate(Step),
    /// Take the old root out of trust; its key is kept until the next prepare
    Retire(Step),
    /// Go one step back
    Rollback(Step),
}

#[derive(ClapArgs)]
pub(crate) struct Status {
    /// The issuer's directory
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Only the roots of this role: server, agent or client
    #[arg(long)]
    pub(crate) role: Option<Role>,

    /// Print it in JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Step {
    /// The issuer's directory
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Whose root: server, agent or client
    #[arg(long)]
    pub(crate) role: Role,

    /// Take a root out of trust although certificates of it may still be shown: their holders are refused until they enrol again
    #[arg(long)]
    pub(crate) danger_early: bool,

    /// Print how things stand afterwards in JSON
    #[arg(long)]
    pub(crate) json: bool,
}
