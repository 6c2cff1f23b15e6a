//! Routes: a client that has pinned which agents may serve which target, towards a server that offers others.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_core::id::InstanceId;
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::relay::AGENT;
use ginnel_testkit::stream::read_to_ending;
use ginnel_testkit::world::Part;
use ginnel_testkit::{Ending, Refused, Relay, World, WorldBuilder, proxy, within};
use ginnel_wire::hello::RosterEntry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{entry, hasty_application, honest, let_out, opened, refusal};
use crate::admin::get;
use crate::pair::Pair;
use crate::world;

/// An agent that the server knows and this client does not want.
const OTHER: &str = "spiffe://acme.example/agent/other";

/// How soon a session is over that the routes do not permit any more.
pub(super) const CUT_WITHIN: Duration = Duration::from_secs(1);

/// A world whose client leaves each of these targets to these agents.
pub(super) fn routed(routes: &[(SocketAddr, &str)]) -> WorldBuilder {
    world().client_setting("routes", routes_of(routes))
}

pub(super) fn routes_of(routes: &[(SocketAddr, &str)]) -> Value {
    routes.iter().map(|(target, agent)| json!({"targets": [target], "agents": [agent]})).collect()
}

pub(super) async fn reload(world: &World) -> Result<String> {
    let mut command = world.ginnel();
    command.args(["reload", "--socket"]).arg(world.socket(Part::Client));
    succeed(command).await
}

/// What the application is told, which must be that no route permits this.
pub(super) async fn refused(world: &World, target: SocketAddr) -> Result<Refused> {
    let refused = proxy::connect(world.proxy_addr(), &target.to_string()).await?.refused()?;
    let said = (refused.status, refused.hop.as_str(), refused.cause.as_str());
    ensure!(said == (403, "client", "notOnRoute"), "{target}: {refused:?}");
    let is_it = |line: &Value| line["request"] == refused.request_id.as_str() && line["cause"] == "notOnRoute";
    world.client.wait_for("refused", is_it).await?;
    Ok(refused)
}

async fn is_reset(pair: &mut Pair) -> Result<()> {
    for stream in [&mut pair.app, &mut pair.target] {
        let (_, ending) = within("the end of a session on no route", CUT_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_names_is_refused_and_a_reload_ends_what_it_takes_off() -> Result<()> {
    let (on, off) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (on_at, off_at) = (on.local_addr()?, off.local_addr()?);
    let mut world = routed(&[(on_at, "acme")]).target(on_at).target(off_at).start().await?;
    let mut pair = Pair::open(&world, &on).await?;
    pair.exchange().await?;
    refused(&world, off_at).await?;
    ensure!(world.audit_of("refused")?.is_empty(), "the server heard of it");

    // What people are shown.
    let admin = world.admin(Part::Client).await?.to_string();
    let status: Value = serde_json::from_str(&get(&admin, "/status").await?.1)?;
    ensure!(status["routes"] == json!([{"targets": [on_at], "agents": ["acme"]}]), "{}", status["routes"]);
    ensure!(status["agents"][0]["onRoute"] == true && status["ready"] == true, "{status}");
    for (target, code, words) in
        [(on_at, 0, format!("{on_at} may be served by acme")), (off_at, 1, format!("none of them names {off_at}"))]
    {
        let mut check = world.ginnel();
        check.args(["check", "client", "--config"]).arg(world.directory().join("client.yaml"));
        check.arg("--target").arg(target.to_string());
        let said = output(check).await?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(said.status.code() == Some(code) && text.contains(&words), "{text}");
    }

    // A file that cannot be used changes nothing; one that can counts at once, for what is open as for what comes.
    world.edit("client", |config| config["routes"] = json!([{"targets": [on_at], "agents": ["Acme"]}]))?;
    ensure!(reload(&world).await.is_err(), "a bad file was taken");
    pair.exchange().await?;
    world.edit("client", |config| config["routes"] = routes_of(&[(off_at, "acme"), (on_at, "other")]))?;
    let said = reload(&world).await?;
    is_reset(&mut pair).await?;
    ensure!(said.contains("1 session is no longer permitted and was ended"), "{said}");
    ensure!(said.contains(&format!("routes removed: {on_at} through acme")), "{said}");
    let request = pair.request_id.clone();
    let is_end = |record: &Value| record["requestId"] == request && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
    let record = log.iter().find(|record| is_end(record)).context("a record")?;
    ensure!(record["cause"] == "notOnRoute" && record["hop"] == "client", "{record}");
    refused(&world, on_at).await?;
    Pair::open(&world, &off).await?.exchange().await?;

    // Without routes the server has the choice again.
    world.edit("client", |config| drop(config.as_object_mut().map(|config| config.remove("routes"))))?;
    let said = reload(&world).await?;
    ensure!(said.contains("there are no routes any more"), "{said}");
    Pair::open(&world, &on).await?.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_puts_no_routes_into_force_that_nothing_would_prove() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let at = host.local_addr()?;
    let mut world = world().danger_disable_inner_tls().target(at).start().await?;
    world.edit("client", |config| {
        config["routes"] = routes_of(&[(at, "acme")]);
        drop(config.as_object_mut().map(|config| config.remove("dangerDisableInnerTls")));
    })?;
    let mut command = world.ginnel();
    command.args(["reload", "--socket"]).arg(world.socket(Part::Client));
    let said = output(command).await?;
    let text = String::from_utf8_lossy(&said.stdout);
    ensure!(!said.status.success() && text.contains("takes a restart"), "{said:?}");
    // Nothing of the file counts, and nobody is told that it does.
    let admin = world.admin(Part::Client).await?.to_string();
    let status: Value = serde_json::from_str(&get(&admin, "/status").await?.1)?;
    ensure!(status["routes"].is_null() && status["config"]["failure"].is_object(), "{status}");
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}

/// A roster on which `agent` has this process and serves this target.
fn offer(agent: &str, target: SocketAddr, instance: InstanceId) -> Result<RosterEntry> {
    Ok(RosterEntry { agent: agent.parse()?, ..entry(target, instance)? })
}

#[tokio::test(flavor = "multi_thread")]
async fn whomever_the_relay_offers_only_agents_on_a_route_are_asked() -> Result<()> {
    let [pinned, others, unnamed] = [TcpHost::echo().await?, TcpHost::echo().await?, TcpHost::echo().await?];
    let [pinned, others, unnamed] = [pinned.address(), others.address(), unnamed.address()];
    let world = routed(&[(pinned, "acme"), (others, "acme-2")]);
    let mut world = world.target(pinned).target(others).target(unnamed).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let instances: Vec<_> = (0..4).map(|_| InstanceId::random(&mut SystemRandom)).collect();
    let roster = vec![
        offer(OTHER, pinned, instances[0])?,
        offer(AGENT, pinned, instances[1])?,
        offer(AGENT, others, instances[2])?,
        offer(OTHER, unnamed, instances[3])?,
    ];
    let _link = relay.welcome_client(&world, roster).await?;

    // Right agent, wrong target; wrong agent, right target; neither.
    refused(&world, others).await?;
    refused(&world, unnamed).await?;
    // With both on offer it is never the other one that is asked, and nobody was asked for what is above.
    let mut asked = BTreeSet::new();
    for _ in 0..8 {
        let app = hasty_application(&world, pinned);
        let (mut call, open) = relay.opening().await?;
        let choice = open.agent.context("nobody was chosen")?;
        asked.insert((open.target, choice.principal.to_string(), choice.instance));
        call.say_frame(opened(pinned))?;
        // A genuine certificate of the other one, in place of the one that was asked.
        ensure!(relay.play_agent(call, OTHER).await.is_err(), "another agent was taken for the one on the route");
        let said = refusal(app).await?;
        ensure!((said.hop.as_str(), said.cause.as_str()) == ("client", "peerNotVerified"), "{said:?}");
    }
    ensure!(asked == BTreeSet::from([(pinned.to_string(), AGENT.to_owned(), instances[1])]), "{asked:?}");

    // While the relay issues, too, a route is no help against a certificate in the very name that it says.
    let app = hasty_application(&world, pinned);
    let (mut call, _) = relay.opening().await?;
    call.say_frame(opened(pinned))?;
    let _inside = relay.play_agent(call, AGENT).await?;
    within("an answer for the application", super::NOTICED, app).await???.opened()?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_was_taken_off_the_routes_is_out_whatever_the_relay_says() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let at = host.local_addr()?;
    let mut world = routed(&[(at, "acme")]).target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(at, instance)?]).await?;
    let (mut pair, _bridge) = tokio::try_join!(Pair::open(&world, &host), relay.bridge(&mut link))?;
    pair.exchange().await?;
    world.edit("client", |config| config["routes"] = routes_of(&[(at, "acme-2")]))?;
    reload(&world).await?;
    is_reset(&mut pair).await?;
    refused(&world, at).await?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_without_the_right_to_issue_passes_for_nobody() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let at = host.local_addr()?;
    let mut world = routed(&[(at, "acme")]).enrolment_apart().target(at).start().await?;
    let mut relay = Relay::take_over_without_issuer(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(at, instance)?]).await?;

    // The same certificate that opens a session while the relay issues, from an authority that only has the name of the true one.
    let app = hasty_application(&world, at);
    let (mut call, _) = relay.opening().await?;
    call.say_frame(opened(at))?;
    ensure!(relay.play_agent(call, AGENT).await.is_err(), "an agent that nobody certified was believed");
    let said = refusal(app).await?;
    ensure!((said.hop.as_str(), said.cause.as_str()) == ("client", "peerNotVerified"), "{said:?}");

    // Towards the agent it is no client either.
    let (dial, hello) = honest(at)?;
    let call = relay.dial(&mut link, &dial).await?;
    let heard = let_out(&relay, call, &hello).await?;
    ensure!(heard.is_empty(), "the agent let {} bytes out", heard.len());
    let request = dial.request.to_string();
    let is_it = |line: &Value| line["request"] == request && line["cause"] == "peerNotVerified";
    world.agents[0].wait_for("refused", is_it).await?;
    // Nothing of what it tried has reached the target but a connection without a byte.
    let (mut silent, _) = within("the agent's connection", super::NOTICED, host.accept()).await??;
    let (heard, _) = within("its end", super::NOTICED, read_to_ending(&mut silent)).await?;
    ensure!(heard == 0, "the target heard {heard} bytes");

    // All that is left to it is to carry what it cannot read.
    let (mut pair, _bridge) = tokio::try_join!(Pair::open(&world, &host), relay.bridge(&mut link))?;
    pair.exchange().await?;
    world.finish(&[Part::Server])
}
