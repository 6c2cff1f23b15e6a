//! What is done on a long path, and the target at its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::hosts::asked::{Asked, ECHO, SEND, TAKE, ping};
use ginnel_testkit::stream::write_for_ever;
use ginnel_testkit::{proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Effort;
use super::way::{Entrance, Success};
use crate::process::to_f64;

/// Bulk sessions at once where there are several.
pub(super) const SEVERAL: usize = 16;

/// New sessions at once where there are many.
pub(super) const MANY: usize = 64;

/// The longest that one answer may take; beyond, something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Bytes per unit of speed.
const MB: f64 = 1e6;

/// Which way bulk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the target.
    Down,
    /// To the target.
    Up,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measurement {
    /// The speed of so many sessions together.
    Bulk(usize, Direction),
    /// How long new sessions take, so many at once.
    SetUp(usize),
    /// Round trips alone, and beside a bulk session.
    Pings,
    /// How long a new session takes after several bulk sessions were broken off.
    AfterCancelled(Direction),
}

impl Measurement {
    /// What is said while it goes on.
    pub(super) fn name(self) -> String {
        match self {
            Self::Bulk(sessions, direction) => format!("{sessions} {}", direction.name()),
            Self::SetUp(sessions) => format!("{sessions} new sessions at once"),
            Self::Pings => "round trips".to_owned(),
            Self::AfterCancelled(direction) => format!("a new session after {SEVERAL} {}", direction.name()),
        }
    }
}

/// Values by name; `None` where the way has no such thing.
type Values = Vec<(String, Option<f64>)>;

/// Does one measurement.
pub(super) async fn measure(what: Measurement, entrance: &Entrance, host: &Asked, effort: &Effort) -> Result<Values> {
    match what {
        Measurement::Bulk(sessions, direction) => {
            // A way that takes connections as load asks has one for the first sessions, and more for those that follow.
            let bursts: &[&str] = if sessions == 1 { &[""] } else { &[" at once", " at once, the second time"] };
            let mut values = Values::new();
            for burst in bursts {
                let speed = bulk(entrance, host, sessions, direction, effort).await?;
                values.push((format!("{sessions} {}{burst}, MB/s", direction.name()), Some(speed)));
            }
            Ok(values)
        }
        Measurement::SetUp(at_once) => set_up(entrance, host, at_once, effort).await,
        Measurement::Pings => pings_alone_and_beside(entrance, host, effort).await,
        Measurement::AfterCancelled(direction) => {
            let mut bulk = flowing(entrance, host, SEVERAL, direction, effort).await?;
            bulk.shutdown().await;
            let elapsed = first_answer(entrance.address).await?;
            let name = format!("first answer after {SEVERAL} {} were cancelled, ms", direction.name());
            Ok(vec![(name, Some(millis(elapsed)))])
        }
    }
}

/// The speed of so many sessions together, which end with it.
async fn bulk(
    entrance: &Entrance,
    host: &Asked,
    sessions: usize,
    direction: Direction,
    effort: &Effort,
) -> Result<f64> {
    let mut bulk = flowing(entrance, host, sessions, direction, effort).await?;
    let (before, started) = (host.arrived().bytes(), Instant::now());
    sleep(effort.window).await;
    let speed = to_f64(host.arrived().bytes() - before) / MB / started.elapsed().as_secs_f64();
    bulk.shutdown().await;
    Ok(speed)
}

/// Sessions that move bytes for as long as the set has their tasks, and have found their pace.
async fn flowing(
    entrance: &Entrance,
    host: &Asked,
    sessions: usize,
    direction: Direction,
    effort: &Effort,
) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for _ in 0..sessions {
        let mut stream = TcpStream::connect(entrance.address).await?;
        // Whoever breaks off is a program that was stopped.
        stream.set_zero_linger()?;
        let arrived = host.arrived().clone();
        tasks.spawn(async move {
            match direction {
                Direction::Down => {
                    if stream.write_u8(SEND).await.is_ok() {
                        arrived.count(stream).await.ok();
                    }
                }
                Direction::Up => {
                    if stream.write_u8(TAKE).await.is_ok() {
                        write_for_ever(stream).await;
                    }
                }
            }
        });
    }
    sleep(effort.warm_up).await;
    ensure!(tasks.try_join_next().is_none(), "a bulk session has ended");
    Ok(tasks)
}

/// The time to the first answer of a target that is spoken to at once.
async fn first_answer(address: SocketAddr) -> Result<Duration> {
    let started = Instant::now();
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[ECHO, 1]).await?;
        anyhow::Ok(stream.read_u8().await?)
    };
    within("a first answer", DEADLINE, answer).await??;
    Ok(started.elapsed())
}

/// The time until the application hears that it has a connection.
async fn success(success: Success, target: SocketAddr) -> Result<Duration> {
    let started = Instant::now();
    match success {
        Success::Connected => drop(TcpStream::connect(target).await?),
        Success::Proxy(proxy) => drop(proxy::connect(proxy, &target.to_string()).await?.opened()?),
    }
    Ok(started.elapsed())
}

async fn set_up(entrance: &Entrance, host: &Asked, at_once: usize, effort: &Effort) -> Result<Values> {
    let count = if at_once == 1 { effort.sessions } else { effort.sessions_many };
    let (address, told, target) = (entrance.address, entrance.success, host.address());
    // What only the first session pays, such as a handshake that later ones shorten, is not what a session costs.
    first_answer(address).await?;
    let mut values = Values::new();
    let mut push = |name: &str, mut times: Vec<Duration>| {
        times.sort_unstable();
        for share in [50, 99] {
            let time = times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
            values.push((format!("{name}, {at_once} at once, p{share}, ms"), time.copied().map(millis)));
        }
    };
    push("new session to the first answer", repeat(at_once, count, move || first_answer(address)).await?);
    push("new session to success", repeat(at_once, count, move || success(told, target)).await?);
    Ok(values)
}

/// Does something so many times, some of them at once.
async fn repeat<F>(at_once: usize, count: usize, work: impl Fn() -> F + Copy + Send + 'static) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<Duration>> + Send,
{
    let left = Arc::new(AtomicUsize::new(count));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let left = Arc::clone(&left);
        workers.spawn(async move {
            let mut times = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                times.push(work().await?);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::with_capacity(count);
    while let Some(worker) = workers.join_next().await {
        times.extend(worker??);
    }
    Ok(times)
}

async fn pings_alone_and_beside(entrance: &Entrance, host: &Asked, effort: &Effort) -> Result<Values> {
    let mut stream = TcpStream::connect(entrance.address).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(ECHO).await?;
    ping(&mut stream).await?;
    let mut values = Values::new();
    pings(&mut stream, "alone", effort, &mut values).await?;
    for (direction, name) in [(Direction::Down, "beside 1 down"), (Direction::Up, "beside 1 up")] {
        let mut bulk = flowing(entrance, host, 1, direction, effort).await?;
        pings(&mut stream, name, effort, &mut values).await?;
        bulk.shutdown().await;
    }
    Ok(values)
}

async fn pings(stream: &mut TcpStream, name: &str, effort: &Effort, values: &mut Values) -> Result<()> {
    let mut times = Vec::with_capacity(effort.pings);
    for _ in 0..effort.pings {
        times.push(ping(stream).await?);
    }
    times.sort_unstable();
    for share in [50, 99] {
        let time = times.get(times.len() * share / 100).copied().context("a round trip")?;
        values.push((format!("round trip of a byte {name}, p{share}, ms"), Some(millis(time))));
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
