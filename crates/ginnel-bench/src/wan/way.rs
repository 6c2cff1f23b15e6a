//! The ways across the line.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use ginnel_testkit::World;
use ginnel_testkit::link::Link;

/// A way from an application at the near end to a target at the far one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Client and server at the near end, agent at the far one.
    Tunnel,
    /// Nothing between the two but the line.
    Direct,
}

/// Where applications go in.
pub(super) struct Entrance {
    /// A port that leads to the target.
    pub(super) address: SocketAddr,
    /// When an application hears that it has a connection.
    pub(super) success: Success,
}

/// What tells an application that it has a connection to the target.
#[derive(Clone, Copy, Debug)]
pub(super) enum Success {
    /// The kernel.
    Connected,
    /// An answer to CONNECT of the proxy at this address.
    Proxy(SocketAddr),
}

/// A way that stands. What it is made of ends with it.
pub(super) struct Started {
    pub(super) entrance: Entrance,
    world: Option<World>,
}

impl Way {
    /// All of them. Ratios are taken against the last.
    pub(super) const ALL: [Self; 2] = [Self::Tunnel, Self::Direct];

    /// What the document calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct TCP",
        }
    }

    /// Starts what the way is made of, from a thread at the near end.
    pub(super) async fn start(self, link: &Link, ginnel: &Path, target: SocketAddr) -> Result<Started> {
        match self {
            Self::Tunnel => {
                let world = World::builder(ginnel).forward(target).across(link).start().await?;
                let success = Success::Proxy(world.proxy_addr());
                let entrance = Entrance { address: world.forward_addr(0)?, success };
                Ok(Started { entrance, world: Some(world) })
            }
            Self::Direct => {
                let entrance = Entrance { address: target, success: Success::Connected };
                Ok(Started { entrance, world: None })
            }
        }
    }
}

impl Started {
    /// Ends it, if all is well with it.
    pub(super) fn finish(self) -> Result<()> {
        self.world.map_or(Ok(()), |world| world.finish(&[]))
    }
}
