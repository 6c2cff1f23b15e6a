//! A TCP connection that is watched for a reset while it is read and written.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes that are read at once where they are thrown away.
const DISCARD_PIECE: usize = 2048;

/// Silence after which the kernel asks the peer whether it is still there: less than the five minutes after which many firewalls forget a
/// connection.
const ASK_AFTER: Duration = Duration::from_secs(120);

/// How often it asks on while there is no answer, and how many times. A peer that is there answers without its program, so that nothing
/// that lives is cut for being idle; a network may be away for ten minutes.
const ASK_EVERY: Duration = Duration::from_secs(60);
const ASKED_MAX: u32 = 10;

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASKED_MAX)
}

/// One connection of an application or to a target. Clones share it.
///
/// Closing it, which happens when the last clone is dropped, is a reset unless [`Self::end_on_close`] was called before. The kernel then
/// resets it for a process that is killed as well, where it would otherwise say end of file.
///
/// One task at a time may read and one may write, as with any connection; any number may wait for [`Self::failed`].
#[derive(Clone, Debug)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    /// Takes `stream` over; small writes go out at once from here on, and a peer that has vanished without a word is noticed in the end.
    pub fn new(stream: TcpStream) -> Self {
        // The options fail only where the peer is gone already; the first read tells so.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_zero_linger();
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
        Self(Arc::new(stream))
    }

    /// The connection itself, for peeking.
    pub fn stream(&self) -> &TcpStream {
        &self.0
    }

    /// Ready when reading may give something.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Waits until the peer has reset the connection or the kernel has given it up, whether or not anybody reads.
    pub async fn failed(&self) {
        // An error of the registration means that the runtime is going away, which is an end as well.
        let _ = self.0.ready(Interest::ERROR).await;
    }

    /// Whether the peer of a connection that has failed had ended its half before: what it said is here and can be read to its end. Takes the
    /// kernel's word on the failure, which it gives once.
    pub(super) fn had_ended(&self) -> bool {
        // Linux says of a reset that came after an end of file that the pipe is broken.
        let failure = self.0.take_error().ok().flatten();
        failure.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Gives the peer so long to take what it was sent, until it ends the connection. What it still says is thrown away: unread, it would
    /// make the kernel reset the connection.
    pub(super) async fn hear_out(&mut self, longest: Duration) {
        let _ = timeout(longest, async {
            let mut buffer = [0; DISCARD_PIECE];
            while let Ok(1..) = self.read(&mut buffer).await {}
        })
        .await;
    }

    /// Makes the closing of the connection a proper end: what was written is delivered, then an end of file.
    pub fn end_on_close(&self) {
        let _ = SockRef::from(&*self.0).set_linger(None);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_vanishes_is_asked_for_and_given_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(near);
        let options = SockRef::from(socket.stream());
        assert!(options.keepalive().unwrap());
        let asked = options.tcp_keepalive_retries().unwrap();
        assert_eq!((options.tcp_keepalive_time().unwrap(), asked), (ASK_AFTER, ASKED_MAX));
        assert!(asked * options.tcp_keepalive_interval().unwrap() >= Duration::from_secs(600));
    }
}
