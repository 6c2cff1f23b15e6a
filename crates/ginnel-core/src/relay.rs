//! A session seen from the middle: what the server keeps while it passes frames from one side to the other.
//!
//! The server re-chunks (frames are never forwarded one to one), checks offsets and credits in both directions, and passes credit on only as
//! far as its own budget goes, which bounds what it can be made to hold. A side that ends without `Fin` in its direction leaves a reset for the other.

use bytes::Bytes;

use crate::budget::Budget;
use crate::cause::{Cause, Hop};
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX};
use crate::stream::{ByteQueue, Frame, Violation, Window};

#[cfg(test)]
mod tests;

/// One of the two sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side of the application.
    Client,
    /// The side of the target.
    Agent,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Agent,
            Self::Agent => Self::Client,
        }
    }

    /// The hop that stands at this side.
    pub fn hop(self) -> Hop {
        match self {
            Self::Client => Hop::Client,
            Self::Agent => Hop::Agent,
        }
    }

    /// The hop that something which this side says goes back to: a reset is never its own, it passes one on.
    pub fn origin(self, cause: Cause) -> Hop {
        match self {
            Self::Client if cause == Cause::Reset => Hop::Application,
            Self::Agent if cause == Cause::Reset => Hop::Target,
            Self::Client | Self::Agent => self.hop(),
        }
    }
}

/// How a session ended: the cause, and the hop it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Which hop ended it.
    pub hop: Hop,
    /// Why.
    pub cause: Cause,
}

/// The middle of one session.
#[derive(Debug)]
pub struct Relay {
    to_agent: Direction,
    to_client: Direction,
    ending: Option<Ending>,
    /// Which sides still have to be told of the reset.
    reset_due: [bool; 2],
}

/// Bytes one way, and the credit that comes back for them.
#[derive(Debug)]
struct Direction {
    queue: ByteQueue,
    received: u64,
    forwarded: u64,
    /// What the receiver granted.
    limit: u64,
    consumed: u64,
    /// What the sender was granted of that.
    window: Window,
    fin: Option<u64>,
    fin_forwarded: bool,
}

impl Relay {
    /// The middle of a session that just began. What it lets under way beyond [`CREDIT_INITIAL`] it draws on `budget`.
    pub fn new(budget: &Budget) -> Self {
        let direction = || Direction::new(budget.clone());
        Self { to_agent: direction(), to_client: direction(), ending: None, reset_due: [false; 2] }
    }

    /// Takes in a frame from one side.
    ///
    /// # Errors
    /// [`Violation`] if that side broke the protocol; both sides are then told of the reset.
    pub fn handle_frame(&mut self, from: Side, frame: Frame) -> Result<(), Violation> {
        if self.ending.is_some() {
            return Ok(());
        }
        let outcome = match frame {
            Frame::Credit { consumed, limit } => self.towards(from).credit(consumed, limit),
            Frame::Data { offset, bytes } => self.towards(from.other()).data(offset, bytes),
            Frame::Fin { offset } => self.towards(from.other()).fin(offset),
            // Which side it came from tells who it was; a side that names somebody else is not believed.
            Frame::Reset { cause, hop: _ } => {
                self.leave(from, cause);
                Ok(())
            }
        };
        outcome.inspect_err(|_| self.end(from.hop(), Cause::ProtocolError))
    }

    /// Takes note that one side's carrier is gone; a reset for the other side unless nothing was missing.
    pub fn handle_abort(&mut self, from: Side, cause: Cause) {
        // A side that has said its `Fin` and was sent the other's may leave while its last bytes are still on their way.
        let has_left = self.towards(from.other()).fin.is_some() && self.towards(from).fin_forwarded;
        if self.ending.is_none() && has_left {
            return;
        }
        self.leave(from, cause);
        self.towards(from).drop_rest();
    }

    /// One side is gone for good. What it had finished before still goes to the other side: a clean end is never taken back.
    fn leave(&mut self, from: Side, cause: Cause) {
        let had_finished = self.towards(from.other()).fin.is_some();
        if self.ending.is_none() && !self.is_finished() {
            self.ending = Some(Ending { hop: from.origin(cause), cause });
            self.reset_due = [true; 2];
            self.towards(from).drop_rest();
            if !had_finished {
                self.towards(from.other()).drop_rest();
            }
        }
        self.reset_due[index(from)] = false;
    }

    /// Ends the session from the middle, or in the name of `hop`: nothing more is passed on. One that is over keeps its ending.
    pub fn end(&mut self, hop: Hop, cause: Cause) {
        if self.ending.is_none() && !self.is_finished() {
            self.ending = Some(Ending { hop, cause });
            self.reset_due = [true; 2];
        }
        if self.ending.is_some() {
            self.to_agent.drop_rest();
            self.to_client.drop_rest();
        }
    }

    /// The next frame for one side, with at most `max` bytes of data.
    pub fn poll_frame(&mut self, to: Side, max: usize) -> Option<Frame> {
        if let Some(ending) = self.ending {
            if self.towards(to).has_rest() {
                return self.towards(to).poll_frame(max);
            }
            let due = &mut self.reset_due[index(to)];
            return std::mem::take(due).then_some(Frame::Reset { cause: ending.cause, hop: Some(ending.hop) });
        }
        let credit = self.towards(to.other()).poll_credit();
        credit.or_else(|| self.towards(to).poll_frame(max))
    }

    /// The first bytes for the agent, at most `max`, to go with the order to take the session up. Only before anything else was sent to it.
    pub fn early(&mut self, max: usize) -> Bytes {
        if self.ending.is_some() || self.to_agent.forwarded > 0 {
            return Bytes::new();
        }
        let bytes = self.to_agent.queue.pop(max).unwrap_or_default();
        self.to_agent.forwarded = bytes.len() as u64;
        bytes
    }

    /// Whether [`Self::poll_frame`] would give a frame for this side.
    pub fn wants_to_send(&self, to: Side) -> bool {
        let (there, back) = match to {
            Side::Agent => (&self.to_agent, &self.to_client),
            Side::Client => (&self.to_client, &self.to_agent),
        };
        if self.ending.is_some() {
            return there.has_rest() || self.reset_due[index(to)];
        }
        back.next_credit().is_some() || !there.queue.is_empty() || there.has_rest()
    }

    /// Whether both halves ended cleanly and everything was passed on.
    pub fn is_finished(&self) -> bool {
        self.to_agent.fin_forwarded && self.to_client.fin_forwarded
    }

    /// How the session ended, once there is nothing left to pass on but the word of a reset.
    pub fn ending(&self) -> Option<Ending> {
        if self.ending.is_some() {
            let passed_on = !self.to_agent.has_rest() && !self.to_client.has_rest();
            return self.ending.filter(|_| passed_on);
        }
        self.is_finished().then_some(Ending { hop: Hop::Application, cause: Cause::Finished })
    }

    /// Bytes passed on so far: towards the target, towards the application.
    pub fn bytes(&self) -> (u64, u64) {
        (self.to_agent.forwarded, self.to_client.forwarded)
    }

    /// Bytes that wait for one side to take them.
    pub fn waiting(&self, to: Side) -> usize {
        match to {
            Side::Agent => self.to_agent.queue.len(),
            Side::Client => self.to_client.queue.len(),
        }
    }

    fn towards(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Agent => &mut self.to_agent,
            Side::Client => &mut self.to_client,
        }
    }
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Agent => 1,
    }
}

impl Direction {
    fn new(budget: Budget) -> Self {
        Self {
            queue: ByteQueue::default(),
            received: 0,
            forwarded: 0,
            limit: CREDIT_INITIAL,
            consumed: 0,
            window: Window::new(budget),
            fin: None,
            fin_forwarded: false,
        }
    }

    fn credit(&mut self, consumed: u64, limit: u64) -> Result<(), Violation> {
        let impossible = consumed < self.consumed || consumed > self.forwarded || limit < self.limit;
        if impossible || limit > consumed.saturating_add(CREDIT_MAX) {
            return Err(Violation::Credit);
        }
        (self.consumed, self.limit) = (consumed, limit);
        Ok(())
    }

    /// Whether a clean end, or bytes before it, are still to be passed on.
    fn has_rest(&self) -> bool {
        self.fin.is_some() && !self.fin_forwarded
    }

    fn drop_rest(&mut self) {
        self.queue.clear();
        if !self.fin_forwarded {
            self.fin = None;
        }
    }

    /// How far the sender may go, if that is worth telling it.
    fn next_credit(&self) -> Option<u64> {
        let own = self.forwarded + self.window.size();
        let next = self.limit.min(own);
        // The receiver rations its grants itself; they are passed on as they come.
        let is_due = if own < self.limit { self.window.is_due(next) } else { next > self.window.limit() };
        (is_due && self.fin.is_none()).then_some(next)
    }

    fn poll_credit(&mut self) -> Option<Frame> {
        let limit = self.next_credit()?;
        Some(Frame::Credit { consumed: self.consumed, limit: self.window.grant(limit) })
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

    fn poll_frame(&mut self, max: usize) -> Option<Frame> {
        if let Some(bytes) = self.queue.pop(max) {
            let offset = self.forwarded;
            self.forwarded += bytes.len() as u64;
            // What the receiver offers is taken up when the sender has used up what there was, not on its word alone.
            if self.forwarded == self.received && self.window.is_used_up(self.received) {
                self.window.widen(self.limit - self.consumed);
            }
            return Some(Frame::Data { offset, bytes });
        }
        let offset = self.fin?;
        if self.fin_forwarded || !self.queue.is_empty() {
            return None;
        }
        self.fin_forwarded = true;
        Some(Frame::Fin { offset })
    }
}
