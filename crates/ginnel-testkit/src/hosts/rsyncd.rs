//! An rsync daemon with one module.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::command;
use crate::daemon::Daemon;
use crate::hosts::on_free_ports;

/// A file server that speaks rsync's own protocol; everybody may read and write its module `data`.
pub struct Rsyncd {
    address: SocketAddr,
    daemon: Daemon,
    dir: TempDir,
}

impl Rsyncd {
    /// Starts one with an empty module.
    ///
    /// # Errors
    /// If rsync is missing or does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        std::fs::create_dir(root.join("data"))?;
        // Run by root it would become somebody else, who cannot enter a directory of ours.
        let user = if rustix::process::geteuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
        let path = root.join("data");
        let configuration = format!("use chroot = no\n{user}[data]\npath = {}\nread only = no\n", path.display());
        std::fs::write(root.join("rsyncd.conf"), configuration)?;
        let start = async |[address]: [SocketAddr; 1]| {
            let mut daemon = command("rsync", root);
            daemon
                .args(["--daemon", "--no-detach", "--log-file=/dev/stderr", "--config"])
                .arg(root.join("rsyncd.conf"));
            daemon.arg(format!("--address={}", address.ip())).arg(format!("--port={}", address.port()));
            Daemon::spawn_group("rsync", daemon).context("is rsync installed?")
        };
        let (daemon, [address]) = on_free_ports("rsync", start).await?;
        Ok(Self { address, daemon, dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is in the module.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Keeps its log from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}
