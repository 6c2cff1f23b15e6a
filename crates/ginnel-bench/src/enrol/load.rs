//! The load: calls on connections that are used again, and bytes beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::World;
use ginnel_testkit::peer::{Enrolment, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::process::{cpu_seconds, own_cpu_seconds, to_f64};

/// Connections that call at the same time, one call each.
const CONNECTIONS: usize = 32;

/// How long a connection is used: the server ends one without a certificate after five seconds.
const USED: Duration = Duration::from_secs(4);

/// How long bytes flow before they count.
pub(super) const WARM_UP: Duration = Duration::from_millis(700);

/// The gRPC status of every refusal.
const UNAUTHENTICATED: u32 = 16;

/// What is called, in the order of the document: the way of a token through the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Admitted,
    Malformed,
    Unknown,
    Signature,
    Binding,
    Possession,
    Replay,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Admitted,
        Self::Malformed,
        Self::Unknown,
        Self::Signature,
        Self::Binding,
        Self::Possession,
        Self::Replay,
    ];

    /// What the document calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted: certificate signed, record on disk",
            Self::Malformed => "refused: no token",
            Self::Unknown => "refused: unknown identity",
            Self::Signature => "refused: bad signature",
            Self::Binding => "refused: token bound to another key",
            Self::Possession => "refused: no proof of possession",
            Self::Replay => "refused: token used before",
        }
    }
}

/// Calls that were answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calls {
    pub(super) per_second: f64,
    /// The server's CPU time for one, in microseconds.
    pub(super) server_us: f64,
}

/// Counts what `work` gets answered, and what it takes of the server's time.
async fn counted(world: &World, work: impl Future<Output = Result<u64>>) -> Result<Calls> {
    let roots = [("server", world.server.pid())];
    let (started, before) = (Instant::now(), cpu_seconds(&roots)?);
    let answered = work.await?;
    let (elapsed, after) = (started.elapsed(), cpu_seconds(&roots)?);
    ensure!(answered > 0, "nothing was answered");
    let spent = after.first().zip(before.first()).map(|(after, before)| after - before).context("a process")?;
    Ok(Calls { per_second: to_f64(answered) / elapsed.as_secs_f64(), server_us: spent * 1e6 / to_f64(answered) })
}

/// A connection that is made anew before the server ends it.
struct Caller {
    peer: Peer,
    since: Instant,
}

impl Caller {
    async fn connect(world: &World) -> Result<Self> {
        Ok(Self { peer: Peer::connect(world, None).await?, since: Instant::now() })
    }

    async fn call(&mut self, world: &World, enrolment: &Enrolment) -> Result<u32> {
        if self.since.elapsed() > USED {
            *self = Self::connect(world).await?;
        }
        self.peer.enrol(enrolment).await
    }
}

/// Sends one enrolment on a connection of its own; gives the status.
pub(super) async fn once(world: &World, enrolment: &Enrolment) -> Result<u32> {
    Caller::connect(world).await?.call(world, enrolment).await
}

/// Sends every enrolment once; all of them must be admitted.
pub(super) async fn each_once(world: &World, enrolments: &[Enrolment]) -> Result<Calls> {
    let next = AtomicUsize::new(0);
    let caller = async || {
        let mut caller = Caller::connect(world).await?;
        let mut admitted = 0;
        while let Some(enrolment) = enrolments.get(next.fetch_add(1, Ordering::Relaxed)) {
            let status = caller.call(world, enrolment).await?;
            ensure!(status == 0, "an enrolment was answered with status {status}");
            admitted += 1;
        }
        Ok(admitted)
    };
    counted(world, all(caller)).await
}

/// Sends one enrolment again and again for a while; all of them must be refused.
pub(super) async fn again(world: &World, enrolment: &Enrolment, window: Duration) -> Result<Calls> {
    let end = Instant::now() + window;
    let caller = async || {
        let mut caller = Caller::connect(world).await?;
        let mut refused = 0;
        while Instant::now() < end {
            let status = caller.call(world, enrolment).await?;
            ensure!(status == UNAUTHENTICATED, "an enrolment was answered with status {status}");
            refused += 1;
        }
        Ok(refused)
    };
    counted(world, all(caller)).await
}

/// Every connection's work at once; the sum of what they count.
async fn all(caller: impl AsyncFn() -> Result<u64>) -> Result<u64> {
    let mut callers: Vec<_> = (0..CONNECTIONS).map(|_| Box::pin(caller())).collect();
    let mut total = 0;
    // All of them make progress while the first is awaited.
    std::future::poll_fn(|context| {
        let mut failed = None;
        callers.retain_mut(|caller| match caller.as_mut().poll(context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(Ok(count)) => {
                total += count;
                false
            }
            std::task::Poll::Ready(Err(error)) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => std::task::Poll::Ready(Err(error)),
            None if callers.is_empty() => std::task::Poll::Ready(Ok(())),
            None => std::task::Poll::Pending,
        }
    })
    .await?;
    Ok(total)
}

/// A flood of one enrolment, until it is dropped.
pub(super) struct Flood {
    answered: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Flood {
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// Sends an enrolment so many times a second, if the server takes so many.
pub(super) async fn flood(world: &World, enrolment: Enrolment, per_second: u32) -> Result<Flood> {
    let answered = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let (server, roots) = (world.server_addr(), world.directory().join("ca/server-root.pem"));
    for _ in 0..CONNECTIONS {
        let (enrolment, answered, roots) = (enrolment.clone(), Arc::clone(&answered), roots.clone());
        tasks.spawn(async move {
            let connections = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
            let mut ticks = interval(Duration::from_secs(1) * connections / per_second);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            loop {
                let Ok(peer) = Peer::connect_at(server, &roots, None).await else { continue };
                let since = Instant::now();
                while since.elapsed() < USED {
                    ticks.tick().await;
                    if peer.enrol(&enrolment).await.is_err() {
                        break;
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    sleep(WARM_UP).await;
    Ok(Flood { answered, _tasks: tasks })
}

/// A target that sends bytes without end.
pub(super) struct Source {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Source {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                sessions.spawn(async move {
                    let piece = vec![7; crate::host::PIECE];
                    while stream.write_all(&piece).await.is_ok() {}
                });
            }
        });
        Ok(Self { address, _task: AbortOnDropHandle::new(task) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Sessions that bring bytes at once.
pub(super) const SESSIONS: usize = 8;

/// What sessions bring from the target, and what that takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bulk {
    /// Bytes in a second, of all of them.
    pub(super) speed: f64,
    /// Cores that the server was busy on.
    pub(super) server: f64,
    /// Cores that the bench itself was busy on, as target, application and sender of the flood.
    pub(super) load: f64,
}

/// Brings bytes from the target, as fast as they come.
pub(super) async fn bulk(world: &World, window: Duration) -> Result<Bulk> {
    let bytes = Arc::new(AtomicU64::new(0));
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        let (mut session, bytes) = (TcpStream::connect(world.forward_addr(0)?).await?, Arc::clone(&bytes));
        sessions.spawn(async move {
            let mut buffer = vec![0; crate::host::PIECE];
            while let Ok(read @ 1..) = session.read(&mut buffer).await {
                bytes.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
    }
    sleep(WARM_UP).await;
    let roots = [("server", world.server.pid())];
    let (server, own) = (cpu_seconds(&roots)?, own_cpu_seconds()?);
    let (started, first) = (Instant::now(), bytes.load(Ordering::Relaxed));
    sleep(window).await;
    let (elapsed, last) = (started.elapsed().as_secs_f64(), bytes.load(Ordering::Relaxed));
    ensure!(sessions.try_join_next().is_none(), "a session has ended");
    let spent = cpu_seconds(&roots)?.first().zip(server.first()).map(|(after, before)| after - before);
    Ok(Bulk {
        speed: to_f64(last - first) / elapsed,
        server: spent.context("a process")? / elapsed,
        load: (own_cpu_seconds()? - own) / elapsed,
    })
}
