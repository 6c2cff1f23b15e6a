//! What each command does.

use std::error::Error;
use std::future::Future;

use ginnel_config::{Findings, LoadError};
use ginnel_ops::telemetry::{self, Telemetry};

#[cfg(all(feature = "server", feature = "agent", feature = "client"))]
use crate::args::Demo;
use crate::args::{Args, Command, DAEMON_FILTER, Log};
#[cfg(all(feature = "server", feature = "agent", feature = "client"))]
use crate::demo;
use crate::shield;

mod ask;
mod audit;
mod check;
mod config;
#[cfg(feature = "client")]
mod connect;
mod credentials;
mod daemon;
mod explain;
#[cfg(feature = "server")]
mod issuer;
mod policy;
mod reload;
mod revoke;
mod runtime;
mod sessions;
mod status;
mod table;

/// The answer of a command that could be carried out.
pub(crate) enum Outcome {
    Yes,
    No,
}

/// Why a command was not carried out.
pub(crate) enum Failure {
    /// A configuration is wrong; exit code 2. Each finding begins with its own place.
    Findings(Findings),
    /// The input is wrong; exit code 2.
    Input(Box<dyn Error + Send + Sync>),
    /// It did not work; exit code 1.
    Failed(Box<dyn Error + Send + Sync>),
}

impl Failure {
    pub(crate) fn input(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Input(error.into())
    }

    pub(crate) fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// Everything that is wrong with a configuration is wrong input, also that it is not there.
impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Invalid(findings) => Self::Findings(findings),
            LoadError::Read { .. } => Self::input(error),
        }
    }
}

pub(crate) fn run(args: Args) -> Result<Outcome, Failure> {
    if args.command.speaks_tls() {
        shield::refuse_key_log().map_err(Failure::input)?;
    }
    match args.command {
        #[cfg(all(feature = "server", feature = "agent", feature = "client"))]
        Command::Demo(Demo { once, targets }) => {
            let _log = log("ginnel-demo", &args.log, "warn")?;
            block_on(demo::run(once, targets))
        }
        #[cfg(feature = "server")]
        Command::Server(daemon) => {
            let _log = log("ginnel-server", &args.log, DAEMON_FILTER)?;
            block_on(daemon::server(daemon))
        }
        #[cfg(feature = "server")]
        Command::Enrolment(daemon) => {
            let _log = log("ginnel-enrolment", &args.log, DAEMON_FILTER)?;
            block_on(daemon::enrolment(daemon))
        }
        #[cfg(feature = "agent")]
        Command::Agent(daemon) => {
            let _log = log("ginnel-agent", &args.log, DAEMON_FILTER)?;
            block_on(daemon::agent(daemon))
        }
        #[cfg(feature = "client")]
        Command::Client(daemon) => {
            let _log = log("ginnel-client", &args.log, DAEMON_FILTER)?;
            block_on(daemon::client(daemon))
        }
        Command::Config(config) => config::run(config),
        Command::Credentials(credentials) => credentials::run(credentials),
        #[cfg(feature = "server")]
        Command::Issuer(issuer) => issuer::run(issuer),
        Command::Audit(audit) => audit::run(audit),
        Command::Check(check) => {
            let _log = log("ginnel-check", &args.log, "error")?;
            block_on(check::run(check))
        }
        Command::Status(status) => block_on(status::run(status)),
        Command::Sessions(sessions) => block_on(sessions::run(sessions)),
        Command::Explain(explain) => block_on(explain::run(explain)),
        Command::Policy(policy) => block_on(policy::run(policy)),
        Command::Revoke(revoke) => block_on(revoke::run(revoke)),
        Command::Reload(reload) => block_on(reload::run(reload)),
        #[cfg(feature = "client")]
        Command::Connect(connect) => {
            let _log = log("ginnel-connect", &args.log, "error")?;
            block_on(connect::run(connect))
        }
    }
}

/// Begins to log as the process `service`, until what is returned is dropped.
fn log(service: &'static str, log: &Log, default: &'static str) -> Result<Telemetry, Failure> {
    telemetry::init_as(service, log.log_format, log.filter(default)).map_err(Failure::input)
}

fn block_on(work: impl Future<Output = Result<Outcome, Failure>>) -> Result<Outcome, Failure> {
    let runtime = runtime::build().map_err(Failure::failed)?;
    let outcome = runtime.block_on(work);
    // A blocking read of standard input cannot be cancelled and must not hold the exit.
    runtime.shutdown_background();
    outcome
}

/// Writes to standard output. A reader that went away has had enough: that is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write, stdout};
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
