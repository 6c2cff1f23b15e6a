//! The record of an agent's owner: the same as the server's, held against it, and nothing without it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, output, succeed};
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::world::AGENT_AUDIT;
use ginnel_testkit::{World, eventually, proxy};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::{AGENT, Watched, events, records_of};
use crate::observed::metrics;
use crate::pair::Pair;
use crate::world;

/// Exit code and both outputs of `ginnel audit compare`.
async fn compared(world: &World, words: &[&Path]) -> Result<(Option<i32>, String)> {
    let mut command = world.ginnel();
    command.args(["audit", "compare"]).args(words);
    let answer = output(command).await?;
    let said = [answer.stdout, answer.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((answer.status.code(), said.concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_keep_the_same_record_and_a_lie_in_either_shows() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let (target, closed) = (host.local_addr()?.to_string(), Watched::start()?.target()?);
    let world = world().target(&target).target(&closed).rule_only("127.0.0.1:1024").agent_audited().start().await?;
    let mut requests = Vec::new();
    for finishes in [true, false, true] {
        let mut pair = Pair::open(&world, &host).await?;
        // What allows it is on the agent's disk before the target gets a byte.
        let so_far = world.agent_audit()?;
        let known: Vec<_> = so_far.iter().filter(|record| record["requestId"] == pair.request_id).cloned().collect();
        ensure!(events(&known) == ["allowed", "connected"] && known[1]["address"] == target, "{known:?}");
        pair.exchange().await?;
        if finishes {
            pair.app.shutdown().await?;
            ensure!(read_to_ending(&mut pair.target).await == (0, Ending::Eof), "no end at the target");
            pair.target.shutdown().await?;
            ensure!(read_to_ending(&mut pair.app).await == (0, Ending::Eof), "no end at the application");
        } else {
            pair.target.set_zero_linger()?;
            drop(pair.target);
            ensure!(read_to_ending(&mut pair.app).await == (0, Ending::Reset), "no reset");
        }
        requests.push((pair.request_id, finishes));
    }
    for refused in [&closed, "127.0.0.1:1024"] {
        proxy::connect(world.proxy_addr(), refused).await?.refused()?;
    }
    for (request, finishes) in &requests {
        is_on_both_records(&world, request, *finishes).await?;
    }
    let (vendor, customer) = (world.directory().join("audit"), world.directory().join(AGENT_AUDIT));
    for sides in [[&*vendor, &*customer], [&*customer, &*vendor]] {
        let (code, said) = compared(&world, &sides).await?;
        ensure!(code == Some(0) && said.contains("5 sessions agree in both logs"), "{code:?} {said}");
    }
    // The vendor changes one word of its copy.
    let text = std::fs::read_to_string(vendor.join("audit.jsonl"))?;
    let lied = world.directory().join("lied.jsonl");
    for (from, to, what) in [
        ("\"application\",\"cause\":\"finished\"", "\"agent\",\"cause\":\"endedByOperator\"", "outcome"),
        (&*format!("\"address\":\"{target}\""), "\"address\":\"10.9.9.9:443\"", "address"),
        ("client/frontend", "client/other", "client"),
    ] {
        ensure!(text.contains(from), "{from}");
        std::fs::write(&lied, text.replace(from, to))?;
        let (code, said) = compared(&world, &[&lied, &customer]).await?;
        ensure!(
            code == Some(1) && said.contains("THE LOGS DISAGREE") && said.contains(what),
            "{what}: {code:?} {said}"
        );
        let (code, said) = compared(&world, &[&lied, &customer, Path::new("--json")]).await?;
        let json: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        ensure!(code == Some(1) && json["disagree"].as_u64() >= Some(1), "{json}");
        ensure!(json["disagreements"][0]["differences"].to_string().contains(what), "{json}");
    }
    let (code, said) = compared(&world, &[&vendor, &vendor]).await?;
    ensure!(code == Some(2) && said.contains("are both logs of a server"), "{code:?} {said}");
    let (code, said) = compared(&world, &[&vendor, Path::new("nowhere")]).await?;
    ensure!(code == Some(2) && said.contains("nowhere"), "{code:?} {said}");
    // Both logs tell the story of one request, each in its place.
    let mut explain = world.ginnel();
    explain.arg("explain").arg(&requests[0].0).args([&vendor, &customer]);
    let said = succeed(explain).await?;
    ensure!(said.contains("\nserver\n") && said.contains("\nagent\n"), "{said}");
    world.finish(&[])
}

/// Holds the two records of one session against each other, which saw its clean end if it `finishes`.
async fn is_on_both_records(world: &World, request: &str, finishes: bool) -> Result<()> {
    let records = records_of(world, request).await?;
    let is_end = |record: &Value| record["requestId"] == request && record["event"] == "ended";
    let of_server = world.audit_until("the end", |log| log.iter().any(is_end)).await?;
    let (ours, theirs) = (&records[2], of_server.iter().find(|record| is_end(record)).context("a record")?);
    ensure!(events(&records) == ["allowed", "connected", "ended"], "{records:?}");
    ensure!(ours["bytesUp"] == 8 && ours["bytesDown"] == 6, "{ours}");
    for field in ["client", "clientEmail", "agent", "agentInstance", "target", "hop", "cause"] {
        ensure!(ours[field] == theirs[field] && !ours[field].is_null(), "{field}: {ours} {theirs}");
    }
    if finishes {
        ensure!(
            ours["carriedUp"] == theirs["bytesUp"] && ours["carriedDown"] == theirs["bytesDown"],
            "{ours} {theirs}"
        );
    }
    Ok(())
}

/// The agent may write no byte more into any file: the kernel says what it says when a disk is full, but for the number.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_keep_its_record_opens_nothing_new_and_says_why() -> Result<()> {
    let (host, watched) = (TcpListener::bind("127.0.0.1:0").await?, Watched::start()?);
    let watched_at = watched.target()?;
    // A write beyond the limit would otherwise end the process with SIGXFSZ.
    let mut world = world()
        .target(host.local_addr()?)
        .target(&watched_at)
        .agent_audited()
        .started_by("agent", &["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .start()
        .await?;
    let mut open = Pair::open(&world, &host).await?;
    let size = std::fs::metadata(world.directory().join(AGENT_AUDIT).join("audit.jsonl"))?.len();
    let limit = async |bytes: &str| {
        let mut limit = command("prlimit", world.directory());
        limit.args(["--pid", &world.agents[0].pid().to_string(), &format!("--fsize={bytes}:unlimited")]);
        succeed(limit).await
    };
    limit(&size.to_string()).await?;
    for _ in 0..2 {
        let refused = proxy::connect(world.proxy_addr(), &watched_at).await?.refused()?;
        ensure!(refused.status == 503 && refused.cause == "auditUnavailable" && refused.hop == "agent", "{refused:?}");
        ensure!(watched.is_untouched(), "something was dialled that is not on record");
    }
    open.exchange().await?;
    let seen = metrics(&mut world, AGENT).await?;
    ensure!(seen.get("ginnel_audit_healthy") == Some(&0.0) && seen.get("ginnel_ready") == Some(&0.0), "{seen:?}");
    let of_server = world.audit_of("refused")?;
    ensure!(
        of_server.len() >= 2 && of_server[0]["cause"] == "auditUnavailable" && of_server[0]["hop"] == "agent",
        "{of_server:?}"
    );
    let mut limit = command("prlimit", world.directory());
    limit.args(["--pid", &world.agents[0].pid().to_string(), "--fsize=unlimited:unlimited"]);
    succeed(limit).await?;
    // The log mends itself, with what happened meanwhile.
    eventually("a session once there is room", Duration::from_secs(10), async || {
        Ok(proxy::connect(world.proxy_addr(), &watched_at).await?.opened().ok().map(drop))
    })
    .await?;
    let refusals = |log: &[Value]| log.iter().filter(|record| record["cause"] == "auditUnavailable").count() >= 2;
    world.agent_audit_until("the refusals on record", refusals).await?;
    world.finish(&[])
}
