//! A long path between server and agent: 100 ms there and back, 1 Gbit/s, with and without losses.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::hosts::asked::{Asked, ECHO, SEND, TAKE, ping};
use ginnel_testkit::link::{Link, Shape, skip_without_root};
use ginnel_testkit::stream::write_for_ever;
use ginnel_testkit::{World, eventually, proxy};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::world;

/// A line that a customer on another continent has. Reno is in every kernel and every namespace may use it; it takes losses as hard as cubic.
const SHAPE: Shape = Shape {
    round_trip: Duration::from_millis(100),
    bytes_per_second: Shape::GIGABIT,
    loss_ppm: 0,
    seed: 4,
    congestion: "reno",
};

/// How long a new session may take to its first answer after others were cancelled. The way itself and what TCP needs to mend a loss take up to
/// 1.2 s, and somewhat more beside other tests. Behind the bytes of cancelled sessions it took 4.5 s and longer.
const PROGRESS: Duration = Duration::from_millis(1600);

/// Bulk sessions at once.
const BULK: usize = 16;

/// Bytes that must have arrived before the bulk sessions are cancelled: TCP has met losses by then and has its pace.
const FLOWING: u64 = 4 << 20;

/// Round trips of which the median is taken.
const PINGS: usize = 15;

/// How often a small message's round trip may fit into the one that it makes beside bulk sessions. Debug builds on a machine that others keep busy
/// need three of it; a connection whose whole queue stands before the message needs ten.
const BESIDE_MAX: u32 = 5;

/// The target at the far end, and the tunnel to it.
struct Path {
    world: World,
    target: String,
    host: Asked,
}

impl Path {
    /// Calls `test` with the path over a line of this shape.
    fn over<F: Future<Output = Result<()>>>(shape: Shape, test: impl FnOnce(Self) -> F + Send) -> Result<()> {
        let link = Link::start(shape)?;
        let listener = link.far().listener(link.far_address())?;
        link.near().block_on(|| async {
            let host = Asked::on(listener)?;
            let target = host.address().to_string();
            let world = world().target(&target).across(&link).start().await?;
            test(Self { world, target, host }).await
        })?;
        ensure!(shape.loss_ppm == 0 || link.passed().lost > 0, "nothing was lost: {:?}", link.passed());
        Ok(())
    }

    async fn open(&self, what: u8) -> Result<TcpStream> {
        let mut stream = proxy::connect(self.world.proxy_addr(), &self.target).await?.opened()?.stream;
        stream.write_all(&[what]).await?;
        Ok(stream)
    }

    /// Opens a session that moves bytes in this direction for as long as the set has its task.
    async fn bulk(&self, direction: u8, tasks: &mut JoinSet<()>) -> Result<()> {
        let stream = self.open(direction).await?;
        // Dropping it with what it has received or not sent yet is what a program does that is stopped.
        stream.set_zero_linger()?;
        let arrived = self.host.arrived().clone();
        tasks.spawn(async move {
            if direction == SEND {
                arrived.count(stream).await.ok();
            } else {
                write_for_ever(stream).await;
            }
        });
        Ok(())
    }

    /// Bytes that arrive from now on.
    async fn flows(&self, bytes: u64) -> Result<()> {
        let before = self.host.arrived().bytes();
        let enough = async || Ok((self.host.arrived().bytes() >= before + bytes).then_some(()));
        eventually("bulk sessions to flow", Duration::from_secs(60), enough).await
    }

    /// The time from the wish for a session to the first answer on it.
    async fn first_answer(&self) -> Result<Duration> {
        let started = Instant::now();
        let mut stream = self.open(ECHO).await?;
        ping(&mut stream).await?;
        Ok(started.elapsed())
    }
}

/// The median of some round trips.
async fn pings(stream: &mut TcpStream) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..PINGS {
        times.push(ping(stream).await?);
    }
    times.sort_unstable();
    times.get(PINGS / 2).copied().context("no round trips")
}

async fn new_session_after_cancelled_ones(path: Path, direction: u8) -> Result<()> {
    let undisturbed = path.first_answer().await?;
    let mut bulk = JoinSet::new();
    for _ in 0..BULK {
        path.bulk(direction, &mut bulk).await?;
    }
    path.flows(FLOWING).await?;
    bulk.shutdown().await;
    let after = path.first_answer().await?;
    ensure!(after <= PROGRESS, "a new session took {after:?} to its first answer, {undisturbed:?} before");
    path.world.finish(&[])
}

#[test]
fn new_session_gets_on_although_bulk_sessions_from_the_target_were_cancelled_under_loss() -> Result<()> {
    if skip_without_root("new_session_gets_on_although_bulk_sessions_from_the_target_were_cancelled_under_loss") {
        return Ok(());
    }
    Path::over(Shape { loss_ppm: 1_000, ..SHAPE }, |path| new_session_after_cancelled_ones(path, SEND))
}

#[test]
fn new_session_gets_on_although_bulk_sessions_to_the_target_were_cancelled_under_loss() -> Result<()> {
    if skip_without_root("new_session_gets_on_although_bulk_sessions_to_the_target_were_cancelled_under_loss") {
        return Ok(());
    }
    Path::over(Shape { loss_ppm: 1_000, ..SHAPE }, |path| new_session_after_cancelled_ones(path, TAKE))
}

#[test]
fn small_message_beside_bulk_sessions_takes_hardly_longer_than_alone() -> Result<()> {
    if skip_without_root("small_message_beside_bulk_sessions_takes_hardly_longer_than_alone") {
        return Ok(());
    }
    Path::over(SHAPE, async |path| {
        let mut stream = path.open(ECHO).await?;
        let alone = pings(&mut stream).await?;
        let mut bulk = JoinSet::new();
        for direction in [SEND, TAKE] {
            path.bulk(direction, &mut bulk).await?;
        }
        path.flows(FLOWING).await?;
        let beside = pings(&mut stream).await?;
        ensure!(beside < BESIDE_MAX * alone, "{beside:?} beside bulk sessions, {alone:?} alone");
        bulk.shutdown().await;
        path.world.finish(&[])
    })
}
