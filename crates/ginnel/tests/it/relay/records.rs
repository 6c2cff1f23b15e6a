//! What the relay does to the records of the inner TLS, one after the other and many times over: whatever it is, no application takes it for
//! a clean end, and none hears a byte that was not said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ginnel_core::id::InstanceId;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::relay::{AGENT, Bridge, Call, Direction, Fault, Plan, Switchboard};
use ginnel_testkit::stream::bytes;
use ginnel_testkit::{Answer, Ending, Part, Relay, World, proxy, within};
use ginnel_wire::hello::RosterEntry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{NOTICED, hear_out, tamper};
use crate::pair::Pair;
use crate::{report, world};

/// Records that are tampered with in every run of the tests, and at length unless the environment says otherwise.
const RECORDS: u64 = 400;
const RECORDS_AT_LENGTH: u64 = 100_000;

/// Sessions at once. What one waits for, others use.
const AT_ONCE: u64 = 8;

/// What an application says, each time once it has heard the answer to what it said before, so that each is a record of its own.
const WORDS: [&[u8]; 3] = [b"What ho!", b"Is anybody there?", b"Then good night."];

/// What a target says when it has heard the last of them.
const GOODBYE: &[u8] = b"Good night.";

const ANY_PORT: &str = "127.0.0.1:1-65535";

/// A world whose server has turned hostile, and works.
struct Stage {
    world: World,
    board: Arc<Switchboard>,
    _roster: Call,
}

impl Stage {
    async fn set() -> Result<Self> {
        let mut world = world().target(ANY_PORT).start().await?;
        let mut relay = Relay::take_over(&mut world).await?;
        let (link, instance) = relay.welcome_agent().await?;
        let roster = relay.welcome_client(&world, vec![entry(instance)?]).await?;
        Ok(Self { world, board: Arc::new(relay.join(link)), _roster: roster })
    }

    async fn clear(self) -> Result<()> {
        let board = Arc::into_inner(self.board).context("somebody still uses the switchboard")?;
        board.finish().await?;
        self.world.finish(&[Part::Server])
    }
}

fn entry(instance: InstanceId) -> Result<RosterEntry> {
    Ok(RosterEntry { agent: AGENT.parse()?, targets: vec![ANY_PORT.parse()?], instances: vec![(instance, false)] })
}

/// What one side heard, and how that ended.
type Heard = (Vec<u8>, Ending);

/// What became of a session in which the relay had planned something.
#[derive(Debug)]
struct Seen {
    /// Nothing if it was refused.
    app: Option<Heard>,
    /// Every connection to the target.
    target: Vec<Heard>,
    has_happened: bool,
}

impl Seen {
    /// Nothing happened, and everything arrived and ended as it was said.
    fn is_whole(&self) -> bool {
        let up = (WORDS.concat(), Ending::Eof);
        let down = ([&WORDS.concat(), GOODBYE].concat(), Ending::Eof);
        !self.has_happened && self.app.as_ref() == Some(&down) && self.target == [up]
    }

    /// Whoever was tampered with has noticed, and nobody has heard anything that was not said.
    fn is_noticed(&self, direction: Direction) -> Result<()> {
        ensure!(self.has_happened, "nothing was tampered with");
        let (up, down) = (WORDS.concat(), [&WORDS.concat(), GOODBYE].concat());
        for (heard, _) in &self.target {
            ensure!(up.starts_with(heard), "the target heard {:?}", String::from_utf8_lossy(heard));
        }
        let Some((heard, ending)) = &self.app else {
            let is_silent = self.target.iter().all(|(heard, _)| heard.is_empty());
            ensure!(is_silent, "a target heard of a session that was refused");
            return Ok(());
        };
        ensure!(down.starts_with(heard), "the application heard {:?}", String::from_utf8_lossy(heard));
        // A target that was connected for a session which the agent then refused has heard nothing, and sees a plain end.
        let reached = self.target.iter().find(|(heard, _)| !heard.is_empty());
        let receiver = match (direction, reached) {
            (Direction::Up, Some((_, end_there))) => *end_there,
            (Direction::Up, None) | (Direction::Down, _) => *ending,
        };
        ensure!(receiver != Ending::Eof, "the receiver saw a clean end");
        Ok(())
    }
}

/// One session from beginning to end, in which the relay carries out its plan, at every attempt that the client makes.
async fn session(world: &World, board: &Switchboard, plan: Plan) -> Result<Seen> {
    let (sender, mut outcomes) = mpsc::channel(8);
    let connected = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connected);
    let host = TcpHost::start(move |stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        let sender = sender.clone();
        async move { Ok(sender.send(answer(stream).await).await?) }
    })
    .await?;
    let direction = plan.0;
    let next = board.next(host.address(), Some(plan));
    let app = match proxy::connect(world.proxy_addr(), &host.address().to_string()).await? {
        Answer::Opened(opened) => Some(within("the end of a conversation", NOTICED, ask(opened.stream)).await?),
        Answer::Refused(refused) => {
            ensure!(refused.status >= 500 && refused.cause != "finished", "{refused:?}");
            None
        }
    };
    let bridge: Bridge = within("the session at the relay", NOTICED, next).await??;
    let mut target = Vec::new();
    while target.len() < connected.load(Ordering::SeqCst) || (app.is_some() && target.is_empty()) {
        target.extend(within("the end at the target", NOTICED, outcomes.recv()).await?);
    }
    board.forget(host.address());
    Ok(Seen { app, target, has_happened: !bridge.is_armed(direction) })
}

/// Whoever asks first hears of a reset, be it in reading or in writing.
async fn ask(mut app: TcpStream) -> Heard {
    let mut heard = Vec::new();
    for word in WORDS {
        if let Err(error) = app.write_all(word).await {
            return (heard, Ending::of(&error));
        }
        let until = heard.len() + word.len();
        while heard.len() < until {
            match app.read_buf(&mut heard).await {
                Ok(0) => return (heard, Ending::Eof),
                Ok(_) => {}
                Err(error) => return (heard, Ending::of(&error)),
            }
        }
    }
    // If the session is gone, reading tells.
    app.shutdown().await.ok();
    let (rest, ending) = hear_out(app).await;
    (heard.into_iter().chain(rest).collect(), ending)
}

async fn answer(mut stream: TcpStream) -> Heard {
    let mut heard = Vec::new();
    loop {
        let before = heard.len();
        match stream.read_buf(&mut heard).await {
            Ok(0) => {
                // The other side may have left after its last word.
                stream.write_all(GOODBYE).await.ok();
                stream.shutdown().await.ok();
                return (heard, Ending::Eof);
            }
            Ok(_) => {
                if let Err(error) = stream.write_all(&heard[before..]).await {
                    return (heard, Ending::of(&error));
                }
            }
            Err(error) => return (heard, Ending::of(&error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_is_cut_between_any_two_records_never_ends_well() -> Result<()> {
    let stage = Stage::set().await?;
    for direction in [Direction::Up, Direction::Down] {
        for fault in [Fault::Cut, Fault::End] {
            let mut place = 0;
            loop {
                let case = format!("{direction:?} {fault:?} at record {place}");
                let seen = session(&stage.world, &stage.board, (direction, place, fault.clone())).await;
                let seen = seen.with_context(|| case.clone())?;
                if seen.is_whole() {
                    break;
                }
                seen.is_noticed(direction).with_context(|| format!("{case}: {seen:?}"))?;
                place += 1;
            }
            // The handshake, three words, and the end.
            ensure!(place >= 6, "{direction:?} {fault:?}: only {place} records");
        }
    }
    stage.clear().await
}

/// What is done to the record of this number.
fn plan_of(number: u64) -> (bool, Plan) {
    let [a, b, c, d, rest @ ..] = *bytes(number, 8).first_chunk::<8>().unwrap_or(&[0; 8]);
    let direction = if a & 1 == 0 { Direction::Up } else { Direction::Down };
    let bit = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
    let in_handshake = b % 8 == 0;
    let fault = match (in_handshake, c % 8) {
        (true, 0 | 1) => Fault::Duplicate,
        (true, 2 | 3) => Fault::Insert,
        (false, 0 | 1) => Fault::Insert,
        (false, 2) => Fault::Drop,
        (false, 3) => Fault::Duplicate,
        (false, 4) => Fault::Swap,
        (false, 5) => Fault::Replay,
        (_, _) => Fault::Flip(bit),
    };
    // The first records are the handshake's; what passes later has three records at least, of which the last is left alone.
    let place = usize::from(d) % if in_handshake { 3 } else { 2 };
    (in_handshake, (direction, place, fault))
}

/// Tampers with the record of this number. One that is dropped before anything follows would only be waited for: in the handshake none is.
async fn tamper_with(number: u64, world: &World, board: &Switchboard, host: &TcpListener) -> Result<()> {
    let (in_handshake, plan) = plan_of(number);
    let (direction, place, fault) = plan.clone();
    let tampering = async {
        if in_handshake {
            return session(world, board, plan).await?.is_noticed(direction);
        }
        let next = board.next(host.local_addr()?, None);
        let pair = Pair::open(world, host).await?;
        let bridge = within("the session at the relay", NOTICED, next).await??;
        tamper(pair, &bridge, direction, place, fault).await
    };
    tampering.await.with_context(|| format!("record {number}, {:?}", plan_of(number)))
}

/// Tampers with so many records, each in a session of its own.
async fn tamper_with_all(records: u64) -> Result<()> {
    let stage = Stage::set().await?;
    let Stage { world, board, _roster } = stage;
    let (world, next, began) = (Arc::new(world), Arc::new(AtomicU64::new(0)), Instant::now());
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (world, board, next) = (Arc::clone(&world), Arc::clone(&board), Arc::clone(&next));
        workers.spawn(async move {
            let host = TcpListener::bind("127.0.0.1:0").await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= records {
                    return anyhow::Ok(());
                }
                tamper_with(number, &world, &board, &host).await?;
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    report(format!("{records} records in {:?}: every session was reset or refused, no wrong byte", began.elapsed()));
    let world = Arc::into_inner(world).context("somebody still uses the world")?;
    Stage { world, board, _roster }.clear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn record_that_is_flipped_inserted_left_out_doubled_or_moved_ends_its_session() -> Result<()> {
    tamper_with_all(RECORDS).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a hundred thousand sessions: ./test hostile"]
async fn a_hundred_thousand_records_are_tampered_with() -> Result<()> {
    let records = match std::env::var("GINNEL_HOSTILE_RECORDS") {
        Ok(text) => text.parse().with_context(|| format!("GINNEL_HOSTILE_RECORDS is {text:?}"))?,
        Err(_) => RECORDS_AT_LENGTH,
    };
    tamper_with_all(records).await
}
