//! Peers that prove who they are and then break off: every way to end an HTTP/2 stream that is not Fin is a reset.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_core::id::SessionId;
use ginnel_core::stream::Frame;
use ginnel_testkit::peer::{Call, Peer, enrol};
use ginnel_testkit::stream::read_to_ending;
use ginnel_testkit::{Ending, eventually, proxy, within};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::path;
use ginnel_wire::v1::{ServerMessage, server_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::played::{ATTACH, PlayedAgent, PlayedClient, ROSTER};
use crate::world;

/// gRPC's number for "you may not".
const PERMISSION_DENIED: u32 = 7;

/// How long the far end may stay unaware.
const NOTICED: Duration = Duration::from_secs(5);

/// A way to break off.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// RST_STREAM with this code: 0 says "no error", 8 "cancelled", both of which look like an end to many libraries.
    Code(u32),
    /// END_STREAM without a Fin before it.
    End,
}

impl Break {
    /// Every code that HTTP/2 defines, one that it does not, and the end.
    fn all() -> impl Iterator<Item = Self> {
        (0..=14).map(Self::Code).chain([Self::End])
    }

    fn happen(self, call: &mut Call) -> Result<()> {
        match self {
            Self::Code(code) => call.reset(code),
            Self::End => call.end()?,
        }
        Ok(())
    }
}

fn data(text: &'static [u8]) -> SessionFrame {
    SessionFrame::Stream(Frame::Data { offset: 0, bytes: text.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_breaks_a_stream_off_resets_the_target() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).danger_disable_inner_tls().start().await?;
    let client = PlayedClient::start(&world).await?;
    for way in Break::all() {
        let (mut call, mut target) = client.open(&host).await?;
        call.say_frame(data(b"question"))?;
        let mut seen = [0; 8];
        within("bytes at the target", NOTICED, target.read_exact(&mut seen)).await??;
        way.happen(&mut call)?;
        let (more, ending) = within(&format!("{way:?} at the target"), NOTICED, read_to_ending(&mut target)).await?;
        ensure!((more, ending) == (0, Ending::Reset), "{way:?}: {ending:?} after {more} bytes");
    }
    let sessions = world.audit_of("connected")?.len();
    let ended = world.audit_until("every end", |log| log.iter().filter(|r| r["event"] == "ended").count() == sessions);
    let finished = ended.await?.iter().any(|record| record["event"] == "ended" && record["cause"] == "finished");
    ensure!(!finished, "a session that was broken off is on record as finished");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_breaks_a_stream_off_resets_the_application() -> Result<()> {
    let (_held, silent) = ginnel_testkit::hosts::nobody()?;
    let world = world().agents(0).target(silent).danger_disable_inner_tls().start().await?;
    let mark = world.client.mark();
    let mut agent = PlayedAgent::start(&world).await?;
    world.roster(mark, 1).await?;
    for way in Break::all() {
        let target = silent.to_string();
        let (answer, call) = tokio::join!(proxy::connect(world.proxy_addr(), &target), agent.take(silent));
        let (mut app, mut call) = (answer?.opened()?.stream, call?);
        app.write_all(b"question").await?;
        call.say_frame(data(b"answer"))?;
        let mut seen = [0; 6];
        within("bytes at the application", NOTICED, app.read_exact(&mut seen)).await??;
        way.happen(&mut call)?;
        let (more, ending) = within(&format!("{way:?} at the application"), NOTICED, read_to_ending(&mut app)).await?;
        ensure!((more, ending) == (0, Ending::Reset), "{way:?}: {ending:?} after {more} bytes");
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_call_its_own_services_only() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let cases = [("agent.json", &[path::OPEN, ROSTER][..]), ("client.json", &[path::CARRY, ATTACH])];
    for (key_file, calls) in cases {
        let peer = Peer::connect(&world, Some(&enrol(&world, key_file).await?)).await?;
        for path in calls {
            let mut call = peer.call(path).await?;
            // A refusal may come before everything is said.
            call.end().ok();
            let status = call.status().await.with_context(|| format!("{key_file} {path}"))?;
            ensure!(status == PERMISSION_DENIED, "{key_file} {path}: {status}");
        }
    }
    let peer = Peer::connect(&world, None).await?;
    for path in [path::OPEN, ROSTER, path::CARRY, ATTACH] {
        let mut call = peer.call(path).await?;
        call.end().ok();
        let status = call.status().await.with_context(|| format!("nobody {path}"))?;
        ensure!(status == PERMISSION_DENIED, "nobody {path}: {status}");
    }
    ensure!(world.audit_of("allowed")?.is_empty(), "somebody was allowed something");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn session_of_one_link_cannot_be_taken_up_by_another() -> Result<()> {
    let (_held, silent) = ginnel_testkit::hosts::nobody()?;
    let world = world().agents(0).target(silent).danger_disable_inner_tls().start().await?;
    let mark = world.client.mark();
    let mut agent = PlayedAgent::start(&world).await?;
    world.roster(mark, 1).await?;
    let target = silent.to_string();
    let asking = tokio::spawn({
        let proxy = world.proxy_addr();
        async move { proxy::connect(proxy, &target).await }
    });
    let order: ServerMessage = agent.link.hear().await?;
    let Some(server_message::Kind::Dial(dial)) = order.kind else { bail!("instead of Dial: {order:?}") };
    let thief = PlayedAgent::start(&world).await?;
    let mut stolen = thief.peer.call(path::CARRY).await?;
    stolen.say_frame(SessionFrame::Take(SessionId::from_bytes(&dial.session_id)?))?;
    // It may have been turned away before this.
    stolen.say_frame(SessionFrame::Opened(silent)).ok();
    let heard = within("the thief to be turned away", Duration::from_secs(10), stolen.hear_frame()).await?;
    ensure!(heard.is_err(), "the thief heard {heard:?}");
    let mut call = agent.peer.call(path::CARRY).await?;
    call.say_frame(SessionFrame::Take(SessionId::from_bytes(&dial.session_id)?))?;
    call.say_frame(SessionFrame::Opened(silent))?;
    asking.await??.opened()?;
    let connected = eventually("the session in the audit", NOTICED, async || {
        let records = world.audit_of("connected")?;
        Ok((!records.is_empty()).then_some(records))
    });
    ensure!(connected.await?.len() == 1, "two agents carry one session");
    world.finish(&[])
}
