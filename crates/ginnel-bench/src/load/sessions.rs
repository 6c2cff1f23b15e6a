//! New sessions: connect, 100 bytes there, 1 KiB back, close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::host::{ASK, REPLY, REQUEST};
use crate::load::{Effort, Outcome, SESSION_DEADLINE, Subject, number};
use crate::process::cpu_seconds;
use crate::stats::percentile;
use crate::workload::{Figure, Metric};

pub(super) async fn run(subject: Subject<'_>, at_once: usize, effort: &Effort) -> Result<Outcome> {
    let entrance = subject.entrance;
    let before = cpu_seconds(subject.processes)?;
    let started = Instant::now();
    let end = started + effort.window;
    let left = Arc::new(AtomicUsize::new(effort.sessions));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let left = Arc::clone(&left);
        workers.spawn(async move {
            let (mut times, mut failed, mut why) = (Vec::new(), 0_usize, None);
            while Instant::now() < end
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let started = Instant::now();
                match timeout(SESSION_DEADLINE, one(entrance)).await {
                    Ok(Ok(())) => times.push(started.elapsed()),
                    Ok(Err(error)) => (failed, why) = (failed + 1, Some(error)),
                    Err(late) => (failed, why) = (failed + 1, Some(late.into())),
                }
            }
            (times, failed, why)
        });
    }
    let (mut times, mut failed, mut why): (Vec<Duration>, usize, Option<anyhow::Error>) = (Vec::new(), 0, None);
    while let Some(worker) = workers.join_next().await {
        let (more, more_failed, error) = worker?;
        times.extend(more);
        failed += more_failed;
        why = why.or(error);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let after = cpu_seconds(subject.processes)?;
    let millis = |share| percentile(&mut times.clone(), share).map(|time| time.as_secs_f64() * 1e3);
    let (Some(p50), Some(p99)) = (millis(50), millis(99)) else {
        return Err(why.context("no session was tried")?.context(format!("all of {failed} sessions failed")));
    };
    let cpu = subject.per(Metric::CpuPerSession, &before, &after, number(times.len()) / 1e3);
    let figures = vec![
        Figure::whole(Metric::SessionRate, number(times.len()) / elapsed),
        Figure::whole(Metric::SessionP50, p50),
        Figure::whole(Metric::SessionP99, p99),
        cpu,
    ];
    let all = failed + times.len();
    let flaw = (failed > 0)
        .then(|| format!("{failed} of {all} sessions were not answered; the figures are those of the others"));
    Ok(Outcome { figures, flaw })
}

async fn one(entrance: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(entrance).await?;
    stream.set_nodelay(true)?;
    let mut request = [7; REQUEST];
    request[0] = ASK;
    stream.write_all(&request).await?;
    let mut reply = [0; REPLY];
    stream.read_exact(&mut reply).await?;
    Ok(())
}
