//! What lasts as long as its two ends like, and what reaches the other end at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ginnel_core::limits::{OPEN_DEADLINE, REQUEST_DEADLINE, SILENCE_MAX};
use ginnel_testkit::stream::{bytes, read_to_ending};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Ending, World, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::pair::Pair;
use crate::world;

/// Longer than every deadline that a connection or a request has before its session is up. A session has none.
const LONG: Duration = Duration::from_secs(REQUEST_DEADLINE.as_secs() + 2);
const _: () = assert!(LONG.as_secs() > OPEN_DEADLINE.as_secs() && LONG.as_secs() > SILENCE_MAX.as_secs());

/// The pause between two words of an end that talks slowly.
const PAUSE: Duration = Duration::from_millis(250);

/// How soon a reset is at the other end, beyond the round trip, which is nothing on loopback.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Sessions of which the quickest counts: the machine may be busy, but whatever waits for a timer waits every time.
const TRIES: usize = 5;

/// More than all credits, so that a session whose reader does not read takes no more; less than the kernel holds besides.
const STALLING: usize = 600 << 10;

/// Ends the half of `first`, and has `second` say a word now and then, or nothing until the end.
async fn lasts(mut first: TcpStream, mut second: TcpStream, talks: bool) -> Result<()> {
    first.write_all(b"last words").await?;
    first.shutdown().await?;
    ensure!(read_to_ending(&mut second).await == (10, Ending::Eof), "the first end");
    let start = Instant::now();
    let mut words = 0;
    let talking = async {
        while start.elapsed() < LONG {
            if talks {
                second.write_all(b"word").await?;
                words += 1;
            }
            sleep(PAUSE).await;
        }
        second.write_all(b"word").await?;
        words += 1;
        second.shutdown().await?;
        anyhow::Ok(())
    };
    let (talked, heard) = tokio::join!(talking, read_to_ending(&mut first));
    talked?;
    ensure!(heard == (4 * words, Ending::Eof), "{heard:?} of {words} words");
    Ok(())
}

/// Says nothing for long, and then everything.
async fn keeps_quiet(mut pair: Pair) -> Result<()> {
    sleep(LONG).await;
    pair.exchange().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lasts_as_long_as_its_ends_like_silent_or_not_whole_or_half_closed() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let whole = Pair::open(&world, &host).await?;
    let mut halves = Vec::new();
    for talks in [true, false] {
        let Pair { app, target, .. } = Pair::open(&world, &host).await?;
        halves.push(tokio::spawn(lasts(app, target, talks)));
        let Pair { app, target, .. } = Pair::open(&world, &host).await?;
        halves.push(tokio::spawn(lasts(target, app, talks)));
    }
    let everything = async {
        keeps_quiet(whole).await?;
        for half in halves {
            half.await??;
        }
        anyhow::Ok(())
    };
    within("long sessions to end", LONG + SOON, everything).await??;
    world.finish(&[])
}

/// What the session is like when one of its ends is reset.
#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    /// The end that will see the reset does not read.
    Stalled,
    /// The end that will see the reset has ended its own half.
    HalfClosed,
    /// The end that resets has ended its half before, and the other one has seen that.
    Ended,
}

/// From the reset of one end to the moment at which the other end's kernel knows.
async fn takes(state: State, mut breaks: TcpStream, mut hears: TcpStream) -> Result<Duration> {
    match state {
        State::Idle => {}
        State::Stalled => breaks.write_all(&bytes(5, STALLING)).await?,
        State::HalfClosed => {
            hears.shutdown().await?;
            ensure!(breaks.read(&mut [0]).await? == 0, "the other half's end");
        }
        State::Ended => {
            breaks.shutdown().await?;
            ensure!(hears.read(&mut [0]).await? == 0, "the half's end");
        }
    }
    breaks.set_zero_linger()?;
    let start = Instant::now();
    drop(breaks);
    within("a reset", SOON, hears.ready(Interest::ERROR)).await??;
    Ok(start.elapsed())
}

async fn is_quick(state: State, application_breaks: bool, world: &World, host: &TcpListener) -> Result<()> {
    let mut quickest = Duration::MAX;
    for _ in 0..TRIES {
        let Pair { app, target, .. } = Pair::open(world, host).await?;
        let (breaks, hears) = if application_breaks { (app, target) } else { (target, app) };
        quickest = quickest.min(takes(state, breaks, hears).await?);
    }
    ensure!(quickest <= AT_ONCE, "{state:?}, by the application: {application_breaks}: {quickest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_at_the_other_end_within_a_tenth_of_a_second() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    for state in [State::Idle, State::Stalled, State::HalfClosed, State::Ended] {
        for application_breaks in [true, false] {
            is_quick(state, application_breaks, &world, &host).await?;
        }
    }
    world.finish(&[])
}
