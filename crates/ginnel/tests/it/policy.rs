//! Who says no, why, and that the application, the log and the audit say the same.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::hosts::{TcpHost, nobody};
use ginnel_testkit::{World, proxy};

use crate::world;

/// Asks for `target` and checks the answer and its audit record. `hops` are those that may say it.
async fn refused(world: &World, target: &str, status: u16, cause: &str, hops: &[&str]) -> Result<()> {
    let refused = proxy::connect(world.proxy_addr(), target).await?.refused().with_context(|| target.to_owned())?;
    ensure!(refused.status == status && refused.cause == cause, "{target}: {refused:?}");
    ensure!(hops.contains(&refused.hop.as_str()), "{target}: {refused:?}");
    ensure!(refused.body.contains(&refused.request_id) && refused.request_id.len() == 32, "{target}: {refused:?}");
    let is_it = |record: &serde_json::Value| {
        record["event"] == "refused"
            && record["requestId"] == refused.request_id
            && record["cause"] == refused.cause
            && record["hop"] == refused.hop
            && record["target"] == target
    };
    world.audit_until(&format!("the refusal of {target} as {cause} in the audit"), |log| log.iter().any(is_it)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_names_its_hop_and_cause() -> Result<()> {
    let listed = TcpHost::echo().await?;
    let rule_only = TcpHost::echo().await?;
    let agent_only = TcpHost::echo().await?;
    let by_name = TcpHost::echo().await?;
    let (_held, silent) = nobody()?;
    let named = format!("localhost:{}", by_name.address().port());
    let world = world()
        .target(listed.address())
        .rule_only(rule_only.address())
        .allow_only(agent_only.address())
        .target(&named)
        .target(silent)
        .start()
        .await?;

    proxy::connect(world.proxy_addr(), &listed.address().to_string()).await?.opened()?;
    let text = |address: SocketAddr| address.to_string();
    refused(&world, &text(agent_only.address()), 403, "notAllowed", &["server"]).await?;
    refused(&world, &text(rule_only.address()), 403, "notOnAllowList", &["agent"]).await?;
    refused(&world, &named, 403, "addressForbidden", &["agent"]).await?;
    refused(&world, &text(silent), 502, "connectionRefused", &["target", "agent"]).await?;
    refused(&world, "no-such-host.acme.example:443", 403, "notAllowed", &["server"]).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_by_name_is_dialled_once_its_addresses_are_listed() -> Result<()> {
    let host = TcpHost::echo().await?;
    let port = host.address().port();
    let named = format!("localhost:{port}");
    let world = world().target(&named).allow_only(format!("127.0.0.1:{port}")).start().await?;
    proxy::connect(world.proxy_addr(), &named).await?.opened()?;
    let connected = world.audit_until("the session in the audit", |log| log.iter().any(|r| r["event"] == "connected"));
    let log = connected.await?;
    let record = log.iter().find(|record| record["event"] == "connected").context("a record")?;
    ensure!(record["address"] == host.address().to_string(), "{record}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_that_one_side_switched_off_is_refused_and_never_dropped() -> Result<()> {
    let host = TcpHost::echo().await?;
    let worlds = [world().danger_disable_inner_tls_of_agents(), world().danger_disable_inner_tls_of_client()];
    for world in worlds {
        let world = world.target(host.address()).start().await?;
        refused(&world, &host.address().to_string(), 502, "peerNotVerified", &["agent"]).await?;
        world.finish(&[])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_live_agent_a_permitted_target_is_unavailable() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().agents(0).target(host.address()).start().await?;
    refused(&world, &host.address().to_string(), 503, "noLiveAgent", &["server"]).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn socks_says_what_kind_of_refusal_it_was() -> Result<()> {
    let unlisted = TcpHost::echo().await?;
    let (_held, silent) = nobody()?;
    let world = world().target(silent).start().await?;
    for (address, code) in [(unlisted.address(), 2), (silent, 5)] {
        let answer = proxy::socks5(world.proxy_addr(), &address.ip().to_string(), address.port()).await?;
        ensure!(answer.as_ref().err() == Some(&code), "{address}: {answer:?}");
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_of_the_audit_answers_who_reached_what() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let opened = proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    // Both have to be on the disk by the time the application hears of success, so nobody waits for them here.
    let records = world.audit()?;
    for event in ["allowed", "connected"] {
        let record = records
            .iter()
            .find(|record| record["event"] == event && record["requestId"] == opened.request_id)
            .with_context(|| format!("no {event} in {records:?}"))?;
        ensure!(record["client"] == "spiffe://acme.example/client/frontend", "{record}");
        ensure!(record["agent"] == "spiffe://acme.example/agent/acme", "{record}");
        ensure!(record["target"] == host.address().to_string() && record["rule"] == "hosts", "{record}");
    }
    drop(opened);
    world.audit_until("its end", |log| log.iter().any(|record| record["event"] == "ended")).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn ginnel_connect_names_hop_and_cause_on_standard_error() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().agents(0).target(host.address()).start().await?;
    let address = host.address();
    let mut connect = world.ginnel();
    connect.args(["connect", &address.ip().to_string(), &address.port().to_string()]);
    connect.args(["--proxy", &world.proxy_addr().to_string()]);
    let output = output(connect).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    let is_refusal = |record: &serde_json::Value| record["event"] == "refused";
    let log = world.audit_until("the refusal in the audit", |log| log.iter().any(is_refusal)).await?;
    let refusal = log.into_iter().find(is_refusal).context("a refusal")?;
    let id = refusal["requestId"].as_str().context("a request id")?;
    ensure!(said.contains("noLiveAgent") && said.contains("server") && said.contains(id), "{said}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_show_reads_what_the_server_wrote() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let opened = proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    let mut show = world.ginnel();
    show.args(["audit", "show"]).arg(world.directory().join("audit/audit.jsonl"));
    let shown = succeed(show).await?;
    for word in ["enrolled", "linkUp", "allowed", "connected", opened.request_id.as_str()] {
        ensure!(shown.contains(word), "no {word} in\n{shown}");
    }
    world.finish(&[])
}
