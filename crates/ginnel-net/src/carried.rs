//! One end of a session as a byte stream: [`ginnel_core::stream::Stream`] with a carrier under it.
//!
//! Whoever polls a [`Carried`] moves frames between the machine and the two sides of the call, in both directions, so that bytes pass no task
//! between the connection and the application. That takes an owner that polls whether or not its application reads: a stalled application
//! must cost its own credits and never leave frames unread in the connection. An owner that cannot promise that asks for a task of the
//! session's own, with [`Tunnel::tend`]. Dropping a [`Carried`] resets the session unless both halves had ended; what is left to say is
//! said by a task then.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use ginnel_core::budget::Budget;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{DATA_MAX, LAST_BYTES_WAIT};
use ginnel_core::stream::Stream;
use ginnel_wire::frame::SessionFrame;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::body::{FrameReader, FrameWriter};
use crate::tunnel::{Tunnel, broken};

mod carrier;
#[cfg(test)]
pub(crate) mod tests;

use self::carrier::{Answer, Carrier};

/// How long an end that was dropped and has said everything waits for the peer to end the call as well. Leaving at once would cancel the
/// HTTP/2 stream; a peer that never ends must not hold the task.
const END_WAIT: Duration = Duration::from_secs(5);

/// One end of a session.
pub struct Carried {
    shared: Arc<Shared>,
    /// Bytes that were read from the machine and not yet taken.
    current: Bytes,
    /// The session's own task, where it has one.
    tender: Option<AbortHandle>,
}

struct Shared(Mutex<Carrier>);

impl Carried {
    /// The client's end: says `open` and awaits the answer. What it grants the peer it draws on `budget`.
    ///
    /// Nothing is sent before it is polled, so that the first bytes go with `open`.
    pub fn opening(open: SessionFrame, reader: FrameReader, writer: FrameWriter, budget: Budget) -> Self {
        Self::start(open, Answer::Awaited, [Hop::Client, Hop::Target], reader, writer, budget)
    }

    /// The agent's end: says `take`; [`Answers::say`] gives the answer. What it grants the peer it draws on `budget`. `early` are the session's
    /// first bytes, which came with the order to take it up.
    pub fn taking(take: SessionFrame, reader: FrameReader, writer: FrameWriter, budget: Budget, early: Bytes) -> Self {
        let carried = Self::start(take, Answer::NotExpected, [Hop::Agent, Hop::Application], reader, writer, budget);
        // The server waits for this word, whatever the agent does first.
        carried.shared.lock().begin(early);
        carried.shared.lock().drive(&mut Context::from_waker(Waker::noop()));
        carried
    }

    fn start(
        first: SessionFrame,
        answer: Answer,
        hops: [Hop; 2],
        reader: FrameReader,
        writer: FrameWriter,
        budget: Budget,
    ) -> Self {
        let carrier = Carrier::new(Stream::new(budget), first, answer, hops, reader, writer);
        Self { shared: Arc::new(Shared(Mutex::new(carrier))), current: Bytes::new(), tender: None }
    }

    /// A handle that gives or hears the answer to `Open` while the session itself is in other hands.
    pub fn answers(&self) -> Answers {
        Answers { shared: Arc::clone(&self.shared) }
    }
}

/// Gives or hears the answer to `Open`.
pub struct Answers {
    shared: Arc<Shared>,
}

impl Answers {
    /// The agent's end: sends `Opened` or `Refused`, before any byte of the session that is not on its way yet.
    pub fn say(&self, frame: SessionFrame) {
        self.shared.lock().say(frame);
    }

    /// The agent's end: refuses the session if it was not answered yet, and resets it otherwise.
    pub fn refuse(&self, refusal: Refusal) {
        let mut carrier = self.shared.lock();
        if carrier.has_answered() {
            carrier.reset(refusal.cause);
        } else {
            carrier.say(SessionFrame::Refused(refusal));
        }
    }

    /// Resets the session, whoever has it in hand.
    pub fn abort(&self, cause: Cause) {
        self.shared.lock().reset(cause);
    }

    /// Bytes that the session carried so far, with whatever encryption is around them: towards this end, and from it.
    pub fn bytes(&self) -> (u64, u64) {
        self.shared.lock().stream.carried()
    }

    /// Waits until the session has broken off, and moves its frames meanwhile.
    pub async fn broken(&self) -> Refusal {
        poll_fn(|cx| self.shared.lock().poll_broken(cx)).await
    }

    /// The client's end: waits for the answer.
    ///
    /// # Errors
    /// The [`Refusal`], also when the session broke off before there was an answer.
    pub async fn answer(&self) -> Result<SocketAddr, Refusal> {
        poll_fn(|cx| self.shared.lock().poll_answer(cx)).await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Carrier> {
        // The machine has no half-done states that a panic elsewhere could leave behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves frames until the session is over and its call has ended on both sides.
    async fn run(self: Arc<Self>) {
        poll_fn(|cx| self.lock().poll_done(cx)).await;
    }

    /// Does the same for an end that was dropped: its last bytes may take their time, the peer's own end may not.
    async fn end(self: Arc<Self>) {
        // Whatever has not left by then is given up, and the stream with it.
        if timeout(LAST_BYTES_WAIT, poll_fn(|cx| self.lock().poll_said(cx))).await.is_ok() {
            let _ = timeout(END_WAIT, self.run()).await;
        }
    }
}

impl Carried {
    /// Says whether the inner handshake is under way. What it writes then fails only once the peer's clean end, if there is one, was read.
    pub(crate) fn secure(&mut self, securing: bool) {
        self.shared.lock().secure(securing);
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, tells: bool) -> Poll<io::Result<&[u8]>> {
        if self.current.is_empty() {
            match ready!(self.shared.lock().poll_read(cx, DATA_MAX, tells)) {
                Ok(bytes) => self.current = bytes,
                Err(refusal) => return Poll::Ready(Err(broken(refusal))),
            }
        }
        Poll::Ready(Ok(&self.current))
    }
}

impl AsyncBufRead for Carried {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().poll_fill(cx, true)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.current.advance(count);
    }
}

impl AsyncRead for Carried {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // A reader of records gets whole ones, however they were cut on the way.
        while buf.remaining() > 0 {
            let is_first = buf.filled().len() == before;
            let count = match self.poll_fill(cx, is_first) {
                Poll::Ready(Ok([])) => break,
                Poll::Ready(Ok(bytes)) => {
                    let count = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..count]);
                    count
                }
                // What was read comes first; the end or the wait is met again.
                Poll::Ready(Err(_)) | Poll::Pending if !is_first => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            self.as_mut().consume(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Carried {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_write(cx, slices).map_err(broken)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whatever can be sent is sent at once; nothing is held back for a flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.lock().finish(cx).map_err(broken))
    }
}

impl Tunnel for Carried {
    fn abort(&mut self, cause: Cause) {
        self.shared.lock().reset(cause);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        self.shared.lock().poll_broken(cx)
    }

    fn tend(&mut self) {
        self.shared.lock().tend(true);
        let tender = tokio::spawn(Arc::clone(&self.shared).run());
        self.tender = Some(tender.abort_handle());
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let mut carrier = self.shared.lock();
        if !(carrier.is_settled() && self.current.is_empty()) {
            carrier.reset(Cause::Aborted);
        }
        if let Some(tender) = self.tender.take() {
            tender.abort();
            carrier.tend(false);
        }
        // What can be said at once is said, whether or not there is a task to say the rest.
        carrier.drive(&mut Context::from_waker(Waker::noop()));
        drop(carrier);
        // Without a runtime the connection is gone as well.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(Arc::clone(&self.shared).end());
        }
    }
}
