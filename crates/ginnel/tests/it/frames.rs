//! Frames of a session that its protocol does not allow, from clients and agents that prove who they are: the session is reset, and says whose fault
//! it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::SessionId;
use ginnel_core::limits::{CREDIT_INITIAL, CREDIT_MAX, VIOLATIONS_MAX};
use ginnel_core::stream::Frame;
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::hosts::nobody;
use ginnel_testkit::peer::{Call, Peer};
use ginnel_testkit::stream::read_to_ending;
use ginnel_testkit::{Ending, Part, World, proxy, within};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::path;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::played::{PlayedAgent, PlayedClient};
use crate::world;

/// How long the far end may stay unaware.
const NOTICED: Duration = Duration::from_secs(5);

/// What somebody says who should not.
#[derive(Clone, Debug)]
enum Words {
    Frames(Vec<SessionFrame>),
    /// A message with these bytes in place of a frame.
    Message(Vec<u8>),
    /// No message at all.
    Bytes(Vec<u8>),
}

impl Words {
    /// Says it, as far as the server lets it be said.
    fn say(&self, call: &mut Call) {
        match self {
            Self::Frames(frames) => {
                for frame in frames {
                    call.say_frame(frame.clone()).ok();
                }
            }
            Self::Message(bytes) => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
                call.say_bytes([&[0][..], &length, bytes].concat()).ok();
            }
            Self::Bytes(bytes) => {
                call.say_bytes(bytes.clone()).ok();
            }
        }
    }

    /// Whether a half is ended properly before anything is wrong: that end stands.
    fn ends_well(&self) -> bool {
        matches!(self, Self::Frames(frames) if matches!(frames[..], [SessionFrame::Stream(Frame::Fin { offset: 0 }), _]))
    }
}

fn stream(frame: Frame) -> SessionFrame {
    SessionFrame::Stream(frame)
}

fn data(offset: u64, length: usize) -> SessionFrame {
    stream(Frame::Data { offset, bytes: vec![b'x'; length].into() })
}

fn credit(consumed: u64, limit: u64) -> SessionFrame {
    stream(Frame::Credit { consumed, limit })
}

/// Eight mebibytes at once, whatever the credit.
fn all_at_once() -> Vec<SessionFrame> {
    const PIECE: usize = 32 << 10;
    (0..256).map(|piece| data((piece * PIECE) as u64, PIECE)).collect()
}

/// A `Resume` as a later version may say it: number 9, a message with a token.
fn resume() -> Words {
    Words::Message([&[message(9), 18, message(1), 16][..], &[7; 16]].concat())
}

/// How protobuf begins a field of this number that is a message.
fn message(number: u8) -> u8 {
    (number << 3) | 2
}

/// What neither side may say in an open session.
fn breaches() -> Vec<(&'static str, Words)> {
    let frames = |frames: Vec<SessionFrame>| Words::Frames(frames);
    vec![
        ("data with a gap", frames(vec![data(1, 10)])),
        ("data that was there before", frames(vec![data(0, 10), data(0, 10)])),
        ("data without bytes", frames(vec![data(0, 0)])),
        ("data beyond the credit", frames(all_at_once())),
        ("data at the end of all numbers", frames(vec![data(u64::MAX, 1)])),
        ("credit for what was not sent", frames(vec![credit(1 << 40, 1 << 41)])),
        ("credit beyond the bound", frames(vec![credit(0, CREDIT_MAX + 1)])),
        ("credit that overflows", frames(vec![credit(0, u64::MAX)])),
        ("credit that goes back", frames(vec![credit(0, CREDIT_INITIAL - 1)])),
        ("an end at another place", frames(vec![stream(Frame::Fin { offset: 7 })])),
        ("data after the end", frames(vec![stream(Frame::Fin { offset: 0 }), data(0, 1)])),
        ("two ends", frames(vec![stream(Frame::Fin { offset: 0 }); 2])),
        ("a Take", frames(vec![SessionFrame::Take(SessionId::random(&mut SystemRandom))])),
        ("a resume", resume()),
        ("a frame of an unknown kind", Words::Message(vec![message(15), 0])),
        ("a frame without a kind", Words::Message(Vec::new())),
        ("a frame that breaks off", Words::Message(vec![message(1), 100, 1])),
        ("a negative number", Words::Message([&[message(2), 11, 1 << 3][..], &[255; 9], &[1]].concat())),
        ("a number of eleven bytes", Words::Message([&[message(2), 12, 1 << 3][..], &[255; 11]].concat())),
        ("a message that is said to be compressed", Words::Bytes(vec![1, 0, 0, 0, 1, 0])),
        ("a message of four gibibytes", Words::Bytes(vec![0, 255, 255, 255, 255, 0])),
    ]
}

/// The record of the end of the session number `count`.
async fn ended(world: &World, count: usize) -> Result<Value> {
    let is_end = |record: &&Value| record["event"] == "ended";
    let log = world.audit_until("the session's end", |log| log.iter().filter(is_end).count() >= count).await?;
    log.iter().rfind(is_end).cloned().context("an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_the_protocol_resets_its_session_and_is_named() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).danger_disable_inner_tls().start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let mut client = PlayedClient::start(&world).await?;
    let mut cases = breaches();
    let opened = SessionFrame::Opened(host.local_addr()?);
    let refused = SessionFrame::Refused(Refusal::new(Hop::Agent, Cause::Overloaded));
    cases.push(("a second Open", Words::Frames(vec![client.wish(host.local_addr()?)?])));
    cases.push(("Opened, which only an agent says", Words::Frames(vec![opened])));
    cases.push(("Refused, which only an agent says", Words::Frames(vec![refused])));
    for (number, (name, words)) in cases.iter().enumerate() {
        if number % usize::try_from(VIOLATIONS_MAX - 1)? == 0 {
            client = PlayedClient::start(&world).await?;
        }
        let (mut call, mut target) = client.open(&host).await?;
        words.say(&mut call);
        let (_, ending) = within(&format!("{name} at the target"), NOTICED, read_to_ending(&mut target)).await?;
        ensure!(ending == Ending::Reset || words.ends_well(), "{name}: {ending:?}");
        let record = ended(&world, number + 1).await?;
        ensure!((&record["hop"], &record["cause"]) == (&"client".into(), &"protocolError".into()), "{name}: {record}");
    }
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_breaks_the_protocol_resets_its_session_and_is_named() -> Result<()> {
    let (_held, silent) = nobody()?;
    let world = world().agents(0).target(silent).danger_disable_inner_tls().start().await?;
    let mut cases = breaches();
    cases.push(("a second Opened", Words::Frames(vec![SessionFrame::Opened(silent)])));
    let refused = SessionFrame::Refused(Refusal::new(Hop::Agent, Cause::Overloaded));
    cases.push(("Refused after Opened", Words::Frames(vec![refused])));
    let mut agent: Option<PlayedAgent> = None;
    for (number, (name, words)) in cases.iter().enumerate() {
        let mut playing = match agent.take() {
            Some(playing) if number % usize::try_from(VIOLATIONS_MAX - 1)? != 0 => playing,
            old => {
                drop(old);
                let mark = world.client.mark();
                let playing = PlayedAgent::start(&world).await?;
                world.roster(mark, 1).await?;
                playing
            }
        };
        let target = silent.to_string();
        let (answer, call) = tokio::join!(proxy::connect(world.proxy_addr(), &target), playing.take(silent));
        let (mut app, mut call) = (answer?.opened()?.stream, call?);
        words.say(&mut call);
        let (_, ending) = within(&format!("{name} at the application"), NOTICED, read_to_ending(&mut app)).await?;
        ensure!(ending == Ending::Reset || words.ends_well(), "{name}: {ending:?}");
        let record = ended(&world, number + 1).await?;
        ensure!((&record["hop"], &record["cause"]) == (&"agent".into(), &"protocolError".into()), "{name}: {record}");
        agent = Some(playing);
    }
    world.finish(&[])
}

/// What a client may not begin its call with.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_begin_with_open_gets_no_session() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).danger_disable_inner_tls().start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let client = PlayedClient::start(&world).await?;
    let mut cases = breaches();
    cases.push(("credit", Words::Frames(vec![credit(0, CREDIT_INITIAL)])));
    cases.push(("an end", Words::Frames(vec![stream(Frame::Fin { offset: 0 })])));
    for (name, words) in cases {
        let mut call = client.peer.call(path::OPEN).await?;
        words.say(&mut call);
        let end = call.turned_away().await.with_context(|| name.to_owned())?;
        ensure!(!matches!(end, Some(SessionFrame::Refused(_))), "{name}: {end:?}");
    }
    bystander.exchange().await?;
    ensure!(world.audit_of("allowed")?.len() == 1, "somebody else than the bystander was allowed");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_between_the_bytes_and_their_end_leaves_a_reset() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let Pair { mut app, mut target, .. } = Pair::open(&world, &host).await?;
    target.write_all(b"answer").await?;
    let mut seen = [0; 6];
    within("the bytes at the application", NOTICED, app.read_exact(&mut seen)).await??;
    world.server.kill().await?;
    // The target ends, and nobody is left to say so.
    target.shutdown().await.ok();
    for (who, stream) in [("application", &mut app), ("target", &mut target)] {
        let (more, ending) = within(who, NOTICED, read_to_ending(stream)).await?;
        ensure!((more, ending) == (0, Ending::Reset), "the {who} saw {ending:?} after {more} bytes");
    }
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_breaking_the_protocol_is_disconnected_and_nobody_else() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).danger_disable_inner_tls().start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let mut client = PlayedClient::start(&world).await?;
    let mark = world.server.mark();
    for number in 0..VIOLATIONS_MAX {
        ensure!(!client.peer.is_closed(), "closed after {number}");
        let (mut call, mut target) = client.open(&host).await?;
        Words::Frames(vec![credit(0, u64::MAX)]).say(&mut call);
        let (_, ending) = within("the reset at the target", NOTICED, read_to_ending(&mut target)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    within("the connection to close", NOTICED, Peer::closed(&mut client.peer)).await?;
    let said = "broke the protocol again and again: the connection is closed";
    world
        .server
        .wait_for_after(mark, said, |line| line["principal"] == "spiffe://acme.example/client/frontend")
        .await?;
    // The client that it shares its name with goes on.
    bystander.exchange().await?;
    world.finish(&[])
}
