//! The stream machine and the relay, driven by a script of bytes.
//!
//! Two ends write, read, finish and reset in the order that the script says, with queues between them and, in [`relay`], the server's
//! machine. What must hold is what TCP promises: the bytes that come out are the first of those that went in, nobody sends beyond the
//! credit it was given, an honest peer is never accused, and whatever stops is either a clean end at the right place or a reset.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;
use ginnel_core::budget::Budget;
use ginnel_core::cause::{Cause, Hop};
use ginnel_core::limits::{CREDIT_INITIAL, CREDIT_MAX, DATA_MAX, SEND_BUFFER_MAX};
use ginnel_core::relay::{Relay, Side};
use ginnel_core::stream::{Frame, Read, Stream};

/// Steps of one script: enough for every pair of steps in both orders, and a bound on the time that one input takes.
const STEPS_MAX: usize = 400;

/// Rounds after a script until nothing moves; each moves at least one frame, and the longest script leaves some hundreds.
const ROUNDS_MAX: usize = 100_000;

const SIDES: [Side; 2] = [Side::Client, Side::Agent];

/// Two ends that speak to each other directly.
pub fn stream(data: &[u8]) {
    World::new(None).play(data);
}

/// Two ends with the server's machine between them.
pub fn relay(data: &[u8]) {
    World::new(Some(Relay::new(&Budget::default()))).play(data);
}

/// Frames that no honest peer sends, to an end and to the middle: no harm is done, and a breach is the end of the session.
pub fn hostile_frames(data: &[u8]) {
    let (mut stream, mut relay) = (Stream::new(Budget::default()), Relay::new(&Budget::default()));
    stream.write(b"words that are under way");
    let mut held = 0;
    for step in data.chunks_exact(4).take(STEPS_MAX) {
        let frame = hostile_frame([step[1], step[2], step[3]]);
        held += if let Frame::Data { bytes, .. } = &frame { bytes.len() as u64 } else { 0 };
        let was_over = stream.over().is_some();
        if stream.handle_frame(frame.clone()).is_err() {
            assert!(!was_over && stream.over() == Some(Cause::ProtocolError));
        }
        let from = side(step[0]);
        let was_over = relay.ending().is_some();
        if relay.handle_frame(from, frame).is_err() && !was_over {
            let ending = relay.ending().expect("a breach ends the session");
            assert_eq!((ending.hop, ending.cause), (from.hop(), Cause::ProtocolError));
        }
        if step[0] & 2 != 0 {
            stream.read(DATA_MAX);
            stream.poll_frame(DATA_MAX);
            relay.poll_frame(from.other(), DATA_MAX);
        }
        let (up, down) = relay.bytes();
        assert!(up + down <= held, "no byte was made up");
    }
    if stream.over().is_some() {
        while stream.poll_frame(DATA_MAX).is_some() {}
        assert!(stream.is_done() && stream.writable() == 0);
    }
}

fn hostile_frame([kind, near, far]: [u8; 3]) -> Frame {
    // Values at and around every bound that the machines know.
    let base = [0, 1, CREDIT_INITIAL, CREDIT_MAX, SEND_BUFFER_MAX, 24, u64::MAX - 128, 1 << 32][usize::from(near & 7)];
    let value = base.saturating_add(u64::from(near >> 3)).saturating_sub(8);
    let length = usize::from(far) * if far > 200 { 2048 } else { 1 };
    match kind & 3 {
        0 => Frame::Data { offset: value, bytes: Bytes::from(vec![1; length]) },
        1 => Frame::Credit { consumed: u64::from(far), limit: value },
        2 => Frame::Fin { offset: value },
        _ => Frame::Reset { cause: Cause::Reset, hop: (far & 1 != 0).then_some(Hop::Client) },
    }
}

fn side(byte: u8) -> Side {
    if byte & 1 == 0 { Side::Client } else { Side::Agent }
}

/// What is on its way to somebody.
enum Item {
    Frame(Frame),
    Lost,
}

struct World {
    client: End,
    agent: End,
    relay: Option<Relay>,
}

/// One end, and what is known of it from outside.
struct End {
    stream: Stream,
    /// What it said, until the middle or the other end takes it.
    out: VecDeque<Item>,
    /// What is under way to it.
    back: VecDeque<Item>,
    lost: bool,
    written: u64,
    read: u64,
    sent: u64,
    /// How far it may send, by the credits that reached it.
    limit: u64,
    finished: bool,
    /// Whether its reader saw the clean end.
    saw_end: bool,
}

/// Bytes that tell where and whose they are. The period is no power of two and no divisor of any bound.
fn content(side: Side, offset: u64, length: usize) -> &'static [u8] {
    const PERIOD: u64 = 251;
    static BYTES: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..=250).cycle().take(usize::try_from(PERIOD).unwrap_or_default() + 2 * DATA_MAX).collect());
    let shift = if side == Side::Client { 0 } else { 101 };
    let start = usize::try_from((offset + shift) % PERIOD).expect("a small number");
    &BYTES[start..start + length]
}

impl End {
    fn new() -> Self {
        Self {
            stream: Stream::new(Budget::default()),
            out: VecDeque::new(),
            back: VecDeque::new(),
            lost: false,
            written: 0,
            read: 0,
            sent: 0,
            limit: CREDIT_INITIAL,
            finished: false,
            saw_end: false,
        }
    }

    fn send(&mut self, max: usize) -> bool {
        let wanted = self.stream.wants_to_send();
        let frame = self.stream.poll_frame(max);
        assert!(max == 0 || wanted == frame.is_some(), "wants to send: {wanted}, but {frame:?}");
        let Some(frame) = frame else { return false };
        match &frame {
            Frame::Data { offset, bytes } => {
                assert!((1..=max).contains(&bytes.len()) && *offset == self.sent);
                self.sent += bytes.len() as u64;
                assert!(self.sent <= self.limit, "sent beyond the credit");
            }
            Frame::Credit { consumed, limit } => {
                assert!(*consumed == self.read && *limit <= self.read + CREDIT_MAX);
            }
            Frame::Fin { offset } => assert!(self.finished && *offset == self.written && *offset == self.sent),
            Frame::Reset { cause, hop } => assert_eq!((self.stream.over(), *hop), (Some(*cause), None)),
        }
        if !self.lost {
            self.out.push_back(Item::Frame(frame));
        }
        true
    }

    fn deliver(&mut self) -> bool {
        match self.back.pop_front() {
            None => return false,
            Some(Item::Lost) => self.stream.handle_abort(Cause::ServerLost),
            Some(Item::Frame(frame)) => {
                if let (Frame::Credit { limit, .. }, None) = (&frame, self.stream.over()) {
                    self.limit = *limit;
                }
                assert_eq!(self.stream.handle_frame(frame), Ok(()), "an honest peer is accused");
            }
        }
        true
    }
}

impl World {
    fn new(relay: Option<Relay>) -> Self {
        Self { client: End::new(), agent: End::new(), relay }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Agent => &mut self.agent,
        }
    }

    fn play(mut self, script: &[u8]) {
        for step in script.chunks_exact(2).take(STEPS_MAX) {
            self.step(step[0], step[1]);
        }
        self.settle();
        for from in SIDES {
            let (written, finished) = (self.end(from).written, self.end(from).finished);
            let over = self.end(from.other()).stream.over().is_some();
            let to = self.end(from.other());
            assert!(to.read <= written);
            if to.saw_end {
                assert!(finished && to.read == written, "an end at the wrong place");
            } else if !over && !to.lost {
                assert_eq!((to.read, finished), (written, false), "something never came, and nobody was told");
            }
        }
    }

    fn step(&mut self, op: u8, argument: u8) {
        let at = side(op);
        let size = (1_usize << (argument & 15)) + usize::from(argument >> 4) - 1;
        let count = usize::from(argument & 7) + 1;
        match (op >> 1) % 12 {
            0..=2 => self.write(at, size),
            3 | 4 => _ = self.read(at, size),
            5 | 6 => _ = (0..count).take_while(|_| self.end(at).send(size.min(DATA_MAX))).count(),
            7 | 8 => _ = (0..count).take_while(|_| self.pass(at, size.min(DATA_MAX))).count(),
            9 => _ = (0..count).take_while(|_| self.end(at).deliver()).count(),
            // Endings are rare, so that a script gets somewhere before.
            10 if argument < 32 => {
                let end = self.end(at);
                end.finished |= end.stream.over().is_none();
                end.stream.finish();
            }
            11 if argument < 8 => self.end(at).stream.reset(Cause::Reset),
            11 if argument > 250 => self.lose(at),
            _ => _ = (0..count).take_while(|_| self.end(at).deliver()).count(),
        }
    }

    fn write(&mut self, at: Side, length: usize) {
        let end = self.end(at);
        let room = end.stream.writable();
        let taken = end.stream.write(content(at, end.written, length));
        assert_eq!(taken, room.min(length));
        assert!(taken == 0 || !end.finished, "written after the end");
        end.written += taken as u64;
        assert!(end.written <= end.limit && (taken == 0 || end.written - end.sent <= SEND_BUFFER_MAX));
    }

    fn read(&mut self, at: Side, max: usize) -> bool {
        let end = self.end(at);
        match end.stream.read(max) {
            Read::Bytes(bytes) => {
                assert!((1..=max).contains(&bytes.len()) && !end.saw_end);
                assert!(bytes == content(at.other(), end.read, bytes.len()), "other bytes at {}", end.read);
                end.read += bytes.len() as u64;
                return true;
            }
            Read::Finished => end.saw_end = true,
            Read::Pending => assert!(!end.saw_end),
            Read::Reset(cause) => assert!(!end.saw_end && end.stream.over() == Some(cause)),
        }
        false
    }

    /// Takes one thing that an end said a step further.
    fn pass(&mut self, from: Side, max: usize) -> bool {
        let item = self.end(from).out.pop_front();
        let Some(relay) = &mut self.relay else {
            let Some(item) = item else { return false };
            self.end(from.other()).back.push_back(item);
            return true;
        };
        let mut moved = item.is_some();
        match item {
            None => {}
            Some(Item::Lost) => relay.handle_abort(from, Cause::AgentLost),
            Some(Item::Frame(frame)) => {
                assert_eq!(relay.handle_frame(from, frame), Ok(()), "an honest peer is accused")
            }
        }
        let wanted = relay.wants_to_send(from.other());
        let frame = relay.poll_frame(from.other(), max);
        assert!(max == 0 || wanted == frame.is_some(), "wants to send: {wanted}, but {frame:?}");
        moved |= frame.is_some();
        let to = self.end(from.other());
        if let Some(frame) = frame.filter(|_| !to.lost) {
            to.back.push_back(Item::Frame(frame));
        }
        moved
    }

    /// The network between one end and the middle breaks: what was under way is gone, and both sides notice.
    fn lose(&mut self, at: Side) {
        let end = self.end(at);
        if !std::mem::replace(&mut end.lost, true) {
            end.out.clear();
            end.out.push_back(Item::Lost);
            end.back.clear();
            end.back.push_back(Item::Lost);
        }
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for side in SIDES {
                moved |= self.end(side).send(DATA_MAX) | self.pass(side, DATA_MAX);
                moved |= self.end(side).deliver() | self.read(side, DATA_MAX);
            }
            if !moved {
                return;
            }
        }
        panic!("never comes to rest");
    }
}
