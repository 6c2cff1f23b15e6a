//! mitmproxy: a box at the edge of a network that opens the TLS of everybody who passes, with an authority of its own.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::command::command;
use crate::daemon::Daemon;
use crate::wait::{SOON, eventually};

/// What stands before the address in the line in which it says that it listens.
const LISTENING: &str = "listening at ";

/// A running mitmproxy on a loopback port. Dropping it kills it.
pub struct Inspector {
    address: SocketAddr,
    daemon: Daemon,
    _directory: TempDir,
}

impl Inspector {
    /// Starts one that is asked as an HTTP proxy.
    ///
    /// # Errors
    /// If mitmproxy is missing or does not come up.
    pub async fn proxy() -> Result<Self> {
        Self::start("regular").await
    }

    /// Starts one in the way to `server`: whoever connects to it means the server.
    ///
    /// # Errors
    /// If mitmproxy is missing or does not come up.
    pub async fn in_the_way_to(server: SocketAddr) -> Result<Self> {
        Self::start(&format!("reverse:https://{server}")).await
    }

    async fn start(mode: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // It speaks on its standard output, and it is the standard error of a daemon that is collected, line by line.
        let mut mitmdump = command("sh", directory.path());
        mitmdump.env("PYTHONUNBUFFERED", "1");
        mitmdump.args(["-c", r#"exec mitmdump "$@" >&2"#, "mitmdump", "--mode", mode]);
        mitmdump.args(["--listen-host", "127.0.0.1", "--listen-port", "0"]);
        // The server's certificate is of a private authority, and inspectors that verify are set up to know such.
        mitmdump.args(["--set", "ssl_insecure=true", "--set"]);
        mitmdump.arg(format!("confdir={}", directory.path().display()));
        let mut daemon = Daemon::spawn_group("mitmdump", mitmdump)?;
        let address = eventually("mitmdump to listen; scripts/setup installs mitmproxy", SOON, async || {
            let lines = daemon.lines();
            let named = lines.iter().find_map(|line| line.split_once(LISTENING));
            let address = named.map(|(_, rest)| rest.trim_end_matches('.').parse().context(rest.to_owned()));
            if address.is_none() && !daemon.running() {
                return Ok(Some(None));
            }
            address.map(|address| address.map(Some)).transpose()
        });
        let Some(address) = address.await? else { bail!("mitmdump ended; scripts/setup installs mitmproxy") };
        Ok(Self { address, daemon, _directory: directory })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Keeps its log from being shown.
    ///
    /// # Errors
    /// None of its own; an inspector does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}
