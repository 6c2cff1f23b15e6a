//! Routes at every front end of a client, and what a relay says in the client's own name.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::InstanceId;
use ginnel_core::stream::Frame;
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::stream::read_to_ending;
use ginnel_testkit::{Ending, Relay, World, proxy, within};
use ginnel_wire::frame::SessionFrame;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::routes::{CUT_WITHIN, refused, reload, routed, routes_of};
use super::{NOTICED, SECRET, entry, hasty_application, refusal};

/// SOCKS5: connection not allowed by the ruleset.
const NOT_ALLOWED: u8 = 2;

/// What plain HTTP is told of a target, which must be that no route permits it.
async fn plain_http_is_refused(world: &World, target: SocketAddr) -> Result<()> {
    let request = format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let answer = within("an answer", NOTICED, proxy::request_answer(world.proxy_addr(), request.as_bytes())).await??;
    let said = answer.refused()?;
    ensure!((said.status, said.hop.as_str(), said.cause.as_str()) == (403, "client", "notOnRoute"), "{said:?}");
    Ok(())
}

/// Connects by the forward, whose application can only be reset.
async fn forward_is_refused(world: &World, mark: usize) -> Result<()> {
    let (heard, ending) = match TcpStream::connect(world.forward_addr(0)?).await {
        Ok(mut app) => within("the end at a forward", NOTICED, read_to_ending(&mut app)).await?,
        // A reset that comes at once is told by whatever the application asks first.
        Err(error) => (0, Ending::of(&error)),
    };
    ensure!((heard, ending) == (0, Ending::Reset), "{heard} bytes, {ending:?}");
    let is_it = |line: &Value| line["cause"] == "notOnRoute" && line["hop"] == "client";
    world.client.wait_for_after(mark, "refused", is_it).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_front_end_keeps_to_the_routes_before_and_after_a_reload() -> Result<()> {
    let (host, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (at, off) = (host.local_addr()?, other.local_addr()?);
    let world = routed(&[(at, "acme")]).forward(at).target(off).start().await?;
    refused(&world, off).await?;
    plain_http_is_refused(&world, off).await?;
    let code = proxy::socks5(world.proxy_addr(), &off.ip().to_string(), off.port()).await?;
    ensure!(matches!(code, Err(NOT_ALLOWED)), "{code:?}");

    // A forward in use, whose target a reload takes off.
    let mut app = TcpStream::connect(world.forward_addr(0)?).await?;
    app.write_all(SECRET).await?;
    let (mut target, _) = within("the agent to dial", NOTICED, host.accept()).await??;
    let mut heard = vec![0; SECRET.len()];
    within("the application's bytes", NOTICED, target.read_exact(&mut heard)).await??;
    ensure!(heard == SECRET, "{heard:?}");
    // The forward has to be gone from the file as well: one that leads nowhere is an error of it.
    world.edit("client", |config| {
        config["routes"] = routes_of(&[(off, "acme")]);
        drop(config["listen"].as_object_mut().map(|listen| listen.remove("forwards")));
    })?;
    let mark = world.client.mark();
    let said = reload(&world).await?;
    ensure!(said.contains("1 session is no longer permitted and was ended"), "{said}");
    for stream in [&mut app, &mut target] {
        let (_, ending) = within("the end of a forward's session", CUT_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    // It goes on listening until a restart, and leads nowhere.
    forward_is_refused(&world, mark).await?;
    plain_http_is_refused(&world, at).await?;
    let code = proxy::socks5(world.proxy_addr(), &at.ip().to_string(), at.port()).await?;
    ensure!(matches!(code, Err(NOT_ALLOWED)), "{code:?}");
    ensure!(world.audit_of("refused")?.is_empty(), "the server heard of it");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_that_speaks_in_the_clients_own_name_is_not_believed() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let at = host.local_addr()?;
    let mut world = routed(&[(at, "acme")]).target(at).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let roster = vec![entry(at, InstanceId::random(&mut SystemRandom))?];
    let _link = relay.welcome_client(&world, roster).await?;
    let reset = |cause, hop| SessionFrame::Stream(Frame::Reset { cause, hop });
    let lies = [
        SessionFrame::Refused(Refusal::new(Hop::Client, Cause::NotOnRoute)),
        SessionFrame::Refused(Refusal::new(Hop::Server, Cause::NotOnRoute)),
        SessionFrame::Refused(Refusal::new(Hop::Client, Cause::PeerNotVerified)),
        reset(Cause::NotOnRoute, Some(Hop::Client)),
        reset(Cause::NotOnRoute, None),
    ];
    for lie in lies {
        let app = hasty_application(&world, at);
        let (mut call, _) = relay.opening().await?;
        call.say_frame(lie.clone())?;
        let said = refusal(app).await?;
        ensure!((said.hop.as_str(), said.cause.as_str()) == ("server", "protocolError"), "{lie:?}: {said:?}");
    }
    world.finish(&[ginnel_testkit::Part::Server])
}
