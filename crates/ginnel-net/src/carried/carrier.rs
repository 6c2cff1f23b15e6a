//! What a session's end keeps: the machine, the two sides of its call, and who waits for what.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::TURN_FRAMES_MAX;
use ginnel_core::report::Chain;
use ginnel_core::stream::{Frame, Read, Stream};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::piece::Piece;

use crate::body::{FrameReader, FrameWriter, ReadError};

/// What the other end said to `Open`.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// Nobody may say anything: this end is the one that answers.
    NotExpected,
    Awaited,
    Given(Result<SocketAddr, Refusal>),
}

pub(super) struct Carrier {
    pub(super) stream: Stream,
    reader: FrameReader,
    writer: FrameWriter,
    /// Whether more can come, and whether anything can be sent.
    reading: bool,
    writing: bool,
    /// Frames that come before everything else: `Open`, `Take`, `Opened`, `Refused`; never more than two.
    first: VecDeque<SessionFrame>,
    answer: Answer,
    /// Whether this end has answered.
    answered: bool,
    since: Instant,
    waiting: Waiting,
    /// The hop of this end, and the one beyond the other end.
    own: Hop,
    far: Hop,
    /// Whether it was this end that reset the session.
    reset_here: bool,
    /// Whether whoever reads was told of the clean end of the peer's half.
    end_told: bool,
    /// The inner handshake is under way: it has words of its own to write, and giving up for them would lose what is still to be read.
    securing: bool,
    /// A task of the session's own moves the frames; nobody else does.
    is_tended: bool,
}

/// Who is to be woken for what. In most sessions they are all the same task.
#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    asker: Option<Waker>,
    watcher: Option<Waker>,
    tender: Option<Waker>,
}

impl Carrier {
    pub(super) fn new(
        stream: Stream,
        first: SessionFrame,
        answer: Answer,
        [own, far]: [Hop; 2],
        reader: FrameReader,
        writer: FrameWriter,
    ) -> Self {
        Self {
            stream,
            reader,
            writer,
            reading: true,
            writing: true,
            first: VecDeque::from([first]),
            answer,
            answered: false,
            since: Instant::now(),
            waiting: Waiting::default(),
            own,
            far,
            reset_here: false,
            end_told: false,
            securing: false,
            is_tended: false,
        }
    }

    /// Takes in the session's first bytes, which came another way.
    pub(super) fn begin(&mut self, early: Bytes) {
        if !early.is_empty() {
            let taken = self.stream.handle_frame(Frame::Data { offset: 0, bytes: early });
            debug_assert!(taken.is_ok(), "they are fewer than the first credit and come before everything else");
        }
    }

    /// Sends a frame before any byte that is not on its way yet.
    pub(super) fn say(&mut self, frame: SessionFrame) {
        self.answered |= matches!(frame, SessionFrame::Opened(_) | SessionFrame::Refused(_));
        self.first.push_back(frame);
        self.waiting.wake_one();
    }

    /// Resets the session from this end.
    pub(super) fn reset(&mut self, cause: Cause) {
        self.reset_here |= self.stream.over().is_none();
        self.stream.reset(cause);
        // At once, even if nobody polls. That leaves nobody to be woken by the connection, hence the wakers.
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.waiting.wake_all();
    }

    /// Whether the inner handshake is under way.
    pub(super) fn secure(&mut self, securing: bool) {
        self.securing = securing;
    }

    /// Whether a task of the session's own moves the frames.
    pub(super) fn tend(&mut self, is_tended: bool) {
        self.is_tended = is_tended;
    }

    /// Whether this end has given its answer to `Open`.
    pub(super) fn has_answered(&self) -> bool {
        self.answered
    }

    pub(super) fn is_settled(&self) -> bool {
        self.stream.is_settled()
    }

    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<SocketAddr, Refusal>> {
        self.waiting.asker = None;
        self.turn(cx);
        let over = self.over().map(Err);
        let answer = if let Answer::Given(answer) = self.answer { Some(answer) } else { over };
        if let Some(answer) = answer {
            // The connection knows this task only, which goes on without the session.
            self.waiting.wake_one();
            return Poll::Ready(answer);
        }
        self.waiting.asker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next bytes; none at a clean end. `tells` says that whoever reads learns of that end now: a reader that has other bytes to look at first
    /// asks again when it has.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, max: usize, tells: bool) -> Poll<Result<Bytes, Refusal>> {
        self.waiting.reader = None;
        self.turn(cx);
        match self.stream.read(max) {
            Read::Bytes(bytes) => {
                if self.stream.wants_to_send() {
                    self.turn(cx);
                }
                Poll::Ready(Ok(bytes))
            }
            Read::Finished => {
                self.end_told |= tells;
                Poll::Ready(Ok(Bytes::new()))
            }
            Read::Pending => {
                self.waiting.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Read::Reset(cause) => Poll::Ready(Err(self.over().unwrap_or(Refusal::new(Hop::Server, cause)))),
        }
    }

    /// Takes bytes as far as there is credit and room, and says how many. Those of an inner handshake go nowhere once the peer has ended and reset.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<Result<usize, Refusal>> {
        self.waiting.writer = None;
        if self.stream.writable() == 0 {
            self.turn(cx);
        }
        if let Some(refusal) = self.over() {
            let goes_nowhere = self.securing && self.broken().is_none();
            return Poll::Ready(if goes_nowhere {
                Ok(slices.iter().map(|slice| slice.len()).sum())
            } else {
                Err(refusal)
            });
        }
        let taken = self.stream.write_vectored(slices);
        self.turn(cx);
        if taken == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            self.waiting.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    /// Ends this half.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        if let Some(refusal) = self.over() {
            return Err(refusal);
        }
        self.stream.finish();
        self.turn(cx);
        Ok(())
    }

    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        self.waiting.watcher = None;
        self.turn(cx);
        if let Some(refusal) = self.broken() {
            return Poll::Ready(refusal);
        }
        self.waiting.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when everything that was to be said has left.
    pub(super) fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.tender = None;
        self.drive(cx);
        let said = self.stream.is_done() && (!self.writing || !self.wants_to_send());
        if said && self.writer.poll_left(cx).is_ready() {
            return Poll::Ready(());
        }
        self.waiting.tender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when everything was said and heard, and both sides of the call have ended.
    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.tender = None;
        self.drive(cx);
        if self.stream.is_done() && (!self.writing || !self.wants_to_send()) {
            self.writer.end();
            self.writing = false;
        }
        if !self.writing && !self.reading {
            return Poll::Ready(());
        }
        self.waiting.tender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Moves what can be moved, or lets the session's own task do it.
    fn turn(&mut self, cx: &mut Context<'_>) {
        if !self.is_tended {
            self.drive(cx);
        } else if self.wants_to_send()
            && let Some(tender) = self.waiting.tender.take()
        {
            tender.wake();
        }
    }

    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.stream.set_time(self.since.elapsed());
        let mut turn = 0;
        while self.reading
            && let Poll::Ready(read) = self.reader.poll_next(cx)
        {
            self.reading = self.take_in(read);
            turn += 1;
            if turn == TURN_FRAMES_MAX {
                cx.waker().wake_by_ref();
                break;
            }
        }
        while self.writing
            && self.wants_to_send()
            && let Poll::Ready(room) = self.writer.poll_ready(cx)
        {
            match room.ok().and_then(|()| self.next_piece()) {
                Some(piece) => self.writer.send(piece),
                // Nobody takes what this end says. The peer's last word may still be unread: only it says why.
                None => self.writing = false,
            }
        }
        if !self.writing && !self.reading && !self.stream.is_done() {
            self.stream.handle_abort(Cause::ServerLost);
            self.waiting.wake_all();
        }
    }

    pub(super) fn wants_to_send(&self) -> bool {
        !self.first.is_empty() || self.stream.wants_to_send()
    }

    /// How the session was cut off, if it was: by the peer's word, or by the loss of the way to the server.
    fn over(&self) -> Option<Refusal> {
        self.stream.over().map(|cause| {
            let is_said = self.stream.reset_by().is_some();
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
            let refusal = Refusal::new(hop, cause);
            // What this end found out itself, and what it was reset for, needs no believing.
            if is_said || (hop == Hop::Server && !self.reset_here) { self.heard(refusal) } else { refusal }
        })
    }

    /// A refusal that came from the peer, as far as it is believed.
    fn heard(&self, refusal: Refusal) -> Refusal {
        // Towards an agent the server is not alone: there the hop is the client that the session is for.
        if self.own == Hop::Client { refusal.as_the_servers_word() } else { refusal }
    }

    /// The same as far as whoever does not write is told: a clean end that came before a peer's reset comes first.
    fn broken(&self) -> Option<Refusal> {
        self.over().filter(|_| self.end_told || self.reset_here || !self.stream.has_end())
    }

    /// Takes in what the carrier read; `false` when nothing more can come.
    fn take_in(&mut self, read: Result<Option<SessionFrame>, ReadError>) -> bool {
        match read {
            Ok(Some(SessionFrame::Stream(frame))) => {
                let is_reset = matches!(frame, Frame::Reset { .. });
                // A violation has reset the machine, which tells the peer.
                if self.stream.handle_frame(frame).is_err() || is_reset {
                    self.waiting.wake_all();
                } else {
                    self.waiting.wake_ends();
                }
                true
            }
            Ok(Some(SessionFrame::Opened(address))) => self.take_answer(Ok(address)),
            Ok(Some(SessionFrame::Refused(refusal))) => self.take_answer(Err(refusal)),
            Ok(Some(SessionFrame::Open(_) | SessionFrame::Take(_))) => {
                self.stream.reset(Cause::ProtocolError);
                self.waiting.wake_all();
                true
            }
            Ok(None) => self.lose(),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "session broke off");
                self.lose()
            }
        }
    }

    /// Nothing more can come.
    fn lose(&mut self) -> bool {
        self.stream.handle_abort(Cause::ServerLost);
        self.waiting.wake_all();
        false
    }

    fn take_answer(&mut self, answer: Result<SocketAddr, Refusal>) -> bool {
        match self.answer {
            Answer::Awaited => {
                let answer = answer.map_err(|refusal| self.heard(refusal));
                self.answer = Answer::Given(answer);
                if let Err(refusal) = answer {
                    self.stream.handle_abort(refusal.cause);
                }
            }
            Answer::NotExpected | Answer::Given(_) => self.stream.reset(Cause::ProtocolError),
        }
        self.waiting.wake_all();
        true
    }

    /// The next piece for the carrier: whole frames, up to and including one with data.
    fn next_piece(&mut self) -> Option<Piece> {
        let mut piece = Piece::default();
        for frame in self.first.drain(..) {
            piece.push(frame);
        }
        let data_max = self.writer.data_max();
        while let Some(frame) = self.stream.poll_frame(data_max) {
            let is_data = matches!(frame, Frame::Data { .. });
            piece.push(SessionFrame::Stream(frame));
            if is_data {
                break;
            }
        }
        if let Some(writer) = self.waiting.writer.take() {
            writer.wake();
        }
        (!piece.is_empty()).then_some(piece)
    }
}

impl Waiting {
    /// Something came in for whoever reads or writes.
    fn wake_ends(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn wake_all(&mut self) {
        self.wake_ends();
        for waker in [self.asker.take(), self.watcher.take(), self.tender.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Something is to be sent: whoever comes first does it.
    fn wake_one(&mut self) {
        let Self { reader, writer, asker, watcher, tender } = self;
        if let Some(waker) = [tender, reader, writer, watcher, asker].into_iter().find_map(Option::take) {
            waker.wake();
        }
    }
}
