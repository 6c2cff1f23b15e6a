//! git's own daemon, which serves repositories over `git://`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::git;
use crate::daemon::Daemon;
use crate::hosts::on_free_ports;

/// A code host that speaks git's protocol without anything around it, and lets anybody push.
pub struct GitDaemon {
    address: SocketAddr,
    daemon: Daemon,
    dir: TempDir,
}

impl GitDaemon {
    /// Starts one with nothing in it.
    ///
    /// # Errors
    /// If git's daemon is missing or does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        let start = async |[address]: [SocketAddr; 1]| {
            let mut daemon = git(root);
            daemon.args([
                "daemon",
                "--export-all",
                "--enable=receive-pack",
                "--informative-errors",
                "--log-destination=stderr",
            ]);
            daemon.arg(format!("--listen={}", address.ip())).arg(format!("--port={}", address.port()));
            daemon.arg(format!("--base-path={}", root.display())).arg(root);
            Daemon::spawn_group("git daemon", daemon).context("is git installed?")
        };
        let (daemon, [address]) = on_free_ports("git daemon", start).await?;
        Ok(Self { address, daemon, dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The directory of the repositories, served as `/NAME`.
    pub fn repositories(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Keeps its log from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}
