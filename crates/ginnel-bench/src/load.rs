//! The driver: does a workload to a way that runs, and reads the figures.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use ginnel_testkit::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::host::ECHO;
use crate::process::{Root, to_f64};
use crate::workload::{Figure, Metric, Workload};

mod bulk;
mod idle;
mod ping;
mod sessions;

/// The longest that one workload may take; beyond, something hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// The longest that a session may take to be opened and answered.
const SESSION_DEADLINE: Duration = Duration::from_secs(10);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How often each way is measured; medians are reported.
    pub(crate) rounds: usize,
    /// How long bytes, sessions and round trips go on before they count.
    pub(crate) warm_up: Duration,
    /// How long they are counted.
    pub(crate) window: Duration,
    /// Most new sessions in that time.
    pub(crate) sessions: usize,
    /// Sessions that are left alone, few and many.
    pub(crate) idle: [usize; 2],
    /// How long those rest before memory is read.
    pub(crate) rest: Duration,
}

impl Effort {
    /// To see that it works.
    pub(crate) const QUICK: Self = Self {
        rounds: 1,
        warm_up: Duration::from_millis(200),
        window: Duration::from_millis(400),
        sessions: 1_000,
        idle: [50, 200],
        rest: Duration::from_millis(300),
    };

    /// To have figures.
    pub(crate) const FULL: Self = Self {
        rounds: 5,
        warm_up: Duration::from_millis(700),
        window: Duration::from_millis(1_200),
        sessions: 12_000,
        idle: [1_000, 9_000],
        rest: Duration::from_millis(1_500),
    };
}

/// A way that runs, as the driver sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// Where sessions go in.
    pub(crate) entrance: SocketAddr,
    /// The target itself, which is asked beside the way what has arrived.
    pub(crate) target: SocketAddr,
    /// The processes whose time and memory count.
    pub(crate) processes: &'a [Root],
}

impl Subject<'_> {
    /// Spreads what each process has used over a number of things.
    fn per(&self, metric: Metric, before: &[f64], after: &[f64], things: f64) -> Figure {
        let used = before.iter().zip(after).map(|(before, after)| (after - before) / things);
        Figure::sum(metric, self.processes.iter().map(|(name, _)| *name).zip(used).collect())
    }
}

/// What came of a workload: its figures, and what is to be known about them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Those of [`Workload::metrics`].
    pub(crate) figures: Vec<Figure>,
    /// What the way did not do, where the figures are those of what it did.
    pub(crate) flaw: Option<String>,
}

/// Does a workload.
pub(crate) async fn measure(subject: Subject<'_>, workload: Workload, effort: &Effort) -> Result<Outcome> {
    let figures = |figures: Vec<Figure>| Outcome { figures, flaw: None };
    let work = async {
        Ok(match workload {
            Workload::Down1 => figures(bulk::run(subject, bulk::Direction::Down, 1, effort).await?),
            Workload::Up1 => figures(bulk::run(subject, bulk::Direction::Up, 1, effort).await?),
            Workload::Down16 => figures(bulk::run(subject, bulk::Direction::Down, 16, effort).await?),
            Workload::Up16 => figures(bulk::run(subject, bulk::Direction::Up, 16, effort).await?),
            Workload::Sessions1 => sessions::run(subject, 1, effort).await?,
            Workload::Sessions64 => sessions::run(subject, 64, effort).await?,
            Workload::Ping => figures(ping::alone(subject, effort).await?),
            Workload::PingBeside => figures(ping::beside(subject, effort).await?),
            Workload::Idle => idle::run(subject, effort).await?,
        })
    };
    within(workload.name(), DEADLINE, work).await?
}

/// Waits until a session reaches the target: what a way announces, or does not, says less.
pub(crate) async fn ready(entrance: SocketAddr) -> Result<()> {
    let look = async || Ok(within("a session", SESSION_DEADLINE, echoed(entrance)).await?.ok().map(drop));
    ginnel_testkit::eventually("the first session", ginnel_testkit::wait::SOON, look).await
}

/// A session that has proved itself: a byte went to the target and came back.
async fn echoed(entrance: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(entrance).await.context("connecting")?;
    stream.set_nodelay(true)?;
    stream.write_all(&[ECHO, 1]).await?;
    stream.read_u8().await.context("waiting for a byte to come back")?;
    Ok(stream)
}

fn number(count: usize) -> f64 {
    to_f64(u64::try_from(count).unwrap_or(u64::MAX))
}
