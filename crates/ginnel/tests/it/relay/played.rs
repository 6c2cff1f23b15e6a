//! What the relay says beside the records: it plays sessions back, claims that somebody cannot do what it can, and takes its time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_core::id::{InstanceId, RequestId, SessionId};
use ginnel_core::target::Target;
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::relay::{CLIENT, Call, Direction};
use ginnel_testkit::stream::bytes;
use ginnel_testkit::{Part, Relay, World, within};
use ginnel_wire::frame::{Open, SessionFrame};
use ginnel_wire::hello::{Dial, LANES};
use ginnel_wire::v1;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{GREETING, NOTICED, SECRET, Witness, entry, hasty_application, opened, refusal};
use crate::pair::Pair;
use crate::world;

/// How long nothing may arrive before it counts as held back. What is not held back takes a thousandth of it.
const HELD: Duration = Duration::from_millis(300);

/// A session as the client said it, and the order that the agent got.
struct Tape {
    dial: Dial,
    said: Vec<SessionFrame>,
}

/// Passes on what both sides say until the target has heard the secret and the application has left, and keeps what the client said.
async fn recorded(world: &World, relay: &mut Relay, link: &mut Call, target: SocketAddr) -> Result<Tape> {
    let app = hasty_application(world, target);
    let (mut client, Open { request, target, inner_tls, .. }) = relay.opening().await?;
    let session = SessionId::random(&mut SystemRandom);
    let (target, client_uri, early) = (target.parse()?, CLIENT.parse()?, Default::default());
    let dial = Dial { session, request, target, client: client_uri, inner_tls, early };
    let mut agent = relay.dial(link, &dial).await?;
    let mut said = Vec::new();
    let mut agent_has_ended = false;
    let pass = async {
        loop {
            tokio::select! {
                heard = client.next() => match heard? {
                    Some(frame) => {
                        said.push(frame.clone());
                        agent.say_frame(frame)?;
                    }
                    None => return anyhow::Ok(()),
                },
                heard = agent.next(), if !agent_has_ended => match heard? {
                    Some(frame) => client.say_frame(frame)?,
                    None => {
                        agent_has_ended = true;
                        client.end()?;
                    }
                },
            }
        }
    };
    let converse = async {
        let mut stream = app.await??.opened()?.stream;
        let mut heard = vec![0; GREETING.len() + SECRET.len()];
        stream.read_exact(&mut heard).await?;
        ensure!(heard == [GREETING, SECRET].concat(), "{:?}", String::from_utf8_lossy(&heard));
        drop(stream);
        anyhow::Ok(())
    };
    within("a session to be recorded", NOTICED, async { tokio::try_join!(pass, converse) }).await??;
    Ok(Tape { dial, said })
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_is_played_back_to_the_agent_reaches_nobody() -> Result<()> {
    let witness = Witness::start().await?;
    let at = witness.host.address();
    let mut world = world().target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(at, instance)?]).await?;
    // The first handshake is in full; the second resumes it, with a ticket that is good once.
    let mut tapes = Vec::new();
    for _ in 0..2 {
        tapes.push(recorded(&world, &mut relay, &mut link, at).await?);
    }
    let hello = |tape: &Tape| match tape.said.first() {
        Some(SessionFrame::Stream(ginnel_core::stream::Frame::Data { bytes, .. })) => bytes.len(),
        _ => 0,
    };
    ensure!(hello(&tapes[1]) > hello(&tapes[0]), "the second hello shows no ticket");
    let before = witness.heard().await?;

    for (number, tape) in tapes.iter().enumerate() {
        // As it was, and once more under a new name, word for word inside.
        for session in [tape.dial.session, SessionId::random(&mut SystemRandom)] {
            let mark = world.agents[0].mark();
            let mut call = relay.dial(&mut link, &Dial { session, ..tape.dial.clone() }).await?;
            for frame in &tape.said {
                // An agent that has heard enough listens no more.
                if call.say_frame(frame.clone()).is_err() {
                    break;
                }
            }
            call.to_end(GREETING).await.with_context(|| format!("tape {number}"))?;
            let request = tape.dial.request.to_string();
            let is_it = |line: &Value| line["request"] == request && line["cause"] == "peerNotVerified";
            world.agents[0].wait_for_after(mark, "refused", is_it).await?;
        }
    }
    ensure!(witness.heard().await? == before, "the target heard of a session that was played back");
    world.finish(&[Part::Server])
}

/// Ways to say that the server is newer than it is, or nobody. A client that is turned away three times in a row would enrol first.
fn welcomes() -> Vec<(&'static str, Option<v1::Welcome>)> {
    let of = |protocol_version| Some(v1::Welcome { protocol_version, ..Relay::welcome() });
    vec![("no welcome", None), ("the greatest version", of(u32::MAX))]
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_that_claims_another_version_is_left_and_one_that_claims_to_know_no_tls_gets_no_less() -> Result<()> {
    let witness = Witness::start().await?;
    let at = witness.host.address();
    let mut world = world().target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let entries = |instance| -> Result<Vec<v1::RosterEntry>> { Ok(vec![entry(at, instance)?.into()]) };
    let instance = InstanceId::random(&mut SystemRandom);
    let mark = world.agents[0].mark();
    for protocol_version in OTHERS {
        let _refused = relay.answer_agent(v1::Welcome { protocol_version, ..Relay::welcome() }).await?;
        let is_it = |line: &Value| line["version"] == protocol_version;
        world.agents[0].wait_for_after(mark, OTHER_VERSION, is_it).await?;
    }
    for (name, welcome) in welcomes() {
        let mark = world.client.mark();
        let words = if welcome.is_none() { "the server did not say who it is" } else { OTHER_VERSION };
        let answer = v1::RosterMessage { welcome, entries: entries(instance)? };
        // It comes back after each of them, and asks again.
        let _link = relay.answer_client(&answer).await.context(name)?;
        world.client.wait_for_after(mark, words, |_| true).await.context(name)?;
    }

    // A word about capabilities changes nothing: the client shakes hands, and says nothing to whoever does not.
    let welcome = v1::Welcome { capabilities: vec!["plaintext".to_owned(), String::new()], ..Relay::welcome() };
    let mark = world.client.mark();
    let answer = v1::RosterMessage { welcome: Some(welcome), entries: entries(instance)? };
    let link = relay.answer_client(&answer).await?;
    world.roster(mark, 1).await?;
    let app = hasty_application(&world, at);
    let (mut call, open) = relay.opening().await?;
    ensure!(open.inner_tls, "the client asks for a session in the clear");
    call.say_frame(opened(at))?;
    call.say_frame(super::data(GREETING))?;
    call.to_end(SECRET).await?;
    let said = refusal(app).await?;
    ensure!((said.hop.as_str(), said.cause.as_str()) == ("client", "peerNotVerified"), "{said:?}");
    ensure!(witness.heard().await?.is_empty(), "the target heard something");

    // The least version, to a client that was content with the one before.
    let mark = world.client.mark();
    drop(link);
    let welcome = v1::Welcome { protocol_version: 0, ..Relay::welcome() };
    let answer = v1::RosterMessage { welcome: Some(welcome), entries: entries(instance)? };
    let _link = relay.answer_client(&answer).await?;
    world.client.wait_for_after(mark, OTHER_VERSION, |line| line["version"] == 0).await?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn further_connection_of_another_version_carries_nothing() -> Result<()> {
    let at = TcpListener::bind("127.0.0.1:0").await?;
    let at = at.local_addr()?;
    let mut world = world().client_setting("connections", json!({"min": 2})).target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let mut welcome = Relay::welcome();
    welcome.capabilities.push(LANES.to_owned());
    let mark = world.client.mark();
    let first = v1::RosterMessage { welcome: Some(welcome.clone()), entries: Vec::new() };
    let _link = relay.answer_client(&first).await?;
    world.roster(mark, 0).await?;
    for protocol_version in OTHERS {
        let welcome = v1::Welcome { protocol_version, ..welcome.clone() };
        // The second round shows as well that the connection of the first one was left.
        let _link = relay.answer_further(&v1::RosterMessage { welcome: Some(welcome), entries: Vec::new() }).await?;
        let is_it = |line: &Value| line["version"] == protocol_version;
        world.client.wait_for_after(mark, OTHER_VERSION, is_it).await?;
    }
    world.finish(&[Part::Server])
}

/// Versions that nobody speaks.
const OTHERS: [u32; 2] = [0, u32::MAX];

const OTHER_VERSION: &str = "the server speaks another version of the protocol";

#[tokio::test(flavor = "multi_thread")]
async fn relay_that_lies_about_where_a_session_leads_is_given_nothing() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let at = host.local_addr()?;
    let mut world = world().target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(at, instance)?]).await?;
    let app = hasty_application(&world, at);
    let (mut client, Open { request, target, inner_tls, .. }) = relay.opening().await?;
    client.say_frame(opened(SocketAddr::new(at.ip(), 1)))?;
    client.to_end(SECRET).await?;
    let said = refusal(app).await?;
    ensure!((said.hop.as_str(), said.cause.as_str()) == ("server", "protocolError"), "{said:?}");
    ensure!((request.to_string(), target.as_str(), inner_tls) == (said.request_id, at.to_string().as_str(), true));

    // The same lie to an agent is no target that its owner lists.
    let elsewhere: Target = SocketAddr::new(at.ip(), 1).to_string().parse()?;
    let (session, request) = (SessionId::random(&mut SystemRandom), RequestId::random(&mut SystemRandom));
    let dial = Dial {
        session,
        request,
        target: elsewhere,
        client: CLIENT.parse()?,
        inner_tls: true,
        early: Default::default(),
    };
    let mut call = relay.dial(&mut link, &dial).await?;
    call.to_end(GREETING).await?;
    let request = request.to_string();
    let is_it = |line: &Value| line["request"] == request && line["cause"] == "notOnAllowList";
    world.agents[0].wait_for("refused", is_it).await?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_that_delays_and_holds_back_costs_time_and_nothing_else() -> Result<()> {
    /// Some thirty frames, each of which is held back.
    const LENGTH: usize = 300 << 10;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let at = host.local_addr()?;
    let mut world = world().target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(at, instance)?]).await?;
    let (mut pair, bridge) = tokio::try_join!(Pair::open(&world, &host), relay.bridge(&mut link))?;
    pair.exchange().await?;

    for direction in [Direction::Up, Direction::Down] {
        let (from, to) = match direction {
            Direction::Up => (&mut pair.app, &mut pair.target),
            Direction::Down => (&mut pair.target, &mut pair.app),
        };
        bridge.delay(None);
        let passage = bytes(11, LENGTH);
        let mut heard = vec![0; LENGTH];
        let send = from.write_all(&passage);
        let receive = async {
            let early = timeout(HELD, to.read_u8()).await;
            ensure!(early.is_err(), "what was held back has arrived: {early:?}");
            bridge.delay(Some(Duration::from_millis(5)));
            to.read_exact(&mut heard).await?;
            anyhow::Ok(())
        };
        let (sent, received) =
            within("a passage that is held back", NOTICED, async { tokio::join!(send, receive) }).await?;
        sent?;
        received?;
        ensure!(heard == passage, "{direction:?}: other bytes arrived");
    }
    bridge.delay(Some(Duration::ZERO));
    pair.exchange().await?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for every deadline: ./test hostile"]
async fn whatever_the_relay_leaves_unanswered_has_a_deadline() -> Result<()> {
    let witness = Witness::start().await?;
    let at = witness.host.address();
    let mut world = world().target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(at, instance)?]).await?;

    // A client whose request nobody answers, and an agent whose session nobody comes for.
    let app = hasty_application(&world, at);
    let (mut held, open) = relay.opening().await?;
    let client: ginnel_core::principal::Principal = CLIENT.parse()?;
    let (session, early) = (SessionId::random(&mut SystemRandom), Default::default());
    let dial = Dial { session, request: open.request, target: at.to_string().parse()?, client, inner_tls: true, early };
    let mut call = relay.dial(&mut link, &dial).await?;
    let said = refusal(app).await?;
    ensure!(said.cause == "timedOut", "{said:?}");
    let request = dial.request.to_string();
    let is_it = |line: &Value| line["request"] == request && line["cause"] == "timedOut";
    world.agents[0].wait_for("refused", is_it).await?;
    call.to_end(GREETING).await?;
    held.to_end(SECRET).await?;
    let heard = witness.heard().await?;
    if !heard.is_empty() {
        bail!("the target heard {} bytes", heard.len());
    }
    world.finish(&[Part::Server])
}
