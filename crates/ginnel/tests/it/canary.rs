//! A session that goes on while other things happen, and how long its messages take.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ginnel_testkit::{World, proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often it sings.
const EVERY: Duration = Duration::from_millis(10);

/// How long one song may take, beside whatever happens.
const PATIENCE: Duration = Duration::from_secs(5);

/// The session.
pub(crate) struct Canary {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Vec<Duration>>>,
}

/// How long its songs took.
#[derive(Clone, Debug)]
pub(crate) struct Songs(Vec<Duration>);

impl Canary {
    /// Starts to sing to a host that gives everything back.
    pub(crate) async fn start(world: &World, target: SocketAddr) -> Result<Self> {
        let mut session = proxy::connect(world.proxy_addr(), &target.to_string()).await?.opened()?.stream;
        session.set_nodelay(true)?;
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut took = Vec::new();
            for song in 0.. {
                ticks.tick().await;
                let began = Instant::now();
                session.write_u32(song).await?;
                let heard = within("the canary", PATIENCE, session.read_u32()).await??;
                ensure!(heard == song, "the canary sang {song} and heard {heard}");
                took.push(began.elapsed());
                // Asked last, so that even the shortest life has one song.
                if stopped.try_recv().is_ok() {
                    break;
                }
            }
            Ok(took)
        });
        Ok(Self { stop, task })
    }

    /// Lets it sing once more, and tells how it went.
    pub(crate) async fn finish(self) -> Result<Songs> {
        self.stop.send(()).ok();
        let took = self.task.await??;
        ensure!(!took.is_empty(), "the canary never sang");
        Ok(Songs(took))
    }
}

impl Songs {
    /// The time within which 99 of 100 songs were answered.
    pub(crate) fn p99(mut self) -> Duration {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        self.0.get(last - last / 100).copied().unwrap_or_default()
    }
}
