//! Several connections of one process: sessions spread over them, and what becomes of one touches nobody on another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::output;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Peer, enrol};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::world::Part;
use ginnel_testkit::{Cutter, World, eventually, proxy, within};
use ginnel_wire::v1::{self, agent_message};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

use crate::observed::metrics;
use crate::pair::Pair;
use crate::world;

/// Sessions side by side: fewer than the lanes that a process may have, so that each has one of its own.
const SESSIONS: usize = 8;

/// What shows through which connection a session goes: more than everything else that passes meanwhile.
const PIECE: usize = 256 << 10;

/// gRPC's FAILED_PRECONDITION.
const FAILED_PRECONDITION: u32 = 9;

const CONNECTIONS: &str = "ginnel_server_connections";

/// Waits until a metric of a process has this value.
async fn metric(world: &mut World, part: Part, name: &str, value: f64) -> Result<()> {
    eventually(&format!("{name} of {part:?} to be {value}"), SOON, async || {
        let found = metrics(world, part).await?.get(name).copied();
        ensure!(found == Some(value), "it is {found:?}");
        Ok(Some(()))
    })
    .await
}

/// Opens sessions until client and agent have a connection for each of them, and ends these sessions.
async fn grow(world: &mut World, host: &TcpListener) -> Result<()> {
    let mut pairs = Vec::new();
    for _ in 0..SESSIONS {
        pairs.push(Pair::open(world, host).await?);
    }
    for part in [Part::Client, Part::Agent(0)] {
        metric(world, part, CONNECTIONS, (SESSIONS + 1) as f64).await?;
    }
    drop(pairs);
    for part in [Part::Client, Part::Server, Part::Agent(0)] {
        metric(world, part, "ginnel_sessions", 0.0).await?;
    }
    Ok(())
}

/// Finds out through which connection of a leg each session goes.
async fn ways(leg: impl Fn() -> Vec<(usize, u64)>, pairs: &mut [Pair]) -> Result<Vec<usize>> {
    let mut ways = Vec::new();
    for pair in pairs {
        let before: BTreeMap<usize, u64> = leg().into_iter().collect();
        let piece = vec![7; PIECE];
        let mut arrived = vec![0; PIECE];
        let both = async { tokio::try_join!(pair.app.write_all(&piece), pair.target.read_exact(&mut arrived)) };
        within("a piece to arrive", SOON, both).await??;
        let grown = leg().into_iter().map(|(number, bytes)| (bytes - before.get(&number).unwrap_or(&0), number));
        let (most, number) = grown.max().context("no connection")?;
        ensure!(most >= PIECE as u64, "{most} bytes are not a piece");
        ways.push(number);
    }
    Ok(ways)
}

/// Cuts the connection of the first of the sessions, and takes out those that are lost: exactly those that went through it.
async fn cut_and_compare(leg: &Cutter, ways: &[usize], pairs: Vec<Pair>) -> Result<Vec<Pair>> {
    leg.cut_one(ways[0]);
    let mut left = Vec::new();
    for (mut pair, way) in pairs.into_iter().zip(ways) {
        if *way == ways[0] {
            let ended = within("the loss to be noticed", SOON, pair.app.read(&mut [0])).await?;
            ensure!(ended.is_err(), "a session on a connection that was cut ended with {ended:?}");
        } else {
            pair.exchange().await.context("a session on another connection")?;
            left.push(pair);
        }
    }
    Ok(left)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_spread_over_connections_and_one_that_dies_takes_only_its_own() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).relayed().start().await?;
    for part in [Part::Client, Part::Agent(0)] {
        metric(&mut world, part, CONNECTIONS, 1.0).await?;
    }
    grow(&mut world, &host).await?;
    let mut pairs = Vec::new();
    for _ in 0..SESSIONS {
        pairs.push(Pair::open(&world, &host).await?);
    }
    for leg in [world.client_leg()?, world.agent_leg()?] {
        let ways = ways(|| leg.passing(), &mut pairs).await?;
        let different: BTreeSet<_> = ways.iter().collect();
        // One may still have been counted where it had just ended.
        ensure!(different.len() + 1 >= pairs.len(), "{} sessions on {ways:?}", pairs.len());
        pairs = cut_and_compare(leg, &ways, pairs).await?;
        ensure!(pairs.len() + 3 >= SESSIONS, "only {} are left", pairs.len());
        Pair::open(&world, &host).await?.exchange().await?;
    }
    let lost = world.audit_until("the losses on record", |log| {
        log.iter().filter(|record| record["event"] == "ended" && record["cause"] == "agentLost").count() > 0
    });
    lost.await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_with_many_connections_lose_no_session_and_no_dial() -> Result<()> {
    const PACE: Duration = Duration::from_millis(100);
    const ROUNDS: u32 = 120;
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let mut world = world().target(&target).certificate_lifetime("5s").start().await?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(proxy::connect(world.proxy_addr(), &target).await?.opened()?.stream);
    }
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0..ROUNDS {
        ticks.tick().await;
        for session in &mut sessions {
            session.write_all(&round.to_be_bytes()).await?;
            ensure!(session.read_u32().await? == round, "round {round}");
        }
        proxy::connect(world.proxy_addr(), &target).await?.opened().with_context(|| format!("round {round}"))?;
    }
    for (part, role) in [(Part::Agent(0), "agent"), (Part::Client, "client")] {
        let enrolled = world.audit_of("enrolled")?;
        let of_role = |uri: &str| uri.contains(&format!("/{role}/"));
        let serials: BTreeSet<String> = enrolled
            .iter()
            .filter(|record| record["principal"].as_str().is_some_and(of_role))
            .map(|record| record["serial"].to_string())
            .collect();
        ensure!(serials.len() >= 3, "{role}: {serials:?}");
        metric(&mut world, part, CONNECTIONS, (SESSIONS + 1) as f64).await?;
    }
    let refused = world.audit_of("refused")?;
    ensure!(refused.is_empty(), "{refused:?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_drains_finishes_the_sessions_on_all_of_its_connections() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).grace("60s").start().await?;
    grow(&mut world, &host).await?;
    let mut pairs = Vec::new();
    for _ in 0..SESSIONS {
        pairs.push(Pair::open(&world, &host).await?);
    }
    let mark = world.client.mark();
    world.agents[0].terminate()?;
    world.roster(mark, 0).await?;
    for pair in &mut pairs {
        pair.exchange().await?;
    }
    ensure!(world.agents[0].running(), "it ended under its sessions");
    drop(pairs);
    ensure!(world.agents[0].ended().await?.success(), "the agent");
    world.finish(&[Part::Agent(0)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_no_more_and_no_fewer_connections_than_its_owner_says() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let mark = world.client.mark();
    world.edit("agent", |config| config["connections"] = json!({"min": 2, "max": 2}))?;
    world.restart(Part::Agent(0)).await?;
    world.roster(mark, 1).await?;
    metric(&mut world, Part::Agent(0), CONNECTIONS, 2.0).await?;
    let mut pairs = Vec::new();
    for _ in 0..SESSIONS {
        pairs.push(Pair::open(&world, &host).await?);
    }
    // The client opens one after the other meanwhile, in no less time than the agent would need.
    metric(&mut world, Part::Client, CONNECTIONS, (SESSIONS + 1) as f64).await?;
    metric(&mut world, Part::Agent(0), CONNECTIONS, 2.0).await?;
    metric(&mut world, Part::Server, "ginnel_connections{role=\"agent\"}", 2.0).await?;
    metric(&mut world, Part::Server, "ginnel_links{agent=\"acme\"}", 1.0).await?;
    for pair in &mut pairs {
        pair.exchange().await?;
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_connection_is_taken_only_with_the_certificate_of_the_first() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let (identity, another) = (enrol(&world, "agent.json").await?, enrol(&world, "agent.json").await?);
    let instance = Peer::instance();
    let attach = async |identity, lane| {
        let peer = Peer::connect(&world, Some(identity)).await?;
        let mut call = peer.call("/ginnel.v1.AgentLink/Attach").await?;
        let hello = v1::Hello { lane, ..Peer::hello(instance) };
        call.say(&v1::AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) })?;
        anyhow::Ok((peer, call))
    };
    let (_alone, mut call) = attach(&identity, 1).await?;
    ensure!(call.status().await? == FAILED_PRECONDITION, "a further connection without a first one");
    let (_first, mut call) = attach(&identity, 0).await?;
    call.hear::<v1::ServerMessage>().await.context("the first")?;
    let (_another, mut other) = attach(&another, 1).await?;
    ensure!(other.status().await? == FAILED_PRECONDITION, "a further connection with another certificate");
    let (_further, mut further) = attach(&identity, 1).await?;
    further.hear::<v1::ServerMessage>().await.context("a further one")?;
    let serials: Vec<_> = world.audit_of("linkUp")?.iter().map(|record| record["serial"].clone()).collect();
    ensure!(serials.len() == 2, "the world's agent and this one: {serials:?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_congestion_control_that_cannot_be_had_is_an_error_at_the_start() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    for role in ["agent", "client", "server"] {
        let mut command = world.ginnel();
        command.current_dir(world.directory()).arg(role).arg("--config").arg(format!("{role}.yaml"));
        command.args(["--set", "server.congestionControl=no-such-one"]);
        // The world's own processes keep what is theirs.
        command.args(match role {
            "server" => &["--set", "server.adminSocket=other.sock", "--set", "audit.file.directory=other"][..],
            _ => &["--set", "adminSocket=other.sock"],
        });
        let ended = within("it to end", SOON, output(command)).await??;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(!ended.status.success() && said.contains("congestion control no-such-one"), "{role}: {said}");
    }
    world.finish(&[])
}
