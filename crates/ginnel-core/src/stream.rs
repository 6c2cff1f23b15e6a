//! One end of a session: bytes, credits and endings, as a machine without I/O.
//!
//! The application hands bytes over with [`Stream::write`] and takes them with [`Stream::read`]; the carrier passes what arrives to
//! [`Stream::handle_frame`] and sends what [`Stream::poll_frame`] gives. Offsets are absolute from the start of the session. The
//! invariants: no byte leaves without credit; no byte is delivered twice, out of order or after a gap; [`Read::Finished`] comes only after
//! the exact final offset that the peer's `Fin` named; whatever else ends a session is a reset.
//!
//! Credit begins with what both ends know and grows when it is what holds the sender back: see `Incoming::consume`.

use std::io::IoSlice;
use std::time::Duration;

use bytes::Bytes;

use crate::budget::Budget;
use crate::cause::{Cause, Hop};
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX, SEND_BUFFER_MAX};
use crate::stream::round::Round;

mod queue;
mod round;
#[cfg(test)]
pub(crate) mod tests;
mod window;

pub use queue::ByteQueue;
pub use window::Window;

/// What the two ends of an open session say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The receiver's word on how much it took and how far the sender may go.
    Credit {
        /// Bytes that the receiver's application has taken.
        consumed: u64,
        /// Offset up to which the sender may send; never goes back.
        limit: u64,
    },
    /// Bytes of the session.
    Data {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes; never empty.
        bytes: Bytes,
    },
    /// The sender is done: its half of the session ends at this offset.
    Fin {
        /// Number of bytes that were sent in all.
        offset: u64,
    },
    /// The session is over in both directions.
    Reset {
        /// Why.
        cause: Cause,
        /// Who ended it, as far as the sender says. Only the server does, and only the server's word counts.
        hop: Option<Hop>,
    },
}

/// What a peer did that the protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More bytes than were granted.
    #[error("data beyond the granted credit")]
    BeyondCredit,
    /// Credit that goes back, acknowledges what was never sent, or exceeds the bound.
    #[error("impossible credit")]
    Credit,
    /// A frame after the frame that ended its direction.
    #[error("frame after the end")]
    AfterEnd,
    /// A `Data` frame without bytes.
    #[error("empty data frame")]
    Empty,
    /// Bytes or an end that do not start where the last ones stopped.
    #[error("gap in the offsets")]
    Gap,
}

/// The answer to [`Stream::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Bytes(Bytes),
    /// The peer's half ended cleanly, and everything before it was read.
    Finished,
    /// Nothing yet.
    Pending,
    /// The session is over.
    Reset(Cause),
}

/// One end of a session.
#[derive(Debug)]
pub struct Stream {
    outgoing: Outgoing,
    incoming: Incoming,
    ending: Ending,
    reset_by: Option<Hop>,
}

/// How far the session has come to a premature end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    None,
    /// This end reset it; the peer has not been told.
    ResetToSend(Cause),
    /// Over; the peer knows, or cannot be told.
    Over(Cause),
}

#[derive(Debug, Default)]
struct Outgoing {
    queue: ByteQueue,
    /// Offset of the first byte in `queue`: everything before it was framed.
    framed: u64,
    /// Of those, bytes that the peer's application has taken.
    consumed: u64,
    limit: u64,
    fin: Fin,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fin {
    #[default]
    Open,
    Asked,
    Sent,
}

#[derive(Debug)]
struct Incoming {
    queue: ByteQueue,
    received: u64,
    consumed: u64,
    window: Window,
    round: Round,
    credit_due: bool,
    fin: Option<u64>,
}

impl Stream {
    /// A fresh end of a session, with [`CREDIT_INITIAL`] granted both ways. What it grants beyond that it draws on `budget`.
    pub fn new(budget: Budget) -> Self {
        Self {
            outgoing: Outgoing { limit: CREDIT_INITIAL, ..Outgoing::default() },
            incoming: Incoming::new(budget),
            ending: Ending::None,
            reset_by: None,
        }
    }

    /// Says what time it is, from any beginning: how long credit takes to have an effect decides whether more of it would help. Without a clock it
    /// always would.
    pub fn set_time(&mut self, now: Duration) {
        self.incoming.round.now = now;
    }

    /// How many bytes [`Self::write`] takes now; 0 while there is no credit and for good once the half was finished or reset.
    pub fn writable(&self) -> usize {
        if self.ending != Ending::None || self.outgoing.fin != Fin::Open {
            return 0;
        }
        let end = self.outgoing.framed + self.outgoing.queue.len() as u64;
        let bound = self.outgoing.limit.min(self.outgoing.framed + SEND_BUFFER_MAX);
        usize::try_from(bound.saturating_sub(end)).unwrap_or(usize::MAX)
    }

    /// Takes as many of `bytes` as [`Self::writable`] says, and says how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// The same for bytes in several pieces.
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut room = self.writable();
        let wanted = room.min(slices.iter().map(|slice| slice.len()).sum());
        self.outgoing.queue.reserve(wanted);
        for slice in slices {
            let taken = room.min(slice.len());
            self.outgoing.queue.push_slice(&slice[..taken]);
            room -= taken;
        }
        wanted
    }

    /// Ends this half: the peer sees a clean end after everything that was written.
    pub fn finish(&mut self) {
        if self.outgoing.fin == Fin::Open && self.ending == Ending::None {
            self.outgoing.fin = Fin::Asked;
        }
    }

    /// Ends the session in both directions. A session that is over already, or only has its last bytes to send, stays as it is.
    ///
    /// What was not framed yet is dropped, unless this half was finished before: then its bytes and its `Fin` go out first, because a
    /// clean end is never taken back. (A target that closes and then gets late bytes answers with a reset; its answer counts.)
    pub fn reset(&mut self, cause: Cause) {
        let only_sends = self.outgoing.fin != Fin::Open && self.incoming.fin.is_some();
        if self.ending == Ending::None && !only_sends {
            self.ending = Ending::ResetToSend(cause);
            if self.outgoing.fin == Fin::Open {
                self.outgoing.queue.clear();
            }
        }
    }

    /// Takes the next bytes, at most `max` of them.
    ///
    /// After a reset nothing more is given, unless the peer's half had ended cleanly before: those bytes are complete, and no
    /// later reset takes them back.
    pub fn read(&mut self, max: usize) -> Read {
        if self.incoming.fin.is_none()
            && let Some(cause) = self.over()
        {
            return Read::Reset(cause);
        }
        if let Some(bytes) = self.incoming.queue.pop(max) {
            self.incoming.consume(bytes.len() as u64);
            return Read::Bytes(bytes);
        }
        if self.incoming.fin.is_some() && self.incoming.queue.is_empty() { Read::Finished } else { Read::Pending }
    }

    /// Takes in a frame from the peer.
    ///
    /// # Errors
    /// [`Violation`] if the peer broke the protocol: the session is then reset with [`Cause::ProtocolError`].
    pub fn handle_frame(&mut self, frame: Frame) -> Result<(), Violation> {
        if self.over().is_some() {
            // Frames that crossed our own reset on the way; the peer has ended or is about to learn that it must.
            return Ok(());
        }
        let outcome = match frame {
            Frame::Credit { consumed, limit } => self.outgoing.credit(consumed, limit),
            Frame::Data { offset, bytes } => self.incoming.data(offset, bytes),
            Frame::Fin { offset } => self.incoming.fin(offset),
            Frame::Reset { cause, hop } => {
                // The peer may have reset before our `Fin` reached it: a session that ended cleanly here stays so.
                if !self.is_finished() {
                    self.ending = Ending::Over(cause);
                    self.reset_by = hop;
                    self.outgoing.queue.clear();
                }
                Ok(())
            }
        };
        outcome.inspect_err(|_| self.give_up(Cause::ProtocolError))
    }

    /// Ends the session with a peer that is owed nothing more.
    fn give_up(&mut self, cause: Cause) {
        if self.ending == Ending::None && !self.is_finished() {
            self.ending = Ending::ResetToSend(cause);
            self.outgoing.queue.clear();
            if self.outgoing.fin == Fin::Asked {
                self.outgoing.fin = Fin::Open;
            }
        }
    }

    /// Takes note that the carrier is gone: unless both halves had finished, that is a reset.
    pub fn handle_abort(&mut self, cause: Cause) {
        if !self.is_finished() && !matches!(self.ending, Ending::Over(_)) {
            let cause = self.over().unwrap_or(cause);
            self.ending = Ending::Over(cause);
            self.outgoing.queue.clear();
        }
    }

    /// The next frame for the peer, with at most `max` bytes of data.
    pub fn poll_frame(&mut self, max: usize) -> Option<Frame> {
        match self.ending {
            Ending::None => {}
            Ending::ResetToSend(cause) => {
                if let Some(rest) = self.outgoing.poll_frame(max) {
                    return Some(rest);
                }
                if !self.outgoing.queue.is_empty() {
                    return None;
                }
                self.ending = Ending::Over(cause);
                return Some(Frame::Reset { cause, hop: None });
            }
            Ending::Over(_) => return None,
        }
        self.incoming.credit().or_else(|| self.outgoing.poll_frame(max))
    }

    /// Whether [`Self::poll_frame`] would give a frame.
    pub fn wants_to_send(&self) -> bool {
        match self.ending {
            Ending::None => {
                let fin = self.outgoing.fin == Fin::Asked;
                (self.incoming.credit_due && self.incoming.fin.is_none()) || fin || !self.outgoing.queue.is_empty()
            }
            Ending::ResetToSend(_) => true,
            Ending::Over(_) => false,
        }
    }

    /// Why the session was reset, by whichever end.
    pub fn over(&self) -> Option<Cause> {
        match self.ending {
            Ending::None => None,
            Ending::ResetToSend(cause) | Ending::Over(cause) => Some(cause),
        }
    }

    /// Bytes so far: received from the peer, and taken to be sent to it. In a session that finished, both are all that there were.
    pub fn carried(&self) -> (u64, u64) {
        (self.incoming.received, self.outgoing.framed + self.outgoing.queue.len() as u64)
    }

    /// Who ended the session, if the peer's reset did and said so.
    pub fn reset_by(&self) -> Option<Hop> {
        self.reset_by
    }

    /// Whether the peer's half has come in whole, up to its clean end.
    pub fn has_end(&self) -> bool {
        self.incoming.fin.is_some()
    }

    /// Whether both halves ended cleanly as far as the wire is concerned: own `Fin` sent, the peer's received.
    pub fn is_finished(&self) -> bool {
        self.outgoing.fin == Fin::Sent && self.incoming.fin.is_some()
    }

    /// Whether the carrier has nothing more to do: finished, or reset and the peer told.
    pub fn is_done(&self) -> bool {
        self.is_finished() || matches!(self.ending, Ending::Over(_))
    }

    /// Whether the application may leave without loss: it ended its half, and read the peer's to its clean end.
    pub fn is_settled(&self) -> bool {
        self.outgoing.fin != Fin::Open && self.incoming.fin.is_some() && self.incoming.queue.is_empty()
    }
}

impl Outgoing {
    fn credit(&mut self, consumed: u64, limit: u64) -> Result<(), Violation> {
        let impossible = consumed < self.consumed || consumed > self.framed || limit < self.limit;
        if impossible || limit > consumed.saturating_add(CREDIT_MAX) {
            return Err(Violation::Credit);
        }
        (self.consumed, self.limit) = (consumed, limit);
        Ok(())
    }

    fn poll_frame(&mut self, max: usize) -> Option<Frame> {
        if let Some(bytes) = self.queue.pop(max) {
            let offset = self.framed;
            self.framed += bytes.len() as u64;
            debug_assert!(self.framed <= self.limit, "bytes are taken only within the credit");
            return Some(Frame::Data { offset, bytes });
        }
        if self.fin == Fin::Asked && self.queue.is_empty() {
            self.fin = Fin::Sent;
            return Some(Frame::Fin { offset: self.framed });
        }
        None
    }
}

impl Incoming {
    fn new(budget: Budget) -> Self {
        Self {
            queue: ByteQueue::default(),
            received: 0,
            consumed: 0,
            window: Window::new(budget),
            round: Round::default(),
            credit_due: false,
            fin: None,
        }
    }

    fn data(&mut self, offset: u64, bytes: Bytes) -> Result<(), Violation> {
        if self.fin.is_some() {
            return Err(Violation::AfterEnd);
        }
        if bytes.is_empty() {
            return Err(Violation::Empty);
        }
        if offset != self.received {
            return Err(Violation::Gap);
        }
        let end = offset.checked_add(bytes.len() as u64).ok_or(Violation::BeyondCredit)?;
        if end > self.window.limit() {
            return Err(Violation::BeyondCredit);
        }
        self.received = end;
        self.round.received(end);
        self.window.received(end);
        self.queue.push(bytes);
        Ok(())
    }

    fn fin(&mut self, offset: u64) -> Result<(), Violation> {
        if self.fin.is_some() {
            return Err(Violation::AfterEnd);
        }
        if offset != self.received {
            return Err(Violation::Gap);
        }
        self.fin = Some(offset);
        Ok(())
    }

    /// Takes note of bytes that the application took.
    ///
    /// When it has taken everything, and the last byte is also the last of a grant, then the sender was held back by its credit and the
    /// window is too small for the path. A receiver that is slower than the path never sees that: its next grants arrive before it
    /// has taken what the last one allowed. Where the bytes only wait longer on the way, more of them would help nobody: see [`Round`].
    fn consume(&mut self, count: u64) {
        self.consumed += count;
        if self.consumed == self.received && self.window.is_used_up(self.received) && self.round.is_short() {
            self.window.widen(2 * self.window.size());
        }
        self.credit_due |= self.window.is_due(self.consumed + self.window.size());
    }

    fn credit(&mut self) -> Option<Frame> {
        if !self.credit_due || self.fin.is_some() {
            return None;
        }
        self.credit_due = false;
        self.round.granted(self.window.limit());
        let limit = self.window.grant(self.consumed + self.window.size());
        Some(Frame::Credit { consumed: self.consumed, limit })
    }
}
