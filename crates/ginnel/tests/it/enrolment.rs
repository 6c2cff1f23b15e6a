//! Enrolment calls that no well-behaved program would make.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_core::limits::ENROL_DEADLINE;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Call, Peer, enrolment};
use ginnel_testkit::usage::resident_kib;
use ginnel_testkit::{World, proxy};
use ginnel_wire::{path, v1};

use crate::world;

/// What the server may need more than before, over all calls of a test: what an allocator keeps, not what a caller sends.
const MORE_KIB_MAX: u64 = 4 * 1024;

/// What a caller sends that does not stop.
const FLOOD: usize = 64 << 20;

async fn call(world: &World) -> Result<(Peer, Call)> {
    let peer = Peer::connect(world, None).await?;
    let call = peer.call(path::ENROL).await?;
    Ok((peer, call))
}

/// The status of a call that must not succeed; 0 stands for a stream that was reset.
async fn refused(call: &mut Call) -> Result<u32> {
    match call.status().await {
        Ok(0) => anyhow::bail!("the call succeeded"),
        Ok(status) => Ok(status),
        Err(_) => Ok(0),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_refused_before_it_is_kept() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let world = world().target(&target).start().await?;
    let mut bystander = proxy::connect(world.proxy_addr(), &target).await?.opened()?.stream;
    let chunk = vec![b'x'; 16 * 1024];
    // Everything once, so that what is measured is not the first use of anything.
    let mut before = None;
    for _ in 0..2 {
        // Four GiB announced, and then as much as the server takes.
        let (_peer, mut huge) = call(&world).await?;
        huge.say_bytes(&b"\0\xff\xff\xff\xff"[..])?;
        for _ in 0..FLOOD / chunk.len() {
            if huge.say_bytes(chunk.clone()).is_err() {
                break;
            }
        }
        refused(&mut huge).await?;
        // One byte more than is taken.
        let (_peer, mut large) = call(&world).await?;
        large.say(&v1::EnrolRequest { token: "x".repeat(16 * 1024), ..v1::EnrolRequest::default() })?;
        // The refusal may come before the end.
        large.end().ok();
        refused(&mut large).await?;
        // A message that says to be compressed: small on the wire, whatever it is afterwards.
        let (_peer, mut compressed) = call(&world).await?;
        compressed.say_bytes(&b"\x01\0\0\0\x04\x1f\x8b\x08\0"[..])?;
        compressed.end().ok();
        refused(&mut compressed).await?;
        before.get_or_insert(resident_kib(world.server.pid())?);
    }
    let (before, after) = (before.context("measured")?, resident_kib(world.server.pid())?);
    ensure!(after < before + MORE_KIB_MAX, "{before} KiB before, {after} KiB after");
    ensure!(world.audit_of("enrolled")?.len() == 2, "only agent and client are enrolled");
    tokio::io::AsyncWriteExt::write_all(&mut bystander, b"x").await?;
    ensure!(tokio::io::AsyncReadExt::read_u8(&mut bystander).await? == b'x');
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_message_that_comes_in_time() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let enrolled = world.audit_of("enrolled")?.len();

    // The second message is answered by nothing: one call, one certificate at most.
    let (_peer, mut twice) = call(&world).await?;
    let (first, second) = (enrolment(&world, "agent.json")?.1, enrolment(&world, "client.json")?.1);
    twice.say(&first)?;
    // The server may have answered, and closed the call, before this leaves.
    let _ = twice.say(&second).and_then(|()| twice.end());
    let _: Result<v1::EnrolResponse> = twice.hear().await;
    ensure!(twice.hear::<v1::EnrolResponse>().await.is_err(), "a second answer");
    ensure!(world.audit_of("enrolled")?.len() <= enrolled + 1, "two certificates for one call");

    // A second message that is none spoils the first, unless that is answered already: one certificate at most here too.
    let (_peer, mut spoiled) = call(&world).await?;
    spoiled.say(&enrolment(&world, "agent.json")?.1)?;
    let _ = spoiled.say_bytes(&b"\0\0\0\0\x02\xff\xff"[..]).and_then(|()| spoiled.end());
    let _ = spoiled.status().await;
    ensure!(world.audit_of("enrolled")?.len() <= enrolled + 2, "two certificates for one call");

    // Whoever says nothing is not waited for.
    let began = Instant::now();
    let (_peer, mut silent) = call(&world).await?;
    refused(&mut silent).await?;
    let waited = began.elapsed();
    ensure!(waited < ENROL_DEADLINE + Duration::from_secs(5), "{waited:?}");
    world.finish(&[])
}
