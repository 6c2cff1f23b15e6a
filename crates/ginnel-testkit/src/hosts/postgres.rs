//! A PostgreSQL server with a cluster of its own.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::command::{command, succeed};
use crate::daemon::Daemon;
use crate::hosts::on_free_ports;

/// Where Debian keeps each version's programs, in a directory `bin`.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Whom the server runs as when root starts the tests, because it refuses root; the package makes this user.
const UNPRIVILEGED: &str = "postgres";

/// A database server on loopback that trusts everybody who says to be [`Postgres::USER`].
pub struct Postgres {
    address: SocketAddr,
    programs: Programs,
    daemon: Daemon,
    dir: TempDir,
}

impl Postgres {
    /// The only user of the database, who may do everything.
    pub const USER: &str = "acme";

    /// Makes a cluster and starts a server for it.
    ///
    /// # Errors
    /// If PostgreSQL is missing or does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let programs = Programs::find()?;
        programs.hand_over(dir.path()).await?;
        let cluster = dir.path().join("cluster");
        let mut initdb = programs.as_owner("initdb", dir.path());
        initdb.args(["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]);
        initdb.arg(format!("--username={}", Self::USER)).arg("--pgdata").arg(&cluster);
        succeed(initdb).await.context("making a cluster")?;
        let start = async |[address]: [SocketAddr; 1]| {
            let mut postgres = programs.as_owner("postgres", dir.path());
            postgres.arg("-D").arg(&cluster);
            let port = address.port().to_string();
            let settings = [
                ("listen_addresses", address.ip().to_string().as_str()),
                ("port", &port),
                ("unix_socket_directories", ""),
                // Nothing here has to outlive the test, in the file system or in the system's shared memory.
                ("fsync", "off"),
                ("wal_level", "minimal"),
                ("max_wal_senders", "0"),
                ("dynamic_shared_memory_type", "mmap"),
                ("shared_buffers", "32MB"),
            ]
            .map(|(name, value)| format!("{name}={value}"));
            for setting in settings {
                postgres.arg("-c").arg(setting);
            }
            Daemon::spawn("postgres", postgres)
        };
        let (daemon, [address]) = on_free_ports("postgres", start).await?;
        let host = Self { address, programs, daemon, dir };
        // It takes connections before it takes commands.
        crate::eventually("postgres to answer", super::UP, async || Ok(host.ask("SELECT 1").await.ok())).await?;
        Ok(host)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One of the client's programs (`psql`, `pg_dump`, …) of the server's version, told to use the server at `address`.
    pub fn client(&self, program: &str, home: &Path, address: SocketAddr) -> Command {
        let mut command = command(self.programs.path(program), home);
        let port = address.port().to_string();
        command.env("PGHOST", address.ip().to_string()).env("PGPORT", port);
        command.env("PGUSER", Self::USER).env("PGDATABASE", "postgres");
        command
    }

    /// Runs SQL without anything in between, and returns what it prints.
    ///
    /// # Errors
    /// What the server says.
    pub async fn ask(&self, sql: &str) -> Result<String> {
        self.ask_at(self.address, "postgres", sql).await
    }

    /// Runs SQL in a database, by way of `address`, and returns what it prints.
    ///
    /// # Errors
    /// What the server says.
    pub async fn ask_at(&self, address: SocketAddr, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.client("psql", self.dir.path(), address);
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        psql.args(["--dbname", database, "--command", sql]);
        succeed(psql).await
    }

    /// Keeps its log from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A server that is killed outright leaves its mark in the system's shared memory.
        let mut stop = self.programs.as_owner("pg_ctl", self.dir.path());
        stop.args(["stop", "--silent", "--mode=immediate", "--pgdata"]).arg(self.dir.path().join("cluster"));
        stop.as_std_mut().output().ok();
    }
}

/// The programs of one version.
struct Programs {
    directory: PathBuf,
    drop_privileges: bool,
}

impl Programs {
    fn find() -> Result<Self> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&paths).find(|path| path.join("initdb").exists());
        let newest = || {
            let version =
                |path: &PathBuf| path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
            let versions = std::fs::read_dir(VERSIONS).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let programs = versions.filter(|path| path.join("bin/initdb").exists());
            programs.max_by_key(version).map(|path| path.join("bin"))
        };
        // A link in PATH leads to the place where the other programs of the same version are.
        let linked = in_path.as_ref().and_then(|path| std::fs::canonicalize(path.join("initdb")).ok());
        let linked = linked.and_then(|program| Some(program.parent()?.to_owned()));
        let directory = linked.or_else(newest).context("is PostgreSQL's server installed?")?;
        Ok(Self { directory, drop_privileges: rustix::process::geteuid().is_root() })
    }

    fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// A program of the server, run by whoever owns the cluster.
    fn as_owner(&self, program: &str, home: &Path) -> Command {
        let path = self.path(program);
        let mut started = if self.drop_privileges {
            let mut setpriv = command("setpriv", home);
            setpriv.args(["--reuid", UNPRIVILEGED, "--regid", UNPRIVILEGED, "--clear-groups"]).arg(path);
            setpriv
        } else {
            command(path, home)
        };
        started.current_dir(home);
        started
    }

    /// Makes `dir` belong to whoever runs the server.
    async fn hand_over(&self, dir: &Path) -> Result<()> {
        if !self.drop_privileges {
            return Ok(());
        }
        let mut id = command("id", dir);
        id.args(["-u", UNPRIVILEGED]);
        let user: u32 = succeed(id).await?.parse().context("a user id")?;
        Ok(std::os::unix::fs::chown(dir, Some(user), None)?)
    }
}
