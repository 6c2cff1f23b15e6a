//! rathole with TLS: a server that listens for applications, and a client beside the target that dials it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::Daemon;
use ginnel_testkit::command::{command, succeed};

use crate::load::ready;
use crate::pki::NAME;
use crate::topology::{Topology, free_addresses};
use crate::way::{Ground, Running, program};

/// Of the file with the server's key, which lives as long as the run.
const PASSWORD: &str = "bench";

pub(super) async fn version(ground: &Ground) -> Result<String> {
    let said = program::version(&find(ground)?, "--version", "Build Version").await?;
    Ok(said.split_ascii_whitespace().last().map_or_else(|| said.clone(), |number| format!("rathole {number}")))
}

/// `scripts/setup-bench` builds it.
fn find(ground: &Ground) -> Result<PathBuf> {
    let built = ground.tools.join("bin/rathole");
    if built.exists() { Ok(built) } else { program::find("rathole") }
}

pub(super) async fn start(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let dir = tempfile::tempdir()?;
    let Topology { near, far } = &ground.topology;
    let [bind, entrance] = free_addresses(near.ip).await?;
    let pfx = dir.path().join("server.pfx").display().to_string();
    let mut export = command("openssl", dir.path());
    export.args(["pkcs12", "-export", "-out", &pfx, "-passout", &format!("pass:{PASSWORD}")]);
    export.args(["-in", &ground.pki.path("server.pem"), "-inkey", &ground.pki.path("server.key")]);
    succeed(export).await.context("making the server's key file")?;
    let server = format!(
        "[server]
bind_addr = \"{bind}\"
default_token = \"bench\"
[server.transport]
type = \"tls\"
[server.transport.tls]
pkcs12 = \"{pfx}\"
pkcs12_password = \"{PASSWORD}\"
[server.services.bench]
bind_addr = \"{entrance}\"
"
    );
    let client = format!(
        "[client]
remote_addr = \"{bind}\"
default_token = \"bench\"
[client.transport]
type = \"tls\"
[client.transport.tls]
trusted_root = \"{}\"
hostname = \"{NAME}\"
[client.services.bench]
local_addr = \"{target}\"
",
        ground.pki.path("ca.pem")
    );
    let program = find(ground)?;
    let mut daemons = Vec::new();
    for (name, side, text) in [("server", near, server), ("client", far, client)] {
        let path = program::write(dir.path(), &format!("{name}.toml"), &text)?;
        let mut command = side.command(&program, dir.path());
        command.arg(format!("--{name}")).arg(path).env("RUST_LOG", "error");
        daemons.push((name, Daemon::spawn_group(name, command)?));
    }
    ready(entrance).await?;
    for (name, daemon) in &mut daemons {
        ensure!(daemon.running(), "rathole's {name} has ended");
    }
    Ok(Running::of(entrance, daemons).with(dir))
}
