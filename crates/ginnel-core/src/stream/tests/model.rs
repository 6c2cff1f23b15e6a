//! What a session should do, said naively: two pipes of bytes that can be half-closed or reset, as TCP has them.
//!
//! A [`World`] is two [`Stream`]s with something in the middle and queues between the three. It counts everything from outside, knows
//! for each end what it must see next, and fails at the first thing that differs.

use std::collections::VecDeque;
use std::sync::LazyLock;

use super::script::Op;
use crate::budget::Budget;
use crate::cause::Cause;
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX, DATA_MAX, SEND_BUFFER_MAX};
use crate::relay::Side;
use crate::stream::{Frame, Read, Stream};

/// What a carrier hands over.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Frame(Frame),
    /// Nothing more comes this way. The cause is what whoever finds nothing better makes of it.
    Gone(Cause),
}

/// What stands between the two ends.
pub(crate) trait Middle {
    fn take(&mut self, from: Side, item: Item);
    fn give(&mut self, to: Side, max: usize) -> Option<Item>;
}

/// The cause that each side gives when it resets.
pub(crate) fn reset_cause(side: Side) -> Cause {
    match side {
        Side::Client => Cause::Reset,
        Side::Agent => Cause::TimedOut,
    }
}

/// The cause that the loss of each side's carrier has.
pub(crate) fn cut_cause(side: Side) -> Cause {
    match side {
        Side::Client => Cause::ServerLost,
        Side::Agent => Cause::AgentLost,
    }
}

/// The cause of an end of a carrier that nobody should need: everything was said before.
const CLOSED: Cause = Cause::Aborted;

pub(crate) struct World<M> {
    client: End,
    agent: End,
    pub(crate) middle: M,
}

/// One end, and what is known of it from outside.
pub(crate) struct End {
    side: Side,
    stream: Stream,
    /// To the middle and from it.
    out: VecDeque<Item>,
    back: VecDeque<Item>,
    cut: bool,
    closed: bool,
    written: u64,
    /// Whether it ended its half while the session was whole.
    finished: bool,
    framed: u64,
    fin_framed: bool,
    /// How far this end may send, by the credits that reached it.
    limit: u64,
    arrived: u64,
    fin_arrived: bool,
    read: u64,
    /// How far the other end may send, by the credits that left here.
    granted: u64,
    /// How far it may be ahead of the application: the most that a credit said, because a window never shrinks.
    ahead: u64,
    broken: Option<Cause>,
    has_reset: bool,
    /// The application has closed its connection.
    has_left: bool,
}

/// Bytes that tell where and whose they are.
fn content(side: Side, offset: u64, len: usize) -> &'static [u8] {
    const PERIOD: usize = 1_000_003;
    const LONGEST: usize = 500_000;
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u64;
        let step = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        let mut noise: Vec<u8> = step.take(PERIOD).collect();
        noise.extend_from_within(..LONGEST);
        noise
    });
    let shift = if side == Side::Client { 0 } else { 500 };
    let start = usize::try_from((offset + shift) % PERIOD as u64).unwrap();
    &NOISE[start..start + len]
}

impl End {
    fn new(side: Side) -> Self {
        Self {
            side,
            stream: Stream::new(Budget::default()),
            out: VecDeque::new(),
            back: VecDeque::new(),
            cut: false,
            closed: false,
            written: 0,
            finished: false,
            framed: 0,
            fin_framed: false,
            limit: CREDIT_INITIAL,
            arrived: 0,
            fin_arrived: false,
            read: 0,
            granted: CREDIT_INITIAL,
            ahead: CREDIT_INITIAL,
            broken: None,
            has_reset: false,
            has_left: false,
        }
    }

    fn is_complete(&self) -> bool {
        self.fin_framed && self.fin_arrived
    }

    fn write(&mut self, len: usize) {
        let room = self.stream.writable();
        let taken = self.stream.write(content(self.side, self.written, len));
        assert_eq!(taken, room.min(len));
        assert!(taken == 0 || (!self.finished && self.broken.is_none()), "written after the end");
        self.written += taken as u64;
        assert!(self.written <= self.limit, "written beyond the credit");
        assert!(self.broken.is_some() || self.written - self.framed <= SEND_BUFFER_MAX, "the send buffer is bounded");
    }

    fn reset(&mut self) {
        let cause = reset_cause(self.side);
        self.stream.reset(cause);
        self.has_reset = true;
        // Whoever has finished and has heard the other finish has nothing left to reset.
        if !(self.finished && self.fin_arrived) {
            self.break_off(cause);
        }
    }

    fn break_off(&mut self, cause: Cause) {
        if !self.is_complete() && self.broken.is_none() {
            assert_ne!(cause, CLOSED, "a carrier ended before everything was said");
            self.broken = Some(cause);
        }
    }

    /// Reads, and knows beforehand what must come.
    fn read(&mut self, max: usize) -> bool {
        let waiting = self.arrived - self.read;
        let read = self.stream.read(max);
        match (self.broken, self.fin_arrived) {
            (Some(cause), false) => assert_eq!(read, Read::Reset(cause)),
            _ if waiting > 0 && max > 0 => {
                let Read::Bytes(bytes) = read else { panic!("{waiting} bytes have arrived, read {read:?}") };
                assert!((1..=max).contains(&bytes.len()));
                assert!(bytes == content(self.side.other(), self.read, bytes.len()), "other bytes at {}", self.read);
                self.read += bytes.len() as u64;
                return true;
            }
            (_, true) if waiting == 0 => assert_eq!(read, Read::Finished),
            _ => assert_eq!(read, Read::Pending),
        }
        false
    }

    fn push(&mut self, item: Item) {
        if !self.cut {
            self.out.push_back(item);
        }
    }

    /// Lets the end say one thing to its carrier, which closes once there is nothing left to say.
    fn send(&mut self, max: usize) -> bool {
        let wanted = self.stream.wants_to_send();
        if self.stream.is_done() && !wanted {
            return !std::mem::replace(&mut self.closed, true) && {
                self.push(Item::Gone(CLOSED));
                true
            };
        }
        let frame = self.stream.poll_frame(max);
        assert!(max == 0 || wanted == frame.is_some(), "wants to send: {wanted}, but {frame:?}");
        let Some(frame) = frame else { return false };
        match &frame {
            Frame::Data { offset, bytes } => {
                assert!((1..=max).contains(&bytes.len()));
                assert_eq!(*offset, self.framed);
                self.framed += bytes.len() as u64;
                assert!(self.framed <= self.limit, "sent beyond the credit");
            }
            Frame::Fin { offset } => {
                assert_eq!((self.finished, self.framed, *offset), (true, self.written, self.written));
                self.fin_framed = true;
            }
            Frame::Credit { consumed, limit } => {
                assert_eq!(*consumed, self.read);
                assert!(self.granted <= *limit && *limit <= self.read + CREDIT_MAX, "granted {limit} at {consumed}");
                self.granted = *limit;
                self.ahead = self.ahead.max(limit - consumed);
            }
            Frame::Reset { cause, hop } => assert_eq!((self.broken, *hop), (Some(*cause), None)),
        }
        self.push(Item::Frame(frame));
        true
    }

    /// Hands over one thing from the middle.
    fn deliver(&mut self) -> bool {
        let Some(item) = self.back.pop_front() else { return false };
        let frame = match item {
            Item::Frame(frame) => frame,
            Item::Gone(cause) => {
                self.stream.handle_abort(cause);
                self.break_off(cause);
                return true;
            }
        };
        self.stream.handle_frame(frame.clone()).unwrap();
        match frame {
            Frame::Reset { cause, hop: _ } => self.break_off(cause),
            Frame::Credit { .. } | Frame::Data { .. } | Frame::Fin { .. } if self.broken.is_some() => {}
            Frame::Credit { limit, .. } => self.limit = limit,
            Frame::Data { offset, bytes } => {
                assert_eq!((offset, self.fin_arrived), (self.arrived, false));
                self.arrived += bytes.len() as u64;
                assert!(self.arrived <= self.granted && self.arrived - self.read <= self.ahead, "overrun");
                if self.has_left {
                    self.reset();
                }
            }
            Frame::Fin { offset } => {
                assert_eq!(offset, self.arrived);
                self.fin_arrived = true;
            }
        }
        true
    }

    fn check(&self) {
        assert_eq!(self.stream.over(), self.broken);
        assert_eq!(self.stream.is_finished(), self.is_complete());
    }
}

impl<M: Middle> World<M> {
    pub(crate) fn new(middle: M) -> Self {
        Self { client: End::new(Side::Client), agent: End::new(Side::Agent), middle }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Agent => &mut self.agent,
        }
    }

    pub(crate) fn play(&mut self, script: &[Op]) {
        for op in script {
            self.step(op);
            self.client.check();
            self.agent.check();
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Write(side, len) => self.end(side).write(len),
            Op::Read(side, max) => _ = self.end(side).read(max),
            Op::Finish(side) => self.finish(side),
            Op::Close(side) => self.close(side),
            Op::Reset(side) => self.end(side).reset(),
            Op::Send(side, max, count) => _ = (0..count).take_while(|_| self.end(side).send(max)).count(),
            Op::Take(side, count) => _ = (0..count).take_while(|_| self.take(side)).count(),
            Op::Give(side, max, count) => _ = (0..count).take_while(|_| self.give(side, max)).count(),
            Op::Deliver(side, count) => _ = (0..count).take_while(|_| self.end(side).deliver()).count(),
            Op::Cut(side, out, back) => self.cut(side, out, back),
        }
    }

    fn finish(&mut self, side: Side) {
        let end = self.end(side);
        end.stream.finish();
        end.finished |= end.broken.is_none();
    }

    fn close(&mut self, side: Side) {
        let end = self.end(side);
        end.has_left = true;
        if end.arrived > end.read {
            end.reset();
        } else {
            self.finish(side);
        }
    }

    fn take(&mut self, from: Side) -> bool {
        let Some(item) = self.end(from).out.pop_front() else { return false };
        self.middle.take(from, item);
        true
    }

    fn give(&mut self, to: Side, max: usize) -> bool {
        let Some(item) = self.middle.give(to, max) else { return false };
        let end = self.end(to);
        if !end.cut {
            end.back.push_back(item);
        }
        true
    }

    /// Loses one side's carrier and what was under way on it, but for the first few frames each way.
    fn cut(&mut self, side: Side, out: usize, back: usize) {
        let end = self.end(side);
        if !end.cut {
            end.cut = true;
            end.out.truncate(out);
            end.out.push_back(Item::Gone(cut_cause(side)));
            end.back.truncate(back);
            end.back.push_back(Item::Gone(cut_cause(side)));
        }
    }

    /// Lets everything go on until nothing more happens.
    pub(crate) fn settle(&mut self) {
        // Each round moves something; the longest script writes a few megabytes.
        for _ in 0..10_000 {
            let mut moved = false;
            for side in [Side::Client, Side::Agent] {
                while self.end(side).send(DATA_MAX) || self.take(side) || self.give(side, DATA_MAX) {
                    moved = true;
                }
                while self.end(side).deliver() || self.end(side).read(DATA_MAX) {
                    moved = true;
                }
            }
            self.client.check();
            self.agent.check();
            if !moved {
                return;
            }
        }
        panic!("never comes to rest");
    }

    /// What must hold after a script without faults, before and after both ends finish.
    pub(crate) fn end_cleanly(&mut self) {
        self.settle();
        for (from, to) in [(&self.client, &self.agent), (&self.agent, &self.client)] {
            assert_eq!((to.read, to.fin_arrived), (from.written, from.finished), "from the {:?}", from.side);
            assert!(from.finished || from.stream.writable() > 0, "the {:?} waits for credit for ever", from.side);
        }
        self.finish(Side::Client);
        self.finish(Side::Agent);
        self.settle();
        for (from, to) in [(&self.client, &self.agent), (&self.agent, &self.client)] {
            assert_eq!((to.read, to.broken), (from.written, None));
            assert!(to.is_complete() && to.stream.is_settled() && to.closed);
        }
    }

    /// What must hold after any script: if anything broke, nobody is left waiting.
    pub(crate) fn end_somehow(&mut self) {
        self.settle();
        let ends = [&self.client, &self.agent];
        if ends.iter().all(|end| !end.cut && end.broken.is_none()) {
            return self.end_cleanly();
        }
        for end in ends {
            assert!(end.broken.is_some() || end.is_complete(), "the {:?} was not told", end.side);
            assert!(end.stream.is_done() && end.closed);
        }
        for (from, to) in [(&self.client, &self.agent), (&self.agent, &self.client)] {
            // Only one's own reset or the loss of a carrier keeps a clean end away.
            if from.finished && !from.cut && !to.cut && !to.has_reset {
                assert_eq!((to.read, to.fin_arrived), (from.written, true), "the {:?} took its end back", from.side);
            }
        }
    }

    /// Bytes that were read: by the agent's end, by the client's.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.agent.read, self.client.read)
    }
}
