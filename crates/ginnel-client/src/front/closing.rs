//! Ending politely: without letting the end destroy what was said before it.

use std::future::Future;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ginnel_net::splice::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long the other side may take to end as well. Whoever has read the answer ends at once.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Most bytes that are thrown away while waiting for it: what may be under way in the sockets of a local connection, and some more.
const DISCARD_MAX: usize = 4 * 1024 * 1024;

/// Sessions of one application's connection that are being ended at once. They matter only for a proper end towards the target; more are
/// reset.
const CLOSERS_MAX: usize = 8;

/// Ends a connection after its last answer. Closing it while bytes of the application are unread would reset it, and with it
/// the answer.
pub(super) async fn linger(mut socket: Socket) {
    socket.end_on_close();
    let _ = timeout(CLOSE_DEADLINE, async {
        if socket.shutdown().await.is_ok() {
            discard(&mut socket).await;
        }
    })
    .await;
}

/// Reads to the end and tells whether it came.
pub(super) async fn discard(source: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut left = DISCARD_MAX;
    let mut buffer = [0; 2048];
    while left > 0 {
        match source.read(&mut buffer).await {
            Ok(0) => return true,
            Ok(length) => left = left.saturating_sub(length),
            Err(_) => return false,
        }
    }
    false
}

/// The sessions that one application's connection has finished with and that are still to be ended. It owns the tasks that do it.
#[derive(Clone, Default)]
pub(super) struct Closers(Arc<Mutex<JoinSet<()>>>);

impl Closers {
    /// Runs `closer`, which must have a deadline of its own, unless too many do already; then it is dropped.
    pub(super) fn run(&self, closer: impl Future<Output = ()> + Send + 'static) {
        let mut closers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while closers.try_join_next().is_some() {}
        // Without a runtime the process is going away, and the session with it.
        if closers.len() < CLOSERS_MAX
            && let Ok(runtime) = Handle::try_current()
        {
            closers.spawn_on(closer, &runtime);
        }
    }

    /// Waits for all of them.
    pub(super) async fn finish(&self) {
        let mut closers = take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        while closers.join_next().await.is_some() {}
    }
}
