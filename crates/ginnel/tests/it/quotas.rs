//! What one principal or source may have, and that others do not notice when it has used that up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{FAILED_ENROLMENTS_BURST_SECONDS, OPENS_BURST_SECONDS};
use ginnel_core::stream::Frame;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Enrolment, Peer};
use ginnel_testkit::world::WorldBuilder;
use ginnel_testkit::{Part, World, eventually, proxy};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::path;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::canary::Canary;
use crate::observed::{Series, metrics};
use crate::pair::Pair;
use crate::played::{PlayedClient, is_opened};
use crate::roles::certify;
use crate::{report, world};

/// How soon what is over is counted no more.
const SOON: Duration = Duration::from_secs(5);

/// gRPC's numbers for "who are you" and "come back later".
const UNAUTHENTICATED: u32 = 16;
const UNAVAILABLE: u32 = 14;

/// A world with a second client, which the test plays.
fn with_another_client(target: impl ToString, limits: Value) -> WorldBuilder {
    let target = target.to_string();
    let other = json!({
        "name": "other", "role": "client", "email": "other@acme.iam.gserviceaccount.com", "publicKeys": ["client.pub.pem"],
    });
    let rule = json!({"name": "other", "clients": ["other"], "agents": ["acme"], "targets": [target]});
    world()
        .target(&target)
        .danger_disable_inner_tls()
        .server_setting("/identities/-", other)
        .server_setting("/rules/-", rule)
        .server_setting("/limits", limits)
}

async fn other_client(world: &World) -> Result<PlayedClient> {
    let identity = certify(world, "spiffe://acme.example/client/other", "other@acme.iam.gserviceaccount.com")?;
    PlayedClient::start_as(world, &identity).await
}

fn turned_away(series: &Series, bound: &str) -> f64 {
    series.get(&format!("ginnel_turned_away_total{{bound=\"{bound}\"}}")).copied().unwrap_or_default()
}

fn used(series: &Series, bound: &str) -> f64 {
    series.get(&format!("ginnel_bound_used{{bound=\"{bound}\"}}")).copied().unwrap_or(-1.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_all_its_sessions_is_refused_more_and_another_client_is_not() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    // Through one agent a client has half of what the agent may have.
    let limits = json!({"sessionsPerPrincipal": 8, "sessions": 100});
    let mut world = with_another_client(&target, limits).start().await?;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(Pair::open(&world, &host).await?);
    }
    let asked = Instant::now();
    let refused = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(
        (refused.status, refused.cause.as_str(), refused.hop.as_str()) == (503, "overloaded", "agent"),
        "{refused:?}"
    );
    ensure!(asked.elapsed() < SOON, "the refusal took {:?}", asked.elapsed());
    let is_it = |record: &&Value| record["event"] == "refused" && record["requestId"] == refused.request_id.as_str();
    let log = world.audit_until("the refusal", |log| log.iter().any(|record| is_it(&record))).await?;
    let record = log.iter().find(is_it).context("the record")?;
    ensure!((&record["cause"], &record["hop"]) == (&"overloaded".into(), &"agent".into()), "{record}");

    let other = other_client(&world).await?;
    let (_call, _target) = other.open(&host).await?;
    for pair in &mut held {
        pair.exchange().await?;
    }
    let series = metrics(&mut world, Part::Server).await?;
    ensure!(turned_away(&series, "agentSessions") >= 1.0 && used(&series, "agentSessions") == 5.0, "{series:?}");

    // What is given back can be had again.
    drop(held.pop());
    let again = async || Ok(proxy::connect(world.proxy_addr(), &target).await?.opened().ok());
    let _again = eventually("a session in place of one that ended", SOON, again).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_share_is_the_servers_word_and_no_other_agent_is_tried() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let limits = json!({"sessions": 8, "sessionsPerPrincipal": 8});
    let world = with_another_client(&target, limits).agents(2).start().await?;
    // Of eight sessions in all nobody has more than half.
    let mut held = Vec::new();
    let mut refusals = BTreeSet::new();
    for _ in 0..8 {
        match proxy::connect(world.proxy_addr(), &target).await? {
            ginnel_testkit::Answer::Opened(opened) => held.push(opened),
            ginnel_testkit::Answer::Refused(refused) => {
                let requests = world.audit_of("refused")?;
                let tries = requests.iter().filter(|record| record["requestId"] == refused.request_id.as_str()).count();
                refusals.insert((refused.cause, refused.hop, tries));
            }
        }
    }
    ensure!(held.len() == 4, "{} sessions", held.len());
    ensure!(refusals == BTreeSet::from([("overloaded".to_owned(), "server".to_owned(), 1)]), "{refusals:?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_without_end_are_refused_beyond_the_rate_and_delay_nobody() -> Result<()> {
    const RATE: u32 = 20;
    let host = TcpHost::echo().await?;
    let mut world = with_another_client(host.address(), json!({"opensPerSecond": RATE})).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let client = other_client(&world).await?;
    let started = Instant::now();
    let mut calls = Vec::new();
    for _ in 0..20 * RATE {
        calls.push(client.ask(host.address()).await?);
    }
    let overloaded = Refusal::new(Hop::Server, Cause::Overloaded);
    let reset = Frame::Reset { cause: Cause::Overloaded, hop: Some(Hop::Server) };
    let (mut opened, mut refused, mut unheard) = (0, 0, 0);
    for mut call in calls {
        match call.turned_away().await {
            Ok(Some(SessionFrame::Refused(refusal))) if refusal == overloaded => refused += 1,
            Ok(Some(SessionFrame::Stream(frame))) if frame == reset => unheard += 1,
            Err(error) if error.to_string().contains("heard Opened") => opened += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    let elapsed = u32::try_from(started.elapsed().as_secs())? + 1;
    let p99 = canary.finish().await?.p99();
    report(format_args!(
        "{opened} opened, {refused} refused, {unheard} unheard; a message beside them took {p99:?} at p99"
    ));
    let most = RATE * (OPENS_BURST_SECONDS + elapsed);
    ensure!((1..=most).contains(&opened), "{opened} sessions within {elapsed} s at {RATE} a second");
    ensure!(refused > 0 && unheard > 0, "{refused} refused, {unheard} unheard");
    let series = metrics(&mut world, Part::Server).await?;
    ensure!(turned_away(&series, "opensPerSecond") >= f64::from(refused), "{series:?}");
    ensure!(turned_away(&series, "callsPerSecond") >= f64::from(unheard), "{series:?}");
    // The world's own client has its rate, and the one that had used its up gets it back.
    proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    let again = async || Ok(is_opened(&mut client.ask(host.address()).await?).await.ok());
    eventually("the rate to come back", SOON, again).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million calls, and wants a quiet machine: ./test floods"]
async fn a_million_opens_and_resets_delay_nobody() -> Result<()> {
    const CALLS: u32 = 1_000_000;
    let host = TcpHost::echo().await?;
    let world = with_another_client(host.address(), json!({})).start().await?;
    let alone = Canary::start(&world, host.address()).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let alone = alone.finish().await?.p99();
    let canary = Canary::start(&world, host.address()).await?;
    let started = Instant::now();
    let (mut made, mut connections) = (0, 0);
    while made < CALLS {
        let client = other_client(&world).await?;
        connections += 1;
        while made < CALLS && !client.peer.is_closed() {
            let Ok(mut call) = client.ask(host.address()).await else { break };
            call.reset(8);
            made += 1;
            // So that a million of them take a minute.
            let due = started + Duration::from_secs(60) * made / CALLS;
            if let Some(early) = due.checked_duration_since(Instant::now()).filter(|early| early.as_millis() > 5) {
                tokio::time::sleep(early).await;
            }
        }
    }
    let beside = canary.finish().await?.p99();
    report(format_args!(
        "{made} opens on {connections} connections in {:?}: p99 {beside:?}, alone {alone:?}",
        started.elapsed()
    ));
    ensure!(
        beside.saturating_sub(alone) <= Duration::from_millis(10),
        "a message took {beside:?}, and {alone:?} alone"
    );
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_say_nothing_have_a_bound_of_their_own() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = with_another_client(host.local_addr()?, json!({})).start().await?;
    let client = other_client(&world).await?;
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(client.peer.call(path::OPEN).await?);
    }
    let end = silent.last_mut().context("a call")?.turned_away().await?;
    let reset = Frame::Reset { cause: Cause::Overloaded, hop: Some(Hop::Server) };
    ensure!(end == Some(SessionFrame::Stream(reset)), "{end:?}");
    let series = metrics(&mut world, Part::Server).await?;
    ensure!(turned_away(&series, "undecided") >= 76.0, "{series:?}");
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_enrolments_fail_is_not_listened_to_for_a_while_and_sessions_go_on() -> Result<()> {
    const RATE: u32 = 2;
    let host = TcpHost::echo().await?;
    let mut world = world()
        .target(host.address())
        .server_setting("/limits", json!({"failedEnrolmentsPerSecond": RATE}))
        .start()
        .await?;
    let canary = Canary::start(&world, host.address()).await?;
    let key_file = world.directory().join("client.json");
    let (good, bad) = (Enrolment::new(&key_file)?, Enrolment::new(&key_file)?.with_bad_signature());
    let peer = Peer::connect(&world, None).await?;
    let burst = RATE * FAILED_ENROLMENTS_BURST_SECONDS;
    let mut answers = Vec::new();
    for _ in 0..2 * burst {
        answers.push(peer.enrol(&bad).await?);
    }
    let failed = answers.iter().filter(|&&answer| answer == UNAUTHENTICATED).count();
    let held_off = answers.iter().filter(|&&answer| answer == UNAVAILABLE).count();
    ensure!(failed + held_off == answers.len() && failed >= usize::try_from(burst)? && held_off > 0, "{answers:?}");
    // Right or wrong, it is not looked at; and once it is, it is right.
    let enrols = async || {
        let peer = Peer::connect(&world, None).await?;
        let answer = peer.enrol(&good).await?;
        ensure!(answer == 0 || answer == UNAVAILABLE, "{answer}");
        Ok((answer == 0).then_some(()))
    };
    eventually("the source to be listened to again", SOON, enrols).await?;
    let records = world.audit_of("enrolmentRefused")?;
    ensure!(records.iter().any(|record| record["reason"] == "tooManyFailures"), "{records:?}");
    let series = metrics(&mut world, Part::Server).await?;
    ensure!(turned_away(&series, "failedEnrolmentsPerSecond") >= held_off as f64, "{series:?}");
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_asked_for_make_no_series() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).start().await?;
    let refused = async |world: &World, name: String| {
        let refused = proxy::connect(world.proxy_addr(), &name).await?.refused()?;
        ensure!(refused.cause == "notAllowed", "{refused:?}");
        anyhow::Ok(())
    };
    refused(&world, "host.example:443".to_owned()).await?;
    let mut before = Vec::new();
    for part in [Part::Server, Part::Client, Part::Agent(0)] {
        before.push((part, metrics(&mut world, part).await?.into_keys().collect::<BTreeSet<_>>()));
    }
    let mut asking = JoinSet::new();
    for number in 0..500 {
        let proxy = world.proxy_addr();
        asking.spawn(async move { proxy::connect(proxy, &format!("host{number}.example:443")).await?.refused() });
    }
    for answer in asking.join_all().await {
        answer?;
    }
    for (part, series) in before {
        let after: BTreeSet<String> = metrics(&mut world, part).await?.into_keys().collect();
        let more: Vec<_> = after.difference(&series).collect();
        ensure!(more.is_empty(), "{part:?}: {more:?}");
    }
    world.finish(&[])
}
