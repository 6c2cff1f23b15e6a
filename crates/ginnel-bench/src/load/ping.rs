//! One byte there and back, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::load::bulk::{self, Direction};
use crate::load::{Effort, Subject, echoed, number};
use crate::process::cpu_seconds;
use crate::stats::percentile;
use crate::workload::{Figure, Metric};

/// Round trips that do not count.
const WARM_UP: usize = 200;

/// On a session alone.
pub(super) async fn alone(subject: Subject<'_>, effort: &Effort) -> Result<Vec<Figure>> {
    let mut stream = echoed(subject.entrance).await?;
    for _ in 0..WARM_UP {
        trip(&mut stream).await?;
    }
    let before = cpu_seconds(subject.processes)?;
    let mut times = trips(&mut stream, effort.window).await?;
    let after = cpu_seconds(subject.processes)?;
    let mut figures = percentiles(&mut times)?;
    figures.push(subject.per(Metric::CpuPerPing, &before, &after, number(times.len()) / 1e6));
    Ok(figures)
}

/// On a session beside one that carries as much as it can.
pub(super) async fn beside(subject: Subject<'_>, effort: &Effort) -> Result<Vec<Figure>> {
    let mut stream = echoed(subject.entrance).await?;
    let (mut bulk, _) = bulk::start(subject, Direction::Down, 1).await?;
    sleep(effort.warm_up).await;
    let mut times = trips(&mut stream, effort.window).await?;
    if let Some(ended) = bulk.try_join_next() {
        ended??;
        bail!("the bulk session ended by itself");
    }
    bulk.shutdown().await;
    percentiles(&mut times)
}

async fn trips(stream: &mut TcpStream, window: Duration) -> Result<Vec<Duration>> {
    let end = Instant::now() + window;
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(trip(stream).await?);
    }
    Ok(times)
}

async fn trip(stream: &mut TcpStream) -> Result<Duration> {
    let started = Instant::now();
    stream.write_u8(7).await?;
    stream.read_u8().await?;
    Ok(started.elapsed())
}

fn percentiles(times: &mut [Duration]) -> Result<Vec<Figure>> {
    let mut micros = |metric, share| {
        let time = percentile(times, share).context("no round trip")?;
        Ok(Figure::whole(metric, time.as_secs_f64() * 1e6))
    };
    [(Metric::PingP50, 50), (Metric::PingP99, 99)].into_iter().map(|(metric, share)| micros(metric, share)).collect()
}
