//! HTTP/2 and gRPC as no well-behaved program speaks them, beside a session that must not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::usage::resident_kib;
use ginnel_testkit::{Attacker, World};
use serde_json::json;

use crate::canary::{Canary, Songs};
use crate::tls::attacker;
use crate::{report, world};

/// What a server may need more than before, in KiB, for any one connection and all that comes on it.
const MORE_KIB_MAX: u64 = 16 << 10;

/// The same for all streams that a connection may have at once, which are not of one connection's frames but calls.
const STREAMS_KIB_MAX: u64 = 32 << 10;

/// How much longer messages may take beside a flood, at p99. Beside other tests most of it is theirs; the ignored test is strict.
const LATER_MAX: Duration = Duration::from_secs(1);

/// The same on a machine that does nothing else, from an optimised build.
const LATER_MAX_ALONE: Duration = Duration::from_millis(50);

/// What becomes of the connection of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is closed.
    Closed,
    /// It may be closed; if not, it answers.
    Either,
}

/// A kind of flood, with a certificate or without, and what becomes of it.
const FLOODS: &[(&str, bool, Fate)] = &[
    ("continuation", true, Fate::Closed),
    ("continuation", false, Fate::Closed),
    ("empty continuation", true, Fate::Closed),
    ("empty continuation", false, Fate::Closed),
    ("rapid reset", true, Fate::Closed),
    ("rapid reset", false, Fate::Closed),
    ("made you reset", true, Fate::Closed),
    ("made you reset", false, Fate::Closed),
    ("made you reset after the end", true, Fate::Closed),
    ("made you reset after the end", false, Fate::Closed),
    ("streams", true, Fate::Either),
    ("streams", false, Fate::Either),
    ("empty data", true, Fate::Closed),
    ("empty data", false, Fate::Closed),
    ("tiny data", true, Fate::Either),
    ("tiny data", false, Fate::Either),
    ("padding", true, Fate::Either),
    ("ping", true, Fate::Either),
    ("ping", false, Fate::Either),
    ("settings", true, Fate::Either),
    ("settings", false, Fate::Either),
    ("empty settings", true, Fate::Either),
    ("unknown", true, Fate::Either),
    ("priority", true, Fate::Either),
    ("window", true, Fate::Either),
];

/// A world whose client may not open many sessions in a second, so that few calls are too many.
async fn slow_world(host: &TcpHost) -> Result<World> {
    world().target(host.address()).server_setting("/limits", json!({"opensPerSecond": 200})).start().await
}

/// Plays one flood of `count` frames and tells how a message beside it did.
async fn flood(
    world: &World,
    host: &TcpHost,
    attacker: &Attacker,
    flood: (&str, bool, Fate),
    count: u64,
) -> Result<Songs> {
    let (kind, certificate, fate) = flood;
    let server = world.server.pid();
    let canary = Canary::start(world, host.address()).await?;
    let memory = resident_kib(server)?;
    let told = json!({"flood": kind, "certificate": certificate, "count": count});
    let answer = attacker.play("flood.py", &told).await.with_context(|| kind.to_owned())?;
    let grown = resident_kib(server)?.saturating_sub(memory);
    let songs = canary.finish().await.with_context(|| kind.to_owned())?;
    report(format_args!(
        "{kind}, certificate {certificate}: {answer}, {grown} KiB more, {:?} at p99",
        songs.clone().p99()
    ));
    let (closed, answers) = (answer["closed"] == true, answer["answers"] == true);
    ensure!(closed || (fate == Fate::Either && answers), "{kind}, certificate {certificate}: {answer}");
    let most = if kind == "streams" { STREAMS_KIB_MAX } else { MORE_KIB_MAX };
    ensure!(grown <= most, "{kind}, certificate {certificate}: {grown} KiB more");
    Ok(songs)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_close_their_connection_or_are_borne() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = slow_world(&host).await?;
    let attacker = attacker(&world).await?;
    // The first flood of all pays for what is used for the first time.
    flood(&world, &host, &attacker, ("ping", true, Fate::Either), 1000).await?;
    for &one in FLOODS {
        let p99 = flood(&world, &host, &attacker, one, 20_000).await?.p99();
        ensure!(p99 <= LATER_MAX, "{one:?}: a message took {p99:?}");
    }
    ensure!(world.audit_of("allowed")?.len() == FLOODS.len() + 1, "more than the canaries was allowed");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million frames of each kind, and wants a quiet machine: ./test floods"]
async fn floods_of_a_million_frames_delay_nobody() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let attacker = attacker(&world).await?;
    let alone = Canary::start(&world, host.address()).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let alone = alone.finish().await?.p99();
    for &one in FLOODS {
        let beside = flood(&world, &host, &attacker, one, 1_000_000).await?.p99();
        let later = beside.saturating_sub(alone);
        ensure!(later <= LATER_MAX_ALONE, "{one:?}: a message took {beside:?}, and {alone:?} alone");
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_h2spec_ends_as_the_rfc_says() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let attacker = attacker(&world).await?;
    let canary = Canary::start(&world, host.address()).await?;
    attacker.survives("http2.py", 180).await?;
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_encodings_and_messages_that_make_no_sense_leave_the_connection() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let attacker = attacker(&world).await?;
    let canary = Canary::start(&world, host.address()).await?;
    attacker.survives("grpc_cases.py", 70).await?;
    canary.finish().await?;
    world.finish(&[])
}
