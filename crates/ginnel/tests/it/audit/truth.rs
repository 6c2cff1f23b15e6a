//! The log against the truth: a script opens sessions and is refused them, and knows how many bytes each carried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ginnel_testkit::command::succeed;
use ginnel_testkit::hosts::{TcpHost, nobody};
use ginnel_testkit::{Answer, Part, proxy, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{each_record, verified};
use crate::{report, world};

/// Applications side by side.
const APPLICATIONS: usize = 16;

/// Both numbers at the beginning of what an application sends.
const HEAD: usize = 16;

/// How long one act of the script may take.
const SOON: Duration = Duration::from_secs(60);

/// What the script knows of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Truth {
    /// It carried so many bytes each way, and ended well.
    Carried { up: u64, down: u64 },
    /// It was refused.
    Refused { hop: String, cause: String },
}

/// What the log has of one request.
#[derive(Debug, Default)]
struct Recorded {
    allowed: u64,
    connected: u64,
    ends: Vec<Truth>,
    wrong: Option<Value>,
}

/// Whom the script asks for.
#[derive(Clone)]
struct Targets {
    carries: SocketAddr,
    in_no_rule: SocketAddr,
    on_no_list: SocketAddr,
    silent: SocketAddr,
}

/// A host that takes as many bytes as it is told and gives back as many as it is asked for.
async fn host() -> Result<TcpHost> {
    TcpHost::start(|mut stream| async move {
        let (up, down) = (stream.read_u64().await?, stream.read_u64().await?);
        let mut rest = (&mut stream).take(up - HEAD as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        stream.write_all(&vec![0xd0; usize::try_from(down)?]).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(())
    })
    .await
}

/// One act of the script: number `number` of it.
async fn act(proxy: SocketAddr, targets: &Targets, number: u64) -> Result<(String, Truth)> {
    let target = match number % 8 {
        5 => targets.in_no_rule,
        6 => targets.on_no_list,
        7 => targets.silent,
        _ => targets.carries,
    };
    let answer = proxy::connect(proxy, &target.to_string()).await?;
    let opened = match answer {
        Answer::Refused(refused) => {
            let proxy::Refused { hop, cause, request_id, .. } = refused;
            return Ok((request_id, Truth::Refused { hop, cause }));
        }
        Answer::Opened(opened) => opened,
    };
    ensure!(target == targets.carries, "{target} was opened");
    // Small and large, and no two alike for a long while.
    let (up, down) = (HEAD as u64 + number * 7919 % 20_011, number * 104_729 % 70_001);
    carry(opened.stream, up, down).await?;
    Ok((opened.request_id, Truth::Carried { up, down }))
}

async fn carry(mut stream: TcpStream, up: u64, down: u64) -> Result<()> {
    let mut bytes = vec![0xa0; usize::try_from(up)?];
    bytes[..8].copy_from_slice(&up.to_be_bytes());
    bytes[8..HEAD].copy_from_slice(&down.to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.shutdown().await?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await?;
    ensure!(got.len() as u64 == down, "{} of {down} bytes", got.len());
    Ok(())
}

async fn ground_truth(acts: u64) -> Result<()> {
    let (host, in_no_rule, on_no_list) = (host().await?, TcpHost::echo().await?, TcpHost::echo().await?);
    let (_held, silent) = nobody()?;
    let targets =
        Targets { carries: host.address(), in_no_rule: in_no_rule.address(), on_no_list: on_no_list.address(), silent };
    // With encryption inside, more is carried than was said.
    let world = world()
        .danger_disable_inner_tls()
        .target(targets.carries)
        .allow_only(targets.in_no_rule)
        .rule_only(targets.on_no_list)
        .target(silent)
        .start()
        .await?;
    let (proxy, started) = (world.proxy_addr(), Instant::now());
    let next = std::sync::Arc::new(AtomicU64::new(0));
    let mut applications = JoinSet::new();
    for _ in 0..APPLICATIONS {
        let (targets, next) = (targets.clone(), std::sync::Arc::clone(&next));
        applications.spawn(async move {
            let mut known = Vec::new();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= acts {
                    return anyhow::Ok(known);
                }
                known.push(within("an act", SOON, act(proxy, &targets, number)).await?.context(number)?);
            }
        });
    }
    let mut truth = BTreeMap::new();
    while let Some(known) = applications.join_next().await {
        truth.extend(known??);
    }
    ensure!(truth.len() as u64 == acts, "{} request ids for {acts} requests", truth.len());
    let took = started.elapsed();
    let audit = world.directory().join("audit");
    let all = truth.values().filter(|truth| matches!(truth, Truth::Carried { .. })).count();
    ginnel_testkit::eventually("every end", SOON, async || {
        let mut ended = 0;
        each_record(&audit, |record| {
            ended += usize::from(record["event"] == "ended");
            Ok(())
        })?;
        Ok((ended >= all).then_some(()))
    })
    .await?;
    compare(&truth, recorded(&audit)?)?;
    counted(&world, &truth).await?;
    let whole = verified(&world, &audit).await?;
    report(format_args!(
        "{acts} requests in {took:?}, one to one with the log; {} records in {} files",
        whole["records"], whole["files"]
    ));
    world.finish(&[])
}

fn recorded(audit: &std::path::Path) -> Result<BTreeMap<String, Recorded>> {
    let mut recorded: BTreeMap<String, Recorded> = BTreeMap::new();
    each_record(audit, |record| {
        let Some(id) = record["requestId"].as_str() else { return Ok(()) };
        let of = recorded.entry(id.to_owned()).or_default();
        let word = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        match record["event"].as_str() {
            Some("allowed") => of.allowed += 1,
            Some("connected") => of.connected += 1,
            Some("refused") => of.ends.push(Truth::Refused { hop: word("hop"), cause: word("cause") }),
            Some("ended") if record["cause"] == "finished" => {
                let bytes = |name: &str| record[name].as_u64().context("a number of bytes");
                of.ends.push(Truth::Carried { up: bytes("bytesUp")?, down: bytes("bytesDown")? });
            }
            _ => of.wrong = Some(record.clone()),
        }
        Ok(())
    })?;
    Ok(recorded)
}

fn compare(truth: &BTreeMap<String, Truth>, mut recorded: BTreeMap<String, Recorded>) -> Result<()> {
    for (id, truth) in truth {
        let Some(of) = recorded.remove(id) else { bail!("{id} is on no record: {truth:?}") };
        ensure!(of.wrong.is_none() && of.ends == [truth.clone()], "{id}: {truth:?} is recorded as {of:?}");
        let (allowed, connected) = match truth {
            Truth::Carried { .. } => (1, 1),
            Truth::Refused { hop, .. } if hop == "server" => (0, 0),
            Truth::Refused { .. } => (1, 0),
        };
        ensure!((of.allowed, of.connected) == (allowed, connected), "{id}: {truth:?} is recorded as {of:?}");
    }
    ensure!(recorded.is_empty(), "nobody asked for {recorded:?}");
    Ok(())
}

/// Holds the server's counters to the truth.
async fn counted(world: &ginnel_testkit::World, truth: &BTreeMap<String, Truth>) -> Result<()> {
    let mut status = world.ginnel();
    status.args(["status", "--json", "--socket"]).arg(world.socket(Part::Server));
    let status: Value = serde_json::from_str(&succeed(status).await?)?;
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for truth in truth.values() {
        if let Truth::Refused { hop, cause } = truth {
            *expected.entry((hop.clone(), cause.clone())).or_default() += 1;
        }
    }
    let causes = status["causes"].as_array().context("causes")?;
    let counted: BTreeMap<(String, String), u64> = causes
        .iter()
        .filter(|counted| counted["event"] == "refused")
        .filter_map(|counted| {
            let word = |name: &str| counted[name].as_str().map(str::to_owned);
            Some(((word("hop")?, word("cause")?), counted["count"].as_u64()?))
        })
        .collect();
    ensure!(counted == expected, "counted {counted:?}, and it was {expected:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_requests_are_in_the_log_one_to_one_with_every_byte() -> Result<()> {
    Box::pin(ground_truth(2_000)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a hundred thousand requests, or as many as GINNEL_GROUND_TRUTH says: ./test ground-truth"]
async fn a_hundred_thousand_requests_are_in_the_log_one_to_one_with_every_byte() -> Result<()> {
    let acts = std::env::var("GINNEL_GROUND_TRUTH").map_or(Ok(100_000), |acts| acts.parse());
    Box::pin(ground_truth(acts.context("GINNEL_GROUND_TRUTH")?)).await
}
