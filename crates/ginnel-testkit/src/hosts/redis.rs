//! A Redis server that keeps nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::command;
use crate::daemon::Daemon;
use crate::hosts::on_free_ports;

/// A store and message broker in memory.
pub struct Redis {
    address: SocketAddr,
    daemon: Daemon,
    _dir: TempDir,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    /// If Redis is missing or does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        let start = async |[address]: [SocketAddr; 1]| {
            let mut redis = command("redis-server", root);
            redis.args(["--save", "", "--appendonly", "no", "--dir"]).arg(root);
            redis.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
            Daemon::spawn("redis-server", redis).context("is Redis installed?")
        };
        let (daemon, [address]) = on_free_ports("redis-server", start).await?;
        Ok(Self { address, daemon, _dir: dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Keeps its log from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}
