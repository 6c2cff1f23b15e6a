//! Many sessions that receive as fast as they can, and what is done for them in a stretch of time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::{World, proxy, usage};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Sessions that receive without pause until this is dropped.
pub(crate) struct Crowd {
    received: Vec<Arc<AtomicU64>>,
    readers: JoinSet<()>,
}

impl Crowd {
    /// Opens `count` sessions to `host`, which sends without pause.
    pub(crate) async fn start(world: &World, host: &TcpHost, count: usize) -> Result<Self> {
        let mut crowd = Self { received: Vec::new(), readers: JoinSet::new() };
        for mut stream in open(world, host, count).await? {
            let received = Arc::new(AtomicU64::new(0));
            crowd.received.push(Arc::clone(&received));
            crowd.readers.spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    received.fetch_add(n as u64, Relaxed);
                }
            });
        }
        Ok(crowd)
    }

    /// What the crowd receives, and what the three processes do for it, while `meanwhile` goes on.
    pub(crate) async fn during<T>(
        &mut self,
        world: &World,
        meanwhile: impl Future<Output = T>,
    ) -> Result<(T, Stretch)> {
        let pids = pids(world);
        let cpu = || pids.iter().map(|pid| usage::cpu(*pid)).sum::<Result<Duration>>();
        let before: Vec<u64> = self.received.iter().map(|n| n.load(Relaxed)).collect();
        let (cpu_before, started) = (cpu()?, Instant::now());
        let result = meanwhile.await;
        let (elapsed, cpu) = (started.elapsed(), cpu()?.saturating_sub(cpu_before));
        let each: Vec<u64> = self.received.iter().zip(before).map(|(n, before)| n.load(Relaxed) - before).collect();
        ensure!(self.readers.try_join_next().is_none(), "a session of the crowd has ended");
        let bytes: u64 = each.iter().sum();
        let slowest = each.into_iter().min().unwrap_or(0);
        Ok((result, Stretch { bytes, slowest, elapsed, cpu, sessions: self.received.len() }))
    }

    /// The same, for so long.
    pub(crate) async fn watch(&mut self, world: &World, duration: Duration) -> Result<Stretch> {
        Ok(self.during(world, tokio::time::sleep(duration)).await?.1)
    }

    /// Waits until every session has received something.
    pub(crate) async fn flowing(&self) -> Result<()> {
        let all = || self.received.iter().all(|n| n.load(Relaxed) > 0);
        ginnel_testkit::eventually(
            "every session to receive",
            Duration::from_secs(60),
            async || Ok(all().then_some(())),
        )
        .await
    }
}

/// Opens `count` sessions to `host` through the proxy, all at once.
pub(crate) async fn open(world: &World, host: &TcpHost, count: usize) -> Result<Vec<TcpStream>> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let (at, target) = (world.proxy_addr(), host.address().to_string());
        opening.spawn(async move { Ok(proxy::connect(at, &target).await?.opened()?.stream) });
    }
    opening.join_all().await.into_iter().collect()
}

/// The processes of a world with one agent.
pub(crate) fn pids(world: &World) -> Vec<u32> {
    [&world.server, &world.client].into_iter().chain(&world.agents).map(|daemon| daemon.pid()).collect()
}

/// What happened in a stretch of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    bytes: u64,
    slowest: u64,
    elapsed: Duration,
    cpu: Duration,
    sessions: usize,
}

impl Stretch {
    /// MiB per second of all together.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.elapsed.as_secs_f64()
    }

    /// CPU seconds of the three processes per GiB.
    pub(crate) fn cpu_per_gib(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / f64::from(1 << 30))
    }

    /// What the slowest session got of its fair share.
    pub(crate) fn slowest_share(&self) -> f64 {
        self.slowest as f64 * self.sessions as f64 / self.bytes as f64
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rate, cpu, slowest) = (self.rate(), self.cpu_per_gib(), self.slowest_share());
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{seconds:.2} s, {rate:.1} MiB/s, {cpu:.2} CPU s/GiB, slowest session {slowest:.2} of its share")
    }
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
