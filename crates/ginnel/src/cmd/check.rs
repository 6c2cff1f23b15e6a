//! `ginnel check`: finds out why a role would not work, step by step, before or while it runs.

use ginnel_config::{Daemon, Overrides};

use self::report::Report;
use super::{Failure, Outcome, print};
use crate::args::check::Check;

#[cfg(feature = "agent")]
mod agent;
#[cfg(any(feature = "server", feature = "agent"))]
mod audit;
#[cfg(feature = "client")]
mod client;
mod clock;
#[cfg(any(feature = "agent", feature = "server"))]
mod denials;
mod report;
#[cfg(feature = "server")]
mod server;
mod way;

pub(super) async fn run(args: Check) -> Result<Outcome, Failure> {
    let overrides = Overrides::from_env(std::env::vars_os()).with_flags(args.overrides.iter().cloned());
    let mut report = Report::default();
    let config = format!("{} is a valid configuration of ginnel {}", args.config.display(), args.role);
    match args.role {
        #[cfg(feature = "server")]
        Daemon::Server => {
            if args.target.is_some() {
                return Err(Failure::input("--target is for agents and clients; a server dials nothing"));
            }
            let read = ginnel_config::ServerConfig::load(&args.config, &overrides)?;
            report.pass("config", config);
            server::check(&read, &mut report).await;
        }
        #[cfg(feature = "server")]
        Daemon::Enrolment => {
            if args.target.is_some() {
                return Err(Failure::input("--target is for agents and clients; enrolment dials nothing"));
            }
            let read = ginnel_config::EnrolmentConfig::load(&args.config, &overrides)?;
            report.pass("config", config);
            server::check_enrolment(&read, &mut report).await;
        }
        #[cfg(feature = "agent")]
        Daemon::Agent => {
            let read = ginnel_config::AgentConfig::load(&args.config, &overrides)?;
            report.pass("config", config);
            agent::check(read, args.target.as_ref(), &mut report).await;
        }
        #[cfg(feature = "client")]
        Daemon::Client => {
            let read = ginnel_config::ClientConfig::load(&args.config, &overrides)?;
            report.pass("config", config);
            client::check(read, args.target.as_ref(), &mut report).await;
        }
        #[cfg(not(all(feature = "server", feature = "agent", feature = "client")))]
        role => return Err(Failure::input(format!("this program was built without the {role}"))),
    }
    let text = if args.json { report.json()? } else { report.text() };
    print(&text)?;
    Ok(report.outcome())
}
