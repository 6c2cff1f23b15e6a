//! How a session ends: a broken one never looks like a finished one, and each half of a sound one ends on its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::stream::{bytes, read_to_ending};
use ginnel_testkit::{Cutter, Ending, Part, World, eventually, proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::pair::Pair;
use crate::world;

/// Bytes received at both ends before something breaks.
const FLOWING: u64 = 2 << 20;

/// How long a surviving application may stay unaware; a silent peer is given up within ten seconds.
const NOTICED: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill(Part),
    CutAgentLeg,
    CutClientLeg,
}

impl Fault {
    async fn happen(self, world: &mut World) -> Result<()> {
        match self {
            Self::Kill(part) => world.part(part)?.kill().await?,
            Self::CutAgentLeg => world.agent_leg()?.cut(),
            Self::CutClientLeg => world.client_leg()?.cut(),
        }
        Ok(())
    }

    fn killed(self) -> Vec<Part> {
        match self {
            Self::Kill(part) => vec![part],
            Self::CutAgentLeg | Self::CutClientLeg => Vec::new(),
        }
    }
}

/// Sends and receives at one end without pause, until it breaks or is told to reset it.
async fn busy(mut stream: TcpStream, received: watch::Sender<u64>, reset: oneshot::Receiver<()>) -> Option<Ending> {
    let chunk = bytes(3, 16 << 10);
    let ending = {
        let (mut read, mut write) = stream.split();
        let receive = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match read.read(&mut buffer).await {
                    Ok(0) => return Ending::Eof,
                    Ok(n) => received.send_modify(|total| *total += n as u64),
                    Err(error) => return Ending::of(&error),
                }
            }
        };
        let send = async {
            loop {
                // The kernel reports a reset once, to whoever asks first; a broken pipe means that the reader has it.
                match write.write_all(&chunk).await {
                    Err(error) if Ending::of(&error) == Ending::Reset => return Ending::Reset,
                    Err(_) => return std::future::pending().await,
                    Ok(()) => {}
                }
            }
        };
        tokio::select! {
            biased;
            Ok(()) = reset => None,
            ending = receive => Some(ending),
            ending = send => Some(ending),
        }
    };
    if ending.is_none() {
        stream.set_zero_linger().ok();
    }
    ending
}

/// One end that is kept busy in a task.
struct Busy {
    task: tokio::task::JoinHandle<Option<Ending>>,
    received: watch::Receiver<u64>,
    reset: oneshot::Sender<()>,
}

impl Busy {
    fn start(stream: TcpStream) -> Self {
        let (received, receiver) = watch::channel(0);
        let (reset, told) = oneshot::channel();
        Self { task: tokio::spawn(busy(stream, received, told)), received: receiver, reset }
    }

    async fn flowing(&mut self) -> Result<()> {
        within("bytes to flow", Duration::from_secs(60), self.received.wait_for(|n| *n >= FLOWING)).await??;
        Ok(())
    }

    async fn ending(self, who: &str) -> Result<Option<Ending>> {
        Ok(within(&format!("{who} to notice"), NOTICED, self.task).await??)
    }
}

async fn busy_session() -> Result<(World, Busy, Busy)> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().relayed().target(host.local_addr()?).start().await?;
    let Pair { app, target, .. } = Pair::open(&world, &host).await?;
    let (mut app, mut target) = (Busy::start(app), Busy::start(target));
    app.flowing().await?;
    target.flowing().await?;
    Ok((world, app, target))
}

async fn resets_both_ends_in_mid_transfer(fault: Fault) -> Result<()> {
    let (mut world, app, target) = busy_session().await?;
    fault.happen(&mut world).await?;
    let (app, target) = tokio::try_join!(app.ending("the application"), target.ending("the target"))?;
    ensure!((app, target) == (Some(Ending::Reset), Some(Ending::Reset)), "{fault:?}: {app:?}, {target:?}");
    world.finish(&fault.killed())
}

async fn resets_both_ends_of_an_idle_session(fault: Fault) -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().relayed().target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    fault.happen(&mut world).await?;
    let both = async { tokio::join!(read_to_ending(&mut pair.app), read_to_ending(&mut pair.target)) };
    let (app, target) = within("both ends to notice", NOTICED, both).await?;
    ensure!((app, target) == ((0, Ending::Reset), (0, Ending::Reset)), "{fault:?}: {app:?}, {target:?}");
    world.finish(&fault.killed())
}

macro_rules! faults {
    ($($name:ident, $idle:ident: $fault:expr;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() -> Result<()> {
                resets_both_ends_in_mid_transfer($fault).await
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn $idle() -> Result<()> {
                resets_both_ends_of_an_idle_session($fault).await
            }
        )+
    };
}

faults! {
    killed_server_resets_both_ends, killed_server_resets_both_idle_ends: Fault::Kill(Part::Server);
    killed_agent_resets_both_ends, killed_agent_resets_both_idle_ends: Fault::Kill(Part::Agent(0));
    killed_client_resets_both_ends, killed_client_resets_both_idle_ends: Fault::Kill(Part::Client);
    cut_agent_leg_resets_both_ends, cut_agent_leg_resets_both_idle_ends: Fault::CutAgentLeg;
    cut_client_leg_resets_both_ends, cut_client_leg_resets_both_idle_ends: Fault::CutClientLeg;
}

fn was_reset(log: &[serde_json::Value]) -> bool {
    log.iter().any(|record| record["event"] == "ended" && record["cause"] == "reset")
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_of_the_target_reaches_the_application() -> Result<()> {
    let (world, app, target) = busy_session().await?;
    target.reset.send(()).ok();
    let app = app.ending("the application").await?;
    ensure!(app == Some(Ending::Reset), "{app:?}");
    world.audit_until("a reset in the audit", was_reset).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_of_the_application_reaches_the_target() -> Result<()> {
    let (world, app, target) = busy_session().await?;
    app.reset.send(()).ok();
    let target = target.ending("the target").await?;
    ensure!(target == Some(Ending::Reset), "{target:?}");
    world.audit_until("a reset in the audit", was_reset).await?;
    world.finish(&[])
}

/// Nothing passes on one leg any more, and nobody says so: both ends hear of it, and once the network is back, so is the tunnel.
async fn gives_a_silent_leg_up(leg: impl Fn(&World) -> Result<&Cutter>) -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().relayed().target(host.local_addr()?).start().await?;
    let Pair { app, target, .. } = Pair::open(&world, &host).await?;
    let (mut app, mut target) = (Busy::start(app), Busy::start(target));
    app.flowing().await?;
    target.flowing().await?;
    leg(&world)?.freeze();
    let (app, target) = tokio::try_join!(app.ending("the application"), target.ending("the target"))?;
    ensure!((app, target) == (Some(Ending::Reset), Some(Ending::Reset)), "{app:?}, {target:?}");

    leg(&world)?.thaw();
    let address = host.local_addr()?.to_string();
    let reopened = eventually("a session once the network is back", NOTICED, async || {
        Ok(proxy::connect(world.proxy_addr(), &address).await?.opened().ok())
    });
    reopened.await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_agent_leg_is_given_up_and_comes_back() -> Result<()> {
    gives_a_silent_leg_up(World::agent_leg).await
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_client_leg_is_given_up_and_comes_back() -> Result<()> {
    gives_a_silent_leg_up(World::client_leg).await
}

/// Ends one half, and sends on the other half after that has arrived.
async fn half_close(mut first: TcpStream, mut second: TcpStream) -> Result<()> {
    let (one, other) = (bytes(11, 5 << 20), bytes(12, 5 << 20));
    let transfer = async {
        let send = async {
            first.write_all(&one).await?;
            first.shutdown().await
        };
        let mut seen = Vec::new();
        tokio::try_join!(send, second.read_to_end(&mut seen))?;
        ensure!(seen == one, "{} of {} bytes before the first end", seen.len(), one.len());

        let send = async {
            second.write_all(&other).await?;
            second.shutdown().await
        };
        let mut seen = Vec::new();
        tokio::try_join!(send, first.read_to_end(&mut seen))?;
        ensure!(seen == other, "{} of {} bytes after the first end", seen.len(), other.len());
        Ok(())
    };
    within("both halves to end", Duration::from_secs(60), transfer).await?
}

async fn ends_half_by_half(application_first: bool) -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let Pair { app, target, request_id } = Pair::open(&world, &host).await?;
    let (first, second) = if application_first { (app, target) } else { (target, app) };
    half_close(first, second).await?;
    // Counts in the audit are of what was carried, which inner encryption makes a little more than what was said.
    let is_it = |record: &serde_json::Value| {
        let about = |field: &str| record[field].as_u64().is_some_and(|n| (5 << 20..6 << 20).contains(&n));
        record["event"] == "ended"
            && record["requestId"] == request_id
            && record["cause"] == "finished"
            && about("bytesUp")
            && about("bytesDown")
    };
    world.audit_until("a clean end in the audit", |log| log.iter().any(is_it)).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn application_that_has_said_everything_still_hears_the_target() -> Result<()> {
    ends_half_by_half(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn target_that_has_said_everything_still_hears_the_application() -> Result<()> {
    ends_half_by_half(false).await
}

/// Content before an end that a reset follows at once.
const LAST: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn all_bytes_before_an_end_reach_a_slow_reader_although_a_reset_follows() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let Pair { mut app, mut target, .. } = Pair::open(&world, &host).await?;
    let said = bytes(31, LAST);
    let said_last = async {
        target.write_all(&said).await?;
        target.shutdown().await?;
        // What has not reached the agent's kernel by then the target itself takes back.
        let taken = async || Ok(has_all(&target)?.then_some(()));
        eventually("the agent's kernel to have it all", NOTICED, taken).await?;
        target.set_zero_linger()?;
        drop(target);
        anyhow::Ok(())
    };
    let heard = async {
        let (mut heard, mut piece) = (Vec::new(), vec![0; 32 << 10]);
        loop {
            match within("more of it", NOTICED, app.read(&mut piece)).await? {
                Ok(0) => return Ok(heard),
                Ok(n) => heard.extend_from_slice(&piece[..n]),
                Err(error) => anyhow::bail!("{error} after {} bytes", heard.len()),
            }
            // What makes it a slow reader: half a second for all of it.
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    let ((), heard) = tokio::try_join!(said_last, heard)?;
    ensure!(heard == said, "{} bytes of {LAST}", heard.len());
    world.finish(&[])
}

/// Whether the peer's kernel has acknowledged everything, the end included: the socket is in FIN-WAIT-2 then.
fn has_all(stream: &TcpStream) -> Result<bool> {
    const FIN_WAIT_2: &str = "05";
    let ports = format!("{:04X} {:04X}", stream.local_addr()?.port(), stream.peer_addr()?.port());
    Ok(std::fs::read_to_string("/proc/net/tcp")?.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let port = |index: usize| words.get(index).and_then(|address| address.rsplit(':').next()).unwrap_or_default();
        format!("{} {}", port(1), port(2)) == ports && words.get(3) == Some(&FIN_WAIT_2)
    }))
}
