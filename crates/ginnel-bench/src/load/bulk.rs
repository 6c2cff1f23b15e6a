//! Bytes, as many as go through, in one direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::host::{ACKNOWLEDGED, PIECE, SEND, TAKE};
use crate::load::{Effort, Subject};
use crate::process::{cpu_seconds, to_f64};
use crate::workload::{Figure, Metric};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MB: f64 = 1e6;

/// Bytes below which a window is not enough: CPU time comes in pieces of 10 ms, and what the driver sends is answered MiB by MiB.
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

pub(super) async fn run(
    subject: Subject<'_>,
    direction: Direction,
    count: usize,
    effort: &Effort,
) -> Result<Vec<Figure>> {
    let (mut sessions, arrived) = start(subject, direction, count).await?;
    sleep(effort.warm_up).await;
    let before = cpu_seconds(subject.processes)?;
    let (started, first) = (Instant::now(), arrived.load(Ordering::Relaxed));
    let mut bytes = 0;
    for _ in 0..WINDOWS_MAX {
        sleep(effort.window).await;
        bytes = arrived.load(Ordering::Relaxed) - first;
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

/// Starts sessions that go on until the set is dropped, and the number of bytes that have arrived at the receiving end.
pub(super) async fn start(
    subject: Subject<'_>,
    direction: Direction,
    count: usize,
) -> Result<(JoinSet<Result<()>>, Arc<AtomicU64>)> {
    let arrived = Arc::new(AtomicU64::new(0));
    let mut sessions = JoinSet::new();
    for _ in 0..count {
        let stream = TcpStream::connect(subject.entrance).await.context("connecting")?;
        stream.set_nodelay(true)?;
        match direction {
            Direction::Down => sessions.spawn(down(stream, Arc::clone(&arrived))),
            Direction::Up => sessions.spawn(up(stream, Arc::clone(&arrived))),
        };
    }
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

async fn up(mut stream: TcpStream, arrived: Arc<AtomicU64>) -> Result<()> {
    stream.write_u8(TAKE).await?;
    let (mut from, mut to) = stream.split();
    let send = async {
        let buffer = vec![7; PIECE];
        loop {
            to.write_all(&buffer).await?;
        }
    };
    let count = async {
        let mut buffer = [0; 64];
        loop {
            let read = from.read(&mut buffer).await?;
            ensure!(read > 0, "the session ended");
            arrived.fetch_add(read as u64 * ACKNOWLEDGED, Ordering::Relaxed);
        }
    };
    tokio::select! {
        ended = send => ended,
        ended = count => ended,
    }
}
