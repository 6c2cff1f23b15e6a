//! One direction of a session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read at once at first. Most sessions of an idle process never need more.
const BUFFER_FIRST: usize = 4 * 1024;

/// Most bytes that are read at once: about one frame. The buffer grows to this while reads fill it.
const BUFFER_MAX: usize = 64 * 1024;

/// Which side of a direction failed.
pub(super) enum Broken {
    /// Reading failed.
    Source(io::Error),
    /// Writing or ending failed.
    Sink(io::Error),
}

/// Moves bytes from a source to a sink, then the end of the source to the sink.
pub(super) struct Pump {
    buffer: Vec<u8>,
    /// What of the buffer was read and not yet written.
    start: usize,
    end: usize,
    /// The source has ended.
    ended: bool,
    /// The sink may hold back what was written.
    unflushed: bool,
    /// The sink was told of the end.
    closed: bool,
    moved: u64,
}

impl Pump {
    /// A direction that begins with bytes that were read before.
    pub(super) fn with(first: Bytes) -> Self {
        let end = first.len();
        Self { buffer: first.into(), start: 0, end, ended: false, unflushed: false, closed: false, moved: 0 }
    }

    /// Bytes that were written so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether the source has ended; what it gave may still have to go out.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the sink was told of the end.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Moves what can be moved; ready when the sink was told of the end.
    pub(super) fn poll<R, W>(&mut self, cx: &mut Context<'_>, source: &mut R, sink: &mut W) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // Two sides that are always ready do not starve the task: one of them is a tokio socket, whose budget runs out.
        while !self.closed {
            if self.start == self.end && !self.ended {
                match self.fill(cx, source) {
                    Poll::Ready(filled) => filled.map_err(Broken::Source)?,
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Broken::Sink)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
            }
            if self.start < self.end {
                let pending = &self.buffer[self.start..self.end];
                let written = ready!(Pin::new(&mut *sink).poll_write(cx, pending)).map_err(Broken::Sink)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into())));
                }
                self.start += written;
                self.moved += written as u64;
                self.unflushed = true;
            } else if self.ended {
                ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Broken::Sink)?;
                self.closed = true;
                self.buffer = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, source: &mut R) -> Poll<io::Result<()>> {
        if self.buffer.len() < BUFFER_FIRST {
            self.buffer.resize(BUFFER_FIRST, 0);
        } else if self.end == self.buffer.len() && self.end < BUFFER_MAX {
            self.buffer.resize(BUFFER_MAX.min(2 * self.end), 0);
        }
        let mut space = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(source).poll_read(cx, &mut space))?;
        (self.start, self.end) = (0, space.filled().len());
        self.ended = self.end == 0;
        Poll::Ready(Ok(()))
    }
}
