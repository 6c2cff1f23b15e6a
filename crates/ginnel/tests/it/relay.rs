//! A server that turns hostile. It can delay, refuse and cut; it hears nothing of what is said, and changes nothing unnoticed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{InstanceId, RequestId, SessionId};
use ginnel_core::stream::Frame;
use ginnel_core::target::Target;
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::relay::{AGENT, Bridge, CLIENT, Call, Direction, Fault};
use ginnel_testkit::stream::bytes;
use ginnel_testkit::{Answer, Ending, Part, Refused, Relay, World, eventually, proxy, within};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::hello::{Dial, RosterEntry};
use ginnel_wire::inner::InnerHello;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::pair::Pair;
use crate::world;

mod fronts;
mod played;
mod records;
mod routes;

/// What applications say, and the relay must never hear.
const SECRET: &[u8] = b"correct horse battery staple";

/// What targets say, and the relay must never hear either.
const GREETING: &[u8] = b"220 private.acme.internal";

/// How soon a session is over once it was tampered with.
const NOTICED: Duration = Duration::from_secs(15);

/// Enough for several records in a row.
const PASSAGE: usize = 48 << 10;

/// The world's agent, as a process that may exist, on the roster for `target`.
fn entry(target: SocketAddr, instance: InstanceId) -> Result<RosterEntry> {
    let targets = vec![target.to_string().parse()?];
    Ok(RosterEntry { agent: AGENT.parse()?, targets, instances: vec![(instance, false)] })
}

fn data(bytes: &[u8]) -> SessionFrame {
    SessionFrame::Stream(Frame::Data { offset: 0, bytes: bytes.to_vec().into() })
}

fn opened(target: SocketAddr) -> SessionFrame {
    SessionFrame::Opened(target)
}

/// An application that does not wait for its answer: its secret is in the client's hands from the start.
fn hasty_application(world: &World, target: SocketAddr) -> JoinHandle<Result<Answer>> {
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let request = [head.as_bytes(), SECRET].concat();
    let proxy = world.proxy_addr();
    tokio::spawn(async move { proxy::request_answer(proxy, &request).await })
}

async fn refusal(app: JoinHandle<Result<Answer>>) -> Result<Refused> {
    within("an answer for the application", Duration::from_secs(40), app).await???.refused()
}

fn ensure_not_verified(refused: &Refused, case: &str) -> Result<()> {
    ensure!((refused.hop.as_str(), refused.cause.as_str()) == ("client", "peerNotVerified"), "{case}: {refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_the_relay_opens_to_nobody_is_given_nothing() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let _link = relay.welcome_client(&world, Vec::new()).await?;

    let app = hasty_application(&world, host.address());
    let (mut call, open) = relay.opening().await?;
    ensure!(open.agent.is_none(), "{open:?}");
    call.say_frame(opened(host.address()))?;
    let said = call.to_end(SECRET).await?;
    ensure!(!said.iter().any(|frame| matches!(frame, SessionFrame::Stream(Frame::Data { .. }))), "{said:?}");
    ensure_not_verified(&refusal(app).await?, "an open session to nobody")?;
    world.finish(&[Part::Server])
}

/// What the relay does in place of the agent that the client has chosen.
#[derive(Clone, Copy, Debug)]
enum Pretence {
    OtherAgent,
    Garbage,
    InTheClear,
    End,
    Echo,
}

impl Pretence {
    async fn play(self, relay: &Relay, mut call: Call) -> Result<()> {
        match self {
            Self::OtherAgent => {
                let other = relay.play_agent(call, "spiffe://acme.example/agent/other").await;
                ensure!(other.is_err(), "one agent was taken for another");
                return Ok(());
            }
            Self::Garbage => call.say_frame(data(&bytes(5, 1000)))?,
            Self::InTheClear => call.say_frame(data(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))?,
            Self::End => call.say_frame(SessionFrame::Stream(Frame::Fin { offset: 0 }))?,
            Self::Echo => match call.next().await? {
                Some(frame @ SessionFrame::Stream(Frame::Data { .. })) => call.say_frame(frame)?,
                other => bail!("{other:?} where there must be a ClientHello"),
            },
        }
        call.to_end(SECRET).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_cannot_pass_for_the_agent() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let instance = InstanceId::random(&mut SystemRandom);
    let _link = relay.welcome_client(&world, vec![entry(host.address(), instance)?]).await?;

    let pretences = [Pretence::OtherAgent, Pretence::Garbage, Pretence::InTheClear, Pretence::End, Pretence::Echo];
    for pretence in pretences {
        let app = hasty_application(&world, host.address());
        let (mut call, open) = relay.opening().await?;
        ensure!(open.agent.is_some_and(|choice| choice.instance == instance), "another choice than the roster's");
        call.say_frame(opened(host.address()))?;
        pretence.play(&relay, call).await.with_context(|| format!("{pretence:?}"))?;
        ensure_not_verified(&refusal(app).await?, &format!("{pretence:?}"))?;
    }

    // While it has the issuer as well, nothing stops it from a certificate of the agent's name: the same steps succeed with one.
    let app = hasty_application(&world, host.address());
    let (mut call, _) = relay.opening().await?;
    call.say_frame(opened(host.address()))?;
    let _inside = relay.play_agent(call, AGENT).await?;
    within("an answer for the application", NOTICED, app).await???.opened()?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_that_calls_itself_finished_is_a_refusal() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let roster = vec![entry(host.address(), InstanceId::random(&mut SystemRandom))?];
    let _link = relay.welcome_client(&world, roster).await?;
    let lies = [
        SessionFrame::Refused(Refusal::new(Hop::Server, Cause::Finished)),
        SessionFrame::Stream(Frame::Reset { cause: Cause::Finished, hop: None }),
    ];
    for lie in lies {
        let mut app = hasty_application(&world, host.address());
        let answer = loop {
            tokio::select! {
                answer = &mut app => break answer??,
                opening = relay.opening() => {
                    let (mut call, _) = opening?;
                    call.say_frame(lie.clone())?;
                    call.to_end(SECRET).await?;
                }
            }
        };
        let refused = answer.refused()?;
        ensure!(refused.status >= 500 && refused.cause != "finished", "{lie:?}: {refused:?}");
    }
    world.finish(&[Part::Server])
}

/// A target that greets whoever connects, gives back what it hears, and remembers it.
struct Witness {
    host: TcpHost,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    connected: AtomicUsize,
    gone: AtomicUsize,
    heard: Mutex<Vec<u8>>,
}

impl Record {
    fn heard(&self) -> MutexGuard<'_, Vec<u8>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn converse(&self, mut stream: TcpStream) -> Result<()> {
        stream.write_all(GREETING).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            self.heard().extend(&buffer[..length]);
            stream.write_all(&buffer[..length]).await?;
        }
    }
}

impl Witness {
    async fn start() -> Result<Self> {
        let record = Arc::new(Record::default());
        let kept = Arc::clone(&record);
        let host = TcpHost::start(move |stream| {
            let record = Arc::clone(&kept);
            record.connected.fetch_add(1, Ordering::SeqCst);
            async move {
                let ended = record.converse(stream).await;
                record.gone.fetch_add(1, Ordering::SeqCst);
                ended
            }
        })
        .await?;
        Ok(Self { host, record })
    }

    /// What all connections together said, once all of them are gone.
    async fn heard(&self) -> Result<Vec<u8>> {
        eventually("the target's connections to end", NOTICED, async || {
            let [connected, gone] = [&self.record.connected, &self.record.gone].map(|n| n.load(Ordering::SeqCst));
            Ok((connected == gone).then(|| self.record.heard().clone()))
        })
        .await
    }
}

/// What the relay says to an agent, and inside to go on as the client; in the clear if that is `None`.
type Words = (Dial, Option<InnerHello>);

/// The words of an honest session.
fn honest(target: SocketAddr) -> Result<(Dial, InnerHello)> {
    let (session, request) = (SessionId::random(&mut SystemRandom), RequestId::random(&mut SystemRandom));
    let target: Target = target.to_string().parse()?;
    let dial = Dial {
        session,
        request,
        target: target.clone(),
        client: CLIENT.parse()?,
        inner_tls: true,
        early: Default::default(),
    };
    Ok((dial, InnerHello { request, target }))
}

/// Dishonest ones, and the cause of the agent's refusal.
fn dishonest(listed: SocketAddr, unlisted: SocketAddr) -> Result<Vec<(&'static str, Words, Cause)>> {
    let other_client = "spiffe://acme.example/client/other".parse()?;
    let (other, other_hello) = honest(unlisted)?;
    let words = || honest(listed);
    let changed = |change: &dyn Fn(&mut Dial, &mut InnerHello)| {
        let (mut dial, mut hello) = honest(listed)?;
        change(&mut dial, &mut hello);
        anyhow::Ok((dial, Some(hello)))
    };
    let unverified = Cause::PeerNotVerified;
    Ok(vec![
        ("no client", (words()?.0, None), unverified),
        ("no encryption", (Dial { inner_tls: false, ..words()?.0 }, None), unverified),
        ("another target inside", changed(&|_, hello| hello.target = other.target.clone())?, unverified),
        ("another request inside", changed(&|_, hello| hello.request = other.request)?, unverified),
        ("another client outside", changed(&|dial, _| dial.client = Clone::clone(&other_client))?, unverified),
        ("an unlisted target", (other.clone(), Some(other_hello)), Cause::NotOnAllowList),
    ])
}

/// What an agent lets out to whoever says this hello, and the secret, inside.
async fn let_out(relay: &Relay, call: Call, hello: &InnerHello) -> Result<Vec<u8>> {
    let mut heard = Vec::new();
    // An agent that has refused already may not even shake hands, or may not listen any more.
    let Ok(mut inside) = relay.play_client(call, CLIENT).await else { return Ok(heard) };
    inside.write_all(&[&hello.encode(), SECRET].concat()).await.ok();
    inside.flush().await.ok();
    let read =
        async { while !heard.ends_with(SECRET) && inside.read_buf(&mut heard).await.is_ok_and(|length| length > 0) {} };
    within("the agent's last word", NOTICED, read).await?;
    Ok(heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_says_nothing_to_a_relay_without_its_client() -> Result<()> {
    let (listed, unlisted) = (Witness::start().await?, Witness::start().await?);
    let mut world = world().target(listed.host.address()).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, _) = relay.welcome_agent().await?;

    for (name, (dial, hello), cause) in dishonest(listed.host.address(), unlisted.host.address())? {
        let mut call = relay.dial(&mut link, &dial).await.context(name)?;
        match hello {
            None => {
                call.say_frame(data(SECRET))?;
                call.to_end(GREETING).await.context(name)?;
            }
            Some(hello) => {
                let heard = let_out(&relay, call, &hello).await.context(name)?;
                ensure!(heard.is_empty(), "{name}: the agent let {} bytes out", heard.len());
            }
        }
        let request = dial.request.to_string();
        let refused =
            world.agents[0].wait_for("refused", |line| line["request"] == request && line["cause"] == cause.as_str());
        refused.await.context(name)?;
    }

    // With honest words, and a certificate that only the issuer can give, the same steps lead to the target.
    let (dial, hello) = honest(listed.host.address())?;
    let call = relay.dial(&mut link, &dial).await?;
    let heard = let_out(&relay, call, &hello).await?;
    ensure!(heard.ends_with(&[GREETING, SECRET].concat()), "{:?}", String::from_utf8_lossy(&heard));
    ensure!(listed.heard().await? == SECRET, "the target heard of a session that was refused");
    ensure!(unlisted.record.connected.load(Ordering::SeqCst) == 0, "an unlisted target was connected");
    world.finish(&[Part::Server])
}

/// Everything that comes before the end, and how that was.
async fn hear_out(mut stream: impl AsyncRead + Unpin) -> (Vec<u8>, Ending) {
    let mut heard = Vec::new();
    let ending = stream.read_to_end(&mut heard).await;
    (heard, ending.map_or_else(|error| Ending::of(&error), |_| Ending::Eof))
}

/// Lets some bytes pass and then tampers with one direction: whatever is done, both ends are reset, and nothing wrong was heard.
async fn tamper(mut pair: Pair, bridge: &Bridge, direction: Direction, after: usize, fault: Fault) -> Result<()> {
    pair.exchange().await?;
    bridge.strike_after(direction, after, fault);
    let Pair { app, target, .. } = pair;
    let (from, to) = match direction {
        Direction::Up => (app, target),
        Direction::Down => (target, app),
    };
    let passage = bytes(9, PASSAGE);
    let (from_read, mut from_write) = from.into_split();
    // The kernel reports a reset once, to whoever asks first.
    let send = async { from_write.write_all(&passage).await.err().map(|error| Ending::of(&error)) };
    let ends = async { tokio::join!(send, hear_out(from_read), hear_out(to)) };
    let (sent, (back, sender), (heard, receiver)) = within("both ends to notice", NOTICED, ends).await?;
    let sender = sent.filter(|ending| *ending == Ending::Reset).unwrap_or(sender);
    ensure!(!bridge.is_armed(direction), "nothing was tampered with");
    ensure!((sender, receiver) == (Ending::Reset, Ending::Reset), "{sender:?}, {receiver:?}");
    ensure!(back.is_empty(), "{} bytes from nowhere", back.len());
    ensure!(heard.len() < passage.len() && passage.starts_with(&heard), "wrong bytes after {} right ones", heard.len());
    Ok(())
}

fn faults() -> Vec<Fault> {
    let refused = SessionFrame::Refused(Refusal::new(Hop::Agent, Cause::Finished));
    let reset = SessionFrame::Stream(Frame::Reset { cause: Cause::Finished, hop: None });
    vec![
        Fault::Flip(0),
        Fault::Flip(20),
        Fault::Flip(8 * 100),
        Fault::Drop,
        Fault::Duplicate,
        Fault::Insert,
        Fault::Replay,
        Fault::Swap,
        Fault::Cut,
        Fault::CutInside,
        Fault::End,
        Fault::Say(reset),
        Fault::Say(refused),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_relay_does_to_a_session_is_a_reset() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, instance) = relay.welcome_agent().await?;
    let _roster = relay.welcome_client(&world, vec![entry(host.local_addr()?, instance)?]).await?;
    for direction in [Direction::Up, Direction::Down] {
        for fault in faults() {
            let case = format!("{direction:?} {fault:?}");
            let (pair, bridge) = tokio::try_join!(Pair::open(&world, &host), relay.bridge(&mut link))?;
            tamper(pair, &bridge, direction, 0, fault).await.context(case)?;
        }
    }
    world.finish(&[Part::Server])
}
