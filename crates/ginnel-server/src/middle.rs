//! The middle of one session: moves frames between the two sides, by the rules of [`ginnel_core::relay::Relay`].

use std::future::{pending, poll_fn};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use ginnel_core::budget::Budget;
use ginnel_core::cause::{Cause, Hop};
use ginnel_core::limits::{DATA_MAX, LAST_BYTES_WAIT, TURN_MAX, UNCOUNTED_MAX};
use ginnel_core::relay::{Ending, Relay, Side};
use ginnel_core::report::Chain;
use ginnel_core::store::{Load, Shelf};
use ginnel_core::stream::Frame;
use ginnel_core::traffic::Traffic;
use ginnel_net::body::{FrameReader, FrameWriter, Gone, ReadError, Room};
use ginnel_wire::frame::{Open, SessionFrame};
use ginnel_wire::piece::Piece;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::bounds::OVERLOADED;

/// How long a side that was told everything may take to end its call. A peer that never does must not hold the session.
const END_WAIT: Duration = Duration::from_secs(5);

/// Frames of the client that are looked at for the first bytes: a hello is in one or two.
const EARLY_FRAMES_MAX: usize = 8;

/// Frames that are read or written in one turn: those of [`TURN_MAX`] bytes, in and out.
const TURN_STEPS: usize = 2 * TURN_MAX / DATA_MAX;

/// The middle of one session. The agent's side joins later than the client's.
pub(crate) struct Middle {
    relay: Relay,
    client: Leg,
    agent: Option<Leg>,
    traffic: Traffic,
    /// Frames that were passed on since the last turn of other sessions.
    turn: usize,
    /// What waits for the client, and for the agent. Before there is an agent, it waits because of the client.
    waiting: [(Side, Load); 2],
    /// The side that broke the protocol, if one did. What a side says of another in a reset is only its word.
    violator: Option<Side>,
}

/// The two bodies of one side's call.
struct Leg {
    side: Side,
    reader: FrameReader,
    writer: FrameWriter,
    /// Whether more can come.
    reading: bool,
    /// Whether anything can be sent.
    writing: bool,
    /// Where what is sent counts until it has left.
    shelf: Shelf,
    /// An answer that goes out before everything else.
    first: Option<SessionFrame>,
}

/// What the middle does not settle by itself.
#[derive(Debug)]
pub(crate) enum Said {
    /// The agent's answer: the target is connected, or is not.
    Answer(SessionFrame),
    /// The session is over; what is left is [`Middle::end`].
    Over(Ending),
}

impl Middle {
    /// The middle of a call that may want a session; `budget` and the `shelf` of its client bound what is held.
    ///
    /// Boxed, because it is handed on from one step of a session to the next.
    pub(crate) fn new(reader: FrameReader, writer: FrameWriter, budget: &Budget, shelf: &Shelf) -> Box<Self> {
        Box::new(Self {
            relay: Relay::new(budget),
            client: Leg::new(Side::Client, reader, writer, shelf),
            agent: None,
            traffic: Traffic::default(),
            turn: 0,
            waiting: [(Side::Client, shelf.load()), (Side::Agent, shelf.load())],
            violator: None,
        })
    }

    /// The first thing that the client says, if it is a wish for a session.
    pub(crate) async fn wish(&mut self) -> Option<Open> {
        match self.client.reader.next().await {
            Ok(Some(SessionFrame::Open(open))) => Some(open),
            Ok(_) | Err(_) => None,
        }
    }

    /// What is passed on is counted here from now on.
    pub(crate) fn count_in(&mut self, traffic: &Traffic) {
        self.traffic = traffic.clone();
    }

    /// The session goes through the agent with this shelf.
    pub(crate) fn goes_through(&mut self, shelf: &Shelf) {
        let [_, (_, for_agent)] = &mut self.waiting;
        *for_agent = shelf.load();
    }

    /// The agent took the session up.
    pub(crate) fn join(&mut self, reader: FrameReader, writer: FrameWriter) {
        let [_, (_, for_agent)] = &self.waiting;
        self.agent = Some(Leg::new(Side::Agent, reader, writer, for_agent.shelf()));
    }

    /// Answers the client's wish, before anything else that is sent to it.
    pub(crate) fn answer(&mut self, frame: SessionFrame) {
        self.client.first = Some(frame);
    }

    /// Ends the session in the name of `hop`.
    pub(crate) fn stop(&mut self, hop: Hop, cause: Cause) {
        self.relay.end(hop, cause);
    }

    /// Ends the session because a side has said what it may not.
    pub(crate) fn blame(&mut self, side: Side) {
        self.violator = Some(side);
        self.relay.end(side.hop(), Cause::ProtocolError);
    }

    /// The side that broke the protocol, if one did.
    pub(crate) fn violator(&self) -> Option<Side> {
        self.violator
    }

    /// Bytes passed on so far: towards the target, towards the application.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.relay.bytes()
    }

    /// Moves frames until something happens that is not the middle's to settle. Cancel safe.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            if let Some(ending) = self.relay.ending() {
                return Said::Over(ending);
            }
            if !self.put_down_waiting() {
                self.overflow();
                continue;
            }
            let (from, read) = match self.step().await {
                Step::Sent | Step::Gone(_) => continue,
                Step::Overflow => {
                    self.overflow();
                    continue;
                }
                Step::Read(from, read) => (from, read),
            };
            if let Some(answer) = self.hear(from, read) {
                return Said::Answer(answer);
            }
        }
    }

    /// The first bytes that the client said together with its wish, at most `max`; from here on they are on their way to the agent.
    pub(crate) fn early(&mut self, max: usize) -> Bytes {
        // What has come is taken in; nobody has to be woken for more yet.
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..EARLY_FRAMES_MAX {
            if !self.client.reading {
                break;
            }
            let Poll::Ready(read) = self.client.reader.poll_next(&mut cx) else { break };
            self.client.reading = matches!(read, Ok(Some(_)));
            // The client answers nothing.
            let _ = self.hear(Side::Client, read);
        }
        self.relay.early(max)
    }

    /// Takes in what a side said; gives back an agent's answer, which is not the middle's to settle.
    fn hear(&mut self, from: Side, read: Result<Option<SessionFrame>, ReadError>) -> Option<SessionFrame> {
        match read {
            Ok(Some(SessionFrame::Stream(frame))) => self.take(from, frame),
            Ok(Some(answer @ (SessionFrame::Opened(_) | SessionFrame::Refused(_)))) if from == Side::Agent => {
                return Some(answer);
            }
            Ok(Some(
                SessionFrame::Open(_) | SessionFrame::Opened(_) | SessionFrame::Refused(_) | SessionFrame::Take(_),
            )) => self.blame(from),
            Ok(None) => self.relay.handle_abort(from, lost(from)),
            Err(error) => {
                tracing::debug!(side = ?from, error = %Chain(&error), "a side broke off");
                if matches!(error, ReadError::Framing(_) | ReadError::Frame(_)) {
                    self.violator = Some(from);
                }
                self.relay.handle_abort(from, broken_off(from, &error));
            }
        }
        None
    }

    fn take(&mut self, from: Side, frame: Frame) {
        let claims_another_word = matches!(&frame, Frame::Reset { cause, hop: _ } if !cause.is_a_peers_word());
        let frame = if claims_another_word { Frame::Reset { cause: Cause::ProtocolError, hop: None } } else { frame };
        if let Err(violation) = self.relay.handle_frame(from, frame) {
            tracing::warn!(side = ?from, %violation, "a side broke the protocol");
            self.violator = Some(from);
        }
    }

    /// Puts down what waits; `false` if it is too much.
    fn put_down_waiting(&mut self) -> bool {
        let relay = &self.relay;
        self.waiting.iter_mut().fold(true, |fits, (side, load)| {
            // A message on its way through is not worth counting.
            let waiting = Some(relay.waiting(*side)).filter(|waiting| *waiting > UNCOUNTED_MAX).unwrap_or(0);
            load.set(u64::try_from(waiting).unwrap_or(u64::MAX)) && fits
        })
    }

    /// Ends a session that would have the server hold too much. What it has handed to the HTTP/2 library already counts until that has written it or
    /// given it up.
    fn overflow(&mut self) {
        tracing::info!("too much waits for a side that does not take it");
        self.relay.end(OVERLOADED.hop, OVERLOADED.cause);
        // Less always fits.
        let _ = self.put_down_waiting();
    }

    async fn step(&mut self) -> Step {
        if self.turn >= TURN_STEPS {
            self.turn = 0;
            yield_now().await;
        }
        self.turn += 1;
        let step = self.select().await;
        let (up, down) = self.relay.bytes();
        self.traffic.set(up, down);
        match &step {
            Step::Sent | Step::Overflow | Step::Read(_, Ok(Some(_))) => {}
            Step::Read(side, Ok(None) | Err(_)) => self.leg(*side, |leg| leg.reading = false),
            // What the side said last may still be unread, and knows better why it left; reading comes to its end by itself.
            Step::Gone(side) => self.leg(*side, |leg| leg.writing = false),
        }
        step
    }

    async fn select(&mut self) -> Step {
        let Self { relay, client, agent, traffic: _, turn: _, waiting: _, violator: _ } = self;
        let to_client = client.wants_to_send(relay);
        let to_agent = agent.as_ref().is_some_and(|agent| agent.wants_to_send(relay));
        let Leg {
            reader: client_reader, writer: client_writer, first, reading: client_reading, shelf: for_client, ..
        } = client;
        let for_client: &Shelf = for_client;
        let (agent_reader, agent_writer, for_agent) = match agent {
            Some(Leg { reader, writer, reading, shelf, .. }) => (reading.then_some(reader), Some(writer), &*shelf),
            None => (None, None, for_client),
        };
        tokio::select! {
            read = client_reader.next(), if *client_reading => Step::Read(Side::Client, read),
            read = next_of(agent_reader) => Step::Read(Side::Agent, read),
            room = client_writer.ready(), if to_client => send(room, relay, Side::Client, first, for_client),
            room = room_of(agent_writer), if to_agent => send(room, relay, Side::Agent, &mut None, for_agent),
        }
    }

    fn leg(&mut self, side: Side, change: impl FnOnce(&mut Leg)) {
        match side {
            Side::Client => change(&mut self.client),
            Side::Agent => {
                if let Some(agent) = &mut self.agent {
                    change(agent);
                }
            }
        }
    }

    /// Tells both sides what is left to tell and ends their calls.
    pub(crate) async fn end(&mut self) {
        // An end throws away what waited, however long the last word takes.
        let _ = self.put_down_waiting();
        let last_words = async {
            while self.client.wants_to_send(&self.relay)
                || self.agent.as_ref().is_some_and(|agent| agent.wants_to_send(&self.relay))
            {
                // What still comes in is of no more consequence. Where there is no room for what is left, the session cannot end well.
                if matches!(self.step().await, Step::Overflow) {
                    return false;
                }
                let _ = self.put_down_waiting();
            }
            true
        };
        // Whatever has not left by then is given up, and the calls with it.
        if timeout(LAST_BYTES_WAIT, last_words).await != Ok(true) {
            return;
        }
        let Self { client, agent, .. } = self;
        let agent = async {
            if let Some(agent) = agent {
                agent.end().await;
            }
        };
        tokio::join!(client.end(), agent);
    }
}

enum Step {
    /// A piece was sent.
    Sent,
    /// Something was read, or can no longer be.
    Read(Side, Result<Option<SessionFrame>, ReadError>),
    /// Nothing can be sent to this side any more.
    Gone(Side),
    /// A piece was not sent, because more would wait than may.
    Overflow,
}

impl Leg {
    fn new(side: Side, reader: FrameReader, writer: FrameWriter, shelf: &Shelf) -> Self {
        Self { side, reader, writer, reading: true, writing: true, shelf: shelf.clone(), first: None }
    }

    fn wants_to_send(&self, relay: &Relay) -> bool {
        self.writing && (self.first.is_some() || relay.wants_to_send(self.side))
    }

    async fn end(&mut self) {
        if timeout(LAST_BYTES_WAIT, poll_fn(|cx| self.writer.poll_left(cx))).await.is_err() {
            return;
        }
        self.writer.end();
        if self.reading {
            let _ = timeout(END_WAIT, self.reader.drain()).await;
        }
    }
}

async fn next_of(reader: Option<&mut FrameReader>) -> Result<Option<SessionFrame>, ReadError> {
    match reader {
        Some(reader) => reader.next().await,
        None => pending().await,
    }
}

async fn room_of(writer: Option<&mut FrameWriter>) -> Result<Room<'_>, Gone> {
    match writer {
        Some(writer) => writer.ready().await,
        None => pending().await,
    }
}

fn send(
    room: Result<Room<'_>, Gone>,
    relay: &mut Relay,
    to: Side,
    first: &mut Option<SessionFrame>,
    shelf: &Shelf,
) -> Step {
    let Ok(room) = room else { return Step::Gone(to) };
    let Some(mut piece) = next_piece(relay, to, first, room.data_max()) else { return Step::Sent };
    let mut load = shelf.load();
    if !load.set(u64::try_from(piece.remaining()).unwrap_or(u64::MAX)) && piece.last().is_none() {
        return Step::Overflow;
    }
    piece.count_as(load);
    room.send(piece);
    Step::Sent
}

/// The next piece for one side: whole frames, up to and including one with data.
fn next_piece(relay: &mut Relay, to: Side, first: &mut Option<SessionFrame>, data_max: usize) -> Option<Piece> {
    let mut piece = Piece::default();
    if let Some(first) = first.take() {
        piece.push(first);
    }
    while let Some(frame) = relay.poll_frame(to, data_max) {
        let is_data = matches!(frame, Frame::Data { .. });
        piece.push(SessionFrame::Stream(frame));
        if is_data {
            break;
        }
    }
    (!piece.is_empty()).then_some(piece)
}

/// What it is called when a side breaks off without a word.
fn lost(side: Side) -> Cause {
    match side {
        Side::Client => Cause::Aborted,
        Side::Agent => Cause::AgentLost,
    }
}

fn broken_off(side: Side, error: &ReadError) -> Cause {
    match error {
        ReadError::Broken(_) | ReadError::Status { .. } => lost(side),
        ReadError::Framing(_) | ReadError::Frame(_) => Cause::ProtocolError,
    }
}
