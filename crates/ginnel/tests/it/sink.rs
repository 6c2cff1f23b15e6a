//! Audit records in Cloud Logging: everything arrives, once and in order, whatever becomes of the service or the server, and no session knows.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::output;
use ginnel_testkit::google::logging::{Fault, Logging};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Peer, enrol};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::world::{Part, SERVER_NAME};
use ginnel_testkit::{World, WorldBuilder, eventually, proxy, within};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};

use crate::observed::metrics;
use crate::world;

const ATTACH: &str = "/ginnel.v1.AgentLink/Attach";

/// No session may take longer because of what a sink does.
const PROMPT: Duration = Duration::from_secs(3);

/// A world whose server has the sink.
fn sunk(service: &Logging, dir: &Path, target: &str) -> Result<WorldBuilder> {
    let settings = json!({"project": "acme", "timeout": "1s", "endpoint": service.endpoint()});
    let credentials = service.credentials_file(dir)?;
    let world = world().target(target).server_setting("/audit/cloudLogging", settings);
    Ok(world.environment("server", "GOOGLE_APPLICATION_CREDENTIALS", credentials.display()))
}

/// Opens a session and leaves it.
async fn session(world: &World, target: &str) -> Result<()> {
    within("a session", PROMPT, proxy::connect(world.proxy_addr(), target)).await??.opened()?;
    Ok(())
}

fn ids(entries: &[Value]) -> Vec<String> {
    entries.iter().filter_map(|entry| entry["insertId"].as_str()).map(str::to_owned).collect()
}

/// The ids that the records on disk have in the sink.
fn expected(world: &World) -> Result<Vec<String>> {
    let id = |record: &Value| Some(format!("{}-{:020}", record["boot"].as_str()?, record["seq"].as_u64()?));
    world.audit()?.iter().map(|record| id(record).context("a record")).collect()
}

/// Waits until the sink has what is on disk, each once and in order.
async fn complete(world: &World, service: &Logging) -> Result<()> {
    eventually("the sink to have everything", SOON, async || {
        let (has, wanted) = (ids(&service.entries()), expected(world)?);
        ensure!(wanted.starts_with(&has), "out of order, or not on disk: {has:?} for {wanted:?}");
        Ok((has.len() == wanted.len()).then_some(()))
    })
    .await
}

/// Ids in the order of the records that they are of: a stub comes after the others of its batch.
fn by_record(service: &Logging) -> Vec<String> {
    let mut ids = ids(&service.entries());
    ids.sort_by(|one, other| one.rsplit('-').next().cmp(&other.rsplit('-').next()));
    ids
}

/// How often the sink has failed in this way.
async fn failures(world: &mut World, kind: &str) -> Result<f64> {
    let seen = metrics(world, Part::Server).await?;
    let count = seen.get(&format!("ginnel_audit_sink_failures_total{{kind=\"{kind}\"}}"));
    count.copied().with_context(|| format!("no {kind}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_service_does_sessions_go_on_and_every_record_arrives_once_and_in_order() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let dir = tempfile::tempdir()?;
    let (service, root) = Logging::start_tls(dir.path()).await?;
    let world = sunk(&service, dir.path(), &target)?.environment("server", "SSL_CERT_FILE", root.display());
    let mut world = world.start().await?;
    complete(&world, &service).await?;
    let rows = [
        ("hangs", Fault::Hang, "timeout"),
        ("500", Fault::Error(500, "INTERNAL"), "unavailable"),
        ("1 B/s", Fault::Trickle(Duration::from_secs(1)), "timeout"),
        ("TLS error", Fault::Certificate, "connection"),
        ("413", Fault::Page(413), "tooLarge"),
        ("429", Fault::Error(429, "RESOURCE_EXHAUSTED"), "quota"),
        ("403", Fault::Error(403, "PERMISSION_DENIED"), "permission"),
        ("closes", Fault::StoreAndClose, "connection"),
    ];
    for (name, fault, kind) in rows {
        let before = failures(&mut world, kind).await?;
        service.set(Some(fault));
        session(&world, &target).await.context(name)?;
        eventually(name, SOON, async || Ok((failures(&mut world, kind).await? > before).then_some(()))).await?;
        session(&world, &target).await.context(name)?;
        service.set(None);
        complete(&world, &service).await.context(name)?;
    }
    let seen = metrics(&mut world, Part::Server).await?;
    let figure = |name: &str| seen.get(name).copied().with_context(|| format!("no {name}"));
    ensure!(figure("ginnel_audit_sink_lost_total")? == 0.0, "{seen:?}");
    ensure!(figure("ginnel_audit_sink_delivered_total")? >= 16.0, "{seen:?}");
    let mut check = world.ginnel();
    check.args(["check", "server", "--json", "--config"]).arg(world.directory().join("server.yaml"));
    check.env("GOOGLE_APPLICATION_CREDENTIALS", service.credentials_file(dir.path())?).env("SSL_CERT_FILE", root);
    let checked = String::from_utf8(output(check).await?.stdout)?;
    ensure!(checked.contains("projects/acme/logs/ginnel-audit takes records"), "{checked}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn through_an_outage_and_a_killed_server_nothing_is_lost_and_nothing_is_read_twice() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let dir = tempfile::tempdir()?;
    let service = Logging::start().await?;
    let mut world = sunk(&service, dir.path(), &target)?.start().await?;
    complete(&world, &service).await?;

    // It takes everything and says nothing: what is delivered is not known to be. Killed in the middle of that, three times.
    for _ in 0..3 {
        service.set(Some(Fault::StoreAndClose));
        let asked = service.requests().len();
        for _ in 0..5 {
            session(&world, &target).await?;
        }
        eventually("a try", SOON, async || Ok((service.requests().len() > asked).then_some(()))).await?;
        let mark = world.client.mark();
        world.restart(Part::Server).await?;
        world.roster(mark, 1).await?;
        // And away for a while.
        service.set(Some(Fault::Close));
        session(&world, &target).await?;
    }
    service.set(None);
    complete(&world, &service).await?;
    ensure!(service.arrived().len() > service.entries().len(), "nothing came twice, so that this shows nothing");

    // One that the service never takes stands there as a stub, and holds up nobody.
    service.never(|entry| entry["jsonPayload"]["event"] == "connected" && entry["jsonPayload"]["notTaken"].is_null());
    session(&world, &target).await?;
    eventually(
        "the stub among the others",
        SOON,
        async || Ok((by_record(&service) == expected(&world)?).then_some(())),
    )
    .await?;
    let stubs = service.entries().iter().filter(|entry| entry["labels"]["notTaken"] == "invalid").count();
    ensure!(stubs == 1, "{stubs} stubs");

    // The last words of an orderly end arrive as well.
    session(&world, &target).await?;
    world.server.stop().await?;
    ensure!(by_record(&service) == expected(&world)?, "the end is not there");
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_removed_before_they_left_are_counted() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let dir = tempfile::tempdir()?;
    let service = Logging::start().await?;
    let mut world = sunk(&service, dir.path(), &target)?.start().await?;
    complete(&world, &service).await?;
    let reached = world.audit()?.last().context("a record")?["seq"].clone();
    let mark = world.directory().join("audit/sink.json");
    eventually("the mark to be written", SOON, async || {
        let mark: Value = serde_json::from_slice(&std::fs::read(&mark)?)?;
        Ok((mark["seq"] == reached).then_some(()))
    })
    .await?;
    service.set(Some(Fault::Close));
    session(&world, &target).await?;
    let mark = world.client.mark();
    world.restart(Part::Server).await?;
    world.roster(mark, 1).await?;
    world.server.kill().await?;
    // What has not left yet is removed, but for the newest chapter, without which the server would not go on.
    let log = world.directory().join("audit/audit.jsonl");
    let text = std::fs::read_to_string(&log)?;
    let all: Vec<_> = text.split_inclusive('\n').collect();
    let kept = all.iter().rposition(|line| line.contains("\"chapterBegun\"")).context("a chapter")?;
    let known = service.entries().len();
    std::fs::write(&log, all[kept..].concat())?;
    service.set(None);
    world.restart(Part::Server).await?;
    let missing = u64::try_from(kept - known)?;
    let entry = eventually("the gap", SOON, async || {
        let entries = service.entries();
        Ok(entries.into_iter().find(|entry| entry["labels"]["event"] == "recordsMissing"))
    })
    .await?;
    ensure!(entry["jsonPayload"]["records"] == json!(missing) && entry["severity"] == json!(500), "{entry}");
    eventually("the count", SOON, async || {
        let seen = metrics(&mut world, Part::Server).await?;
        Ok((seen.get("ginnel_audit_sink_lost_total") == Some(&f64::from(u32::try_from(missing)?))).then_some(()))
    })
    .await?;
    world.finish(&[Part::Server])
}

/// Passes one connection on to the server from another network of loopback.
async fn elsewhere(server: SocketAddr, from: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(from)?;
        let mut far = socket.connect(server).await?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_principal_from_another_network_is_a_signal_once() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let mut world = world().target(&target).start().await?;
    let identity = enrol(&world, "client.json").await?;
    let known = |log: &[Value]| -> Vec<Value> {
        let new = log.iter().filter(|record| record["event"] == "newSource");
        let of_client = new.filter(|record| record["principal"] == "spiffe://acme.example/client/frontend");
        of_client.map(|record| json!([record["network"], record["known"]])).collect()
    };
    let first = vec![json!(["127.0.0.0/24", 0])];
    world.audit_until("the first network", |log| known(log) == first).await?;

    let connect = async |from: &str| {
        let through = elsewhere(world.server_addr(), from.parse()?).await?;
        Peer::connect_to(&world, (through, SERVER_NAME), Some(&identity)).await
    };
    let second = vec![json!(["127.0.0.0/24", 0]), json!(["127.9.9.0/24", 1])];
    let held = [connect("127.9.9.1:0").await?, connect("127.9.9.77:0").await?, connect("127.0.0.3:0").await?];
    world.audit_until("the second", |log| known(log) == second).await?;
    let seen = metrics(&mut world, Part::Server).await?;
    ensure!(seen.get("ginnel_new_sources_total{role=\"client\"}") == Some(&1.0), "{seen:?}");
    drop(held);

    // It is known after a restart.
    let mark = world.client.mark();
    world.server.stop().await?;
    world.restart(Part::Server).await?;
    world.roster(mark, 1).await?;
    let through = elsewhere(world.server_addr(), "127.9.9.5:0".parse()?).await?;
    let held = Peer::connect_to(&world, (through, SERVER_NAME), Some(&identity)).await?;
    let through = elsewhere(world.server_addr(), "127.8.8.1:0".parse()?).await?;
    let other = Peer::connect_to(&world, (through, SERVER_NAME), Some(&identity)).await?;
    let third = [second, vec![json!(["127.8.8.0/24", 2])]].concat();
    world.audit_until("the third", |log| known(log) == third).await?;
    drop((held, other));
    world.finish(&[])
}

/// Processes of one principal that the server of the next test takes.
const INSTANCES: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_too_many_is_turned_away_on_record_and_disturbs_nobody() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let limits = json!({"instancesPerPrincipal": INSTANCES});
    let mut world = world().target(&target).server_setting("/limits", limits).start().await?;
    let identity = enrol(&world, "agent.json").await?;
    let attach = async || {
        let peer = Peer::connect(&world, Some(&identity)).await?;
        let mut call = peer.call(ATTACH).await?;
        let hello = ginnel_wire::v1::agent_message::Kind::Hello(Peer::hello(Peer::instance()));
        call.say(&ginnel_wire::v1::AgentMessage { kind: Some(hello) })?;
        anyhow::Ok((peer, call))
    };
    // The world's own agent is one of them.
    let mut held = Vec::new();
    while held.len() < INSTANCES - 1 {
        let (peer, mut call) = attach().await?;
        let _: ginnel_wire::v1::ServerMessage = call.hear().await?;
        held.push((peer, call));
    }
    let (_peer, mut call) = attach().await?;
    ensure!(call.status().await? == 8, "one more was taken");
    let log =
        world.audit_until("the record", |log| log.iter().any(|record| record["event"] == "tooManyInstances")).await?;
    let record = log.iter().find(|record| record["event"] == "tooManyInstances").context("the record")?;
    ensure!(record["principal"] == "spiffe://acme.example/agent/acme" && record["most"] == INSTANCES, "{record}");
    let seen = metrics(&mut world, Part::Server).await?;
    ensure!(seen.get("ginnel_too_many_instances_total{role=\"agent\"}") == Some(&1.0), "{seen:?}");
    drop(held);
    eventually("a session", SOON, async || Ok(session(&world, &target).await.ok())).await?;
    world.finish(&[])
}
