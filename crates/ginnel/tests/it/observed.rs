//! The pages for machines: health, readiness and metrics of a running world.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::wait::SOON;
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, eventually, proxy};
use tokio::net::TcpListener;

use crate::admin::get;
use crate::pair::Pair;
use crate::transcript::Transcript;
use crate::world;

const PARTS: [(Part, &str); 3] = [(Part::Server, "server"), (Part::Agent(0), "agent"), (Part::Client, "client")];

/// Bytes that [`Pair::exchange`] sends in each direction.
const EXCHANGED: (f64, f64) = (8.0, 6.0);

/// Series of a page of metrics, by name and labels as they are written.
pub(crate) type Series = BTreeMap<String, f64>;

/// Reads a page of metrics strictly: every line is a comment of a known kind, or a series that was described before.
pub(crate) fn parse(page: &str) -> Result<Series> {
    let mut described: BTreeMap<&str, &str> = BTreeMap::new();
    let mut series = Series::new();
    for line in page.lines() {
        if line == "# EOF" {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# ") {
            let (kind, rest) = rest.split_once(' ').with_context(|| line.to_owned())?;
            let (name, text) = rest.split_once(' ').with_context(|| line.to_owned())?;
            ensure!(matches!(kind, "HELP" | "TYPE") && !text.is_empty(), "{line}");
            if kind == "TYPE" {
                ensure!(matches!(text, "counter" | "gauge" | "histogram"), "{line}");
                ensure!(described.insert(name, text).is_none(), "described twice: {line}");
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        let name = key.split('{').next().unwrap_or_default();
        ensure!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        ensure!(key == name || (key.ends_with("\"}") && key.contains("=\"")), "{line}");
        let families = ["_bucket", "_sum", "_count", "_total", ""].map(|suffix| name.strip_suffix(suffix));
        let known = families.into_iter().flatten().chain([name]).any(|family| described.contains_key(family));
        ensure!(known, "not described: {line}");
        let value: f64 = value.parse().with_context(|| line.to_owned())?;
        ensure!(series.insert(key.to_owned(), value).is_none(), "twice: {line}");
    }
    Ok(series)
}

/// The metrics of a process.
pub(crate) async fn metrics(world: &mut World, part: Part) -> Result<Series> {
    let admin = world.admin(part).await?.to_string();
    let (status, page) = get(&admin, "/metrics").await?;
    ensure!(status == 200, "{status}: {page}");
    parse(&page)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_was_done() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (unlisted, unruled) = (TcpHost::echo().await?, TcpHost::echo().await?);
    let mut world = world().target(listener.local_addr()?).rule_only(unlisted.address()).start().await?;
    let mut carried = Vec::new();
    for _ in 0..3 {
        let mut pair = Pair::open(&world, &listener).await?;
        pair.exchange().await?;
        carried.push(pair);
    }
    for (target, times) in [(unlisted.address(), 2), (unruled.address(), 4)] {
        for _ in 0..times {
            proxy::connect(world.proxy_addr(), &target.to_string()).await?.refused()?;
        }
    }
    for (part, role) in PARTS {
        let seen = metrics(&mut world, part).await?;
        let is = |key: &str, value: f64| {
            ensure!(seen.get(key) == Some(&value), "{role}: {key} is {:?}, not {value}", seen.get(key));
            Ok(())
        };
        is("ginnel_ready", 1.0)?;
        is("ginnel_sessions", 3.0)?;
        is("ginnel_sessions_opened_total", 3.0)?;
        is("ginnel_open_seconds_count", 3.0)?;
        is("ginnel_sessions_refused_total{hop=\"agent\",cause=\"notOnAllowList\"}", 2.0)?;
        if part != Part::Agent(0) {
            is("ginnel_sessions_refused_total{hop=\"server\",cause=\"notAllowed\"}", 4.0)?;
        }
        let bytes = ["up", "down"].map(|way| seen.get(&format!("ginnel_bytes_total{{direction=\"{way}\"}}")).copied());
        let expected = [3.0 * EXCHANGED.0, 3.0 * EXCHANGED.1];
        if part == Part::Server {
            // It passes on what is encrypted, which is more.
            ensure!(bytes[0] > Some(expected[0]) && bytes[1] > Some(expected[1]), "{bytes:?}");
            is("ginnel_links{agent=\"acme\"}", 1.0)?;
            is("ginnel_clients{client=\"frontend\"}", 1.0)?;
            is("ginnel_audit_healthy", 1.0)?;
            is("ginnel_policy_rules", 1.0)?;
        } else {
            ensure!(bytes == expected.map(Some), "{role}: {bytes:?}");
            is("ginnel_server_connected", 1.0)?;
        }
    }
    drop(carried);
    for (part, role) in PARTS {
        eventually(&format!("the {role} to count the ends"), SOON, async || {
            let seen = metrics(&mut world, part).await?;
            let ended = seen.iter().filter(|(key, _)| key.starts_with("ginnel_sessions_ended_total"));
            let is_over =
                ended.map(|(_, value)| value).sum::<f64>() == 3.0 && seen.get("ginnel_sessions") == Some(&0.0);
            Ok(is_over.then_some(()))
        })
        .await?;
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_says_why_not() -> Result<()> {
    let mut world = world().target("git.acme.example:443").start().await?;
    let mut transcript = Transcript::of(&world);
    let mut admins = Vec::new();
    for (part, role) in PARTS {
        let admin = world.admin(part).await?.to_string();
        // The agent may be on the client's roster a moment before it knows of its link itself.
        eventually(&format!("the {role} to be ready"), SOON, async || {
            Ok((get(&admin, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        for path in ["/healthz", "/readyz"] {
            let (status, body) = get(&admin, path).await?;
            transcript.put(&format!("GET {role} {path}"), &format!("{status}\n{body}"));
        }
        transcript.name(&admin, &format!("{}-ADMIN", role.to_uppercase()));
        admins.push(admin);
    }
    transcript.note("the agent is gone");
    let mark = world.client.mark();
    world.kill_agent(0).await?;
    world.roster(mark, 0).await?;
    let is_unready = async |admin: &str| {
        eventually("a process that is not ready", Duration::from_secs(10), async || {
            let (status, body) = get(admin, "/readyz").await?;
            Ok((status == 503).then_some(body))
        })
        .await
    };
    for (at, role) in [(0, "server"), (2, "client")] {
        let body = is_unready(&admins[at]).await?;
        transcript.put(&format!("GET {role} /readyz"), &format!("503\n{body}"));
        let (status, body) = get(&admins[at], "/healthz").await?;
        transcript.put(&format!("GET {role} /healthz"), &format!("{status}\n{body}"));
        transcript.run(&world, &["status", "--ready", "--admin", &admins[at]]).await?;
        transcript.run(&world, &["status", "--admin", &admins[at]]).await?;
    }
    transcript.note("the server is gone as well");
    world.server.kill().await?;
    eventually("a client without a server", SOON, async || {
        let (_, body) = get(&admins[2], "/readyz").await?;
        Ok(body.contains("connection to the server").then_some(()))
    })
    .await?;
    let body = is_unready(&admins[2]).await?;
    transcript.put("GET client /readyz", &format!("503\n{body}"));
    transcript.is_golden("health.txt")?;
    world.finish(&[Part::Agent(0), Part::Server])
}

#[test]
fn the_reader_of_metrics_takes_nothing_that_is_malformed() {
    assert!(parse("# TYPE a counter\na_total 1\n").is_ok());
    for wrong in
        ["a 1\n", "# TYPE a gauge\na x\n", "# TYPE a gauge\na{b=c} 1\n", "# TYPE a gauge\na 1\na 2\n", "# TYPE a b\n"]
    {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}
