//! The network between two processes, which can be cut, stopped and listened to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes kept of what passed; more than any test that looks at them sends.
const CAPTURE_MAX: usize = 64 << 20;

struct State {
    upstream: SocketAddr,
    passing: Mutex<Vec<Passing>>,
    cuts: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
    closed: AtomicBool,
    captured: Mutex<Vec<u8>>,
}

/// One connection that passes; it is the same in the list and in its own relay.
#[derive(Clone, Default)]
struct Passing(Arc<Counted>);

#[derive(Default)]
struct Counted {
    bytes: AtomicU64,
    is_over: AtomicBool,
    cut: Notify,
}

/// A relay on a loopback port that forwards every connection to one address.
pub struct Cutter {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Cutter {
    /// Starts to relay to `upstream`.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            upstream,
            passing: Mutex::default(),
            cuts: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            captured: Mutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&state).accept(listener));
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets every connection that passes at this moment, towards both sides; later ones pass again.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The connections that pass at this moment, oldest first: a number that stays theirs, and the bytes that each has passed both ways.
    pub fn passing(&self) -> Vec<(usize, u64)> {
        let passing = self.state.passing();
        let alive = passing.iter().enumerate().filter(|(_, Passing(counted))| !counted.is_over.load(Ordering::Relaxed));
        alive.map(|(number, Passing(counted))| (number, counted.bytes.load(Ordering::Relaxed))).collect()
    }

    /// Resets the connection with this number, towards both sides.
    pub fn cut_one(&self, number: usize) {
        if let Some(Passing(counted)) = self.state.passing().get(number) {
            counted.cut.notify_one();
        }
    }

    /// Forwards nothing more, on old and new connections, without closing anything.
    pub fn freeze(&self) {
        self.state.frozen.send_replace(true);
    }

    /// Goes on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.state.frozen.send_replace(false);
    }

    /// Resets every connection that begins, until [`Self::open`]. Those that are there stay.
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::Relaxed);
    }

    /// Lets connections begin again.
    pub fn open(&self) {
        self.state.closed.store(false, Ordering::Relaxed);
    }

    /// Everything that passed so far, both directions in the order in which it was read.
    pub fn captured(&self) -> Vec<u8> {
        self.state.captured().clone()
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn passing(&self) -> MutexGuard<'_, Vec<Passing>> {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn captured(&self) -> MutexGuard<'_, Vec<u8>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((near, _)) = accepted else { continue };
                    connections.spawn(Arc::clone(&self).relay(near));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn relay(self: Arc<Self>, mut near: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        if self.closed.load(Ordering::Relaxed) {
            near.set_zero_linger().ok();
            return;
        }
        let passing = Passing::default();
        self.passing().push(passing.clone());
        let Passing(counted) = &passing;
        let Ok(mut far) = TcpStream::connect(self.upstream).await else {
            near.set_zero_linger().ok();
            counted.is_over.store(true, Ordering::Relaxed);
            return;
        };
        near.set_nodelay(true).ok();
        far.set_nodelay(true).ok();
        let clean = {
            let (near_read, near_write) = near.split();
            let (far_read, far_write) = far.split();
            tokio::select! {
                biased;
                _ = cuts.changed() => false,
                () = counted.cut.notified() => false,
                both = async {
                    tokio::try_join!(self.copy(near_read, far_write, counted), self.copy(far_read, near_write, counted))
                } => both.is_ok(),
            }
        };
        counted.is_over.store(true, Ordering::Relaxed);
        if !clean {
            near.set_zero_linger().ok();
            far.set_zero_linger().ok();
        }
    }

    async fn copy(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, counted: &Counted) -> Result<()> {
        let mut frozen = self.frozen.subscribe();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = from.read(&mut buffer).await?;
            frozen.wait_for(|frozen| !frozen).await?;
            if n == 0 {
                return Ok(to.shutdown().await?);
            }
            {
                let mut captured = self.captured();
                let room = CAPTURE_MAX - captured.len();
                captured.extend_from_slice(&buffer[..n.min(room)]);
            }
            counted.bytes.fetch_add(n as u64, Ordering::Relaxed);
            to.write_all(&buffer[..n]).await?;
        }
    }
}
