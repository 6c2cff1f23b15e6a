//! The ways whose programs are ours: relays, one TLS connection per session, the tunnel.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::World;

use crate::chain::FOR_AGENTS;
use crate::load::ready;
use crate::process::{announced, start};
use crate::topology::Topology;
use crate::way::{Ground, Kept, Running, started};

/// As many plain relays as there are names, the last of them beside the target.
pub(super) async fn relays(ground: &Ground, target: SocketAddr, names: &[&'static str]) -> Result<Running> {
    let Topology { near, far } = &ground.topology;
    let mut daemons = Vec::new();
    let mut next = target;
    for (index, name) in names.iter().enumerate().rev() {
        let side = if index + 1 == names.len() { far } else { near };
        let relay = start(side, name, &["relay", &side.ip.to_string(), &next.to_string()]).await?;
        next = relay.address;
        daemons.push(started(name, relay));
    }
    daemons.reverse();
    ready(next).await?;
    Ok(Running::of(next, daemons))
}

/// Client, server and agent with one TLS connection for each session and leg.
pub(super) async fn tls_per_session(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let Topology { near, far } = &ground.topology;
    let pki = ground.pki.dir().display().to_string();
    let ip = near.ip.to_string();
    let server = start(near, "server", &["chain-server", &ip, &pki]).await?;
    let for_agents = announced(&server.daemon, FOR_AGENTS).await?.to_string();
    let agent = start(far, "agent", &["chain-agent", &for_agents, &target.to_string(), &pki]).await?;
    let client = start(near, "client", &["chain-client", &ip, &server.address.to_string(), &pki]).await?;
    let entrance = client.address;
    ready(entrance).await?;
    Ok(Running::of(entrance, vec![started("client", client), started("server", server), started("agent", agent)]))
}

/// Client, server and agent of the tunnel, with or without TLS from end to end.
pub(super) async fn tunnel(ground: &Ground, target: SocketAddr, end_to_end: bool) -> Result<Running> {
    let Topology { near, far } = &ground.topology;
    ensure!(near.prefix.is_empty() && far.prefix.is_empty(), "the testkit's worlds are on one loopback");
    let builder = World::builder(&ground.ginnel).forward(target);
    let builder = if end_to_end { builder } else { builder.danger_disable_inner_tls() };
    let world = builder.start().await?;
    let entrance = world.forward_addr(0)?;
    ready(entrance).await?;
    let agent = world.agents.first().context("an agent")?;
    let processes = vec![("client", world.client.pid()), ("server", world.server.pid()), ("agent", agent.pid())];
    Ok(Running { entrance, processes, kept: Kept::World(Box::new(world)), dir: None })
}
