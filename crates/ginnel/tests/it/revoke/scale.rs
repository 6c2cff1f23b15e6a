//! K01: a rule is denied while thousands of sessions live, of which every tenth hangs on it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::world::Part;
use ginnel_testkit::{proxy, within};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{admin, report, world};

/// Sessions, if the limit of open files has room for them: three processes and the test hold one or two descriptors for each.
const SESSIONS: usize = 10_000;

/// Of so many sessions one hangs on the rule.
const SHARE: usize = 10;

/// Sessions that are opened at once.
const AT_ONCE: usize = 64;

/// How long the cut of nearly all, and of all, may take.
const P99_MAX: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(2);

async fn open_all(proxy_at: std::net::SocketAddr, targets: &[String], count: usize) -> Result<Vec<(bool, TcpStream)>> {
    let mut streams = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for number in 0..count {
        if opening.len() >= AT_ONCE {
            streams.push(opening.join_next().await.context("a session")???);
        }
        let is_cut = number % SHARE == 0;
        let target = targets[usize::from(is_cut)].clone();
        opening.spawn(async move { anyhow::Ok((is_cut, proxy::connect(proxy_at, &target).await?.opened()?.stream)) });
    }
    while let Some(opened) = opening.join_next().await {
        streams.push(opened??);
    }
    Ok(streams)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "thousands of sessions, timed: ./test revoke"]
async fn a_rule_with_every_tenth_of_many_sessions_is_cut_within_a_second() -> Result<()> {
    let soft = descriptors()?;
    // The targets are in the test's own process too.
    let count = SESSIONS.min(soft.saturating_sub(1_000) / 2);
    let hosts = [ginnel_testkit::hosts::TcpHost::echo().await?, ginnel_testkit::hosts::TcpHost::echo().await?];
    let targets = [hosts[0].address().to_string(), hosts[1].address().to_string()];
    let world = world().target(&targets[0]).allow_only(&targets[1]).start().await?;
    let rule = json!({"name": "second", "clients": ["frontend"], "agents": ["acme"], "targets": [targets[1]]});
    let mark = world.client.mark();
    world.edit("server", |config| config["rules"].as_array_mut().map(|rules| rules.push(rule)).unwrap_or_default())?;
    world.roster(mark, 1).await?;
    let opening = Instant::now();
    let streams = open_all(world.proxy_addr(), &targets, count).await?;
    let opened_in = opening.elapsed();
    let (cut, mut kept): (Vec<_>, Vec<_>) = streams.into_iter().partition(|(is_cut, _)| *is_cut);
    let mut ends = JoinSet::new();
    let cut_count = cut.len();
    for (_, mut stream) in cut {
        ends.spawn(async move {
            let _ = stream.read(&mut [0]).await;
            Instant::now()
        });
    }
    let started = Instant::now();
    let answer = admin::post(&world.socket(Part::Server), "/revoke?rule=second").await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let acknowledged = Instant::now();
    let mut took: Vec<Duration> = within("every cut", Duration::from_secs(60), ends.join_all())
        .await?
        .into_iter()
        .map(|end| end.saturating_duration_since(acknowledged))
        .collect();
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100 - 1];
    let most = took[took.len() - 1];
    for (_, stream) in &mut kept {
        stream.write_all(b"x").await?;
    }
    for (_, stream) in &mut kept {
        ensure!(stream.read_u8().await? == b'x', "another byte");
    }
    report(format_args!(
        "{count} sessions opened in {opened_in:?}; {cut_count} cut: acknowledged after {:?}, p99 {p99:?}, last {most:?} after the acknowledgement; {} others untouched",
        acknowledged - started,
        kept.len()
    ));
    ensure!(answer.contains(&format!("\"sessions\": {cut_count}")), "{answer}");
    ensure!(p99 <= P99_MAX && most <= MAX, "p99 {p99:?}, last {most:?}");
    world.finish(&[])
}

/// How many descriptors this process may have.
fn descriptors() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("a limit")?;
    let soft = line.split_whitespace().nth(3).context("a soft limit")?;
    Ok(soft.parse().unwrap_or(usize::MAX))
}
