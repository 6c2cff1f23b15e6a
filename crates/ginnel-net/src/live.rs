//! Notices a silent peer: any received byte is life, and nothing else is.
//!
//! HTTP/2 pings ask a quiet peer for a sign of life, but a late answer to a ping is not what decides: behind a full send buffer it
//! may be late while data pours in. A byte counts when the kernel has it, read or not: an HTTP/2 library reads nothing while it cannot write the
//! answer to a ping, and the peer must not be blamed for that. The verdict is an error of the byte stream itself, because that ends everything
//! above it, also what an HTTP/2 library runs in tasks of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ginnel_core::limits::{SILENCE_PARTS, TURN_MAX};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// A byte stream that knows what it has received before anybody reads it.
pub trait Unread {
    /// How many received bytes wait to be read; 0 where nobody can tell.
    fn unread(&self) -> u64;
}

impl Unread for TcpStream {
    fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(self).unwrap_or(0)
    }
}

/// A byte stream that fails with [`io::ErrorKind::TimedOut`] once nothing was received for too long.
///
/// Reading pauses after [`TURN_MAX`] bytes, so that other tasks have their turn. It notices silence while it is polled, for reading or for writing: a peer that does not read either must not hide behind a full buffer.
#[derive(Debug)]
pub struct Live<T> {
    inner: T,
    silence_max: Duration,
    last: Instant,
    /// Bytes that were read.
    read: u64,
    /// Bytes that are known to have been received, read or not. Only more of them is life: input that merely stays unread proves nothing.
    received: u64,
    timer: Pin<Box<Sleep>>,
    /// Bytes that were read since the reader last had to wait.
    turn: usize,
}

impl<T> Live<T> {
    /// Wraps a stream, which counts as alive now.
    pub fn new(inner: T, silence_max: Duration) -> Self {
        let timer = Box::pin(sleep(silence_max / SILENCE_PARTS));
        Self { inner, silence_max, last: Instant::now(), read: 0, received: 0, timer, turn: 0 }
    }

    /// The stream.
    pub fn inner(&self) -> &T {
        &self.inner
    }
}

impl<T: Unread> Live<T> {
    /// Ready with an error once the peer has been silent for too long.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let received = self.read + self.inner.unread();
            if received > self.received {
                self.received = received;
                self.last = now;
            }
            let deadline = self.last + self.silence_max;
            if now >= deadline {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the peer has been silent for too long"));
            }
            // The timer is moved only when it fires, not at every byte.
            self.timer.as_mut().reset(deadline.min(now + self.silence_max / SILENCE_PARTS));
        }
    }

    fn or_silent<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match poll {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.poll_silent(cx).map(Err),
        }
    }
}

impl<T: AsyncRead + Unread + Unpin> AsyncRead for Live<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn >= TURN_MAX {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        let length = buf.filled().len() - before;
        self.turn = if length == 0 { 0 } else { self.turn + length };
        let read = length as u64;
        if read > 0 {
            self.last = Instant::now();
            self.read += read;
            self.received = self.received.max(self.read);
        }
        self.or_silent(cx, poll)
    }
}

impl<T: AsyncWrite + Unread + Unpin> AsyncWrite for Live<T> {
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(9);

    impl Unread for DuplexStream {
        fn unread(&self) -> u64 {
            0
        }
    }

    /// Cannot be written, and has received what the number says.
    struct Stuck(Arc<AtomicU64>);

    impl Unread for Stuck {
        fn unread(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

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

    #[tokio::test(start_paused = true)]
    async fn unread_input_is_life_while_it_grows_and_not_while_it_only_waits() {
        let received = Arc::new(AtomicU64::new(0));
        let mut live = Live::new(Stuck(Arc::clone(&received)), SILENCE);
        let start = Instant::now();
        let peer = async {
            for _ in 0..10 {
                sleep(Duration::from_secs(5)).await;
                received.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (written, ()) = tokio::join!(live.write_all(b"x"), peer);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // The last byte came after 50 s and was noticed within a ninth of the silence that is allowed.
        assert!((59..=60).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_socket_tells_what_waits_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        assert_eq!(near.unread(), 0);
        far.write_all(b"four").await.unwrap();
        near.readable().await.unwrap();
        assert_eq!(near.unread(), 4);
    }
}
