//! Services and their clients in Python, with the libraries that people use for these protocols.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::command::command;
use crate::daemon::Daemon;

/// The system's own Python, which sees the modules that the system's packages bring.
const PYTHON: &str = "/usr/bin/python3";

/// A service in Python, on a free loopback port.
pub struct Script {
    address: SocketAddr,
    client: &'static str,
    daemon: Daemon,
    _dir: TempDir,
}

/// Whom a foreign client enrols as, and where.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'a> {
    /// `agent` or `client`, whose key file the world has.
    pub role: &'a str,
    /// Where enrolments are judged, and the name there.
    pub enrolment: (SocketAddr, &'a str),
    /// Where the certificate is used, and the name there.
    pub server: (SocketAddr, &'a str),
}

impl Foreign<'_> {
    /// A client of gRPC's own Python library that enrols with the files in `directory` and says as whom it was taken. `proto` is the
    /// directory of the protocol's definition.
    ///
    /// # Errors
    /// If its messages have no place to be generated.
    pub fn command(self, directory: &Path, proto: &Path) -> Result<Command> {
        let out = directory.join("generated");
        std::fs::create_dir_all(&out)?;
        let mut python = command(PYTHON, directory);
        python.args(["-c", include_str!("python/enrol_client.py")]).arg(proto).arg(out);
        python.arg(directory.join("ca/server-root.pem")).arg(directory.join(format!("{}.json", self.role)));
        python.arg(format!("https://{}/enrol", self.server.1));
        for (address, name) in [self.enrolment, self.server] {
            python.args([&address.to_string(), name]);
        }
        python.arg(self.role);
        Ok(python)
    }
}

impl Script {
    /// Starts a WebSocket server that gives back every message and sends a feed of its own meanwhile.
    ///
    /// # Errors
    /// If Python or its module `websockets` is missing.
    pub async fn websocket() -> Result<Self> {
        let (server, client) = (include_str!("python/websocket_server.py"), include_str!("python/websocket_client.py"));
        Self::start("websocket", server, client).await
    }

    /// Starts a gRPC server with a call of every kind.
    ///
    /// # Errors
    /// If Python or its module `grpc` is missing.
    pub async fn grpc() -> Result<Self> {
        Self::start("grpc", include_str!("python/grpc_server.py"), include_str!("python/grpc_client.py")).await
    }

    async fn start(name: &str, server: &str, client: &'static str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut python = command(PYTHON, dir.path());
        python.args(["-c", server]);
        let daemon = Daemon::spawn(name, python)?;
        let said = daemon.wait_for("listening", |_| true).await.context("are Python and its modules installed?")?;
        let address = said["address"].as_str().context("an address")?.parse().context("a socket address")?;
        Ok(Self { address, client, daemon, _dir: dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The client that tries all that the service does, by way of `address`, and says what it has seen.
    pub fn client(&self, home: &Path, address: SocketAddr) -> Command {
        let mut python = command(PYTHON, home);
        python.args(["-c", self.client]).arg(address.to_string());
        python
    }

    /// Keeps its words from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}
