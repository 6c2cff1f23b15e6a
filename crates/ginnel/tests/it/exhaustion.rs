//! What a machine runs out of: places for strangers, descriptors, memory; beside a session that must not notice.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_core::limits::{HELLO_WAIT, SILENCE_MAX};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Call, Enrolment, Peer, client_hello, enrol};
use ginnel_testkit::stream::write_for_ever;
use ginnel_testkit::usage::{cpu, resident_kib};
use ginnel_testkit::{Part, World, eventually, proxy, within};
use ginnel_wire::path;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::canary::Canary;
use crate::observed::metrics;
use crate::pair::Pair;
use crate::played::{PlayedAgent, PlayedClient};
use crate::tls::attacker;
use crate::{report, world};

/// What a flood of strangers may add to the server's memory.
const MORE_KIB_MAX: u64 = 64 << 10;

/// How long somebody new may wait for a certificate beside it, at most.
const ENROLS_WITHIN: Duration = Duration::from_secs(2);

/// How soon a server drops who says nothing, with some time for a busy machine.
const GONE_WITHIN: Duration = Duration::from_secs(8);

/// Connects `count` times to the server and says `words` each time; counts how many are closed within [`GONE_WITHIN`] after the last.
async fn strangers(world: &World, count: usize, words: &[u8]) -> Result<usize> {
    let mut open = JoinSet::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(world.server_addr()).await?;
        // Who had to give way may be gone before it speaks.
        stream.write_all(words).await.ok();
        open.spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(1..) = stream.read(&mut buffer).await {}
        });
    }
    let gone = tokio::time::timeout(GONE_WITHIN, async { while open.join_next().await.is_some() {} }).await;
    Ok(if gone.is_ok() { count } else { count - open.len() })
}

async fn a_crowd_of(words: &[u8], count: usize) -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let memory = resident_kib(world.server.pid())?;
    let newcomer = async {
        // In the middle of it somebody wants a certificate, again and again.
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let good = Enrolment::new(&world.directory().join("client.json"))?;
            let began = Instant::now();
            let answer = Peer::connect(&world, None).await?.enrol(&good).await?;
            ensure!(answer == 0, "a newcomer was answered with {answer}");
            slowest = slowest.max(began.elapsed());
        }
        Ok(slowest)
    };
    let (gone, slowest) = tokio::join!(strangers(&world, count, words), newcomer);
    let (gone, slowest) = (gone?, slowest?);
    let grown = resident_kib(world.server.pid())?.saturating_sub(memory);
    let p99 = canary.finish().await?.p99();
    report(format_args!(
        "{gone} of {count} gone, {grown} KiB more, a newcomer within {slowest:?}, a message within {p99:?}"
    ));
    ensure!(gone == count, "{gone} of {count} strangers were closed in time");
    ensure!(slowest <= ENROLS_WITHIN, "a newcomer waited for {slowest:?}");
    ensure!(grown <= MORE_KIB_MAX, "{grown} KiB more");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed_and_keep_nobody_out() -> Result<()> {
    a_crowd_of(b"", 2000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_come_to_no_end_are_closed_and_leave_others_their_places() -> Result<()> {
    // As many as one source may have; the server answers each, and waits for the rest of it.
    let host = TcpHost::echo().await?;
    let world =
        world().target(host.address()).server_setting("/limits", json!({"pendingPerSource": 64})).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let memory = resident_kib(world.server.pid())?;
    let gone = strangers(&world, 1000, &client_hello(&world)?).await?;
    ensure!(gone == 1000, "{gone} of 1000 were closed in time");
    let grown = resident_kib(world.server.pid())?.saturating_sub(memory);
    ensure!(grown <= MORE_KIB_MAX, "{grown} KiB more");
    enrol(&world, "client.json").await?;
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten thousand connections of each kind: ./test floods"]
async fn ten_thousand_strangers_are_closed_and_keep_nobody_out() -> Result<()> {
    a_crowd_of(b"", 10_000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stops_on_the_way_to_a_call_is_closed() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let attacker = attacker(&world).await?;
    let canary = Canary::start(&world, host.address()).await?;
    let answer = attacker.play("unfinished.py", &json!({"patience": HELLO_WAIT.as_secs() + 3})).await?;
    ensure!(answer["open"] == json!([]) && answer["closed"] == 6, "{answer}");
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_does_not_spin_and_comes_back_at_once() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world =
        world().target(host.local_addr()?).started_by("server", &["prlimit", "--nofile=256:256"]).start().await?;
    let server = world.server.pid();
    let mut bystander = Pair::open(&world, &host).await?;
    bystander.exchange().await?;
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        // Some are closed at once to make room for the next.
        crowd.push(TcpStream::connect(world.server_addr()).await?);
    }
    // The loop has taken all of them in, and rests.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (busy, began) = (cpu(server)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let share = cpu(server)?.saturating_sub(busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let descriptors = std::fs::read_dir(format!("/proc/{server}/fd"))?.count();
    report(format_args!("{descriptors} descriptors, {share:.3} of a core"));
    ensure!(share <= 0.05, "{share:.3} of a core with nothing to do");
    bystander.exchange().await?;
    ensure!(descriptors < 256 - 64, "{descriptors} descriptors are open, and some have to be left");
    // There is a descriptor for whoever comes with a certificate, for the log, and for whoever asks how it is.
    let began = Instant::now();
    enrol(&world, "client.json").await?;
    ensure!(began.elapsed() <= Duration::from_secs(1), "a newcomer waited for {:?}", began.elapsed());
    ensure!(!metrics(&mut world, Part::Server).await?.is_empty(), "no metrics");
    drop(crowd);
    Pair::open(&world, &host).await?.exchange().await?;
    bystander.exchange().await?;
    ensure!(world.server.said("cannot accept connections").is_empty(), "it ran out of descriptors");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_a_client_without_descriptors_refuse_and_come_back() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let world = world()
        .target(&target)
        .started_by("agent", &["prlimit", "--nofile=160:160"])
        .started_by("client", &["prlimit", "--nofile=256:256"])
        .start()
        .await?;
    let canary = Canary::start(&world, host.address()).await?;
    // The agent has room for 32 sessions, the client for 64 applications; more of those wait in the kernel's queue.
    let (mut opened, mut refused) = (Vec::new(), 0);
    for _ in 0..60 {
        match proxy::connect(world.proxy_addr(), &target).await? {
            ginnel_testkit::Answer::Opened(session) => opened.push(session),
            ginnel_testkit::Answer::Refused(why) => {
                ensure!((why.cause.as_str(), why.hop.as_str()) == ("overloaded", "agent"), "{why:?}");
                refused += 1;
            }
        }
    }
    ensure!(opened.len() == 31 && refused == 29, "{} opened, {refused} refused", opened.len());
    let clients = [world.client.pid(), world.agents[0].pid()];
    let mut waiting = Vec::new();
    // The queue has room for all of them: a connection beyond it would be tried again by the kernel for half a minute.
    for _ in 0..100 {
        waiting.push(TcpStream::connect(world.proxy_addr()).await?);
    }
    let (busy, began) = (clients.map(|pid| cpu(pid).unwrap_or_default()), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (pid, busy) in clients.into_iter().zip(busy) {
        let share = cpu(pid)?.saturating_sub(busy).as_secs_f64() / began.elapsed().as_secs_f64();
        // It is the canary that costs something.
        ensure!(share <= 0.25, "{share:.3} of a core with nothing to do but a canary");
    }
    drop((opened, waiting));
    let again = async || Ok(proxy::connect(world.proxy_addr(), &target).await?.opened().ok());
    eventually("a session after the crowd", Duration::from_secs(5), again).await?;
    canary.finish().await?;
    world.finish(&[])
}

/// Has a client that reads nothing open sessions to a host that sends without end.
async fn hoard(world: &World, host: &TcpHost, sessions: usize) -> Result<(PlayedClient, Vec<Call>)> {
    let client = PlayedClient::start(world).await?;
    let mut calls = Vec::new();
    for _ in 0..sessions {
        calls.push(client.ask(host.address()).await?);
    }
    // Its windows are full soon, and nobody makes room in them.
    client.peer.stop_reading();
    Ok((client, calls))
}

async fn flood() -> Result<TcpHost> {
    TcpHost::start(async |stream: TcpStream| {
        write_for_ever(stream).await;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_nobody_takes_are_bounded_and_the_session_that_is_too_much_is_reset() -> Result<()> {
    let (host, endless) = (TcpHost::echo().await?, flood().await?);
    let mut world = world()
        .target(host.address())
        .target(endless.address())
        .danger_disable_inner_tls()
        .server_setting("/limits", json!({"waitingMib": 16}))
        .start()
        .await?;
    let canary = Canary::start(&world, host.address()).await?;
    let memory = resident_kib(world.server.pid())?;
    let (client, calls) = hoard(&world, &endless, 150).await?;
    let is_reset =
        |record: &Value| record["event"] == "ended" && record["cause"] == "overloaded" && record["hop"] == "server";
    world.audit_until("sessions to be too much", |log| log.iter().any(is_reset)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let series = metrics(&mut world, Part::Server).await?;
    let waiting = series.get("ginnel_bound_used{bound=\"waitingBytes\"}").copied().context("the bound")?;
    let grown = resident_kib(world.server.pid())?.saturating_sub(memory);
    let reset = world.audit()?.iter().filter(|record| is_reset(record)).count();
    report(format_args!("{waiting} bytes wait, {reset} of {} sessions were reset, {grown} KiB more", calls.len()));
    ensure!(waiting <= f64::from(9 << 20), "{waiting} bytes wait, of which one client may have half of 16 MiB");
    ensure!(grown <= 48 << 10, "{grown} KiB more");
    // Somebody else's sessions have room.
    proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    canary.finish().await?;
    drop((client, calls));
    let empty = async || {
        let series = metrics(&mut world, Part::Server).await?;
        Ok((series.get("ginnel_bound_used{bound=\"waitingBytes\"}").copied() < Some(65_536.0)).then_some(()))
    };
    eventually("what waited to be gone", SILENCE_MAX, empty).await?;
    world.finish(&[])
}

/// A control group for one process, with 512 MiB.
struct Group(PathBuf);

impl Group {
    const BYTES: u64 = 512 << 20;

    /// Makes one below the test's own, with whichever version of control groups the machine has.
    fn new() -> Result<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let (root, path, limit) = own
            .lines()
            .find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                let is_memory = controllers.split(',').any(|controller| controller == "memory");
                is_memory.then(|| ("/sys/fs/cgroup/memory", path.to_owned(), "memory.limit_in_bytes"))
            })
            .or_else(|| {
                let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
                Some(("/sys/fs/cgroup", path.to_owned(), "memory.max"))
            })
            .context("no control groups")?;
        let name = format!("ginnel-test-{}", std::process::id());
        // Version 2 wants processes in leaves alone, so that a group beside the own one is as good.
        let around = if limit == "memory.max" { "" } else { path.trim_matches('/') };
        let group = Path::new(root).join(around).join(name);
        std::fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
        std::fs::write(group.join(limit), Self::BYTES.to_string())
            .with_context(|| format!("bounding {}", group.display()))?;
        Ok(Self(group))
    }

    /// How often the kernel killed something in it.
    fn kills(&self) -> Result<u64> {
        let (text, word) = match std::fs::read_to_string(self.0.join("memory.events")) {
            Ok(text) => (text, "oom_kill "),
            Err(_) => (std::fs::read_to_string(self.0.join("memory.oom_control"))?, "oom_kill "),
        };
        let line = text.lines().find_map(|line| line.strip_prefix(word)).context("a number of kills")?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process has been killed by then, or goes with the machine.
        std::fs::remove_dir(&self.0).ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_512_mib_outlives_hoards_bodies_and_silence_together() -> Result<()> {
    if std::env::var_os("GINNEL_SKIP_ROOT_TESTS").is_some() {
        println!("SKIPPED: a memory control group needs root");
        return Ok(());
    }
    let group = Group::new().context("a memory control group needs root; GINNEL_SKIP_ROOT_TESTS=1 skips this")?;
    let (host, endless) = (TcpHost::echo().await?, flood().await?);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let mut world = world()
        .target(host.address())
        .target(endless.address())
        .danger_disable_inner_tls()
        .started_by("server", &["sh", "-c", &enter, "sh"])
        .start()
        .await?;
    let series = metrics(&mut world, Part::Server).await?;
    let most = series.get("ginnel_bound_most{bound=\"waitingBytes\"}").copied();
    ensure!(most == Some(f64::from(128 << 20)), "a quarter of the memory may wait: {most:?}");
    let canary = Canary::start(&world, host.address()).await?;
    let (client, calls) = hoard(&world, &endless, 1000).await?;
    let bodies = async {
        let mut bodies = JoinSet::new();
        for _ in 0..20 {
            // Some are turned away: there are as many as one source may have.
            let Ok(peer) = Peer::connect(&world, None).await else { continue };
            let Ok(mut call) = peer.call(path::ENROL).await else { continue };
            bodies.spawn(async move {
                // As much as the server takes, up to 25 MiB.
                call.say_bytes(&b"\0\xff\xff\xff\xff"[..]).ok();
                for _ in 0..400 {
                    if call.say_bytes(vec![b'x'; 64 << 10]).is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(peer);
            });
        }
        ensure!(bodies.len() > 5, "{} bodies", bodies.len());
        while bodies.join_next().await.is_some() {}
        Ok(())
    };
    let everything = Box::pin(async { tokio::join!(bodies, strangers(&world, 1000, b"")) });
    let (bodies, _silence): (Result<()>, _) = within("everything at once", Duration::from_secs(60), everything).await?;
    bodies?;
    let memory = resident_kib(world.server.pid())?;
    report(format_args!("{memory} KiB in use, {} kills", group.kills()?));
    ensure!(group.kills()? == 0 && world.server.running(), "the kernel had to kill it");
    canary.finish().await?;
    drop((client, calls));
    world.server.kill().await?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_orders_and_never_answers_is_given_up_for_another() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).danger_disable_inner_tls().start().await?;
    let mark = world.client.mark();
    let _silent = PlayedAgent::start(&world).await?;
    world.roster(mark, 2).await?;
    // Each goes to one of the two; eight that all miss the silent one are seldom, and then nothing was shown.
    let mut asking = JoinSet::new();
    for _ in 0..8 {
        let (proxy, target) = (world.proxy_addr(), host.address().to_string());
        asking.spawn(async move { proxy::connect(proxy, &target).await?.opened() });
    }
    while let Some(answer) = asking.join_next().await {
        answer??;
    }
    let timed_out = world.audit_of("refused")?;
    ensure!(timed_out.iter().all(|record| record["hop"] == "agent" && record["cause"] == "timedOut"), "{timed_out:?}");
    world.finish(&[])
}
