//! Much content with known hashes through a network that is cut and agents that come and go: what is hit is reset, what
//! looks whole is whole, and there is always a way for what comes next.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ginnel_testkit::hosts::Store;
use ginnel_testkit::hosts::store::Order;
use ginnel_testkit::{Answer, Content, Ending, Part, Sum, World, proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{report, world};

const AGENTS: usize = 3;

/// Sessions at the same time.
const AT_ONCE: u64 = 8;

/// How long a session may neither go on nor end. A hop that falls silent is given up within ten seconds.
const STUCK: Duration = Duration::from_secs(60);

/// How long it may take after a fault until a session that was opened later is complete.
const RECOVERED: Duration = Duration::from_secs(120);

/// How much is carried, in sessions of which size, and how many bytes lie between two faults.
struct Plan {
    bytes: u64,
    session: u64,
    between_faults: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    CutAgents,
    CutClient,
    CutBoth,
    Drain(usize),
}

/// Every fault in turn; each agent is drained as often as the others.
const FAULTS: [Fault; 6] =
    [Fault::CutAgents, Fault::Drain(0), Fault::CutClient, Fault::Drain(1), Fault::CutBoth, Fault::Drain(2)];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Complete,
    Reset,
    Refused(String),
}

struct Soak {
    plan: Plan,
    proxy: SocketAddr,
    target: String,
    /// The next session's number, which is its seed.
    next: AtomicU64,
    /// Bytes of complete sessions.
    complete: AtomicU64,
    /// Bytes that went anywhere, those of broken sessions as well.
    carried: watch::Sender<u64>,
    /// How many faults there were.
    faults: AtomicU64,
    /// The latest fault after which a session was opened and completed.
    recovered: watch::Sender<u64>,
    outcomes: Mutex<BTreeMap<Outcome, u64>>,
}

impl Soak {
    /// Whether enough is complete, and every fault has been met.
    fn done(&self) -> bool {
        self.complete.load(Relaxed) >= self.plan.bytes && self.faults.load(Relaxed) >= FAULTS.len() as u64
    }

    /// Carries one session after the other until enough is complete.
    async fn work(&self) -> Result<()> {
        while !self.done() {
            let number = self.next.fetch_add(1, Relaxed);
            let fault = self.faults.load(Relaxed);
            let outcome = self.session(number).await.with_context(|| format!("session {number}"))?;
            if outcome == Outcome::Complete {
                self.complete.fetch_add(self.plan.session, Relaxed);
                self.recovered.send_modify(|latest| *latest = fault.max(*latest));
            }
            *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
        }
        // Whoever waits for more of it has to look again.
        self.carried.send_modify(|_| {});
        self.recovered.send_modify(|_| {});
        Ok(())
    }

    /// # Errors
    /// For whatever is neither whole, nor a reset, nor a refusal because there is no way.
    async fn session(&self, number: u64) -> Result<Outcome> {
        let mut stream = match proxy::connect(self.proxy, &self.target).await? {
            Answer::Opened(opened) => opened.stream,
            Answer::Refused(refused) if (502..=504).contains(&refused.status) => {
                return Ok(Outcome::Refused(format!("{} by {}", refused.cause, refused.hop)));
            }
            Answer::Refused(refused) => bail!("{refused:?}"),
        };
        let outcome = if number.is_multiple_of(2) {
            self.get(&mut stream, number).await
        } else {
            self.put(&mut stream, number).await
        };
        match outcome {
            Ok(()) => Ok(Outcome::Complete),
            Err(error) if broken(&error) => Ok(Outcome::Reset),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, stream: &mut TcpStream, seed: u64) -> Result<()> {
        let length = self.plan.session;
        stream.write_all(&Order::Get(seed, length).to_bytes()).await?;
        let mut sum = Sum::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = within("more of a content", STUCK, stream.read(&mut buffer)).await??;
            if n == 0 {
                break;
            }
            sum.add(&buffer[..n]);
            self.carried.send_modify(|carried| *carried += n as u64);
        }
        ensure!(sum.length() == length, "a clean end after {} of {length} bytes", sum.length());
        ensure!(sum.finish() == Content::new(seed, length).hash(), "{length} bytes that are others");
        Ok(())
    }

    async fn put(&self, stream: &mut TcpStream, seed: u64) -> Result<()> {
        let length = self.plan.session;
        stream.write_all(&Order::Put(length).to_bytes()).await?;
        let mut sum = Sum::default();
        for piece in Content::new(seed, length) {
            within("room for more of a content", STUCK, stream.write_all(piece)).await??;
            sum.add(piece);
            self.carried.send_modify(|carried| *carried += piece.len() as u64);
        }
        stream.shutdown().await?;
        let mut answer = Vec::new();
        within("an answer", STUCK, stream.read_to_end(&mut answer)).await??;
        ensure!(answer == sum.finish(), "another hash of {length} bytes: {answer:?}");
        Ok(())
    }

    /// Breaks something whenever enough has been carried, and waits each time until sessions succeed again.
    async fn disturb(&self, world: &mut World) -> Result<()> {
        let mut carried = self.carried.subscribe();
        let mut recovered = self.recovered.subscribe();
        for (number, fault) in (1..).zip(FAULTS.into_iter().cycle()) {
            let mark = *carried.borrow() + self.plan.between_faults;
            carried.wait_for(|carried| *carried >= mark || self.done()).await?;
            if self.done() {
                break;
            }
            match fault {
                Fault::CutAgents => world.agent_leg()?.cut(),
                Fault::CutClient => world.client_leg()?.cut(),
                Fault::CutBoth => {
                    world.agent_leg()?.cut();
                    world.client_leg()?.cut();
                }
                Fault::Drain(agent) => {
                    world.agents[agent].terminate()?;
                    let status = world.agents[agent].ended().await?;
                    ensure!(status.success(), "agent {agent} drained and ended with {status}");
                    world.restart(Part::Agent(agent)).await?;
                }
            }
            self.faults.store(number, Relaxed);
            let again = recovered.wait_for(|latest| *latest >= number || self.done());
            within(&format!("a whole session after {fault:?}"), RECOVERED, again).await??;
        }
        Ok(())
    }
}

/// Whether the error is that of a connection that was reset. Only the first call that meets a reset is told so.
fn broken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| match Ending::of(error) {
        Ending::Reset => true,
        Ending::Other(kind) => matches!(kind, std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::NotConnected),
        Ending::Eof => false,
    })
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        let (complete, carried) = (mib(self.complete.load(Relaxed)), mib(*self.carried.borrow()));
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{complete} MiB whole of {carried} MiB carried, {} faults", self.faults.load(Relaxed))?;
        outcomes.iter().try_for_each(|(outcome, count)| write!(f, ", {count} {outcome:?}"))
    }
}

async fn soak(plan: Plan) -> Result<()> {
    let host = Store::start().await?;
    let mut world = world().agents(AGENTS).relayed().grace("1s").target(host.address()).start().await?;
    let soak = Arc::new(Soak {
        plan,
        proxy: world.proxy_addr(),
        target: host.address().to_string(),
        next: AtomicU64::new(0),
        complete: AtomicU64::new(0),
        carried: watch::Sender::new(0),
        faults: AtomicU64::new(0),
        recovered: watch::Sender::new(0),
        outcomes: Mutex::default(),
    });
    let started = Instant::now();
    let work = async {
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let soak = Arc::clone(&soak);
            workers.spawn(async move { soak.work().await });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(())
    };
    let ran = async { tokio::try_join!(work, soak.disturb(&mut world)) }.await;
    report(format_args!("{soak}, {:.0} s", started.elapsed().as_secs_f64()));
    ran.with_context(|| soak.to_string())?;
    host.check()?;
    let resets = soak.outcomes.lock().unwrap_or_else(PoisonError::into_inner).get(&Outcome::Reset).copied();
    ensure!(resets.is_some(), "no session was hit: {soak}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_and_drained_sessions_are_reset_and_all_others_are_whole() -> Result<()> {
    soak(Plan { bytes: 208 << 20, session: 4 << 20, between_faults: 16 << 20 }).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "carries 10 GiB, or as much as GINNEL_SOAK_GIB says: ./test soak"]
async fn cut_and_drained_sessions_are_reset_and_all_others_are_whole_at_length() -> Result<()> {
    let gib: u64 = std::env::var("GINNEL_SOAK_GIB").map_or(Ok(10), |gib| gib.parse()).context("GINNEL_SOAK_GIB")?;
    soak(Plan { bytes: gib << 30, session: 32 << 20, between_faults: 256 << 20 }).await
}
