//! A fleet of many principals whose certificates live for seconds, under load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_agent::app::Agent;
use ginnel_client::app::Client;
use ginnel_config::{AgentConfig, ClientConfig, Overrides};
use ginnel_identity::Credential;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{World, eventually, proxy, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{report, world};

/// What a fleet goes through.
struct Course {
    /// Principals, half of them agents.
    principals: usize,
    /// Certificates that each of them has after its first.
    rotations: usize,
    lifetime: &'static str,
    /// In which all of that must be done.
    deadline: Duration,
}

/// As much as a run of all tests has time for.
const SHORT: Course = Course { principals: 50, rotations: 3, lifetime: "9s", deadline: Duration::from_secs(120) };

/// Everything, from a release build.
const WHOLE: Course = Course { principals: 50, rotations: 20, lifetime: "6s", deadline: Duration::from_secs(300) };

/// Bytes of a word that a session says and hears again.
const WORD: usize = 16 << 10;

/// How often a session says a word; every fifth time a session is opened as well.
const PACE: Duration = Duration::from_millis(500);

fn email(role: &str, index: usize) -> String {
    format!("{role}-{index}@acme.iam.gserviceaccount.com")
}

/// Files and configuration for the whole fleet, which share one key under many names: making keys is not what is shown here.
fn prepare(world: &World, each: usize, target: &str) -> Result<()> {
    let directory = world.directory();
    for role in ["agent", "client"] {
        let mut key: Value = serde_json::from_str(&std::fs::read_to_string(directory.join(format!("{role}.json")))?)?;
        for index in 0..each {
            key["client_email"] = json!(email(role, index));
            let path = directory.join(format!("{role}-{index}.json"));
            std::fs::write(&path, key.to_string())?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
    }
    let names = |role: &str| (0..each).map(|index| format!("{role}-{index}")).collect::<Vec<_>>();
    world.edit("server", |config| {
        let identities = ["agent", "client"].into_iter().flat_map(|role| {
            (0..each).map(move |index| {
                json!({"name": format!("{role}-{index}"), "role": role, "email": email(role, index), "publicKeys": [format!("{role}.pub.pem")]})
            })
        });
        let identities: Vec<_> = identities.collect();
        if let Some(list) = config["identities"].as_array_mut() {
            list.extend(identities);
        }
        let rule = json!({"name": "fleet", "clients": names("client"), "agents": names("agent"), "targets": [target]});
        if let Some(list) = config["rules"].as_array_mut() {
            list.push(rule);
        }
    })
}

fn upstream(world: &World, role: &str, index: usize, peers: &str) -> Value {
    json!({
        "server": {"address": world.server_addr(), "name": "tunnel.acme.example"},
        "trust": {"server": "ca/server-root.pem", peers: format!("ca/{peers}-root.pem")},
        "credential": {"serviceAccountKeyFile": format!("{role}-{index}.json")},
    })
}

/// The key of one of the fleet.
fn credential(world: &World, role: &str, index: usize) -> Result<Credential> {
    Ok(Credential::read_key(&world.directory().join(format!("{role}-{index}.json")))?)
}

/// Starts the whole fleet inside this process, and gives the proxies of its clients.
async fn start(
    world: &World,
    each: usize,
    target: &str,
    stop: &CancellationToken,
) -> Result<(Vec<SocketAddr>, JoinSet<()>)> {
    let (mut proxies, mut running) = (Vec::new(), JoinSet::new());
    let (directory, none) = (world.directory(), Overrides::none());
    for index in 0..each {
        let mut config = upstream(world, "agent", index, "client");
        config["allow"] = json!([target]);
        let config = AgentConfig::parse(&config.to_string(), "agent", directory, &none).context("an agent")?;
        running.spawn(Agent::start(config, credential(world, "agent", index)?, None).await?.run(stop.clone()));
        let mut config = upstream(world, "client", index, "agent");
        config["listen"] = json!({"proxy": "127.0.0.1:0"});
        let config = ClientConfig::parse(&config.to_string(), "client", directory, &none).context("a client")?;
        let client = Client::start(config, credential(world, "client", index)?, None).await?;
        proxies.push(client.proxy_address().context("a proxy")?);
        running.spawn(client.run(stop.clone()));
    }
    Ok((proxies, running))
}

/// One client's work until `stop`: a session that says words and hears them again, and dials beside it. Gives how many there were of both.
async fn work(proxy: SocketAddr, target: String, stop: CancellationToken) -> Result<(u64, u64)> {
    let mut session = proxy::connect(proxy, &target).await?.opened()?.stream;
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut words, mut dials) = (0_u64, 0);
    let mut heard = vec![0; WORD];
    while !stop.is_cancelled() {
        ticks.tick().await;
        let word = words.to_be_bytes().repeat(WORD / 8);
        session.write_all(&word).await.with_context(|| format!("word {words}"))?;
        within("a word", SOON, session.read_exact(&mut heard)).await?.with_context(|| format!("word {words}"))?;
        ensure!(heard == word, "word {words} has changed");
        words += 1;
        if words.is_multiple_of(5) {
            proxy::connect(proxy, &target).await?.opened().with_context(|| format!("dial {dials}"))?;
            dials += 1;
        }
    }
    Ok((words, dials))
}

/// Enrolments of each principal of the fleet so far.
fn enrolments(directory: &Path) -> Result<BTreeMap<String, usize>> {
    let text = std::fs::read_to_string(directory.join("audit/audit.jsonl"))?;
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains(r#""enrolled""#)) {
        let Ok(record) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(email) = record["email"].as_str().filter(|email| email.contains('-')) {
            *counts.entry(email.to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

async fn rotate(course: Course) -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let world = world().target(&target).certificate_lifetime(course.lifetime).start().await?;
    let each = course.principals / 2;
    let mark = world.server.mark();
    prepare(&world, each, &target)?;
    world.server.hang_up()?;
    world.server.wait_for_after(mark, "configuration reloaded", |_| true).await?;

    let (stop, fleet) = (CancellationToken::new(), CancellationToken::new());
    let (proxies, mut running) = start(&world, each, &target, &fleet).await?;
    let mut working = JoinSet::new();
    for &proxy in &proxies {
        let opened = async || Ok(proxy::connect(proxy, &target).await?.opened().ok());
        eventually("the first session", SOON * 2, opened).await?;
    }
    let refused = world.audit_of("refused")?.len();
    for proxy in proxies {
        working.spawn(work(proxy, target.clone(), stop.clone()));
    }
    let rotated = eventually("every principal to rotate", course.deadline, async || {
        // A session that breaks is told at once.
        if let Some(broken) = working.try_join_next() {
            return Ok(Some(Err(broken?.err().context("a session has ended")?)));
        }
        let counts = enrolments(world.directory())?;
        let is_done = counts.len() == course.principals && counts.values().all(|count| *count > course.rotations);
        Ok(is_done.then_some(Ok(counts)))
    });
    let counts = rotated.await??;
    stop.cancel();
    let (mut words, mut dials) = (0, 0);
    while let Some(done) = working.join_next().await {
        let (more_words, more_dials) = done??;
        words += more_words;
        dials += more_dials;
    }
    ensure!(world.audit_of("refused")?.len() == refused, "a session was refused");
    report(format!(
        "{} principals, {} enrolments, {} MiB each way in {each} sessions, {dials} dials beside them",
        course.principals,
        counts.values().sum::<usize>(),
        (words * WORD as u64) >> 20
    ));
    fleet.cancel();
    within("the fleet to stop", SOON, async { while running.join_next().await.is_some() {} }).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_principals_rotate_and_drop_no_session_and_fail_no_dial() -> Result<()> {
    rotate(SHORT).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; ./test rotations"]
async fn fifty_principals_rotate_twenty_times_and_drop_no_session_and_fail_no_dial() -> Result<()> {
    rotate(WHOLE).await
}
