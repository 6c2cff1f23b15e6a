//! A socket that is read in pieces of the size that its peer's speed asks for, and that holds no memory while it is silent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ginnel_core::limits::SESSION_READ_MAX;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::socket::Socket;

/// Bytes that are read at once at first. Most sessions of an idle process never need more.
const READ_FIRST: usize = 4 * 1024;

/// Reads grow by this while they are filled.
const GROWTH: usize = 4;

/// A socket with what was read from it and not yet taken.
pub(super) struct Buffered {
    socket: Socket,
    buffer: BytesMut,
    /// Bytes of the next read.
    size: usize,
    ended: bool,
}

impl Buffered {
    /// A socket from which `first` was read before.
    pub(super) fn new(socket: Socket, first: Bytes) -> Self {
        Self { socket, buffer: first.into(), size: READ_FIRST, ended: false }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What waits for its peer holds no memory.
        if self.socket.poll_readable(cx)?.is_pending() {
            self.buffer = BytesMut::new();
            return Poll::Pending;
        }
        self.buffer.reserve(self.size);
        let mut space = (&mut self.buffer).limit(self.size);
        let read = poll_read_buf(Pin::new(&mut self.socket), cx, &mut space);
        if read.is_pending() {
            self.buffer = BytesMut::new();
        }
        let count = ready!(read)?;
        self.ended = count == 0;
        if count == self.size {
            self.size = (GROWTH * self.size).min(SESSION_READ_MAX);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for Buffered {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.buffer.is_empty() && !this.ended {
            ready!(this.poll_fill(cx))?;
        }
        Poll::Ready(Ok(&this.buffer))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.buffer.advance(count);
    }
}

impl AsyncRead for Buffered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = bytes.len().min(into.remaining());
        into.put_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}
