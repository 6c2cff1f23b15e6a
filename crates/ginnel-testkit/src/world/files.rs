//! The files of a world: keys made by the binary, and one configuration per role.
//!
//! The configurations are written as JSON, which is YAML as well and needs no care with quotes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command::{command, succeed};
use crate::world::{Part, WorldBuilder};

pub(super) const AGENT: &str = "agent";
pub(super) const CLIENT: &str = "client";

/// The server, where it enrols like others.
const SERVER: &str = "server";

/// The directory of the process that enrols, in a world that has one.
pub(super) const ENROLMENT: &str = "enrolment";

/// The files that whoever issues hands out.
pub(super) const ROOTS: [&str; 3] = ["server-root.pem", "agent-root.pem", "client-root.pem"];

/// The name in the server's certificate.
pub const SERVER_NAME: &str = "tunnel.acme.example";

/// The name in the certificate of the process that enrols.
pub const ENROLMENT_NAME: &str = "enrol.acme.example";

fn email(who: &str) -> String {
    format!("{who}@acme.iam.gserviceaccount.com")
}

/// Makes `agent.json` and `client.json`, for a server that enrols like others `server.json`, and the public halves for whoever enrols them.
pub(super) async fn credentials(binary: &Path, dir: &Path, of_server: bool) -> Result<()> {
    for who in [AGENT, CLIENT].into_iter().chain(of_server.then_some(SERVER)) {
        let mut create = command(binary, dir);
        create.args(["credentials", "create", &email(who), "--out"]).arg(dir.join(format!("{who}.json")));
        let public = succeed(create).await.context("creating a credential")?;
        std::fs::write(dir.join(format!("{who}.pub.pem")), public + "\n")?;
    }
    Ok(())
}

/// Somebody who may enrol, with the public key in `keys`.
fn identity(role: &str, name: &str, keys: &str) -> Value {
    json!({"name": name, "role": role, "email": email(role), "publicKeys": [format!("{keys}{role}.pub.pem")]})
}

/// The process that enrols, in a directory below, which has nothing to do with the server's but for public keys.
pub(super) fn enrolment(dir: &Path, world: &WorldBuilder) -> Result<()> {
    let mut server = identity(SERVER, "tunnel", "../");
    server["serverNames"] = json!([SERVER_NAME]);
    let mut config = json!({
        "trustDomain": "acme.example",
        "server": {"name": ENROLMENT_NAME, "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "adminSocket": "admin.sock"},
        "identities": [server, identity(AGENT, "acme", "../"), identity(CLIENT, "frontend", "../")],
        "issuer": {"embedded": {"directory": "ca"}, "certificateLifetime": world.certificate_lifetime},
        "enrolment": {"audience": format!("https://{SERVER_NAME}/enrol")},
        "audit": {"file": {"directory": "audit"}},
    });
    set(&mut config, &world.enrolment_settings)?;
    let own = dir.join(ENROLMENT);
    std::fs::create_dir(&own)?;
    write(&own, ENROLMENT, &config)
}

/// The server, which has an issuer unless somebody enrols at the address `apart`.
pub(super) fn server(dir: &Path, world: &WorldBuilder, apart: Option<SocketAddr>) -> Result<()> {
    let identity = |role: &str, name: &str| {
        let mut identity = identity(role, name, "");
        if let (Some(identity), true) = (identity.as_object_mut(), apart.is_some()) {
            identity.remove("publicKeys");
        }
        identity
    };
    let issuer = match apart {
        None => json!({"embedded": {"directory": "ca"}, "certificateLifetime": world.certificate_lifetime}),
        Some(address) => json!({"enrolment": {
            "address": address, "name": ENROLMENT_NAME,
            "trust": {"server": "ca/server-root.pem", "agent": "ca/agent-root.pem", "client": "ca/client-root.pem"},
            "credential": {"serviceAccountKeyFile": "server.json"},
        }}),
    };
    let mut config = json!({
        "trustDomain": "acme.example",
        "server": {
            "name": SERVER_NAME, "listen": SocketAddr::from((world.listen, 0)), "admin": "127.0.0.1:0", "adminSocket": "server.sock",
            "shutdownGrace": world.grace,
        },
        "identities": [identity(AGENT, "acme"), identity(CLIENT, "frontend")],
        "rules": [{"name": "hosts", "clients": ["frontend"], "agents": ["acme"], "targets": world.rule}],
        "issuer": issuer,
        "audit": {"file": {"directory": "audit"}},
    });
    if let Some(issuing) = &world.issued_by {
        config["issuer"] = issuing.issuer.clone();
        config["issuer"]["certificateLifetime"] = json!(world.certificate_lifetime);
        std::fs::create_dir(dir.join("ca"))?;
        for (role, root) in &issuing.roots {
            std::fs::write(dir.join(format!("ca/{role}-root.pem")), root)?;
        }
    }
    set(&mut config, &world.server_settings)?;
    write(dir, SERVER, &config)
}

/// Sets values at JSON pointers, whose last parts may be there or not.
fn set(config: &mut Value, settings: &[(String, Value)]) -> Result<()> {
    for (pointer, value) in settings {
        let (parent, key) = pointer.rsplit_once('/').context("a JSON pointer")?;
        match config.pointer_mut(parent) {
            Some(Value::Object(parent)) => drop(parent.insert(key.to_owned(), value.clone())),
            Some(Value::Array(parent)) if key == "-" => parent.push(value.clone()),
            _ => bail!("nothing at {pointer}"),
        }
    }
    Ok(())
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
    set(&mut config, &world.agent_settings)?;
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
    if let Some(credential) = &world.client_credential {
        config["credential"] = credential.clone();
    }
    if !world.client_inner_tls {
        config["dangerDisableInnerTls"] = json!(true);
    }
    for (name, value) in &world.client_settings {
        config[name] = value.clone();
    }
    write(dir, CLIENT, &config)
}

pub(super) fn roots_of(dir: &Path, part: Part) -> PathBuf {
    dir.join(match part {
        Part::Server | Part::Enrolment => "ca".to_owned(),
        Part::Agent(index) => format!("roots-agent-{index}"),
        Part::Client => "roots-client".to_owned(),
    })
}

/// Copies the roots as they are for an agent or client, and gives the settings that point to the copies.
pub(super) fn own_roots(dir: &Path, part: Part) -> Result<Vec<String>> {
    let copies = roots_of(dir, part);
    std::fs::create_dir(&copies)?;
    let peer = if part == Part::Client { AGENT } else { CLIENT };
    ["server", peer]
        .into_iter()
        .map(|role| {
            let file = format!("{role}-root.pem");
            std::fs::copy(dir.join("ca").join(&file), copies.join(&file)).context("copying a root")?;
            Ok(format!("trust.{role}={}", copies.join(&file).display()))
        })
        .collect()
}

fn write(dir: &Path, role: &str, config: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(config)?;
    std::fs::write(dir.join(format!("{role}.yaml")), text).with_context(|| format!("writing {role}.yaml"))
}
