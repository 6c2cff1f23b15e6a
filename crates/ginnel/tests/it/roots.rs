//! A root is changed for another, and back, while sessions run and are opened.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use ginnel_core::audit::Timestamp;
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, eventually, proxy, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::pair::Pair;
use crate::world;

/// Lifetime of a certificate: every wait for the last one of a root lasts about that long.
const LIFETIME: &str = "6s";

/// Longer than the last certificate of a root lives, and than a reload on a busy machine takes.
const SOON: Duration = Duration::from_secs(60);

/// Sessions that carry bytes from the first step to the last, and how often each says something.
const LASTING: usize = 4;
const PACE: Duration = Duration::from_millis(25);

/// Who open short sessions, one after the other.
const DIALLERS: usize = 4;

/// Between the end of one short session and the next dial.
const BETWEEN_DIALS: Duration = Duration::from_millis(5);

/// No exchange of a few bytes takes longer, unless something is wrong.
const EXCHANGE_MAX: Duration = Duration::from_secs(15);

/// Sessions that run and are opened until they are told to stop.
struct Load {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<()>>>,
    dials: Arc<AtomicU64>,
}

impl Load {
    fn start(world: &World, target: &str) -> Self {
        let (stop, dials) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..LASTING {
            let (stop, proxy, target) = (stop.clone(), world.proxy_addr(), target.to_owned());
            tasks.push(tokio::spawn(async move {
                let mut session = proxy::connect(proxy, &target).await?.opened()?.stream;
                let mut number = 0_u64;
                while !stop.is_cancelled() {
                    exchange(&mut session, number).await.with_context(|| format!("exchange {number} of a session"))?;
                    number += 1;
                    sleep(PACE).await;
                }
                Ok(())
            }));
        }
        for _ in 0..DIALLERS {
            let (stop, proxy, target, dials) =
                (stop.clone(), world.proxy_addr(), target.to_owned(), Arc::clone(&dials));
            tasks.push(tokio::spawn(async move {
                while !stop.is_cancelled() {
                    let number = dials.fetch_add(1, Ordering::Relaxed);
                    let dial = async {
                        let mut session = proxy::connect(proxy, &target).await?.opened()?.stream;
                        exchange(&mut session, number).await
                    };
                    dial.await.with_context(|| format!("dial {number}"))?;
                    sleep(BETWEEN_DIALS).await;
                }
                Ok(())
            }));
        }
        Self { stop, tasks, dials }
    }

    /// What has failed so far.
    async fn check(&mut self) -> Result<()> {
        for task in &mut self.tasks {
            if task.is_finished() {
                task.await??;
                anyhow::bail!("a session ended by itself");
            }
        }
        Ok(())
    }

    async fn finish(self) -> Result<u64> {
        self.stop.cancel();
        for task in self.tasks {
            task.await??;
        }
        Ok(self.dials.load(Ordering::Relaxed))
    }
}

async fn exchange<S: AsyncReadExt + AsyncWriteExt + Unpin>(session: &mut S, number: u64) -> Result<()> {
    let both = async {
        session.write_all(&number.to_be_bytes()).await?;
        ensure!(session.read_u64().await? == number, "other bytes came back");
        Ok(())
    };
    within("an exchange", EXCHANGE_MAX, both).await?
}

async fn issuer(world: &World, role: &str, step: &str) -> Result<Value> {
    let mut command = world.ginnel();
    command.args(["issuer", step, "--role", role, "--json", "--directory"]).arg(world.directory().join("ca"));
    let standings: Value = serde_json::from_str(&succeed(command).await.with_context(|| format!("{step} {role}"))?)?;
    Ok(standings[0].clone())
}

/// Waits until the last certificate of the root that does not sign has expired.
async fn last_one_expired(world: &World, role: &str, load: &mut Load) -> Result<()> {
    let expired = eventually("the last certificate of a root to expire", SOON, async || {
        let standing = issuer(world, role, "status").await?;
        let Some(until) = standing["validUntil"].as_str() else { return Ok(None) };
        let until: Timestamp = until.parse().map_err(|_| anyhow::anyhow!("no time: {until}"))?;
        Ok((until < Timestamp::from(SystemTime::now())).then_some(()))
    });
    expired.await?;
    load.check().await
}

/// The parts that trust the roots of this role.
fn peers(role: &str) -> Vec<Part> {
    let all = [Part::Agent(0), Part::Agent(1), Part::Client];
    let pins = |part: &Part| match role {
        "server" => true,
        "agent" => *part == Part::Client,
        _ => *part != Part::Client,
    };
    all.into_iter().filter(pins).collect()
}

/// Lets a part trust these roots and no others, and waits until it does.
async fn trust(world: &mut World, part: Part, role: &str, roots: &str) -> Result<()> {
    let file = world.roots_of(part).join(format!("{role}-root.pem"));
    let mark = world.part(part)?.mark();
    replace(&file, roots)?;
    world.part(part)?.wait_for_after(mark, "configuration reloaded", |line| line["by"] == "file change").await?;
    Ok(())
}

fn replace(file: &Path, text: &str) -> Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, text)?;
    Ok(std::fs::rename(next, file)?)
}

/// The roots of a file, each in PEM.
fn blocks(text: &str) -> Vec<String> {
    text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
}

/// The whole life of a change: agents and client trust the old root, some of them later the new one alone; forth, back, forth, to the end, back.
async fn change(role: &str) -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let mut world = world().agents(2).own_roots().target(&target).certificate_lifetime(LIFETIME).start().await?;
    let public = world.directory().join(format!("ca/{role}-root.pem"));
    let mut load = Load::start(&world, &target);

    issuer(&world, role, "prepare").await?;
    issuer(&world, role, "activate").await?;
    last_one_expired(&world, role, &mut load).await?;
    // Everybody lives by the new root's certificates, and nobody has heard of it.
    let roots = blocks(&std::fs::read_to_string(&public)?);
    ensure!(roots.len() == 2, "{} roots are public", roots.len());
    let new = roots[0].clone();
    // Some hear of it, and of nothing else.
    let hearing: Vec<_> = peers(role).into_iter().filter(|part| *part != Part::Agent(0)).collect();
    for part in &hearing {
        trust(&mut world, *part, role, &new).await?;
    }
    load.check().await?;
    // Back: the old root signs for those who have only heard of the new one, and forth again.
    issuer(&world, role, "rollback").await?;
    last_one_expired(&world, role, &mut load).await?;
    issuer(&world, role, "activate").await?;
    last_one_expired(&world, role, &mut load).await?;
    for part in peers(role) {
        if !hearing.contains(&part) {
            trust(&mut world, part, role, &new).await?;
        }
    }
    issuer(&world, role, "retire").await?;
    ensure!(std::fs::read_to_string(&public)? == new, "the old root is still public");
    world.server.wait_for("the issuer's roots have changed", |line| line.to_string().contains("1 is trusted")).await?;
    sleep(Duration::from_secs(2)).await;
    load.check().await?;
    let back = issuer(&world, role, "rollback").await?;
    ensure!(back["state"] == "activated", "{back}");
    last_one_expired(&world, role, &mut load).await?;

    let dials = load.finish().await?;
    crate::report(format!("{role}: {dials} dials while its root was changed"));
    ensure!(dials > 100, "only {dials} dials");
    let refused = world.audit_of("refused")?;
    ensure!(refused.is_empty(), "{refused:?}");
    let reloads = world.audit_of("reloaded")?;
    ensure!(reloads.iter().any(|record| record.to_string().contains("root 2 signs")), "{reloads:?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_root_is_changed_under_load() -> Result<()> {
    change("server").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_root_is_changed_under_load() -> Result<()> {
    change("agent").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_root_is_changed_under_load() -> Result<()> {
    change("client").await
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_refused_out_of_order_and_too_early() -> Result<()> {
    let world = world().target("127.0.0.1:9").start().await?;
    let run = async |step: &[&str]| {
        let mut command = world.ginnel();
        command.args(["issuer"]).args(step).arg("--directory").arg(world.directory().join("ca"));
        let answer = output(command).await?;
        let text = [answer.stdout, answer.stderr].concat();
        anyhow::Ok((answer.status.code(), String::from_utf8_lossy(&text).into_owned()))
    };
    let agent = |step| [step, "--role", "agent"];
    for (step, code, words) in [
        (agent("retire"), 1, "a change begins with prepare"),
        (agent("prepare"), 0, "agent: prepared"),
        (agent("prepare"), 1, "what follows is activate, or rollback"),
        (agent("activate"), 0, "agent: activated"),
        (agent("retire"), 1, "root 1 of the agent role may"),
    ] {
        let (found, said) = run(&step).await?;
        ensure!(found == Some(code) && said.contains(words), "{step:?}: {found:?} {said}");
    }
    world.server.wait_for("the issuer's roots have changed", |_| true).await?;
    let taken_up = eventually("the server to take it up", SOON, async || {
        Ok(issuer(&world, "agent", "status").await?["validUntil"].as_str().map(str::to_owned))
    });
    let until = taken_up.await?;
    let (found, said) = run(&agent("retire")).await?;
    ensure!(found == Some(1) && said.contains("may be valid until"), "{until}: {said}");
    let (found, said) = run(&["status"]).await?;
    ensure!(found == Some(0) && said.contains("server: settled") && said.contains("rollback"), "{said}");
    let mut elsewhere = world.ginnel();
    elsewhere.args(["issuer", "prepare", "--role", "agent", "--directory"]).arg(world.directory());
    ensure!(output(elsewhere).await?.status.code() != Some(0), "a directory that is no issuer's was accepted");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_of_roots_changes_nothing_until_it_is_mended() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let echo = TcpHost::echo().await?;
    let mut world = world().own_roots().target(host.local_addr()?).target(echo.address()).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    for (part, role) in [(Part::Agent(0), "client"), (Part::Client, "agent")] {
        let file = world.roots_of(part).join(format!("{role}-root.pem"));
        let good = std::fs::read_to_string(&file)?;
        let mark = world.part(part)?.mark();
        replace(&file, "no roots")?;
        let message = "configuration not reloaded; what was in force before still is";
        let names_it =
            |line: &Value| line["error"].as_str().is_some_and(|error| error.contains("holds no usable roots"));
        world.part(part)?.wait_for_after(mark, message, names_it).await?;
        pair.exchange().await?;
        Pair::open(&world, &host).await?.exchange().await?;
        // Another root than that of the other end: sessions go on, and no more are opened until it is right again.
        let mark = world.part(part)?.mark();
        let wrong = std::fs::read_to_string(world.directory().join("ca/server-root.pem"))?;
        replace(&file, &wrong)?;
        world.part(part)?.hang_up()?;
        world.part(part)?.wait_for_after(mark, "configuration reloaded", |_| true).await?;
        pair.exchange().await?;
        // An agent verifies last: to the application it is a session that is reset before its first byte.
        let answer = proxy::connect(world.proxy_addr(), &echo.address().to_string()).await?;
        if let Ok(opened) = answer.opened() {
            let mut session = opened.stream;
            ensure!(exchange(&mut session, 1).await.is_err(), "{part:?} trusts what it was told not to");
        }
        trust(&mut world, part, role, &good).await?;
        Pair::open(&world, &host).await?.exchange().await?;
    }
    pair.exchange().await?;
    world.finish(&[])
}
