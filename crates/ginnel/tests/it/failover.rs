//! Two agents, one of which dies: nobody is given a short answer that looks whole, and the audit agrees with what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{git, output};
use ginnel_testkit::hosts::repository::fsck;
use ginnel_testkit::hosts::{Nginx, Repository, TcpHost};
use ginnel_testkit::stream::bytes;
use ginnel_testkit::{Answer, Ending, Part, World, proxy, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::world;

const CLONES: usize = 100;

/// Clones that are done when the agent is killed.
const CLONES_BEFORE: usize = 30;

/// Raw sessions open when the agent is killed, and those that are opened while it dies.
const SESSIONS_BEFORE: usize = 200;
const SESSIONS_AFTER: usize = 50;

/// What a raw session receives before and after the moment of the kill.
const HALF: usize = 256 << 10;

/// Clones once; `Ok(false)` is a clone that failed and said so.
async fn clone(url: &str, proxy: SocketAddr, root: &Path, into: PathBuf, expected: &str) -> Result<bool> {
    let home = into.parent().context("a directory")?;
    let mut command = git(home);
    command.arg("-c").arg(format!("http.proxy=http://{proxy}"));
    command.arg("-c").arg(format!("http.sslCAInfo={}", root.display()));
    command.args(["clone", "--quiet", "--bare", url]).arg(&into);
    let cloned = output(command).await?;
    if !cloned.status.success() {
        let said = String::from_utf8_lossy(&cloned.stderr);
        ensure!(said.contains("fatal:") || said.contains("error:"), "a clone failed without a word: {said:?}");
        return Ok(false);
    }
    let mut parse = git(home);
    parse.arg("-C").arg(&into).args(["rev-parse", "main"]);
    let parsed = output(parse).await?;
    ensure!(String::from_utf8_lossy(&parsed.stdout).trim() == expected, "another commit was cloned");
    fsck(&into).await?;
    Ok(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_succeed_or_fail_when_an_agent_dies_but_never_end_short() -> Result<()> {
    let host = Nginx::start().await?;
    let served = Repository::create(&host.repositories(), "small.git", 1 << 20, 5).await?;
    let mut world = world().agents(2).target(host.https()).start().await?;
    let expected: Arc<str> = served.object_id("main").await?.into();
    let url: Arc<str> = format!("https://{}/git/small.git", host.https()).into();
    let home = tempfile::tempdir()?;

    let (done, mut finished) = mpsc::channel(CLONES);
    let mut clones = JoinSet::new();
    for index in 0..CLONES {
        let (url, expected, root) = (Arc::clone(&url), Arc::clone(&expected), host.authority.root.clone());
        let (into, proxy, done) = (home.path().join(format!("{index}.git")), world.proxy_addr(), done.clone());
        clones.spawn(async move {
            let outcome = clone(&url, proxy, &root, into, &expected).await;
            done.send(()).await.ok();
            outcome
        });
    }
    for _ in 0..CLONES_BEFORE {
        within("clones to finish", Duration::from_secs(120), finished.recv()).await?;
    }
    let mark = world.client.mark();
    world.kill_agent(0).await?;
    let mut succeeded = 0;
    while let Some(outcome) = clones.join_next().await {
        succeeded += usize::from(outcome??);
    }
    // Everything that had finished before, and everything that the other agent carried.
    ensure!(succeeded >= CLONES_BEFORE, "{succeeded} clones succeeded");
    world.roster(mark, 1).await?;
    for index in 0..5 {
        let into = home.path().join(format!("later-{index}.git"));
        ensure!(clone(&url, world.proxy_addr(), &host.authority.root, into, &expected).await?, "a later clone failed");
    }
    let log = world.audit_until("every session to end in the audit", all_ended).await?;
    ensure!(ids(&log, "connected").is_subset(&ids(&log, "allowed")), "connected without being allowed");
    let resets = log.iter().filter(|record| record["event"] == "ended" && record["cause"] == "agentLost").count();
    ensure!(resets >= CLONES - succeeded, "{} clones failed, {resets} sessions were lost", CLONES - succeeded);
    host.finish()?;
    world.finish(&[Part::Agent(0)])
}

fn all_ended(log: &[Value]) -> bool {
    let connected = log.iter().filter(|record| record["event"] == "connected").count();
    let ended = log.iter().filter(|record| record["event"] == "ended").count();
    connected > 0 && connected == ended
}

fn ids(log: &[Value], event: &str) -> BTreeSet<String> {
    let records = log.iter().filter(|record| record["event"] == event);
    records.filter_map(|record| record["requestId"].as_str().map(str::to_owned)).collect()
}

/// What one raw session came to, for its application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Reset,
}

/// A host that sends one half, waits for the gate, and sends the other.
async fn gated(gate: watch::Receiver<bool>) -> Result<TcpHost> {
    TcpHost::start(move |mut stream: TcpStream| {
        let mut gate = gate.clone();
        async move {
            let content = bytes(9, 2 * HALF);
            stream.write_all(&content[..HALF]).await?;
            gate.wait_for(|open| *open).await?;
            stream.write_all(&content[HALF..]).await?;
            Ok(stream.shutdown().await?)
        }
    })
    .await
}

/// Reads one session to its end; `half` is told once the first half is there.
async fn read_session(mut stream: TcpStream, half: mpsc::Sender<()>) -> Result<Outcome> {
    let expected = bytes(9, 2 * HALF);
    let mut first = vec![0; HALF];
    let read = stream.read_exact(&mut first).await;
    half.send(()).await.ok();
    let ending = match read {
        Ok(_) => {
            let mut rest = Vec::new();
            let ended = stream.read_to_end(&mut rest).await;
            first.extend_from_slice(&rest);
            ended.map(|_| ())
        }
        Err(error) => Err(error),
    };
    match ending {
        Ok(()) => {
            ensure!(first == expected, "a clean end after {} of {} bytes", first.len(), expected.len());
            Ok(Outcome::Whole)
        }
        Err(error) => {
            ensure!(Ending::of(&error) == Ending::Reset, "a session ended with {error}");
            Ok(Outcome::Reset)
        }
    }
}

/// Opens `count` sessions at the same time and returns them by request id.
async fn open(world: &World, target: &str, count: usize) -> Result<BTreeMap<String, TcpStream>> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let (proxy, target) = (world.proxy_addr(), target.to_owned());
        opening.spawn(async move { proxy::connect(proxy, &target).await });
    }
    let mut sessions = BTreeMap::new();
    while let Some(answer) = opening.join_next().await {
        match answer?? {
            Answer::Opened(opened) => sessions.insert(opened.request_id, opened.stream),
            Answer::Refused(refused) => anyhow::bail!("refused: {refused:?}"),
        };
    }
    ensure!(sessions.len() == count, "{} different request ids for {count} sessions", sessions.len());
    Ok(sessions)
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_agrees_with_every_session_when_an_agent_dies() -> Result<()> {
    let (open_gate, gate) = watch::channel(false);
    let host = gated(gate).await?;
    let target = host.address().to_string();
    let mut world = world().agents(2).target(&target).start().await?;

    let (half, mut halves) = mpsc::channel(SESSIONS_BEFORE);
    let mut readers = JoinSet::new();
    for (id, stream) in open(&world, &target, SESSIONS_BEFORE).await? {
        let half = half.clone();
        readers.spawn(async move { (id, read_session(stream, half).await) });
    }
    for _ in 0..SESSIONS_BEFORE {
        within("the first halves", Duration::from_secs(60), halves.recv()).await?;
    }
    drop(halves);

    // What is opened while the agent dies has heard of no success yet, and moves to the other one.
    world.kill_agent(0).await?;
    let later = open(&world, &target, SESSIONS_AFTER).await?;
    open_gate.send_replace(true);
    for (id, stream) in later {
        let half = half.clone();
        readers.spawn(async move {
            let outcome = read_session(stream, half).await;
            ensure_whole(&outcome);
            (id, outcome)
        });
    }

    let mut seen: BTreeMap<String, Outcome> = BTreeMap::new();
    let read_all = async {
        while let Some(read) = readers.join_next().await {
            let (id, outcome) = read?;
            seen.insert(id, outcome?);
        }
        Ok::<_, anyhow::Error>(())
    };
    within("every session to end", Duration::from_secs(90), read_all).await??;
    let log = world.audit_until("every session to end in the audit", all_ended).await?;
    compare(&log, &seen)?;
    let lost = seen.values().filter(|outcome| **outcome == Outcome::Reset).count();
    ensure!((1..SESSIONS_BEFORE).contains(&lost), "{lost} of {SESSIONS_BEFORE} sessions were on the dead agent");
    world.finish(&[Part::Agent(0)])
}

fn ensure_whole(outcome: &Result<Outcome>) {
    assert!(matches!(outcome, Ok(Outcome::Whole)), "opened after the kill: {outcome:?}");
}

/// Compares the audit with what the applications saw, id by id.
fn compare(log: &[Value], seen: &BTreeMap<String, Outcome>) -> Result<()> {
    let all: BTreeSet<String> = seen.keys().cloned().collect();
    for event in ["allowed", "connected", "ended"] {
        ensure!(ids(log, event) == all, "{event}: other sessions than the applications saw");
    }
    let down = log.iter().find(|record| record["event"] == "linkDown").context("no linkDown")?;
    for (id, outcome) in seen {
        let of = |event: &str| {
            let records = log.iter().filter(|record| record["event"] == event && record["requestId"] == id.as_str());
            records.collect::<Vec<_>>()
        };
        let [ended] = of("ended")[..] else { anyhow::bail!("{id} ended {} times", of("ended").len()) };
        let [connected] = of("connected")[..] else { anyhow::bail!("{id} connected {} times", of("connected").len()) };
        let on_the_dead = connected["agentInstance"] == down["agentInstance"];
        ensure!(on_the_dead == (*outcome == Outcome::Reset), "{id}: {outcome:?}, {connected}");
        let cause = match outcome {
            Outcome::Whole => "finished",
            Outcome::Reset => "agentLost",
        };
        ensure!(ended["cause"] == cause, "{id}: {outcome:?}, {ended}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_agent_leaves_the_roster_at_once_and_a_silent_one_within_ten_seconds() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().agents(3).target(host.address()).start().await?;
    let mark = world.client.mark();
    world.kill_agent(0).await?;
    let two = |line: &Value| line["agents"] == 2;
    world.client.wait_within(Duration::from_secs(2), mark, "roster received", two).await?;

    let mark = world.client.mark();
    world.agents[1].pause()?;
    let one = |line: &Value| line["agents"] == 1;
    world.client.wait_within(Duration::from_secs(12), mark, "roster received", one).await?;
    proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;

    let mark = world.client.mark();
    world.agents[1].resume()?;
    world.roster(mark, 2).await?;
    world.finish(&[Part::Agent(0)])
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_server_is_found_again_without_a_restart_of_anybody_else() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().agents(2).target(host.address()).start().await?;
    let enrolled = world.audit_of("enrolled")?.len();
    let mark = world.client.mark();
    world.restart(Part::Server).await?;
    world.roster(mark, 2).await?;
    proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    ensure!(world.audit_of("enrolled")?.len() == enrolled, "a reconnect enrolled again");
    world.finish(&[])
}
