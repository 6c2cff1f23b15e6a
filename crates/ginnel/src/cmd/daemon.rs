//! The three daemons: load the configuration, start, run until a signal.

use ginnel_config::Overrides;
use ginnel_ops::signals::terminated;
use tokio_util::sync::CancellationToken;

use super::{Failure, Outcome};
use crate::args::Daemon;

fn overrides(daemon: &Daemon) -> Overrides {
    Overrides::from_env(std::env::vars_os()).with_flags(daemon.overrides.iter().cloned())
}

/// A token that is cancelled by the first signal to end.
fn shutdown() -> CancellationToken {
    let token = CancellationToken::new();
    let signalled = token.clone();
    // Ends with the process.
    tokio::spawn(async move {
        terminated().await;
        tracing::info!("shutting down");
        signalled.cancel();
    });
    token
}

#[cfg(feature = "server")]
pub(super) async fn server(daemon: Daemon) -> Result<Outcome, Failure> {
    let config = ginnel_config::ServerConfig::load(&daemon.config, &overrides(&daemon))?;
    let server = ginnel_server::app::Server::start(config, shutdown()).await.map_err(Failure::failed)?;
    server.run().await;
    Ok(Outcome::Yes)
}

#[cfg(feature = "agent")]
pub(super) async fn agent(daemon: Daemon) -> Result<Outcome, Failure> {
    let config = ginnel_config::AgentConfig::load(&daemon.config, &overrides(&daemon))?;
    let agent = ginnel_agent::app::Agent::new(config).map_err(Failure::failed)?;
    agent.run(shutdown()).await;
    Ok(Outcome::Yes)
}

#[cfg(feature = "client")]
pub(super) async fn client(daemon: Daemon) -> Result<Outcome, Failure> {
    let config = ginnel_config::ClientConfig::load(&daemon.config, &overrides(&daemon))?;
    let client = ginnel_client::app::Client::start(config).await.map_err(Failure::failed)?;
    client.run(shutdown()).await;
    Ok(Outcome::Yes)
}
