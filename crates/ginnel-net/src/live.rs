//! Notices a silent peer: any received byte is life, and nothing else is.
//!
//! HTTP/2 pings ask a quiet peer for a sign of life, but a late answer to a ping is not what decides: behind a full send buffer it
//! may be late while data pours in.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// A byte stream that remembers when it last received something.
#[derive(Debug)]
pub struct Live<T> {
    inner: T,
    pulse: Pulse,
}

/// When a [`Live`] stream last received something.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds after `start`.
    last_ms: Arc<AtomicU64>,
}

impl<T> Live<T> {
    /// Wraps a stream, which counts as alive now.
    pub fn new(inner: T) -> Self {
        Self { inner, pulse: Pulse { start: Instant::now(), last_ms: Arc::default() } }
    }

    /// The handle that sees when it last received something.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Pulse {
    /// Resolves once nothing was received for `silence`.
    pub async fn stopped(&self, silence: Duration) {
        loop {
            let last = self.start + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let deadline = last + silence;
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Live<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.beat();
        }
        poll
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Live<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn received_bytes_put_the_end_off_and_sent_ones_do_not() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut live = Live::new(near);
        let pulse = live.pulse();
        let start = Instant::now();
        let life = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            far.write_all(b"x").await.unwrap();
            live.read_u8().await.unwrap();
            tokio::time::sleep(Duration::from_secs(6)).await;
            live.write_all(b"y").await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = life => {}
            () = pulse.stopped(Duration::from_secs(9)) => {}
        }
        assert_eq!(start.elapsed().as_secs(), 15);
    }
}
