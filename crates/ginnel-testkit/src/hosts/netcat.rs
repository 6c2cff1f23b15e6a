//! OpenBSD's netcat, listening for one connection.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::command;
use crate::daemon::Daemon;
use crate::hosts::UP;

/// What netcat says when it listens, before the address and the port.
const LISTENING: &str = "Listening on ";

/// Says what is in a file and ends its half at once, and goes on to take what comes into another.
const SCRIPT: &str = "nc -v -n -N -l 127.0.0.1 0 < said > heard; mv heard whole";

/// A service that speaks first, good for one connection.
pub struct Netcat {
    address: SocketAddr,
    daemon: Daemon,
    dir: TempDir,
}

impl Netcat {
    /// Starts one that says `text` and ends its half before it has heard anything; see [`Self::heard`].
    ///
    /// # Errors
    /// If netcat is missing or another one than OpenBSD's.
    pub async fn start(text: &[u8]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("said"), text)?;
        let mut shell = command("sh", dir.path());
        shell.current_dir(dir.path()).args(["-c", SCRIPT]);
        let daemon = Daemon::spawn_group("nc", shell)?;
        let listens = crate::eventually("nc to listen", UP, async || {
            let lines = daemon.lines();
            let said = lines.iter().find_map(|line| line.strip_prefix(LISTENING));
            Ok(said.map(|address| address.replace(' ', ":")))
        });
        let address = listens.await.context("is OpenBSD's netcat installed?")?;
        Ok(Self { address: address.parse().context(address)?, daemon, dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has heard the end, and returns all that it heard before.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub async fn heard(&self) -> Result<Vec<u8>> {
        let whole: &Path = &self.dir.path().join("whole");
        let ended = crate::eventually("nc to end", UP, async || Ok(whole.exists().then_some(())));
        ended.await?;
        Ok(std::fs::read(whole)?)
    }

    /// Keeps its words from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}
