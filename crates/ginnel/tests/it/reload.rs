//! Rules, identities and allow-lists that change while everything runs.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, output, succeed};
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, eventually, proxy, within};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::admin::get;
use crate::pair::Pair;
use crate::world;

/// From the acknowledgement of a change to the last byte of a session that it does not allow.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// What the issue of a reload is shown as.
async fn reload(world: &World, part: Part) -> Result<String> {
    let mut command = world.ginnel();
    command.args(["reload", "--socket"]).arg(world.socket(part));
    succeed(command).await
}

async fn is_reset(pair: &mut Pair) -> Result<()> {
    for stream in [&mut pair.app, &mut pair.target] {
        let (_, ending) =
            within("the end of a session that is no longer allowed", CUT_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    Ok(())
}

async fn status(world: &mut World, part: Part) -> Result<Value> {
    let admin = world.admin(part).await?;
    let mut command = world.ginnel();
    command.args(["status", "--json", "--admin", &admin.to_string()]);
    Ok(serde_json::from_str(&succeed(command).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_rule_ends_exactly_the_sessions_that_used_it() -> Result<()> {
    let (kept, removed) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (kept_at, removed_at) = (kept.local_addr()?, removed.local_addr()?);
    let world = world().target(kept_at).allow_only(removed_at).start().await?;
    let rule = json!({"name": "second", "clients": ["frontend"], "agents": ["acme"], "targets": [removed_at]});
    let mark = world.client.mark();
    world.edit("server", |config| config["rules"].as_array_mut().map(|rules| rules.push(rule)).unwrap_or_default())?;
    // By the change of the file alone: the client hears of what it may reach now.
    world.server.wait_for("configuration reloaded", |line| line["by"] == "file change").await?;
    world.roster(mark, 1).await?;
    let mut bystander = Pair::open(&world, &kept).await?;
    let mut cut = Pair::open(&world, &removed).await?;
    cut.exchange().await?;

    world.edit("server", |config| drop(config["rules"].as_array_mut().and_then(Vec::pop)))?;
    let said = reload(&world, Part::Server).await?;
    is_reset(&mut cut).await?;
    bystander.exchange().await?;
    ensure!(said.contains("rules removed: second") && said.contains("1 session is no longer allowed"), "{said}");

    let request = cut.request_id.clone();
    let is_end = |record: &Value| record["requestId"] == request && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
    let record = log.iter().find(|record| is_end(record)).context("a record")?;
    ensure!(record["cause"] == "notAllowed" && record["hop"] == "server", "{record}");
    let reloads = log.iter().filter(|record| record["event"] == "reloaded").count();
    ensure!(reloads == 2, "{reloads} reloads on record");
    let refused = proxy::connect(world.proxy_addr(), &removed_at.to_string()).await?.refused()?;
    ensure!(refused.cause == "notAllowed", "{refused:?}");
    world.finish(&[])
}

/// A file that its reader waits for, in place of a configuration; gives where it can be written.
async fn hanging(world: &World, role: &str) -> Result<PathBuf> {
    let (pipe, next) = (world.directory().join(format!("{role}.pipe")), world.directory().join(format!("{role}.next")));
    let mut make = command("mkfifo", world.directory());
    make.arg(&pipe);
    succeed(make).await?;
    std::fs::hard_link(&pipe, &next)?;
    std::fs::rename(next, world.directory().join(format!("{role}.yaml")))?;
    Ok(pipe)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_hangs_holds_up_reloads_and_nothing_else() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    for (part, role) in [(Part::Agent(0), "agent"), (Part::Client, "client")] {
        let good = std::fs::read_to_string(world.directory().join(format!("{role}.yaml")))?;
        let pipe = hanging(&world, role).await?;
        // More than the process has threads that move bytes.
        let asked: Vec<_> = (0..std::thread::available_parallelism()?.get() + 1)
            .map(|_| {
                let mut command = world.ginnel();
                command.args(["reload", "--socket"]).arg(world.socket(part));
                tokio::spawn(succeed(command))
            })
            .collect();
        // The reader of a pipe is there once a writer finds it.
        let mut writer = eventually("a reload that reads", Duration::from_secs(10), async || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(rustix::fs::open(&pipe, flags, Mode::empty()).ok().map(std::fs::File::from))
        })
        .await?;
        within("bytes", Duration::from_secs(5), pair.exchange()).await??;
        let admin = world.admin(part).await?.to_string();
        within("an answer of the admin listener", Duration::from_secs(5), get(&admin, "/healthz")).await??;
        ensure!(asked.iter().all(|reload| !reload.is_finished()), "{role}: a reload did not wait for the file");

        world.write(role, &good)?;
        writer.write_all(good.as_bytes())?;
        drop(writer);
        for reload in asked {
            reload.await?.with_context(|| format!("the reload of the {role}"))?;
        }
    }
    pair.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_shows_until_it_is_mended() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    let good = std::fs::read_to_string(world.directory().join("server.yaml"))?;
    let before = status(&mut world, Part::Server).await?;
    for (bad, what) in [("rules: [", "server.yaml:1:"), ("{}", "trustDomain"), ("", "server.yaml")] {
        world.write("server", bad)?;
        let mut command = world.ginnel();
        command.args(["reload", "--socket"]).arg(world.socket(Part::Server));
        let answer = output(command).await?;
        let said = String::from_utf8_lossy(&answer.stdout).into_owned();
        ensure!(answer.status.code() == Some(1) && said.contains(what), "{bad:?}: {said}");
    }
    let after = status(&mut world, Part::Server).await?;
    ensure!(after["config"]["version"] == before["config"]["version"], "{after}");
    ensure!(after["config"]["failure"]["error"].as_str().is_some_and(|error| error.contains("server.yaml")), "{after}");
    pair.exchange().await?;
    Pair::open(&world, &host).await?.exchange().await?;

    let mark = world.server.mark();
    world.write("server", &good)?;
    world.server.hang_up()?;
    world.server.wait_for_after(mark, "configuration reloaded", |line| line["by"] == "SIGHUP").await?;
    let mended = status(&mut world, Part::Server).await?;
    ensure!(mended["config"]["failure"].is_null() && mended["config"]["failures"].as_u64() >= Some(2), "{mended}");
    pair.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_taken_out_is_cut_off_and_stays_out() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    let mark = world.server.mark();
    world.edit("server", |config| {
        if let Some(identities) = config["identities"].as_array_mut() {
            identities.retain(|identity| identity["role"] != "client");
        }
        config["rules"] = json!([]);
    })?;
    let said = reload(&world, Part::Server).await?;
    is_reset(&mut pair).await?;
    ensure!(said.contains("identities removed: client frontend"), "{said}");
    let request = pair.request_id.clone();
    let ended = |record: &Value| record["requestId"] == request && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(ended)).await?;
    let record = log.iter().find(|record| ended(record)).context("a record")?;
    ensure!(record["cause"] == "notAdmitted" && record["hop"] == "server", "{record}");
    world.client.wait_for("ended", |line| line["request"] == request && line["cause"] == "notAdmitted").await?;
    let message = "certificate of an identity that is not configured, or for a proof that it has no longer";
    world
        .server
        .wait_for_after(mark, message, |line| line["principal"] == "spiffe://acme.example/client/frontend")
        .await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_owner_takes_a_target_off_the_list() -> Result<()> {
    let (kept, removed) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (kept_at, removed_at) = (kept.local_addr()?, removed.local_addr()?);
    let world = world().target(kept_at).target(removed_at).start().await?;
    let mut bystander = Pair::open(&world, &kept).await?;
    let mut cut = Pair::open(&world, &removed).await?;
    world.edit("agent", |config| config["allow"] = json!([kept_at]))?;
    let said = reload(&world, Part::Agent(0)).await?;
    is_reset(&mut cut).await?;
    bystander.exchange().await?;
    ensure!(said.contains(&format!("allow removed: {removed_at}")), "{said}");
    let refused = proxy::connect(world.proxy_addr(), &removed_at.to_string()).await?.refused()?;
    ensure!(refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    let request = cut.request_id.clone();
    let ended = |record: &Value| record["requestId"] == request && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(ended)).await?;
    let record = log.iter().find(|record| ended(record)).context("a record")?;
    ensure!(record["cause"] == "notOnAllowList" && record["hop"] == "agent", "{record}");
    world.finish(&[])
}

/// Reloads with different rules every time, all of which allow what is carried; every tenth file is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reloads_under_load_cut_nothing() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let address = host.local_addr()?;
    let mut world = world().target(address).start().await?;
    let mut pairs = Vec::new();
    for _ in 0..8 {
        pairs.push(Pair::open(&world, &host).await?);
    }
    let socket = world.socket(Part::Server);
    let good = std::fs::read_to_string(world.directory().join("server.yaml"))?;
    let mut config: Value = serde_json::from_str(&good)?;
    let started = Instant::now();
    for number in 0..1_000 {
        config["rules"][0]["name"] = json!(format!("hosts-{number}"));
        let is_good = number % 10 != 9;
        let text = if is_good { config.to_string() } else { format!("{config}}}") };
        world.write("server", &text)?;
        let reloaded = crate::admin::post(&socket, "/reload").await?;
        ensure!(reloaded.starts_with(if is_good { "HTTP/1.1 200" } else { "HTTP/1.1 409" }), "{number}: {reloaded}");
        let at = number % pairs.len();
        pairs[at].exchange().await.with_context(|| format!("after reload {number}"))?;
        if number % 100 == 0 {
            Pair::open(&world, &host).await?.exchange().await?;
        }
    }
    eprintln!("1000 reloads in {:?}", started.elapsed());
    for pair in &mut pairs {
        pair.exchange().await?;
    }
    let config = status(&mut world, Part::Server).await?["config"].clone();
    // The change of the file is noticed as well, once or twice in between.
    ensure!(config["reloads"].as_u64() >= Some(900) && config["failures"].as_u64() >= Some(100), "{config}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_does_not_quote_a_bad_file() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    world.edit("agent", |config| config["allow"] = json!(["hidden.acme.internal:99999"]))?;
    let mut command = world.ginnel();
    command.args(["reload", "--socket"]).arg(world.socket(Part::Agent(0)));
    let answer = output(command).await?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(answer.status.code() == Some(1) && said.contains("hidden.acme.internal"), "{said}");
    let kind = "\"…\": ports are one number";
    let is_it = |line: &Value| {
        let error = line["error"].as_str().unwrap_or_default();
        line["level"] == "ERROR" && error.contains("agent.yaml:") && error.contains(kind)
    };
    world.agents[0].wait_for("configuration not reloaded; what was in force before still is", is_it).await?;
    let mut lines: Vec<Value> = world.agents[0].lines().iter().filter_map(|l| serde_json::from_str(l).ok()).collect();
    lines.retain(|line| line["level"] != "DEBUG" && line.to_string().contains("hidden.acme.internal"));
    ensure!(lines.is_empty(), "{lines:?}");
    let failure = status(&mut world, Part::Agent(0)).await?["config"]["failure"].clone();
    ensure!(failure.to_string().contains("hidden.acme.internal"), "{failure}");
    world.finish(&[])
}
