//! The same random scripts over direct TCP and through client, server and agent: nobody can tell one from the other.
//!
//! `GINNEL_ORACLE_SCRIPTS` says how many scripts each test plays, `GINNEL_ORACLE_SEED` where their seeds start. A failure names the seed of
//! its script; with that seed and one script, it is played again.
#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use ginnel_testkit::World;
use ginnel_testkit::oracle::{Direct, Forgetful, Proxied, Route, Script, Tally, compare, shrink};
use tokio::task::JoinSet;

use crate::world;

/// Scripts of each test unless the environment says otherwise.
const SCRIPTS: u64 = 250;

/// Seed of the first script unless the environment says otherwise: what guards a change is the same every time.
const SEED: u64 = 1;

/// Scripts at once. Their pauses overlap, and the sessions share their connections as those of real applications do.
const AT_ONCE: usize = 16;

/// Scripts within which a relay that turns RST into FIN is found out. About one in four has a RST that is certain.
const FOUND_WITHIN: u64 = 60;

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} must be a number, and is {text:?}")),
        Err(_) => Ok(default),
    }
}

/// Plays the scripts of `count` seeds from `first` on, and says what they gave; the first that fails is made small and shown.
async fn play_all<R, F>(first: u64, count: u64, mut route: impl FnMut() -> F) -> Result<Tally>
where
    R: Route + Send + 'static,
    F: Future<Output = Result<R>>,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut players = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (mut direct, mut route, next) = (Direct::new().await?, route().await?, Arc::clone(&next));
        players.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(tally);
                }
                let script = Script::random(first + number);
                match compare(&script, &mut direct, &mut route).await {
                    Ok(one) => tally.add(&one),
                    Err(error) => return Err((script, error)),
                }
            }
        });
    }
    let mut tally = Tally::default();
    while let Some(played) = players.join_next().await {
        match played? {
            Ok(one) => tally.add(&one),
            Err((script, error)) => {
                players.shutdown().await;
                let (_, smaller) = shrink(&script, &mut Direct::new().await?, &mut route().await?).await;
                let smaller = smaller.unwrap_or_else(|| "none failed again".to_owned());
                bail!(
                    "GINNEL_ORACLE_SEED={} GINNEL_ORACLE_SCRIPTS=1\n{error:#}\n\nmade smaller: {smaller}",
                    script.seed
                );
            }
        }
    }
    Ok(tally)
}

async fn behaves_like_tcp(world: World) -> Result<()> {
    let (first, count) = (setting("GINNEL_ORACLE_SEED", SEED)?, setting("GINNEL_ORACLE_SCRIPTS", SCRIPTS)?);
    let proxy = world.proxy_addr();
    println!("seeds {first} to {}", first.saturating_add(count) - 1);
    let tally = play_all(first, count, || Proxied::new(proxy)).await?;
    println!("{tally:?}");
    // An oracle that leaves most to timing would find nothing.
    ensure!(count < SCRIPTS || tally.certain > 4 * tally.open, "{tally:?}");
    ensure!(count < SCRIPTS || (tally.fins > 0 && tally.resets > 0), "{tally:?}");
    world.finish(&[])
}

const ANY_PORT: &str = "127.0.0.1:1-65535";

#[tokio::test(flavor = "multi_thread")]
async fn random_scripts_see_what_direct_tcp_shows() -> Result<()> {
    behaves_like_tcp(world().target(ANY_PORT).start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_scripts_see_what_direct_tcp_shows_without_inner_encryption() -> Result<()> {
    behaves_like_tcp(world().target(ANY_PORT).danger_disable_inner_tls().start().await?).await
}

/// The script with which the oracle finds `route` out.
async fn found_out<R, F>(route: impl FnMut() -> F) -> Result<()>
where
    R: Route + Send + 'static,
    F: Future<Output = Result<R>>,
{
    match play_all(setting("GINNEL_ORACLE_SEED", SEED)?, FOUND_WITHIN, route).await {
        Ok(tally) => bail!("a relay that turns RST into FIN went unnoticed in {FOUND_WITHIN} scripts: {tally:?}"),
        Err(error) => {
            let error = format!("{error:#}");
            ensure!(error.contains("ended with Eof where TCP has Reset"), "{error}");
            println!("{error}");
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_turns_rst_into_fin_is_found_out() -> Result<()> {
    found_out(|| Forgetful::new(None)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_behind_the_tunnel_that_turns_rst_into_fin_is_found_out() -> Result<()> {
    let world = world().target(ANY_PORT).start().await?;
    let proxy = world.proxy_addr();
    found_out(|| Forgetful::new(Some(proxy))).await?;
    world.finish(&[])
}
