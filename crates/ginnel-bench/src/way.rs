//! The ways to the target that are compared. Another program is one more way: an entrance, and the processes behind it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use ginnel_testkit::World;

use crate::load::{self, Effort, Figures};
use crate::process::{Started, start};

/// A way to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Server, agent and client, with TLS between each two and between the ends.
    Tunnel,
    /// Two processes that copy bytes.
    Relay,
}

impl Way {
    /// All of them. Ratios are taken against the last.
    pub(crate) const ALL: [Self; 2] = [Self::Tunnel, Self::Relay];

    /// What the document calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Relay => "relay",
        }
    }
}

/// Starts the processes of a way, measures everything, and ends them.
pub(crate) async fn measure(way: Way, ginnel: &Path, host: SocketAddr, effort: &Effort) -> Result<Figures> {
    match way {
        Way::Tunnel => {
            let world = World::builder(ginnel).forward(host).start().await?;
            let agent = world.agents.first().context("an agent")?;
            let processes = [("client", world.client.pid()), ("server", world.server.pid()), ("agent", agent.pid())];
            let figures = load::measure(world.forward_addr(0)?, &processes, effort).await?;
            world.finish(&[])?;
            Ok(figures)
        }
        Way::Relay => {
            let mut second: Started = start("second relay", &["relay", &host.to_string()]).await?;
            let mut first = start("first relay", &["relay", &second.address.to_string()]).await?;
            let processes = [("first relay", first.daemon.pid()), ("second relay", second.daemon.pid())];
            let figures = load::measure(first.address, &processes, effort).await?;
            first.daemon.check()?;
            second.daemon.check()?;
            Ok(figures)
        }
    }
}
