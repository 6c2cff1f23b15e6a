//! Nonsense and malice on every port, beside a session that must not notice.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::command::{command, output};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::stream::bytes;
use ginnel_testkit::{World, proxy};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::canary::Canary;
use crate::world;

/// How long a port may think about a request that never gets whole.
const PATIENCE: Duration = Duration::from_secs(25);

/// Most that is read of an answer to nonsense.
const ANSWER_MAX: u64 = 64 << 10;

/// Sends `bytes` to a port and returns what comes back until it closes, `None` if it does not close in time.
async fn send(address: SocketAddr, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(address).await?;
    // A port that has seen enough may close before everything is written; that is an answer as well.
    stream.write_all(bytes).await.ok();
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.take(ANSWER_MAX).read_to_end(&mut answer)).await;
    Ok(read.is_ok().then_some(answer))
}

/// Sends every text at the same time; none may be answered like a success, and every connection must be closed.
async fn none_succeeds(address: SocketAddr, texts: Vec<Vec<u8>>) -> Result<()> {
    let mut sends = JoinSet::new();
    for text in texts {
        sends.spawn(async move {
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
            let answer = send(address, &text).await?;
            ensure!(answer.is_some(), "{shown:?} was left open");
            let answer = answer.unwrap_or_default();
            let success =
                answer.starts_with(b"HTTP/1.1 2") || answer.starts_with(b"HTTP/1.0 2") || is_socks_success(&answer);
            ensure!(!success, "{shown:?} succeeded: {:?}", String::from_utf8_lossy(&answer));
            Ok(())
        });
    }
    while let Some(sent) = sends.join_next().await {
        sent??;
    }
    Ok(())
}

fn is_socks_success(answer: &[u8]) -> bool {
    answer.starts_with(&[5, 0, 5, 0])
}

fn bad_requests(target: SocketAddr) -> Vec<Vec<u8>> {
    let port = target.port();
    let heads = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "CONNECT 127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(),
        "CONNECT 127.0.0.1:0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(),
        "CONNECT 127.0.0.1:65536 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_owned(),
        format!("CONNECT someone@127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        format!("CONNECT 127.0.0.1:{port}/path HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        format!("CONNECT 127.1:{port} HTTP/1.1\r\nHost: 127.1\r\n\r\n"),
        format!("CONNECT 2130706433:{port} HTTP/1.1\r\nHost: 2130706433\r\n\r\n"),
        format!("CONNECT 0x7f000001:{port} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("CONNECT 127.0.0.1:0{port} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET http://someone:secret@127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
        format!("GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: other.example\r\n\r\n"),
        format!("GET https://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
        format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20)),
        format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000)),
        format!("CONNECT 127.0.0.1:{port} HTTP/9.9\r\n\r\n"),
        format!("CONNECT 127.0.0.1:{port}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
    ];
    heads.into_iter().map(String::into_bytes).collect()
}

fn bad_socks(target: SocketAddr) -> Vec<Vec<u8>> {
    let [high, low] = target.port().to_be_bytes();
    let greeted = |rest: &[u8]| [&[5, 1, 0], rest].concat();
    let name = |name: &[u8]| {
        let length = name.len().to_le_bytes()[0];
        greeted(&[&[5, 1, 0, 3, length], name, &[high, low]].concat())
    };
    vec![
        vec![4, 1, high, low, 127, 0, 0, 1, 0],
        vec![5],
        vec![5, 0],
        vec![5, 1, 2],
        vec![5, 255],
        greeted(&[4, 1, 0, 1, 127, 0, 0, 1, high, low]),
        greeted(&[5, 2, 0, 1, 127, 0, 0, 1, high, low]),
        greeted(&[5, 3, 0, 1, 127, 0, 0, 1, high, low]),
        greeted(&[5, 9, 0, 1, 127, 0, 0, 1, high, low]),
        greeted(&[5, 1, 0, 9, 127, 0, 0, 1, high, low]),
        greeted(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 0]),
        greeted(&[5, 1, 0, 1, 127]),
        name(b""),
        name(b"127.1"),
        name(b"a\0b"),
        name(b"a\r\nb"),
        name(&[0xff; 255]),
        name(&[b'a'; 255]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_port_survives_bad_requests() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let noise = (1..=20).map(|seed| bytes(seed, 4096));
    let texts = [bad_requests(host.address()), bad_socks(host.address()), noise.collect()].concat();
    none_succeeds(world.proxy_addr(), texts).await?;
    canary.finish().await?;
    ensure!(world.audit_of("allowed")?.len() == 1, "something else than the canary was allowed");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn server_port_survives_garbage() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let mut texts: Vec<Vec<u8>> = (1..=20).map(|seed| bytes(seed, 16 << 10)).collect();
    texts.extend([
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        // A TLS record that promises more than it holds, one that is too long, and an alert.
        vec![22, 3, 1, 2, 0, 1, 0],
        [&[22, 3, 3, 255, 255][..], &[0; 1000]].concat(),
        vec![21, 3, 3, 0, 2, 2, 40],
    ]);
    none_succeeds(world.server_addr(), texts).await?;
    canary.finish().await?;
    world.finish(&[])
}

/// What curl prints of heads and trailers, and whether it was content.
async fn curl(world: &World, arguments: &[&str], path: &str) -> Result<(bool, String)> {
    let mut curl = command("curl", world.directory());
    curl.args(["--silent", "--insecure", "--max-time", "10", "--dump-header", "-", "--output", "/dev/null"]);
    curl.args(arguments).arg(format!("https://{}{path}", world.server_addr()));
    let output = output(curl).await?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn server_port_speaks_nothing_but_http2() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    for arguments in [&["--http1.1"][..], &["--no-alpn"], &["--http2", "--tls-max", "1.2"]] {
        let (content, head) = curl(&world, arguments, "/").await?;
        ensure!(!content && head.is_empty(), "{arguments:?}: {head}");
    }
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nothing_but_enrolment_can_be_called() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let calls = [
        "ClientLink/Open",
        "ClientLink/Roster",
        "AgentLink/Attach",
        "AgentLink/Carry",
        "Enrolment/Enrol",
        "Other/Call",
    ];
    for call in calls {
        // An empty message in gRPC framing.
        let body = world.directory().join("empty.grpc");
        std::fs::write(&body, [0; 5])?;
        let data = format!("@{}", body.display());
        let arguments = ["--http2", "--header", "content-type: application/grpc", "--header", "te: trailers"];
        let arguments = [&arguments[..], &["--data-binary", &data]].concat();
        let (_, head) = curl(&world, &arguments, &format!("/ginnel.v1.{call}")).await?;
        let status = head.lines().find_map(|line| line.strip_prefix("grpc-status:")).map(str::trim);
        let refused_by_http = head.starts_with("HTTP/2 4");
        ensure!(!head.contains("grpc-status: 0"), "{call}: {head}");
        ensure!(head.is_empty() || refused_by_http || status.is_some_and(|status| status != "0"), "{call}: {head}");
    }
    canary.finish().await?;
    ensure!(world.audit_of("allowed")?.len() == 1, "something else than the canary was allowed");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_key_does_not_make_a_client() -> Result<()> {
    let host = TcpHost::echo().await?;
    let sound = world().target(host.address());
    // Whether it gives up at once or goes on without a session, nothing is allowed.
    let Ok(world) = sound.client_with_agent_key().start_unready().await else { return Ok(()) };
    let refused = proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.refused()?;
    ensure!(refused.status >= 500, "{refused:?}");
    ensure!(world.audit_of("allowed")?.is_empty(), "an agent was allowed to open a session");
    ensure!(world.audit_of("clientUp")?.is_empty(), "an agent was taken for a client");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_idle_connections_keep_nobody_out() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(world.server_addr()).await?);
        idle.push(TcpStream::connect(world.proxy_addr()).await?);
    }
    let canary = Canary::start(&world, host.address()).await?;
    canary.finish().await?;
    drop(idle);
    world.finish(&[])
}
