//! What is done to a way, and what is read from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ginnel_testkit::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::host::{ECHO, SEND, TAKE, send, take};
use crate::process::{cpu_seconds, memory_kib, to_f64};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Bytes of one message of the ping-pong.
const PING: usize = 64;

/// The longest that one measurement may take; beyond, something hangs.
const DEADLINE: Duration = Duration::from_secs(300);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How often each way is measured; medians are reported.
    pub(crate) rounds: usize,
    /// Bytes in each direction.
    pub(crate) bytes: u64,
    /// Sessions one after the other.
    pub(crate) sessions: usize,
    /// Sessions with many at once.
    pub(crate) sessions_many: usize,
    /// Round trips on one session.
    pub(crate) pings: usize,
    /// Sessions that are left alone.
    pub(crate) idle: usize,
}

impl Effort {
    /// To see that it works.
    pub(crate) const QUICK: Self =
        Self { rounds: 1, bytes: 64 << 20, sessions: 100, sessions_many: 300, pings: 500, idle: 100 };

    /// To have figures.
    pub(crate) const FULL: Self =
        Self { rounds: 5, bytes: 1 << 30, sessions: 500, sessions_many: 4_000, pings: 5_000, idle: 1_000 };
}

/// Sessions at once where there are many.
pub(crate) const MANY: usize = 64;

/// One figure, named for the whole way or for one of its processes.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What was measured, with its unit.
    pub(crate) name: &'static str,
    /// Which process; `None` for the way as a whole.
    pub(crate) process: Option<&'static str>,
    /// The value.
    pub(crate) value: f64,
}

/// All figures of one round, always in the same order.
pub(crate) type Figures = Vec<Figure>;

type Processes<'a> = &'a [(&'static str, u32)];

/// Measures everything, memory first: buffers that work leaves behind would hide what idle sessions cost.
pub(crate) async fn measure(entrance: SocketAddr, processes: Processes<'_>, effort: &Effort) -> Result<Figures> {
    let mut figures = Figures::new();
    one_session(entrance).await.context("the first session")?;
    within("idle sessions", DEADLINE, idle(entrance, processes, effort.idle, &mut figures)).await??;
    within("ping-pong", DEADLINE, ping_pong(entrance, effort.pings, &mut figures)).await??;
    let alone =
        ["new sessions/s, one at a time", "new session p50, ms, one at a time", "new session p99, ms, one at a time"];
    within("sessions", DEADLINE, sessions(entrance, 1, effort.sessions, alone, &mut figures)).await??;
    let many = ["new sessions/s, 64 at once", "new session p50, ms, 64 at once", "new session p99, ms, 64 at once"];
    within("sessions", DEADLINE, sessions(entrance, MANY, effort.sessions_many, many, &mut figures)).await??;
    let down = ["down, MiB/s", "down, CPU s/GiB"];
    within("down", DEADLINE, bulk(entrance, SEND, processes, effort.bytes, down, &mut figures)).await??;
    let up = ["up, MiB/s", "up, CPU s/GiB"];
    within("up", DEADLINE, bulk(entrance, TAKE, processes, effort.bytes, up, &mut figures)).await??;
    Ok(figures)
}

/// A session that has proved itself: a byte went to the target and came back.
async fn one_session(entrance: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(entrance).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&[ECHO, 1]).await?;
    stream.read_u8().await?;
    Ok(stream)
}

async fn idle(entrance: SocketAddr, processes: Processes<'_>, count: usize, figures: &mut Figures) -> Result<()> {
    let memory = || processes.iter().map(|(_, pid)| memory_kib(*pid)).collect::<Result<Vec<f64>>>();
    let before = memory()?;
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        sessions.push(one_session(entrance).await?);
    }
    let after = memory()?;
    let name = "memory per idle session, KiB";
    let each: Vec<f64> = before.iter().zip(after).map(|(before, after)| (after - before) / number(count)).collect();
    figures.push(Figure { name, process: None, value: each.iter().sum() });
    let named = processes.iter().zip(each);
    figures.extend(named.map(|((process, _), value)| Figure { name, process: Some(process), value }));
    Ok(())
}

async fn ping_pong(entrance: SocketAddr, count: usize, figures: &mut Figures) -> Result<()> {
    let mut stream = one_session(entrance).await?;
    let mut message = [7; PING];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        times.push(started.elapsed());
    }
    let micros = |share| percentile(&mut times.clone(), share).as_secs_f64() * 1e6;
    figures.push(Figure { name: "round trip of 64 bytes p50, µs", process: None, value: micros(50) });
    figures.push(Figure { name: "round trip of 64 bytes p99, µs", process: None, value: micros(99) });
    Ok(())
}

async fn sessions(
    entrance: SocketAddr,
    at_once: usize,
    count: usize,
    names: [&'static str; 3],
    figures: &mut Figures,
) -> Result<()> {
    let left = Arc::new(AtomicUsize::new(count));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let left = Arc::clone(&left);
        workers.spawn(async move {
            let mut times = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let started = Instant::now();
                let session = one_session(entrance).await?;
                times.push(started.elapsed());
                drop(session);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::with_capacity(count);
    while let Some(worker) = workers.join_next().await {
        times.extend(worker??);
    }
    let rate = number(count) / started.elapsed().as_secs_f64();
    let millis = |share| percentile(&mut times.clone(), share).as_secs_f64() * 1e3;
    for (name, value) in names.into_iter().zip([rate, millis(50), millis(99)]) {
        figures.push(Figure { name, process: None, value });
    }
    Ok(())
}

async fn bulk(
    entrance: SocketAddr,
    direction: u8,
    processes: Processes<'_>,
    bytes: u64,
    [speed, cpu]: [&'static str; 2],
    figures: &mut Figures,
) -> Result<()> {
    let times = || processes.iter().map(|(_, pid)| cpu_seconds(*pid)).collect::<Result<Vec<f64>>>();
    let before = times()?;
    let started = Instant::now();
    let mut stream = TcpStream::connect(entrance).await?;
    stream.write_u8(direction).await?;
    stream.write_u64(bytes).await?;
    if direction == SEND {
        take(&mut stream, bytes).await?;
    } else {
        send(&mut stream, bytes).await?;
        stream.read_u8().await?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let gib = to_f64(bytes) / GIB;
    figures.push(Figure { name: speed, process: None, value: gib * 1024.0 / elapsed });
    let each: Vec<f64> = before.iter().zip(times()?).map(|(before, after)| (after - before) / gib).collect();
    figures.push(Figure { name: cpu, process: None, value: each.iter().sum() });
    let named = processes.iter().zip(each);
    figures.extend(named.map(|((process, _), value)| Figure { name: cpu, process: Some(process), value }));
    Ok(())
}

fn percentile(times: &mut [Duration], share: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn number(count: usize) -> f64 {
    to_f64(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times.clone(), 50), Duration::from_millis(51));
        assert_eq!(percentile(&mut times.clone(), 99), Duration::from_millis(100));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_way_without_anything_between_is_measured_whole() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(one_session(address).await.is_err(), "nobody listens");
    }
}
