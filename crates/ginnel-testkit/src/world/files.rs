//! The files of a world: keys made by the binary, and one configuration per role.
//!
//! The configurations are written as JSON, which is YAML as well and needs no care with quotes.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command::{command, succeed};
use crate::world::WorldBuilder;

pub(super) const AGENT: &str = "agent";
pub(super) const CLIENT: &str = "client";

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "tunnel.acme.example";

fn email(who: &str) -> String {
    format!("{who}@acme.iam.gserviceaccount.com")
}

/// Makes `agent.json`, `client.json` and the public halves for the server.
pub(super) async fn credentials(binary: &Path, dir: &Path) -> Result<()> {
    for who in [AGENT, CLIENT] {
        let mut create = command(binary, dir);
        create.args(["credentials", "create", &email(who), "--out"]).arg(dir.join(format!("{who}.json")));
        let public = succeed(create).await.context("creating a credential")?;
        std::fs::write(dir.join(format!("{who}.pub.pem")), public + "\n")?;
    }
    Ok(())
}

pub(super) fn server(dir: &Path, world: &WorldBuilder) -> Result<()> {
    let identity = |role: &str, name: &str| json!({"name": name, "role": role, "email": email(role), "publicKeys": [format!("{role}.pub.pem")]});
    let mut config = json!({
        "trustDomain": "acme.example",
        "server": {
            "name": SERVER_NAME, "listen": SocketAddr::from((world.listen, 0)), "admin": "127.0.0.1:0", "adminSocket": "server.sock",
            "shutdownGrace": world.grace,
        },
        "identities": [identity(AGENT, "acme"), identity(CLIENT, "frontend")],
        "rules": [{"name": "hosts", "clients": ["frontend"], "agents": ["acme"], "targets": world.rule}],
        "issuer": {"embedded": {"directory": "ca"}, "certificateLifetime": world.certificate_lifetime},
        "audit": {"file": {"directory": "audit"}},
    });
    for (pointer, value) in &world.server_settings {
        let (parent, name) = pointer.rsplit_once('/').context("a pointer")?;
        config.pointer_mut(parent).with_context(|| format!("nothing at {parent}"))?[name] = value.clone();
    }
    write(dir, "server", &config)
}

pub(super) fn agent(dir: &Path, world: &WorldBuilder, server: SocketAddr) -> Result<()> {
    let mut config = json!({
        "server": {"address": server, "name": SERVER_NAME},
        "trust": {"server": "ca/server-root.pem", "client": "ca/client-root.pem"},
        "credential": {"serviceAccountKeyFile": "agent.json"},
        "allow": world.allow,
        "admin": "127.0.0.1:0",
        "shutdownGrace": world.grace,
    });
    if !world.agents_inner_tls {
        config["dangerDisableInnerTls"] = json!(true);
    }
    write(dir, AGENT, &config)
}

pub(super) fn client(dir: &Path, world: &WorldBuilder, server: SocketAddr) -> Result<()> {
    let forwards: Vec<Value> =
        world.forwards.iter().map(|target| json!({"listen": "127.0.0.1:0", "target": target})).collect();
    let mut config = json!({
        "server": {"address": server, "name": SERVER_NAME},
        "admin": "127.0.0.1:0",
        "adminSocket": "client.sock",
        "shutdownGrace": world.grace,
        "trust": {"server": "ca/server-root.pem", "agent": "ca/agent-root.pem"},
        "credential": {"serviceAccountKeyFile": format!("{}.json", world.client_key)},
        "listen": {"proxy": "127.0.0.1:0", "forwards": forwards},
    });
    if !world.client_inner_tls {
        config["dangerDisableInnerTls"] = json!(true);
    }
    write(dir, CLIENT, &config)
}

fn write(dir: &Path, role: &str, config: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(config)?;
    std::fs::write(dir.join(format!("{role}.yaml")), text).with_context(|| format!("writing {role}.yaml"))
}
