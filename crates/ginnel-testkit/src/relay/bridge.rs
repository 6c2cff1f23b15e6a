//! A session that the relay passes on between client and agent, until the test wants a direction tampered with.
//!
//! The relay cuts each direction into the records of the inner TLS and counts the offsets anew, so that whatever it does inside is right
//! outside: only the two ends can notice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use ginnel_core::stream::Frame;
use ginnel_wire::frame::SessionFrame;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::relay::Call;

/// Type, version and length.
const RECORD_HEADER: usize = 5;

/// Type and length of a handshake message, which the first records show in the clear.
const HANDSHAKE_HEADER: usize = 4;

/// The type of records that stand between the others for the sake of old middleboxes. They are empty and protected by nothing, either end passes
/// over them, and nothing changes with or without them: here they are passed on and not counted.
const CHANGE_CIPHER_SPEC: u8 = 20;

/// The type of records with handshake messages in the clear.
const HANDSHAKE: u8 = 22;

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
    /// Ends the call with the status of success, without a word about the end of the direction.
    End,
    /// Changes this bit of the content, counted from its end and around again.
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
    up: Armed,
    down: Armed,
    pace: watch::Sender<Option<Duration>>,
    task: JoinHandle<Result<()>>,
}

/// What is to be done in one direction, once so many more records have passed.
pub(super) type Armed = Arc<Mutex<Option<(usize, Fault)>>>;

impl Bridge {
    pub(super) fn start(client: Call, agent: Call) -> Self {
        Self::start_with(client, agent, None)
    }

    /// Starts with a fault that waits for its record.
    pub(super) fn start_with(client: Call, agent: Call, plan: Option<(Direction, usize, Fault)>) -> Self {
        let (up, down) = (Lane::default(), Lane::default());
        let (armed_up, armed_down) = (Arc::clone(&up.fault), Arc::clone(&down.fault));
        if let Some((direction, records, fault)) = plan {
            let armed = if direction == Direction::Up { &armed_up } else { &armed_down };
            *lock(armed) = Some((records, fault));
        }
        let pace = watch::Sender::new(Some(Duration::ZERO));
        let task = tokio::spawn(carry(client, agent, up, down, pace.subscribe()));
        Self { up: armed_up, down: armed_down, pace, task }
    }

    /// Does `fault` to the next record in this direction.
    pub fn strike(&self, direction: Direction, fault: Fault) {
        self.strike_after(direction, 0, fault);
    }

    /// Does `fault` to the record in this direction that comes after so many others.
    pub fn strike_after(&self, direction: Direction, records: usize, fault: Fault) {
        *lock(self.lane(direction)) = Some((records, fault));
    }

    /// Holds every frame back for so long from here on, in both directions; for ever if that is `None`, until it is said otherwise.
    pub fn delay(&self, delay: Option<Duration>) {
        self.pace.send_replace(delay);
    }

    /// Whether both sides have ended their calls.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether the fault in this direction is still to happen.
    pub fn is_armed(&self, direction: Direction) -> bool {
        lock(self.lane(direction)).is_some()
    }

    fn lane(&self, direction: Direction) -> &Mutex<Option<(usize, Fault)>> {
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

fn lock<T>(fault: &Mutex<T>) -> MutexGuard<'_, T> {
    fault.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn carry(
    mut client: Call,
    mut agent: Call,
    mut up: Lane,
    mut down: Lane,
    mut pace: watch::Receiver<Option<Duration>>,
) -> Result<()> {
    let (mut client_open, mut agent_open) = (true, true);
    while client_open || agent_open {
        let (heard, direction) = tokio::select! {
            heard = client.next(), if client_open => (heard?, Direction::Up),
            heard = agent.next(), if agent_open => (heard?, Direction::Down),
        };
        let delay = *pace.wait_for(Option::is_some).await?;
        if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
            sleep(delay).await;
        }
        match direction {
            Direction::Up => client_open = up.pass(heard, &mut agent),
            Direction::Down => agent_open = down.pass(heard, &mut client),
        }
    }
    Ok(())
}

/// One direction.
#[derive(Default)]
struct Lane {
    fault: Armed,
    partial: BytesMut,
    /// What goes after the next record.
    held: Option<Bytes>,
    last: Bytes,
    sent: u64,
    is_cut: bool,
    /// The call is to end here.
    is_ended: bool,
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
        if std::mem::take(&mut self.is_ended) {
            to.end().ok();
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
        if record.first() == Some(&CHANGE_CIPHER_SPEC) {
            return self.data(record).into_iter().collect();
        }
        let before = std::mem::replace(&mut self.last, record.clone());
        let fault = due(&mut lock(&self.fault));
        let records = match fault {
            None => vec![record],
            Some(Fault::Drop) => Vec::new(),
            Some(Fault::Duplicate) => vec![record.clone(), record],
            Some(Fault::Flip(bit)) => vec![flip(&record, bit)],
            Some(Fault::Insert) => vec![Bytes::from_static(MADE_UP), record],
            Some(Fault::Replay) => vec![before],
            Some(Fault::Swap) => {
                self.held = Some(record);
                return Vec::new();
            }
            Some(Fault::Say(frame)) => return vec![frame],
            Some(Fault::Cut) => return self.fin().into_iter().collect(),
            Some(Fault::End) => {
                (self.is_cut, self.is_ended) = (true, true);
                return Vec::new();
            }
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

/// The fault whose record has come.
fn due(armed: &mut Option<(usize, Fault)>) -> Option<Fault> {
    match armed {
        Some((0, _)) => armed.take().map(|(_, fault)| fault),
        Some((records, _)) => {
            *records -= 1;
            None
        }
        None => None,
    }
}

/// The header stays as it is. Receivers pass over the version and type in it, which say nothing (RFC 8446, 5.1 and 5.2: the type that counts is
/// inside). With another length an end waits for more and has noticed nothing yet: only time would tell.
fn flip(record: &Bytes, bit: usize) -> Bytes {
    let in_the_clear = record.first() == Some(&HANDSHAKE);
    let head = RECORD_HEADER + if in_the_clear { HANDSHAKE_HEADER } else { 0 };
    let mut record = record.to_vec();
    let content = record.len().saturating_sub(head);
    if let Some(place) = (bit / 8).checked_rem(content)
        && let Some(byte) = record.iter_mut().rev().nth(place)
    {
        *byte ^= 1 << (bit % 8);
    }
    record.into()
}
