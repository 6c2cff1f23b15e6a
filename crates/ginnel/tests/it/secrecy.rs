//! What the server can know of the content of a session.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::memory::{Hunt, count, hunt};
use ginnel_testkit::{World, WorldBuilder, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::pair::Pair;
use crate::world;

/// How much of each marker has passed in each direction before the hunt begins.
const PASSED: usize = 1 << 20;

/// Hunts per test; a buffer may be free or in use at one moment and not at the next.
const HUNTS: usize = 3;

/// 32 random bytes as hexadecimal text.
fn marker() -> Result<String> {
    let mut random = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A session on which both sides go on sending their markers.
struct Talk {
    world: World,
    host: SocketAddr,
    up: String,
    down: String,
    ends: [JoinHandle<()>; 2],
}

impl Talk {
    async fn start(world: WorldBuilder) -> Result<Self> {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let address = host.local_addr()?;
        let world = world.relayed().target(address).start().await?;
        let Pair { app, target, .. } = Pair::open(&world, &host).await?;
        let (up, down) = (marker()?, marker()?);
        let (app_saw, target_saw) = (tokio::sync::watch::Sender::new(0), tokio::sync::watch::Sender::new(0));
        let (mut at_app, mut at_target) = (app_saw.subscribe(), target_saw.subscribe());
        let ends = [tokio::spawn(talk(app, up.clone(), app_saw)), tokio::spawn(talk(target, down.clone(), target_saw))];
        for seen in [&mut at_app, &mut at_target] {
            within("the markers to pass", Duration::from_secs(60), seen.wait_for(|n| *n >= PASSED)).await??;
        }
        Ok(Self { world, host: address, up, down, ends })
    }

    fn needles(&self) -> [&[u8]; 2] {
        [self.up.as_bytes(), self.down.as_bytes()]
    }

    fn hunt(&self, pid: u32) -> Result<Hunt> {
        hunt(pid, &self.needles())
    }

    fn finish(self) -> Result<()> {
        ensure!(self.ends.iter().all(|end| !end.is_finished()), "the session broke");
        self.ends.iter().for_each(JoinHandle::abort);
        self.world.finish(&[])
    }
}

/// Sends `text` for ever and counts what arrives.
async fn talk(mut stream: TcpStream, text: String, seen: tokio::sync::watch::Sender<usize>) {
    let (mut read, mut write) = stream.split();
    let chunk = text.repeat(256);
    let send = async { while write.write_all(chunk.as_bytes()).await.is_ok() {} };
    let receive = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            seen.send_modify(|total| *total += n);
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_never_holds_what_a_session_says() -> Result<()> {
    let talk = Talk::start(world()).await?;
    for _ in 0..HUNTS {
        let server = talk.hunt(talk.world.server.pid())?;
        ensure!(server.hits == 0, "the server holds the marker: {server:?}");
        ensure!(server.bytes_read > PASSED, "hardly anything could be read: {server:?}");
    }
    // The same hunt in the process beside the application finds it, or it would prove nothing.
    let client = talk.hunt(talk.world.client.pid())?;
    ensure!(client.hits > 0, "the hunt finds nothing anywhere: {client:?}");

    for (leg, cutter) in [("agent", talk.world.agent_leg()?), ("client", talk.world.client_leg()?)] {
        let captured = cutter.captured();
        ensure!(captured.len() > 2 * PASSED, "the session did not pass the {leg}'s leg");
        for needle in talk.needles() {
            ensure!(count(&captured, needle) == 0, "the marker is on the {leg}'s leg");
        }
    }
    let audit = std::fs::read(talk.world.directory().join("audit/audit.jsonl"))?;
    let world = &talk.world;
    let daemons = [&world.server, &world.client].into_iter().chain(&world.agents);
    let log: Vec<_> = daemons.flat_map(|daemon| daemon.lines()).collect();
    for needle in talk.needles() {
        ensure!(count(&audit, needle) + count(log.join("\n").as_bytes(), needle) == 0, "the marker is in a log");
    }
    // Who is reached in the customer's network is for the audit log, and for whoever asks for debug lines.
    let target = talk.host.to_string();
    ensure!(count(&audit, target.as_bytes()) > 0, "the audit log does not name the target");
    ensure!(!log.iter().any(|line| line.contains(&target)), "a log names the target: {log:#?}");
    talk.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inner_encryption_the_same_hunt_finds_it() -> Result<()> {
    let talk = Talk::start(world().danger_disable_inner_tls()).await?;
    let mut hits = 0;
    for _ in 0..HUNTS {
        hits += talk.hunt(talk.world.server.pid())?.hits;
    }
    ensure!(hits > 0, "the hunt cannot fail");
    talk.finish()
}
