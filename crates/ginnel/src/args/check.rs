//! `ginnel check`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use ginnel_config::Daemon;
use ginnel_core::target::Target;

#[derive(ClapArgs)]
pub(crate) struct Check {
    /// server, agent, client or enrolment
    pub(crate) role: Daemon,

    /// Its configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Override one value of the file, such as server.address=203.0.113.7:443; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub(crate) overrides: Vec<String>,

    /// Whether this target could be reached: an agent tries it from here, a client asks which agents serve it
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<Target>,

    /// Print the steps as they are, in JSON
    #[arg(long)]
    pub(crate) json: bool,
}
