//! Being told to stop: nothing new, what runs may finish, and nothing holds the exit.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::world::Part;
use ginnel_testkit::{proxy, within};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::pair::Pair;
use crate::world;

const PARTS: [Part; 3] = [Part::Server, Part::Agent(0), Part::Client];

#[tokio::test(flavor = "multi_thread")]
async fn sessions_finish_within_the_grace_and_then_the_process_ends() -> Result<()> {
    for part in PARTS {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let mut world = world().target(host.local_addr()?).grace("60s").start().await?;
        let mut pair = Pair::open(&world, &host).await?;
        world.part(part)?.terminate()?;
        world.part(part)?.wait_for("shutting down", |_| true).await?;
        // The session does not notice, in either direction, and ends as what it was.
        for _ in 0..3 {
            pair.exchange().await?;
        }
        ensure!(world.part(part)?.running(), "{part:?} ended under a session");
        pair.app.shutdown().await?;
        pair.target.shutdown().await?;
        for stream in [&mut pair.app, &mut pair.target] {
            let (_, ending) = within("the end", Duration::from_secs(10), read_to_ending(stream)).await?;
            ensure!(ending == Ending::Eof, "{part:?}: {ending:?}");
        }
        let status = world.part(part)?.ended().await?;
        ensure!(status.success(), "{part:?}: {status}");
        world.finish(&[part])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_after_the_grace_is_reset_and_never_looks_like_an_end() -> Result<()> {
    for part in PARTS {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let mut world = world().target(host.local_addr()?).grace("1s").start().await?;
        let mut pair = Pair::open(&world, &host).await?;
        let told = Instant::now();
        world.part(part)?.terminate()?;
        for stream in [&mut pair.app, &mut pair.target] {
            let (_, ending) = within("the end", Duration::from_secs(15), read_to_ending(stream)).await?;
            ensure!(ending == Ending::Reset, "{part:?}: {ending:?}");
        }
        ensure!(told.elapsed() >= Duration::from_secs(1), "{part:?}: cut before the grace was over");
        ensure!(world.part(part)?.ended().await?.success(), "{part:?}");
        world.finish(&[part])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() -> Result<()> {
    for part in PARTS {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let mut world = world().target(host.local_addr()?).grace("600s").start().await?;
        let mut pair = Pair::open(&world, &host).await?;
        world.part(part)?.terminate()?;
        world.part(part)?.wait_for("shutting down", |_| true).await?;
        pair.exchange().await?;
        world.part(part)?.terminate()?;
        let status = world.part(part)?.ended().await?;
        ensure!(status.code() == Some(1), "{part:?}: {status}");
        for stream in [&mut pair.app, &mut pair.target] {
            let (_, ending) = within("the end", Duration::from_secs(15), read_to_ending(stream)).await?;
            ensure!(ending == Ending::Reset, "{part:?}: {ending:?}");
        }
        world.finish(&[part])?;
    }
    Ok(())
}

/// Connections that say nothing, half a handshake, and an application that never reads.
#[tokio::test(flavor = "multi_thread")]
async fn rude_peers_do_not_hold_the_exit() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).grace("1s").start().await?;
    let mut rude = Vec::new();
    for address in [world.server_addr(), world.proxy_addr(), world.admin(Part::Server).await?] {
        rude.push(TcpStream::connect(address).await?);
        let mut half = TcpStream::connect(address).await?;
        half.write_all(&[0x16, 0x03, 0x01]).await?;
        rude.push(half);
    }
    let mut never_reads = proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?.stream;
    let flood = vec![7; 8 << 20];
    let _ = tokio::time::timeout(Duration::from_millis(500), never_reads.write_all(&flood)).await;
    for part in [Part::Client, Part::Server, Part::Agent(0)] {
        world.part(part)?.terminate()?;
        ensure!(world.part(part)?.ended().await?.success(), "{part:?}");
    }
    drop(rude);
    world.finish(&[Part::Client, Part::Server, Part::Agent(0)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_drains_takes_nothing_new_while_another_does() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().agents(2).target(host.local_addr()?).grace("60s").start().await?;
    let mut pairs = Vec::new();
    for _ in 0..8 {
        pairs.push(Pair::open(&world, &host).await?);
    }
    let mark = world.client.mark();
    world.agents[0].terminate()?;
    world.roster(mark, 1).await?;
    let mut new = Vec::new();
    for _ in 0..8 {
        new.push(Pair::open(&world, &host).await?);
    }
    for pair in pairs.iter_mut().chain(&mut new) {
        pair.exchange().await?;
    }
    let log = world.audit_of("allowed")?;
    let agents: std::collections::BTreeSet<_> =
        log[8..].iter().map(|record| record["agentInstance"].as_str()).collect();
    ensure!(agents.len() == 1, "{agents:?}");
    drop((pairs, new));
    ensure!(world.agents[0].ended().await?.success(), "the agent");
    world.finish(&[Part::Agent(0)])
}

#[tokio::test(flavor = "multi_thread")]
async fn dials_that_arrive_while_the_server_restarts_wait_and_succeed() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).grace("5s").start().await?;
    proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    world.server.terminate()?;
    let status = world.server.ended().await?;
    ensure!(status.success(), "{status}");
    let (proxy_at, target) = (world.proxy_addr(), host.address().to_string());
    let dials: Vec<_> = (0..8)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move { proxy::connect(proxy_at, &target).await?.opened().map(drop) })
        })
        .collect();
    world.restart(Part::Server).await?;
    for dial in dials {
        within("a dial in the gap", Duration::from_secs(30), dial).await???;
    }
    world.finish(&[])
}
