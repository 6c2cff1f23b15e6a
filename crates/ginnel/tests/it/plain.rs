//! Plain HTTP through the client's proxy: what is counted of an exchange, and how it is ended from outside.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::succeed;
use ginnel_testkit::stream::read_to_ending;
use ginnel_testkit::world::Part;
use ginnel_testkit::{Ending, World, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::world;

/// From the order to end an exchange to the end of both of its connections.
const ENDED_WITHIN: Duration = Duration::from_secs(1);

/// A sender that has not been rid of a byte for so long is held up.
const HELD_UP: Duration = Duration::from_secs(1);

/// Both ends of one exchange, up to the head of the request.
struct Exchange {
    app: TcpStream,
    target: TcpStream,
    /// The request's head as the target saw it.
    head: String,
}

impl Exchange {
    async fn start(world: &World, host: &TcpListener) -> Result<Self> {
        let mut app = TcpStream::connect(world.proxy_addr()).await?;
        let address = host.local_addr()?;
        let request = format!("GET http://{address}/large HTTP/1.1\r\nHost: {address}\r\n\r\n");
        app.write_all(request.as_bytes()).await?;
        let (mut target, _) = within("the agent to dial", Duration::from_secs(30), host.accept()).await??;
        let head = read_head(&mut target).await?;
        Ok(Self { app, target, head })
    }
}

async fn read_head(stream: &mut TcpStream) -> Result<String> {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        anyhow::Ok(String::from_utf8(head)?)
    };
    within("a head", Duration::from_secs(30), read).await?
}

fn request_id(head: &str) -> Result<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(name, _)| name.eq_ignore_ascii_case("ginnel-request-id"));
    Ok(found.context("an answer without a request id")?.1.to_owned())
}

async fn reported(world: &World, command: &[&str]) -> Result<Value> {
    let mut ginnel = world.ginnel();
    ginnel.args(command);
    Ok(serde_json::from_str(&succeed(ginnel).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_an_exchange_are_counted_while_it_runs_and_when_it_ends() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let admin = world.admin(Part::Client).await?.to_string();
    let Exchange { mut app, mut target, head } = Exchange::start(&world, &host).await?;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
    target.write_all(answer.as_bytes()).await?;
    target.write_all(&[b'a'; 60_000]).await?;
    let request = request_id(&read_head(&mut app).await?)?;
    within("the first part", Duration::from_secs(30), app.read_exact(&mut [0; 60_000])).await??;
    let (up, first) = (head.len(), answer.len() + 60_000);
    let seen = reported(&world, &["explain", &request, "--json", "--admin", &admin]).await?;
    let carried = format!("carried up={up} down={first}");
    let is_said =
        seen["found"].as_array().is_some_and(|lines| lines.iter().any(|line| line["text"] == carried.as_str()));
    ensure!(is_said, "{seen}");

    target.write_all(&[b'b'; 40_000]).await?;
    within("the rest", Duration::from_secs(30), app.read_exact(&mut [0; 40_000])).await??;
    let down = answer.len() + 100_000;
    let is_it = |line: &Value| line["request"] == request.as_str();
    let line = world.client.wait_for("ended", is_it).await?;
    ensure!(line["up"] == up && line["down"] == down && line["cause"] == "finished", "{line}");
    let totals = reported(&world, &["status", "--json", "--admin", &admin]).await?["sessions"].clone();
    ensure!(totals["bytesUp"] == up && totals["bytesDown"] == down, "{totals}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_whose_application_stopped_reading_can_be_ended() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let Exchange { mut app, mut target, .. } = Exchange::start(&world, &host).await?;
    target.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
    let request = request_id(&read_head(&mut app).await?)?;
    // All buffers on the way are full: the application's are the first of them.
    let chunk = vec![b'a'; 64 << 10];
    while let Ok(written) = timeout(HELD_UP, target.write(&chunk)).await {
        written.context("the exchange broke by itself")?;
    }

    let mut end = world.ginnel();
    end.args(["sessions", "end", &request, "--socket"]).arg(world.socket(Part::Client));
    succeed(end).await?;
    // The target's side first: to read the application's would set it going again.
    for (who, stream) in [("the target", &mut target), ("the application", &mut app)] {
        let (_, ending) = within(&format!("the end at {who}"), ENDED_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{who}: {ending:?}");
    }
    let is_it = |line: &Value| line["request"] == request.as_str();
    let line = world.client.wait_for("ended", is_it).await?;
    ensure!(line["cause"] == "endedByOperator" && line["hop"] == "client", "{line}");
    world.finish(&[])
}

/// Its answer is complete, so that the application has no part in how the rest ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_stays_after_its_answer_is_reset() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let Exchange { mut app, mut target, .. } = Exchange::start(&world, &host).await?;
    target.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await?;
    let request = request_id(&read_head(&mut app).await?)?;
    let is_it = |record: &Value| record["requestId"] == request.as_str() && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(is_it)).await?;
    let record = log.iter().find(|record| is_it(record)).context("a record")?;
    ensure!(record["cause"] == "reset", "{record}");
    let (_, ending) = within("the end at the target", Duration::from_secs(30), read_to_ending(&mut target)).await?;
    // It hears the end of the request first.
    ensure!(ending == Ending::Eof, "{ending:?}");
    world.finish(&[])
}
