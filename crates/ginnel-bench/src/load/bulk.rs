//! Bytes, as many as go through, in one direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::host::{COUNT, PIECE, SEND, TAKE};
use crate::load::{Effort, Subject};
use crate::process::{cpu_seconds, to_f64};
use crate::workload::{Figure, Metric};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MB: f64 = 1e6;

/// Bytes below which a window is not enough: CPU time comes in pieces of 10 ms.
const BYTES_MIN: u64 = 64 << 20;

/// Windows after which there is nothing more to wait for.
const WINDOWS_MAX: usize = 10;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The target.
    Down,
    /// The driver.
    Up,
}

/// What has arrived of all bulk sessions, at the end that receives.
pub(super) enum Arrived {
    /// At the driver.
    Here(Arc<AtomicU64>),
    /// At the target, which this connection asks.
    There(TcpStream),
}

impl Arrived {
    async fn bytes(&mut self) -> Result<u64> {
        match self {
            Self::Here(bytes) => Ok(bytes.load(Ordering::Relaxed)),
            Self::There(target) => {
                target.write_u8(COUNT).await?;
                target.read_u64().await.context("asking the target what has arrived")
            }
        }
    }
}

pub(super) async fn run(
    subject: Subject<'_>,
    direction: Direction,
    count: usize,
    effort: &Effort,
) -> Result<Vec<Figure>> {
    let (mut sessions, mut arrived) = start(subject, direction, count).await?;
    sleep(effort.warm_up).await;
    let before = cpu_seconds(subject.processes)?;
    let (started, first) = (Instant::now(), arrived.bytes().await?);
    let mut bytes = 0;
    for _ in 0..WINDOWS_MAX {
        sleep(effort.window).await;
        bytes = arrived.bytes().await? - first;
        if bytes >= BYTES_MIN {
            break;
        }
    }
    let bytes = to_f64(bytes);
    let elapsed = started.elapsed().as_secs_f64();
    let after = cpu_seconds(subject.processes)?;
    if let Some(ended) = sessions.try_join_next() {
        ended??;
        bail!("a session ended by itself");
    }
    sessions.shutdown().await;
    ensure!(bytes > 0.0, "nothing arrived");
    let cpu = subject.per(Metric::CpuPerGib, &before, &after, bytes / GIB);
    Ok(vec![cpu, Figure::whole(Metric::Speed, bytes / MB / elapsed)])
}

/// Starts sessions that go on until the set is dropped, and what has arrived at the receiving end.
pub(super) async fn start(
    subject: Subject<'_>,
    direction: Direction,
    count: usize,
) -> Result<(JoinSet<Result<()>>, Arrived)> {
    let bytes = Arc::new(AtomicU64::new(0));
    let mut sessions = JoinSet::new();
    for _ in 0..count {
        let stream = TcpStream::connect(subject.entrance).await.context("connecting")?;
        stream.set_nodelay(true)?;
        match direction {
            Direction::Down => sessions.spawn(down(stream, Arc::clone(&bytes))),
            Direction::Up => sessions.spawn(up(stream)),
        };
    }
    let arrived = match direction {
        Direction::Down => Arrived::Here(bytes),
        Direction::Up => {
            let mut target = TcpStream::connect(subject.target).await.context("connecting to the target")?;
            target.set_nodelay(true)?;
            // The first question names what is wanted, and is answered at once.
            target.write_u8(COUNT).await?;
            target.read_u64().await?;
            Arrived::There(target)
        }
    };
    Ok((sessions, arrived))
}

async fn down(mut stream: TcpStream, arrived: Arc<AtomicU64>) -> Result<()> {
    stream.write_u8(SEND).await?;
    let mut buffer = vec![0; PIECE];
    loop {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "the session ended");
        arrived.fetch_add(read as u64, Ordering::Relaxed);
    }
}

async fn up(mut stream: TcpStream) -> Result<()> {
    stream.write_u8(TAKE).await?;
    let buffer = vec![7; PIECE];
    loop {
        stream.write_all(&buffer).await?;
    }
}
