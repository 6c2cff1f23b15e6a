//! One end of a session as a byte stream: [`ginnel_core::stream::Stream`] with a carrier under it.
//!
//! A driver task moves frames between the machine and the call's two bodies, whether or not anybody reads or writes: a stalled
//! application costs its own credits and never leaves frames unread in the connection. The driver belongs to the connection (it ends with it)
//! and to the [`Carried`] (dropping that resets the session unless both halves had ended).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::{DATA_MAX, FRAME_MAX};
use ginnel_core::report::Chain;
use ginnel_core::stream::{Frame, Read, Stream};
use ginnel_wire::frame::SessionFrame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::body::{FrameReader, FrameWriter, ReadError};
use crate::tunnel::{Tunnel, broken};

#[cfg(test)]
pub(crate) mod tests;

/// How long a finished end waits for the peer to end the call as well. Leaving at once would cancel the HTTP/2 stream, which may
/// overtake the last frames; a peer that never ends must not hold the task.
const END_WAIT: Duration = Duration::from_secs(5);

/// One end of a session.
pub struct Carried {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Tells the driver that the machine may want to send.
    changed: Notify,
}

struct State {
    stream: Stream,
    /// Frames that come before everything else: `Open`, `Take`, `Opened`, `Refused`; never more than two.
    first: Vec<SessionFrame>,
    answer: Answer,
    reader: Option<Waker>,
    writer: Option<Waker>,
    asker: Option<Waker>,
    watcher: Option<Waker>,
    /// The hop of this end, and the one beyond the other end.
    own: Hop,
    far: Hop,
    /// Whether it was this end that reset the session.
    reset_here: bool,
    /// Whether the peer's half was read up to its clean end.
    end_read: bool,
}

/// What the other end said to `Open`.
#[derive(Clone, Copy)]
enum Answer {
    /// Nobody may say anything: this end is the one that answers.
    NotExpected,
    Awaited,
    Given(Result<SocketAddr, Refusal>),
}

impl Carried {
    /// The client's end: says `open` and awaits the answer.
    pub fn opening(open: SessionFrame, reader: FrameReader, writer: FrameWriter) -> Self {
        Self::start(open, Answer::Awaited, [Hop::Client, Hop::Target], reader, writer)
    }

    /// The agent's end: says `take`; [`Answers::say`] gives the answer.
    pub fn taking(take: SessionFrame, reader: FrameReader, writer: FrameWriter) -> Self {
        Self::start(take, Answer::NotExpected, [Hop::Agent, Hop::Application], reader, writer)
    }

    fn start(
        first: SessionFrame,
        answer: Answer,
        [own, far]: [Hop; 2],
        reader: FrameReader,
        writer: FrameWriter,
    ) -> Self {
        let state = State {
            stream: Stream::new(),
            first: vec![first],
            answer,
            reader: None,
            writer: None,
            asker: None,
            watcher: None,
            own,
            far,
            reset_here: false,
            end_read: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        tokio::spawn(drive(Arc::clone(&shared), reader, writer));
        Self { shared }
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
        self.shared.lock().first.push(frame);
        self.shared.changed.notify_one();
    }

    /// Resets the session, whoever has it in hand.
    pub fn abort(&self, cause: Cause) {
        self.shared.reset(cause);
    }

    /// The client's end: waits for the answer.
    ///
    /// # Errors
    /// The [`Refusal`], also when the session broke off before there was an answer.
    pub async fn answer(&self) -> Result<SocketAddr, Refusal> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Answer::Given(answer) = state.answer {
                return Poll::Ready(answer);
            }
            if let Some(refusal) = state.over() {
                return Poll::Ready(Err(refusal));
            }
            state.asker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Shared {
    /// Resets the session from this end.
    fn reset(&self, cause: Cause) {
        let mut state = self.lock();
        state.reset_here |= state.stream.over().is_none();
        state.stream.reset(cause);
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The machine has no half-done states that a panic elsewhere could leave behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How the session was cut off, if it was: by the peer's word, or by the loss of the way to the server.
    fn over(&self) -> Option<Refusal> {
        self.stream.over().map(|cause| {
            let hop = if let Some(said) = self.stream.reset_by() {
                said
            } else if cause == Cause::ServerLost || self.reset_here {
                self.own
            } else if matches!(cause, Cause::AgentLost | Cause::NotOnAllowList | Cause::AddressForbidden) {
                // Only an agent says that of itself.
                Hop::Agent
            } else if cause == Cause::Reset {
                self.far
            } else {
                Hop::Server
            };
            Refusal::new(hop, cause)
        })
    }

    fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take(), self.asker.take(), self.watcher.take()];
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    fn wants_to_send(&self) -> bool {
        !self.first.is_empty() || self.stream.wants_to_send()
    }

    /// Takes in what the carrier read; `false` when nothing more can come.
    fn take_in(&mut self, read: Result<Option<SessionFrame>, ReadError>) -> bool {
        let more = match read {
            Ok(Some(SessionFrame::Stream(frame))) => {
                // A violation has reset the machine, which tells the peer.
                let _ = self.stream.handle_frame(frame);
                true
            }
            Ok(Some(SessionFrame::Opened(address))) => self.take_answer(Ok(address)),
            Ok(Some(SessionFrame::Refused(refusal))) => self.take_answer(Err(refusal)),
            Ok(Some(SessionFrame::Open(_) | SessionFrame::Take(_))) => {
                self.stream.reset(Cause::ProtocolError);
                true
            }
            Ok(None) => {
                self.stream.handle_abort(Cause::ServerLost);
                false
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "session broke off");
                self.stream.handle_abort(Cause::ServerLost);
                false
            }
        };
        self.wake();
        more
    }

    fn take_answer(&mut self, answer: Result<SocketAddr, Refusal>) -> bool {
        match self.answer {
            Answer::Awaited => {
                self.answer = Answer::Given(answer);
                if let Err(refusal) = answer {
                    self.stream.handle_abort(refusal.cause);
                }
            }
            Answer::NotExpected | Answer::Given(_) => self.stream.reset(Cause::ProtocolError),
        }
        true
    }

    /// The next piece for the carrier: whole frames, up to and including one with data.
    fn next_piece(&mut self) -> Option<Bytes> {
        if !self.wants_to_send() {
            return None;
        }
        let mut piece = BytesMut::new();
        for frame in self.first.drain(..) {
            frame.encode(&mut piece);
        }
        while let Some(frame) = self.stream.poll_frame(DATA_MAX) {
            let is_data = matches!(frame, Frame::Data { .. });
            SessionFrame::Stream(frame).encode(&mut piece);
            if is_data {
                break;
            }
        }
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
        debug_assert!(piece.len() <= FRAME_MAX + 1024, "one data frame and a few small ones");
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

async fn drive(shared: Arc<Shared>, mut reader: FrameReader, writer: FrameWriter) {
    let mut more_to_come = true;
    loop {
        let (wants_to_send, is_over) = {
            let state = shared.lock();
            if state.stream.is_done() && !state.wants_to_send() {
                break;
            }
            (state.wants_to_send(), state.stream.over().is_some())
        };
        tokio::select! {
            // The peer has this long to hear of a reset; if it takes nothing for longer, dropping the call says it as well.
            () = sleep(END_WAIT), if is_over => return,
            read = reader.next(), if more_to_come => more_to_come = shared.lock().take_in(read),
            room = writer.ready(), if wants_to_send => match room {
                Ok(room) => {
                    if let Some(piece) = shared.lock().next_piece() {
                        room.send(piece);
                    }
                }
                Err(_) => return hear_out(&shared, reader, more_to_come).await,
            },
            () = shared.changed.notified(), if !wants_to_send => {}
        }
    }
    shared.lock().wake();
    let ends = async {
        writer.end().await;
        if more_to_come {
            reader.drain().await;
        }
    };
    // A peer that does not end the call loses the stream; the session itself is over either way.
    let _ = timeout(END_WAIT, ends).await;
}

/// Nobody takes what this end says. The peer's last word may have come with that and still be unread: only it says why.
async fn hear_out(shared: &Shared, mut reader: FrameReader, mut more_to_come: bool) {
    let last_words = async {
        while more_to_come {
            let read = reader.next().await;
            more_to_come = shared.lock().take_in(read);
        }
    };
    let _ = timeout(END_WAIT, last_words).await;
    let mut state = shared.lock();
    state.stream.handle_abort(Cause::ServerLost);
    state.wake();
}

impl AsyncRead for Carried {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        match state.stream.read(buf.remaining()) {
            Read::Bytes(bytes) => {
                buf.put_slice(&bytes);
                if state.stream.wants_to_send() {
                    self.shared.changed.notify_one();
                }
                Poll::Ready(Ok(()))
            }
            Read::Finished => {
                state.end_read = true;
                Poll::Ready(Ok(()))
            }
            Read::Pending => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Read::Reset(cause) => {
                let refusal = state.over().unwrap_or(Refusal::new(Hop::Server, cause));
                Poll::Ready(Err(broken(refusal)))
            }
        }
    }
}

impl AsyncWrite for Carried {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if let Some(refusal) = state.over() {
            return Poll::Ready(Err(broken(refusal)));
        }
        let taken = state.stream.write(bytes);
        if taken == 0 && !bytes.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.shared.changed.notify_one();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver sends as fast as the carrier takes; nothing is held back for a flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        if let Some(refusal) = state.over() {
            return Poll::Ready(Err(broken(refusal)));
        }
        state.stream.finish();
        self.shared.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Tunnel for Carried {
    fn abort(&mut self, cause: Cause) {
        self.shared.reset(cause);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let mut state = self.shared.lock();
        // A clean end that came before the reset is delivered first; whoever writes on meanwhile will hear of the reset.
        if let Some(refusal) = state.over().filter(|_| state.end_read || !state.stream.has_end()) {
            return Poll::Ready(refusal);
        }
        state.watcher = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let is_settled = self.shared.lock().stream.is_settled();
        if is_settled {
            self.shared.changed.notify_one();
        } else {
            self.shared.reset(Cause::Aborted);
        }
    }
}
