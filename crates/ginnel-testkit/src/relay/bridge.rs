//! A session that the relay passes on between client and agent, until the test wants a direction tampered with.
//!
//! The relay cuts each direction into the records of the inner TLS and counts the offsets anew, so that whatever it does inside is right
//! outside: only the two ends can notice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use ginnel_core::stream::Frame;
use ginnel_wire::frame::SessionFrame;
use tokio::task::JoinHandle;

use crate::relay::Call;

/// Type, version and length.
const RECORD_HEADER: usize = 5;

/// A record in form, encrypted by nobody.
const MADE_UP: &[u8] = b"\x17\x03\x03\x00\x18made up, four and twenty";

/// A direction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the application to the target.
    Up,
    /// From the target to the application.
    Down,
}

/// What the relay does to the next record of a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Passes nothing on any more, and says that the direction ended there.
    Cut,
    /// The same in the middle of the record.
    CutInside,
    /// Leaves the record out.
    Drop,
    /// Sends it twice.
    Duplicate,
    /// Changes one bit of the byte at this place, counted from the end.
    Flip(usize),
    /// Sends a record of its own before it.
    Insert,
    /// Sends the record that came before it once more, in its place.
    Replay,
    /// Says this in its place.
    Say(SessionFrame),
    /// Sends it after the one that follows.
    Swap,
}

/// A session in the hands of the relay. Dropping it cuts the session off.
pub struct Bridge {
    up: Arc<Mutex<Option<Fault>>>,
    down: Arc<Mutex<Option<Fault>>>,
    task: JoinHandle<Result<()>>,
}

impl Bridge {
    pub(super) fn start(client: Call, agent: Call) -> Self {
        let (up, down) = (Lane::default(), Lane::default());
        let (armed_up, armed_down) = (Arc::clone(&up.fault), Arc::clone(&down.fault));
        Self { up: armed_up, down: armed_down, task: tokio::spawn(carry(client, agent, up, down)) }
    }

    /// Does `fault` to the next record in this direction.
    pub fn strike(&self, direction: Direction, fault: Fault) {
        *lock(self.lane(direction)) = Some(fault);
    }

    /// Whether the fault in this direction is still to happen.
    pub fn is_armed(&self, direction: Direction) -> bool {
        lock(self.lane(direction)).is_some()
    }

    fn lane(&self, direction: Direction) -> &Mutex<Option<Fault>> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(fault: &Mutex<Option<Fault>>) -> MutexGuard<'_, Option<Fault>> {
    fault.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn carry(mut client: Call, mut agent: Call, mut up: Lane, mut down: Lane) -> Result<()> {
    let (mut client_open, mut agent_open) = (true, true);
    while client_open || agent_open {
        tokio::select! {
            heard = client.next(), if client_open => client_open = up.pass(heard?, &mut agent),
            heard = agent.next(), if agent_open => agent_open = down.pass(heard?, &mut client),
        }
    }
    Ok(())
}

/// One direction.
#[derive(Default)]
struct Lane {
    fault: Arc<Mutex<Option<Fault>>>,
    partial: BytesMut,
    /// What goes after the next record.
    held: Option<Bytes>,
    last: Bytes,
    sent: u64,
    is_cut: bool,
}

impl Lane {
    /// Passes on what one side said; `false` once it has ended the call.
    fn pass(&mut self, heard: Option<SessionFrame>, to: &mut Call) -> bool {
        let Some(frame) = heard else {
            // Whoever has left already needs no end.
            to.end().ok();
            return false;
        };
        for frame in self.frames(frame) {
            // The same holds here; its own end is heard next.
            to.say_frame(frame).ok();
        }
        true
    }

    fn frames(&mut self, frame: SessionFrame) -> Vec<SessionFrame> {
        match frame {
            SessionFrame::Stream(Frame::Data { bytes, .. }) => {
                self.partial.extend_from_slice(&bytes);
                let mut frames = Vec::new();
                while let Some(record) = self.record() {
                    frames.extend(self.tamper(record));
                }
                frames
            }
            SessionFrame::Stream(Frame::Fin { .. }) => self.fin().into_iter().collect(),
            other @ (SessionFrame::Open(_)
            | SessionFrame::Opened(_)
            | SessionFrame::Refused(_)
            | SessionFrame::Stream(_)
            | SessionFrame::Take(_)) => vec![other],
        }
    }

    /// The next whole record.
    fn record(&mut self) -> Option<Bytes> {
        let &[_, _, _, high, low] = self.partial.first_chunk::<RECORD_HEADER>()?;
        let length = RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
        (self.partial.len() >= length).then(|| self.partial.split_to(length).freeze())
    }

    fn tamper(&mut self, record: Bytes) -> Vec<SessionFrame> {
        let before = std::mem::replace(&mut self.last, record.clone());
        let fault = lock(&self.fault).take();
        let records = match fault {
            None => vec![record],
            Some(Fault::Drop) => Vec::new(),
            Some(Fault::Duplicate) => vec![record.clone(), record],
            Some(Fault::Flip(place)) => vec![flip(&record, place)],
            Some(Fault::Insert) => vec![Bytes::from_static(MADE_UP), record],
            Some(Fault::Replay) => vec![before],
            Some(Fault::Swap) => {
                self.held = Some(record);
                return Vec::new();
            }
            Some(Fault::Say(frame)) => return vec![frame],
            Some(Fault::Cut) => return self.fin().into_iter().collect(),
            Some(Fault::CutInside) => {
                let half = self.data(record.slice(..record.len() / 2));
                return half.into_iter().chain(self.fin()).collect();
            }
        };
        let records: Vec<_> = records.into_iter().chain(self.held.take()).collect();
        records.into_iter().filter_map(|record| self.data(record)).collect()
    }

    fn data(&mut self, bytes: Bytes) -> Option<SessionFrame> {
        let offset = self.sent;
        self.sent += bytes.len() as u64;
        (!self.is_cut).then_some(SessionFrame::Stream(Frame::Data { offset, bytes }))
    }

    fn fin(&mut self) -> Option<SessionFrame> {
        let was_cut = std::mem::replace(&mut self.is_cut, true);
        (!was_cut).then_some(SessionFrame::Stream(Frame::Fin { offset: self.sent }))
    }
}

fn flip(record: &Bytes, place: usize) -> Bytes {
    let mut record = record.to_vec();
    if let Some(byte) = record.iter_mut().rev().nth(place) {
        *byte ^= 1;
    }
    record.into()
}
