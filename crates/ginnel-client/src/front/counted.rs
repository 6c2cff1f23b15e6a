//! A session that counts what it carries.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use ginnel_core::cause::{Cause, Refusal};
use ginnel_core::traffic::Traffic;
use ginnel_net::tunnel::Tunnel;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// Puts what is written to the session and read from it into the counters, as it happens.
pub(super) struct Counted<T> {
    tunnel: T,
    traffic: Traffic,
    up: u64,
    down: u64,
}

impl<T: Tunnel> Counted<T> {
    pub(super) fn new(tunnel: T, traffic: Traffic) -> Self {
        Self { tunnel, traffic, up: 0, down: 0 }
    }

    fn add(&mut self, up: usize, down: usize) {
        let more = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.up = self.up.saturating_add(more(up));
        self.down = self.down.saturating_add(more(down));
        self.traffic.set(self.up, self.down);
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = &written {
            self.add(*length, 0);
        }
        written
    }
}

impl<T: Tunnel> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tunnel).poll_read(cx, buffer);
        self.add(0, buffer.filled().len().saturating_sub(before));
        read
    }
}

impl<T: Tunnel> AsyncBufRead for Counted<T> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().tunnel).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.tunnel).consume(count);
        self.add(0, count);
    }
}

impl<T: Tunnel> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tunnel).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tunnel).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tunnel.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_shutdown(cx)
    }
}

impl<T: Tunnel> Tunnel for Counted<T> {
    fn abort(&mut self, cause: Cause) {
        self.tunnel.abort(cause);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        self.tunnel.poll_broken(cx)
    }
}
