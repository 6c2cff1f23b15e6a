//! Every log at its most talkative, and nothing secret in any.

use anyhow::{Context, Result, ensure};
use ginnel_testkit::memory::count;
use ginnel_testkit::{Part, proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::hygiene::key_file;
use crate::world;

/// How every token of ours begins: the beginning of its header in base64.
const TOKEN: &[u8] = b"eyJhbGciOi";

/// What an application says that is nobody's business.
const UP: &str = "marker-up-0b5c1f7a9e";
const DOWN: &str = "marker-down-77d0c4e2b8";
const HEADER: &str = "bWFya2VyOmhlYWRlcg";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_log_at_trace_level() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?;
    // Without encryption inside, what is said passes through all three processes as it is.
    let mut builder = world().danger_disable_inner_tls().target(target);
    for role in ["server", "agent", "client"] {
        builder = builder.environment(role, "GINNEL_LOG", "trace");
    }
    let mut world = builder.start().await?;

    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {HEADER}\r\n\r\n");
    let mut app = proxy::request_answer(world.proxy_addr(), request.as_bytes()).await?.opened()?.stream;
    let (mut far, _) = within("the target to be dialled", std::time::Duration::from_secs(10), host.accept()).await??;
    app.write_all(UP.as_bytes()).await?;
    far.read_exact(&mut [0; UP.len()]).await?;
    far.write_all(DOWN.as_bytes()).await?;
    app.read_exact(&mut [0; DOWN.len()]).await?;
    drop((app, far));
    for part in [Part::Client, Part::Agent(0), Part::Server] {
        world.part(part)?.stop().await?;
    }

    let directory = world.directory().to_owned();
    let mut secrets = vec![UP.into(), DOWN.into(), HEADER.into(), TOKEN.to_vec()];
    for file in ["agent.json", "client.json"] {
        secrets.extend(key_file(&directory.join(file))?);
    }
    for file in ["chain.key", "chain.state"] {
        let kept: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(directory.join("audit").join(file))?)?;
        secrets.push(kept["seed"].as_str().context("a seed")?.as_bytes().to_vec());
    }
    let mut logs = vec![("audit log", std::fs::read_to_string(directory.join("audit/audit.jsonl"))?)];
    for (name, part) in [("server", Part::Server), ("agent", Part::Agent(0)), ("client", Part::Client)] {
        logs.push((name, world.part(part)?.lines().join("\n")));
    }
    for (name, log) in &logs {
        ensure!(*name == "audit log" || log.contains("\"TRACE\""), "the log of {name} is not at trace level");
        for secret in &secrets {
            ensure!(count(log.as_bytes(), secret) == 0, "{:?} is in the {name}", String::from_utf8_lossy(secret));
        }
    }
    world.finish(&[Part::Client, Part::Agent(0), Part::Server])
}
