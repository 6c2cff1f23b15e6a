//! The ways to the target that are compared: an entrance, and the processes behind it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::{Daemon, World};
use tempfile::TempDir;

use crate::pki::Pki;
use crate::process::{Root, Started};
use crate::topology::Topology;

mod haproxy;
mod nginx;
mod own;
mod program;
mod rathole;
mod ssh;
mod stunnel;
mod words;

pub(crate) use words::NOT_TO_BE_HAD;

/// A way to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Nothing between driver and target.
    Direct,
    /// Two processes that copy bytes.
    Relay2,
    /// Three of them.
    Relay3,
    /// Client, server and agent with one TLS connection for each session and leg.
    TlsPerSession,
    /// The tunnel without TLS between its ends.
    TunnelOuter,
    /// The tunnel as it is meant to be used.
    Tunnel,
    /// rathole with TLS.
    Rathole,
    /// `ssh -R`.
    SshR,
    /// `ssh -L` to the same server.
    SshLR,
    /// Three HAProxy processes.
    Haproxy,
    /// Three nginx with its stream module.
    Nginx,
    /// Three stunnel processes.
    Stunnel,
}

impl Way {
    /// All of them, in the order of the document.
    pub(crate) const ALL: [Self; 12] = [
        Self::Direct,
        Self::Relay2,
        Self::Relay3,
        Self::TlsPerSession,
        Self::TunnelOuter,
        Self::Tunnel,
        Self::Rathole,
        Self::SshR,
        Self::SshLR,
        Self::Haproxy,
        Self::Nginx,
        Self::Stunnel,
    ];

    /// The one that others are compared with.
    pub(crate) const BASE: Self = Self::Relay2;

    /// Finds one by its name.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|way| way.name() == name)
            .with_context(|| format!("no way {name:?}; there are {}", names()))
    }

    /// Whether it is ours: what these cannot do is a fault, what a peer cannot do is a finding.
    pub(crate) fn is_tunnel(self) -> bool {
        match self {
            Self::TunnelOuter | Self::Tunnel => true,
            Self::Direct
            | Self::Relay2
            | Self::Relay3
            | Self::TlsPerSession
            | Self::Rathole
            | Self::SshR
            | Self::SshLR
            | Self::Haproxy
            | Self::Nginx
            | Self::Stunnel => false,
        }
    }

    /// The version of the program that it needs, or why it cannot be had.
    pub(crate) async fn version(self, ground: &Ground) -> Result<String> {
        match self {
            Self::Direct | Self::Relay2 | Self::Relay3 | Self::TlsPerSession => Ok("of the bench".to_owned()),
            Self::TunnelOuter | Self::Tunnel => {
                ensure!(ground.ginnel.exists(), "{} is not built", ground.ginnel.display());
                Ok(env!("CARGO_PKG_VERSION").to_owned())
            }
            Self::Rathole => rathole::version(ground).await,
            Self::SshR | Self::SshLR => ssh::version().await,
            Self::Haproxy => haproxy::version().await,
            Self::Nginx => nginx::version().await,
            Self::Stunnel => stunnel::version().await,
        }
    }

    /// Starts its processes before a target.
    pub(crate) async fn start(self, ground: &Ground, target: SocketAddr) -> Result<Running> {
        match self {
            Self::Direct => Ok(Running::of(target, Vec::new())),
            Self::Relay2 => own::relays(ground, target, &["first", "second"]).await,
            Self::Relay3 => own::relays(ground, target, &["first", "second", "third"]).await,
            Self::TlsPerSession => own::tls_per_session(ground, target).await,
            Self::TunnelOuter => own::tunnel(ground, target, false).await,
            Self::Tunnel => own::tunnel(ground, target, true).await,
            Self::Rathole => rathole::start(ground, target).await,
            Self::SshR => ssh::remote(ground, target).await,
            Self::SshLR => ssh::local_and_remote(ground, target).await,
            Self::Haproxy => haproxy::start(ground, target).await,
            Self::Nginx => nginx::start(ground, target).await,
            Self::Stunnel => stunnel::start(ground, target).await,
        }
    }
}

/// What every way stands on.
pub(crate) struct Ground {
    /// The tunnel's program.
    pub(crate) ginnel: PathBuf,
    /// Where programs lie that were built for the bench.
    pub(crate) tools: PathBuf,
    /// Where processes run.
    pub(crate) topology: Topology,
    /// Certificates for the peers.
    pub(crate) pki: Pki,
}

/// A way whose processes run. Dropping it kills them, and shows what they said unless [`Running::finish`] was reached.
pub(crate) struct Running {
    /// Where sessions go in.
    pub(crate) entrance: SocketAddr,
    /// Its processes.
    pub(crate) processes: Vec<Root>,
    kept: Kept,
    /// Its files, which go after its processes.
    dir: Option<TempDir>,
}

enum Kept {
    Daemons(Vec<Daemon>),
    World(Box<World>),
}

impl Running {
    fn of(entrance: SocketAddr, daemons: Vec<(&'static str, Daemon)>) -> Self {
        let processes = daemons.iter().map(|(name, daemon)| (*name, daemon.pid())).collect();
        let daemons = daemons.into_iter().map(|(_, daemon)| daemon).collect();
        Self { entrance, processes, kept: Kept::Daemons(daemons), dir: None }
    }

    fn with(mut self, dir: TempDir) -> Self {
        self.dir = Some(dir);
        self
    }

    /// Ends the processes, which must all have lived until here.
    pub(crate) fn finish(self) -> Result<()> {
        let dir = self.dir;
        match self.kept {
            Kept::World(world) => world.finish(&[])?,
            Kept::Daemons(mut daemons) => {
                for (daemon, (name, _)) in daemons.iter_mut().zip(self.processes) {
                    ensure!(daemon.running(), "{name} has ended");
                }
                for daemon in &mut daemons {
                    daemon.check()?;
                }
            }
        }
        drop(dir);
        Ok(())
    }
}

fn started(name: &'static str, started: Started) -> (&'static str, Daemon) {
    (name, started.daemon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_found_by_its_name_and_says_what_it_is() {
        for way in Way::ALL {
            assert_eq!(Way::parse(way.name()).unwrap(), way);
            assert!(!way.title().is_empty() && !way.configuration().is_empty());
        }
        assert!(Way::parse("relay").unwrap_err().to_string().contains("relay-2"));
    }
}
