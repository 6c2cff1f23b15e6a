//! SIGKILL at random moments: whatever an application was told has a record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Answer, Part, World, proxy, within};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::{each_record, verified};
use crate::{report, world};

/// From the first session after a start to the kill, at most: some hundred groups of records.
const LIFE_MAX_MICROS: u64 = 150_000;

/// What an answer that was under way when the server died has to arrive. There are no others.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Kills the server that often, and holds the log to what applications heard.
async fn kills(count: u64) -> Result<()> {
    let seed: u64 = match std::env::var("GINNEL_KILL_SEED") {
        Ok(seed) => seed.parse().context("GINNEL_KILL_SEED")?,
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos().into(),
    };
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let mut world = world().target(&target).server_setting("/audit/file/rotateSize", "1MiB".into()).start().await?;
    let audit = world.directory().join("audit");
    let mut heard: BTreeMap<String, u64> = BTreeMap::new();
    let mut random = seed.max(1);
    for number in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let life = Duration::from_micros(random % LIFE_MAX_MICROS);
        let opened = kill(&mut world, &target, life).await;
        let opened = opened.with_context(|| format!("kill {number}, GINNEL_KILL_SEED={seed}"))?;
        heard.extend(opened.into_iter().map(|request| (request, number)));
        // Those that have lost their server so often would wait longer and longer for it; who is new does not.
        for part in [Part::Server, Part::Agent(0), Part::Client] {
            world.restart(part).await?;
        }
        world.roster(0, 1).await?;
    }
    let mut missing = BTreeMap::from([("allowed", heard.clone()), ("connected", heard.clone())]);
    each_record(&audit, |record| {
        if let Some(missing) = record["event"].as_str().and_then(|event| missing.get_mut(event)) {
            record["requestId"].as_str().map(|id| missing.remove(id));
        }
        Ok(())
    })?;
    let lost: Vec<_> = missing.into_iter().filter(|(_, missing)| !missing.is_empty()).collect();
    ensure!(
        lost.is_empty(),
        "on no record (by request, with the number of the kill): {lost:?}; GINNEL_KILL_SEED={seed}"
    );
    ensure!(heard.values().collect::<BTreeSet<_>>().len() as u64 == count, "some kills met nobody: {heard:?}");
    let whole = verified(&world, &audit).await?;
    // A chapter for each start, and one for each file that is left for another meanwhile, which kills come into as well.
    let (chapters, files) = (whole["chapters"].as_u64(), whole["files"].as_u64().unwrap_or(0));
    // Twenty do not fill a file of the smallest size that can be set.
    ensure!(files > 1 || count < 100, "the log never went on in another file: {whole}");
    ensure!(chapters.is_some_and(|chapters| (count + 1..=count + files).contains(&chapters)), "{whole}");
    let torn = whole["notes"]
        .as_array()
        .map_or(0, |notes| notes.iter().filter(|note| note.to_string().contains("a crash")).count());
    report(format_args!(
        "{count} kills, seed {seed}: {} sessions that applications heard of, none without its records; {torn} notes of what a crash left",
        heard.len()
    ));
    world.finish(&[])
}

/// Kills the server while six applications open one session after the other, `life` after the first; gives the requests of which they heard
/// that they are open.
async fn kill(world: &mut World, target: &str, life: Duration) -> Result<Vec<String>> {
    let (proxy, heard, first) = (world.proxy_addr(), Mutex::new(Vec::new()), Notify::new());
    let application = async || {
        loop {
            let Ok(Answer::Opened(opened)) = proxy::connect(proxy, target).await else { return };
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(opened.request_id);
            first.notify_one();
        }
    };
    let killing = async {
        within("a first session", SOON, first.notified()).await?;
        sleep(life).await;
        world.server.kill().await?;
        sleep(LAST_WORDS).await;
        anyhow::Ok(())
    };
    // Who waits for a server that is dead hears nothing any more.
    let applications = async {
        tokio::join!(application(), application(), application(), application(), application(), application());
        std::future::pending().await
    };
    tokio::select! {
        killed = killing => killed?,
        never = applications => never,
    }
    Ok(heard.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_success_is_missing_from_the_log_after_twenty_kills() -> Result<()> {
    Box::pin(kills(20)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a thousand kills, or as many as GINNEL_KILLS says: ./test kills"]
async fn no_success_is_missing_from_the_log_after_a_thousand_kills() -> Result<()> {
    let count = std::env::var("GINNEL_KILLS").map_or(Ok(1_000), |count| count.parse());
    Box::pin(kills(count.context("GINNEL_KILLS")?)).await
}
