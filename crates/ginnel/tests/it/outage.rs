//! Enrolment that is away, shorter and longer than certificates live.

use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{World, eventually, proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::world;

/// How often the session says something; every fifth time a session is opened as well.
const PACE: Duration = Duration::from_millis(200);

/// From the end of an outage to the moment at which everything carries again: the longest pause between two attempts, and the attempt.
const HEALED: Duration = Duration::from_secs(60);

/// Enrolments of agent and client so far.
fn enrolled(world: &World) -> Result<[usize; 2]> {
    let records = world.audit_of("enrolled")?;
    let of = |role: &str| {
        let is_of = |uri: &str| uri.contains(role);
        records.iter().filter(|record| record["principal"].as_str().is_some_and(is_of)).count()
    };
    Ok([of("/agent/"), of("/client/")])
}

/// Says something on the session and opens others, until `over`.
async fn works(world: &World, target: &str, session: &mut TcpStream, over: impl Fn() -> Result<bool>) -> Result<()> {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u32;
    while !over()? {
        ticks.tick().await;
        session.write_all(&number.to_be_bytes()).await?;
        ensure!(session.read_u32().await? == number, "exchange {number}");
        if number.is_multiple_of(5) {
            proxy::connect(world.proxy_addr(), target).await?.opened()?;
        }
        number += 1;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_enrolment_that_is_away_for_most_of_the_life_of_a_certificate() -> Result<()> {
    let (life, away) = (Duration::from_secs(22), Duration::from_secs(13));
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let lifetime = format!("{}s", life.as_secs());
    let world = world().relayed().target(&target).certificate_lifetime(&lifetime).start().await?;
    let mut session = proxy::connect(world.proxy_addr(), &target).await?.opened()?.stream;
    for leg in [world.agent_leg()?, world.client_leg()?] {
        leg.close();
    }
    let before = enrolled(&world)?;
    let start = Instant::now();
    works(&world, &target, &mut session, || Ok(start.elapsed() > away)).await?;
    ensure!(enrolled(&world)? == before, "it was not away");
    let tried = |said: Vec<_>| !said.is_empty();
    ensure!(tried(world.client.said("renewal failed; the certificate stays in use")), "the client noticed nothing");
    ensure!(tried(world.agents[0].said("renewal failed; the certificate stays in use")), "the agent noticed nothing");
    for leg in [world.agent_leg()?, world.client_leg()?] {
        leg.open();
    }
    let renewed = || {
        ensure!(start.elapsed() < life * 2, "no renewal");
        Ok(enrolled(&world)?.iter().zip(before).all(|(now, before)| *now > before))
    };
    works(&world, &target, &mut session, renewed).await?;
    // Beyond the end of the first certificates.
    works(&world, &target, &mut session, || Ok(start.elapsed() > life)).await?;
    ensure!(world.audit_of("refused")?.is_empty(), "a session was refused");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_carries_again_after_an_outage_that_outlasted_every_certificate() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let world = world().relayed().target(&target).certificate_lifetime("5s").start().await?;
    let mut session = proxy::connect(world.proxy_addr(), &target).await?.opened()?.stream;
    for leg in [world.agent_leg()?, world.client_leg()?] {
        leg.close();
    }
    // The certificates in use carry the session to their end and no further.
    within("the session to end", SOON, async { while session.read_u8().await.is_ok() {} }).await?;
    let gone = |log: &[serde_json::Value]| log.iter().any(|record| record["event"] == "ended");
    world.audit_until("the session's end", gone).await?;
    eventually("a refusal", SOON, async || Ok(proxy::connect(world.proxy_addr(), &target).await?.refused().ok()))
        .await?;
    for leg in [world.agent_leg()?, world.client_leg()?] {
        leg.open();
    }
    let mut session = eventually("a session after the outage", HEALED, async || {
        Ok(proxy::connect(world.proxy_addr(), &target).await?.opened().ok())
    })
    .await?
    .stream;
    let start = Instant::now();
    works(&world, &target, &mut session, || Ok(start.elapsed() > Duration::from_secs(8))).await?;
    world.finish(&[])
}
