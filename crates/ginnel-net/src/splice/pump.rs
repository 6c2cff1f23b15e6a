//! One direction of a session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ginnel_core::limits::TURN_MAX;
use tokio::io::{AsyncBufRead, AsyncWrite};

/// Which side of a direction failed.
pub(super) enum Broken {
    /// Reading failed.
    Source(io::Error),
    /// Writing or ending failed.
    Sink(io::Error),
}

/// Moves bytes from a source to a sink, then the end of the source to the sink. It holds none itself.
#[derive(Default)]
pub(super) struct Pump {
    /// The sink may hold back what was written.
    unflushed: bool,
    /// The source has ended.
    ended: bool,
    /// The sink was told of the end.
    closed: bool,
    moved: u64,
}

impl Pump {
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
        R: AsyncBufRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = 0;
        while !self.closed {
            if turn >= TURN_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let bytes = match Pin::new(&mut *source).poll_fill_buf(cx) {
                Poll::Ready(bytes) => bytes.map_err(Broken::Source)?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Broken::Sink)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            };
            if bytes.is_empty() {
                self.ended = true;
                ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Broken::Sink)?;
                self.closed = true;
                break;
            }
            let written = ready!(Pin::new(&mut *sink).poll_write(cx, bytes)).map_err(Broken::Sink)?;
            if written == 0 {
                return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into())));
            }
            Pin::new(&mut *source).consume(written);
            turn += written;
            self.moved += written as u64;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }
}
