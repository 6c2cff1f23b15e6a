//! What one session does to the others: sessions beside bad neighbours, against the same sessions without them, by turns
//! in one run. A clock is never compared with anything but itself a moment earlier.

use std::io::{ErrorKind, Write};
use std::net::TcpStream as BlockingStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::stream::{bytes, write_for_ever};
use ginnel_testkit::{World, eventually, proxy, usage, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::crowd::{Crowd, Stretch, median, open, pids};
use crate::{report, world};

/// Stretches that are watched before the first that counts.
const WARM_UP: usize = 3;

/// How long nothing may move until a sender counts as stopped.
const STILL: Duration = Duration::from_millis(300);

/// The same for senders whose bytes fill every buffer on the way beside a busy crowd. The kernel takes more from a sender
/// only when a third of what it holds has gone, and what still moves would count as harm that a stalled session does.
const FULL_UP: Duration = Duration::from_millis(1500);

/// What a stopped or trickling session may add to the memory of the processes together, in KiB: far more than its
/// credits and buffers, far less than a million pieces in queues.
const GROWTH_MAX_KIB: u64 = 48 << 10;

/// CPU time of the three processes for tiny writes, as a multiple of what the writer itself spends on them.
/// Each piece that is not joined to its neighbours costs a record, a frame and two wakeups in each process.
const TINY_COST_MAX: f64 = 4.0;

/// How many sessions, how long is watched, how often, and what is expected.
struct Plan {
    active: usize,
    stalled: usize,
    stretch: Duration,
    rounds: usize,
    /// The share of its rate that the crowd keeps at least, as [`Plan::judged`] says.
    rate_kept_min: f64,
    /// From the shares of all rounds, the one that counts.
    judged: fn(Vec<f64>) -> f64,
}

/// Beside other tests most of what is measured is the others. A neighbour that does harm does it in every round.
const BRIEF: Plan = Plan {
    active: 20,
    stalled: 20,
    stretch: Duration::from_millis(500),
    rounds: 3,
    rate_kept_min: 0.7,
    judged: |rates| rates.into_iter().fold(0.0, f64::max),
};

/// What only a quiet machine and many stretches can show.
const FULL: Plan = Plan {
    active: 100,
    stalled: 100,
    stretch: Duration::from_secs(1),
    rounds: 15,
    rate_kept_min: 0.95,
    judged: median,
};

/// Hosts that send for ever, one for those who listen and one, which counts, for those who do not.
struct Floods {
    heard: TcpHost,
    unheard: TcpHost,
    sent: Arc<AtomicU64>,
}

impl Floods {
    async fn start() -> Result<Self> {
        let heard = flood();
        let sent = Arc::new(AtomicU64::new(0));
        let unheard = TcpHost::start({
            let sent = Arc::clone(&sent);
            move |mut stream: TcpStream| {
                let sent = Arc::clone(&sent);
                async move {
                    let chunk = bytes(1, 16 << 10);
                    loop {
                        sent.fetch_add(stream.write(&chunk).await? as u64, Relaxed);
                    }
                }
            }
        });
        Ok(Self { heard: heard.await?, unheard: unheard.await?, sent })
    }

    /// Waits until every sender to whom nobody listens has been stopped.
    async fn stopped(&self) -> Result<()> {
        eventually("the unheard senders to stop", Duration::from_secs(60), async || {
            let before = self.sent.load(Relaxed);
            tokio::time::sleep(FULL_UP).await;
            Ok((self.sent.load(Relaxed) == before).then_some(()))
        })
        .await
    }
}

/// A host that sends for ever.
async fn flood() -> Result<TcpHost> {
    TcpHost::start(async |stream: TcpStream| {
        write_for_ever(stream).await;
        Ok(())
    })
    .await
}

/// A stretch beside bad neighbours, between two without.
fn compare(title: &str, before: Stretch, beside: Stretch, after: Stretch) -> (f64, f64) {
    let rate = beside.rate() / f64::midpoint(before.rate(), after.rate());
    let cpu = beside.cpu_per_gib() / f64::midpoint(before.cpu_per_gib(), after.cpu_per_gib());
    report(format_args!(
        "{title}: rate x{rate:.3}, CPU per GiB x{cpu:.3}\n  before {before}\n  beside {beside}\n  after  {after}"
    ));
    (rate, cpu)
}

async fn beside_stalled_sessions(plan: Plan) -> Result<()> {
    let floods = Floods::start().await?;
    let world = world().target(floods.heard.address()).target(floods.unheard.address()).start().await?;
    let mut crowd = Crowd::start(&world, &floods.heard, plan.active).await?;
    crowd.flowing().await?;
    // The credits of the crowd grow with what it receives, and so does the size of what is carried at once.
    for _ in 0..WARM_UP {
        report(format_args!("at first {}", crowd.watch(&world, plan.stretch).await?));
    }
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        let before = crowd.watch(&world, plan.stretch).await?;
        let stalled = open(&world, &floods.unheard, plan.stalled).await?;
        floods.stopped().await?;
        let beside = crowd.watch(&world, plan.stretch).await?;
        drop(stalled);
        let gone =
            |log: &[serde_json::Value]| log.iter().filter(|r| r["event"] == "ended").count() == round * plan.stalled;
        world.audit_until("the stalled sessions to end", gone).await?;
        let after = crowd.watch(&world, plan.stretch).await?;
        let (rate, cost) = compare(&format!("round {round}"), before, beside, after);
        rates.push(rate);
        costs.push(cost);
    }
    let kept = (plan.judged)(rates.clone());
    let (rate, cost) = (median(rates), median(costs));
    report(format_args!(
        "{} active beside {} stalled: rate x{rate:.3}, CPU per GiB x{cost:.3}",
        plan.active, plan.stalled
    ));
    ensure!(kept >= plan.rate_kept_min, "{} stalled sessions leave the others {kept:.3} of their rate", plan.stalled);
    world.finish(&[])
}

/// What a writer of single bytes got rid of, and what that cost it.
struct Trickle {
    stream: BlockingStream,
    written: u64,
    cpu: Duration,
}

impl Trickle {
    /// Writes single bytes, each in a segment of its own, until `count` are gone or nobody takes them any more.
    async fn feed(mut stream: BlockingStream, count: u64) -> Result<Self> {
        let feeding = tokio::task::spawn_blocking(move || {
            let before = usage::cpu_of_this_thread();
            let mut written = 0;
            while written < count {
                match stream.write(b"x") {
                    Ok(_) => written += 1,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(Self { stream, written, cpu: usage::cpu_of_this_thread().saturating_sub(before) })
        });
        Ok(feeding.await??)
    }

    async fn open(world: &World, target: &TcpHost) -> Result<BlockingStream> {
        let answer = proxy::connect(world.proxy_addr(), &target.address().to_string()).await?;
        Self::prepare(answer.opened()?.stream)
    }

    /// The same kind of connection without the tunnel.
    async fn direct(target: &TcpHost) -> Result<BlockingStream> {
        Self::prepare(TcpStream::connect(target.address()).await?)
    }

    fn prepare(stream: TcpStream) -> Result<BlockingStream> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(STILL))?;
        Ok(stream)
    }

    /// Ends this half and returns what the target says then.
    async fn end(self) -> Result<String> {
        self.stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(self.stream)?;
        stream.shutdown().await?;
        let mut answer = String::new();
        within("an answer", Duration::from_secs(60), stream.read_to_string(&mut answer)).await??;
        Ok(answer)
    }

    /// Whether the session is still there, after everything.
    fn alive(&self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let peeked = self.stream.peek(&mut [0]);
        Ok(self.stream.take_error()?.is_none() && peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    }
}

fn memory(world: &World) -> Result<u64> {
    pids(world).into_iter().map(usage::resident_kib).sum()
}

/// Feeds `target` while nothing else happens: the CPU time of the processes for it, as a multiple of the writer's own.
async fn feed_alone(world: &World, target: &TcpHost, count: u64) -> Result<(Trickle, f64)> {
    let cpu = || pids(world).into_iter().map(usage::cpu).sum::<Result<Duration>>();
    let stream = Trickle::open(world, target).await?;
    let before = cpu()?;
    let trickle = Trickle::feed(stream, count).await?;
    let spent = cpu()?.saturating_sub(before);
    let cost = spent.as_secs_f64() / trickle.cpu.as_secs_f64();
    report(format_args!(
        "{} tiny writes alone: {:.2} s of CPU, x{cost:.2} of the writer's",
        trickle.written,
        spent.as_secs_f64()
    ));
    Ok((trickle, cost))
}

async fn beside_tiny_writes(plan: Plan, count: u64) -> Result<()> {
    let (flood, sink, deaf) = (flood().await?, TcpHost::sink().await?, TcpHost::black_hole().await?);
    let world = world().target(flood.address()).target(sink.address()).target(deaf.address()).start().await?;
    let (heard, cost_heard) = feed_alone(&world, &sink, count).await?;
    let answer = heard.end().await?;
    ensure!(answer == count.to_string(), "{answer} of {count} single bytes arrived");
    let (unheard, cost_unheard) = feed_alone(&world, &deaf, count).await?;
    ensure!(unheard.alive()?, "the session did not survive {} single bytes", unheard.written);
    drop(unheard);

    let mut crowd = Crowd::start(&world, &flood, plan.active).await?;
    crowd.flowing().await?;
    let (mut rates, mut growths) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        // What the writer itself takes from the others on this machine, without the tunnel.
        let direct = async || Trickle::feed(Trickle::direct(&sink).await?, count).await;
        let (written, before) = crowd.during(&world, direct()).await?;
        ensure!(written?.written == count, "a direct connection took fewer");
        let memory_before = memory(&world)?;
        let stream = Trickle::open(&world, &deaf).await?;
        let (trickle, beside) = crowd.during(&world, Trickle::feed(stream, count)).await?;
        let trickle = trickle?;
        growths.push(memory(&world)?.saturating_sub(memory_before));
        let quiet = crowd.watch(&world, plan.stretch).await?;
        ensure!(trickle.alive()?, "the session did not survive {} single bytes", trickle.written);
        let took = trickle.written;
        drop(trickle);
        let (written, after) = crowd.during(&world, direct()).await?;
        written?;
        let (rate, _) = compare(&format!("round {round}"), before, beside, after);
        report(format_args!("  it took {took}; and while it is stopped {quiet}"));
        rates.push(rate);
    }
    let kept = (plan.judged)(rates.clone());
    let (rate, growth) = (median(rates), growths.into_iter().max().unwrap_or(0));
    report(format_args!(
        "{} good beside one that is fed {count} single bytes: rate x{rate:.3}, {growth} KiB more in all, CPU of three processes \
         for it alone x{cost_heard:.2} of the writer's if read, x{cost_unheard:.2} if not",
        plan.active
    ));
    ensure!(kept >= plan.rate_kept_min, "tiny writes leave the others {kept:.3} of their rate");
    ensure!(growth <= GROWTH_MAX_KIB, "tiny writes cost {growth} KiB");
    ensure!(cost_heard <= TINY_COST_MAX && cost_unheard <= TINY_COST_MAX, "x{cost_heard:.2}, x{cost_unheard:.2}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_sessions_leave_the_others_their_rate() -> Result<()> {
    beside_stalled_sessions(BRIEF).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tiny_writes_that_nobody_reads_leave_the_others_their_rate() -> Result<()> {
    beside_tiny_writes(BRIEF, 100_000).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes and wants a quiet machine: ./test isolation"]
async fn a_hundred_stalled_sessions_beside_a_hundred_others() -> Result<()> {
    beside_stalled_sessions(FULL).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures for minutes and wants a quiet machine: ./test isolation"]
async fn a_million_tiny_writes_beside_ninety_nine_others() -> Result<()> {
    // Each stretch lasts as long as the writes do.
    beside_tiny_writes(Plan { active: 99, rounds: 3, ..FULL }, 1_000_000).await
}
