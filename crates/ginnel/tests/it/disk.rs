//! A server whose disk takes its time: nothing is promised before it has the record, and nobody is kept waiting for it who has left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::succeed;
use ginnel_testkit::{Part, World, eventually, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::world;

/// How long the disk takes for each sync: far longer than anything else here, and less than the deadline of an opening session.
const SLOW: Duration = Duration::from_secs(6);

/// How long those at the other end may take to hear that the application has left. A refusal waits one second for its own record.
const HEARD: Duration = Duration::from_secs(3);

/// How long the rest may take.
const SOON: Duration = Duration::from_secs(20);

/// Makes every sync of the server's slow, until it is dropped.
async fn slow_disk(world: &World) -> Result<Child> {
    let mut strace = Command::new("strace");
    let delay = format!("inject=fsync,fdatasync:delay_enter={}", SLOW.as_micros());
    strace.args(["-f", "-e", "trace=fsync,fdatasync", "-e", &delay, "-p", &world.server.pid().to_string()]);
    let mut strace =
        strace.stderr(std::process::Stdio::piped()).kill_on_drop(true).spawn().context("starting strace")?;
    let mut said = BufReader::new(strace.stderr.take().context("its stderr")?).lines();
    let line = within("strace to attach", SOON, said.next_line()).await??.unwrap_or_default();
    ensure!(line.contains("attached"), "strace: {line}");
    // What it goes on to say must not stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    Ok(strace)
}

/// Whether the agent has a session whose target is connected and whose client is verified.
async fn carries(world: &World) -> Result<bool> {
    let mut status = world.ginnel();
    status.args(["status", "--json", "--socket"]).arg(world.socket(Part::Agent(0)));
    let status: serde_json::Value = serde_json::from_str(&succeed(status).await?)?;
    Ok(status["sessions"]["live"] == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn application_that_leaves_while_its_record_is_on_the_way_to_the_disk_is_heard() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?;
    let world = world().target(target).start().await?;
    let disk = slow_disk(&world).await?;
    let mut app = TcpStream::connect(world.proxy_addr()).await?;
    app.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let (mut far, _) = within("the target to be dialled", SOON, host.accept()).await??;
    // The agent has connected, verified the client and said so: what the application waits for is the record.
    eventually("the agent to carry", SOON, async || Ok(carries(&world).await?.then_some(()))).await?;
    app.set_zero_linger()?;
    drop(app);
    let heard = within("the target to hear of it", HEARD, far.read(&mut [0])).await?;
    ensure!(heard.is_err(), "a reset, not {heard:?}");
    ensure!(world.audit_of("connected")?.is_empty(), "the disk was quicker than it should be");
    drop(disk);
    let over =
        |log: &[serde_json::Value]| log.iter().any(|record| record["event"] == "refused" || record["event"] == "ended");
    let log = world.audit_until("the end on record", over).await?;
    let last: Vec<_> = log.iter().filter(|record| record["event"] == "refused" || record["event"] == "ended").collect();
    ensure!(last.len() == 1 && last[0]["event"] == "refused" && last[0]["hop"] != "server", "{last:?}");
    world.finish(&[])
}
