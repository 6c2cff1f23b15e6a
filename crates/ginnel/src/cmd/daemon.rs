//! The daemons: load the configuration, start, run until a signal.

use ginnel_config::Overrides;
use ginnel_ops::reload::Seen;
use ginnel_ops::signals::Terminations;
use tokio_util::sync::CancellationToken;

use super::{Failure, Outcome};
use crate::args::Daemon;

fn overrides(daemon: &Daemon) -> Overrides {
    Overrides::from_env(std::env::vars_os()).with_flags(daemon.overrides.iter().cloned())
}

/// The exit code of a process that was told a second time to stop.
const STOPPED_AT_ONCE: i32 = 1;

/// A token that is cancelled by the first signal to end. The second ends the process where it stands: connections are reset by the system.
fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    let signalled = token.clone();
    // Ends with the process.
    tokio::spawn(async move {
        let mut signals = Terminations::listen();
        signals.next().await;
        tracing::info!("shutting down");
        signalled.cancel();
        signals.next().await;
        tracing::warn!("told to stop again: ending at once");
        std::process::exit(STOPPED_AT_ONCE);
    });
    token
}

#[cfg(feature = "server")]
pub(super) async fn server(daemon: Daemon) -> Result<Outcome, Failure> {
    let source = ginnel_config::ServerConfig::source(daemon.config.clone(), overrides(&daemon));
    // Before it is read: a change that comes during the start is taken up once it is over.
    let seen = Seen::now([daemon.config]);
    let config = source.load()?;
    let issuer = crate::issuer::of_server(&config).await.map_err(Failure::failed)?;
    let sink = crate::sink::of_server(&config).map_err(Failure::failed)?;
    let started = ginnel_server::app::Server::start(config, issuer, sink, Some((source, seen)), shutdown()).await;
    let server = started.map_err(Failure::failed)?;
    server.run().await;
    Ok(Outcome::Yes)
}

#[cfg(feature = "server")]
pub(super) async fn enrolment(daemon: Daemon) -> Result<Outcome, Failure> {
    let source = ginnel_config::EnrolmentConfig::source(daemon.config.clone(), overrides(&daemon));
    // Before it is read: a change that comes during the start is taken up once it is over.
    let seen = Seen::now([daemon.config]);
    let config = source.load()?;
    let issuer = crate::issuer::open(&config.trust_domain, &config.issuer).await.map_err(Failure::failed)?;
    let sink = crate::sink::of_enrolment(&config).map_err(Failure::failed)?;
    let started =
        ginnel_server::enrolment::Enrolment::start(config, issuer, sink, Some((source, seen)), shutdown()).await;
    started.map_err(Failure::failed)?.run().await;
    Ok(Outcome::Yes)
}

#[cfg(feature = "agent")]
pub(super) async fn agent(daemon: Daemon) -> Result<Outcome, Failure> {
    let source = ginnel_config::AgentConfig::source(daemon.config.clone(), overrides(&daemon));
    // Before it is read: a change that comes during the start is taken up once it is over.
    let seen = Seen::now([daemon.config]);
    let config = source.load()?;
    let credential = crate::credential::open(&config.credential).map_err(Failure::failed)?;
    let agent = ginnel_agent::app::Agent::start(config, credential, Some((source, seen)));
    let agent = agent.await.map_err(Failure::failed)?;
    agent.run(shutdown()).await;
    Ok(Outcome::Yes)
}

#[cfg(feature = "client")]
pub(super) async fn client(daemon: Daemon) -> Result<Outcome, Failure> {
    let source = ginnel_config::ClientConfig::source(daemon.config.clone(), overrides(&daemon));
    // Before it is read: a change that comes during the start is taken up once it is over.
    let seen = Seen::now([daemon.config]);
    let config = source.load()?;
    let credential = crate::credential::open(&config.credential).map_err(Failure::failed)?;
    let client = ginnel_client::app::Client::start(config, credential, Some((source, seen)));
    let client = client.await.map_err(Failure::failed)?;
    client.run(shutdown()).await;
    Ok(Outcome::Yes)
}
