//! Notices a silent peer: any received byte is life, and nothing else is.
//!
//! HTTP/2 pings ask a quiet peer for a sign of life, but a late answer to a ping is not what decides: behind a full send buffer it
//! may be late while data pours in. The verdict is an error of the byte stream itself, because that ends everything above it, also what an
//! HTTP/2 library runs in tasks of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A byte stream that fails with [`io::ErrorKind::TimedOut`] once nothing was received for too long.
///
/// It notices while it is polled, for reading or for writing: a peer that does not read either must not hide behind a full buffer.
#[derive(Debug)]
pub struct Live<T> {
    inner: T,
    silence_max: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<T> Live<T> {
    /// Wraps a stream, which counts as alive now.
    pub fn new(inner: T, silence_max: Duration) -> Self {
        Self { inner, silence_max, last: Instant::now(), timer: Box::pin(sleep(silence_max)) }
    }

    /// Ready with an error once the peer has been silent for too long.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let deadline = self.last + self.silence_max;
            if Instant::now() >= deadline {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the peer has been silent for too long"));
            }
            // The timer is moved only when it fires, not at every byte.
            self.timer.as_mut().reset(deadline);
        }
    }

    fn or_silent<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match poll {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.poll_silent(cx).map(Err),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Live<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.last = Instant::now();
        }
        self.or_silent(cx, poll)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Live<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.or_silent(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.or_silent(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.or_silent(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.or_silent(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(9);

    #[tokio::test(start_paused = true)]
    async fn received_bytes_put_the_end_off_and_sent_ones_do_not() {
        let (near, mut far) = duplex(64);
        let mut live = Live::new(near, SILENCE);
        let start = Instant::now();
        let peer = async {
            sleep(Duration::from_secs(6)).await;
            far.write_all(b"x").await.unwrap();
            far
        };
        let (read, _far) = tokio::join!(live.read_u8(), peer);
        assert_eq!(read.unwrap(), b'x');
        live.write_all(b"y").await.unwrap();
        let error = live.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_cannot_hide_behind_a_full_buffer() {
        let (near, _far) = duplex(4);
        let mut live = Live::new(near, SILENCE);
        let error = live.write_all(b"more than fits").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
