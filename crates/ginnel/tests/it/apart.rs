//! Enrolment in a process of its own: the server passes enrolments on and holds no right to issue.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_core::limits::ENROL_DEADLINE;
use ginnel_testkit::command::{command, output, succeed};
use ginnel_testkit::daemon::Daemon;
use ginnel_testkit::hosts::Foreign;
use ginnel_testkit::peer::{enrol_on, enrolment};
use ginnel_testkit::world::{ENROLMENT_NAME, Part, SERVER_NAME};
use ginnel_testkit::{Peer, World, eventually, proxy};
use ginnel_wire::path;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::admin::{get, post};
use crate::pair::Pair;
use crate::world;

/// gRPC's numbers for a refusal, for a call that this connection may not make, and for a server that cannot answer now.
const UNAUTHENTICATED: u32 = 16;
const PERMISSION_DENIED: u32 = 7;
const UNAVAILABLE: u32 = 14;

/// Enrolments that are passed on to somebody who does not answer.
const CALLERS: usize = 150;

/// How long everything may take to carry again after an outage.
const HEALED: Duration = Duration::from_secs(60);

fn apart() -> ginnel_testkit::WorldBuilder {
    // A rule needs a target, whether a test reaches it or not.
    world().enrolment_apart().target("127.0.0.1:9")
}

/// What a process says of itself.
async fn status(world: &mut World, part: Part) -> Result<Value> {
    let admin = world.admin(part).await?.to_string();
    Ok(serde_json::from_str(&get(&admin, "/status").await?.1)?)
}

/// Waits until a process gives this as one of the reasons why it is not ready.
async fn not_ready(world: &mut World, part: Part, reason: &str) -> Result<()> {
    let admin = world.admin(part).await?.to_string();
    eventually(reason, Duration::from_secs(30), async || {
        let status: Value = serde_json::from_str(&get(&admin, "/status").await?.1)?;
        let reasons = status["notReady"].as_array().context("reasons")?;
        Ok(reasons.iter().any(|said| said.as_str().is_some_and(|said| said.contains(reason))).then_some(()))
    })
    .await
}

/// Every file below a directory, but for one directory in it.
fn files_below(directory: &Path, except: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && path != except {
            found.extend(files_below(&path, except)?);
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

/// The status of an enrolment on a new connection to the process that enrols.
async fn answer(world: &World, request: &ginnel_wire::v1::EnrolRequest) -> Result<u32> {
    let peer = Peer::connect_to_enrolment(world, None).await?;
    let mut call = peer.call(path::ENROL).await?;
    call.say(request)?;
    call.end()?;
    call.status().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_carried_by_a_server_that_cannot_issue() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = apart().target(host.local_addr()?).start().await?;
    Pair::open(&world, &host).await?.exchange().await?;

    let is = |record: &Value, event: &str| record["event"] == event;
    let there = world.enrolment_audit_until("three enrolments", |log| {
        log.iter().filter(|record| is(record, "enrolled")).count() >= 3
    });
    let there = there.await?;
    let passed: Vec<_> = world.audit_of("enrolmentForwarded")?;
    for (principal, is_passed_on) in [("server/tunnel", false), ("agent/acme", true), ("client/frontend", true)] {
        let of = |record: &&Value| record["principal"] == format!("spiffe://acme.example/{principal}");
        let record = there.iter().filter(|record| is(record, "enrolled")).find(of).context(principal)?;
        let said = &record["forwardedFor"];
        ensure!(said.is_string() == is_passed_on, "{principal}: {record}");
        // The two logs tell of the same caller.
        let fits = |passed: &Value| passed["peer"] == *said && passed["outcome"] == "answered";
        ensure!(!is_passed_on || passed.iter().any(fits), "{principal}: {record} and {passed:?}");
    }
    ensure!(world.audit_of("enrolled")?.is_empty(), "the server enrolled somebody");
    let own = world.audit_of("certificateIssued")?;
    ensure!(own.iter().all(|record| record["principal"] == "spiffe://acme.example/server/tunnel"), "{own:?}");

    // What the server's owner has holds no authority's key, and the process that enrols holds all three.
    let apart = world.directory().join("enrolment");
    for file in files_below(world.directory(), &apart)? {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_key_file = ["server.json", "agent.json", "client.json"].contains(&name);
        let text = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
        ensure!(is_key_file || !text.contains("PRIVATE KEY"), "{} holds a key", file.display());
    }
    let keys = files_below(&apart, Path::new(""))?;
    let keys = keys.iter().filter(|file| file.to_string_lossy().ends_with("-ca.key.pem")).count();
    ensure!(keys == 3, "{keys} keys of authorities");

    let status = status(&mut world, Part::Enrolment).await?;
    ensure!(status["role"] == "enrolment" && status["ready"] == true, "{status}");
    ensure!(status["principal"] == "spiffe://acme.example/server/enrol", "{status}");
    ensure!(status["enrolments"]["issued"].as_u64() >= Some(3), "{status}");
    let metrics = get(&world.admin(Part::Enrolment).await?.to_string(), "/metrics").await?.1;
    ensure!(metrics.contains("ginnel_enrolments_total{outcome=\"issued\"} 3"), "{metrics}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_beyond_every_certificate_heals_without_a_restart() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = apart().target(host.local_addr()?).certificate_lifetime("6s").start().await?;
    Pair::open(&world, &host).await?.exchange().await?;
    world.part(Part::Enrolment)?.kill().await?;

    // What is valid is used for as long as it is.
    Pair::open(&world, &host).await?.exchange().await?;
    not_ready(&mut world, Part::Server, "certificate has expired").await?;
    let target = host.local_addr()?.to_string();
    eventually("certificates to be over", Duration::from_secs(30), async || {
        Ok(proxy::connect(world.proxy_addr(), &target).await?.refused().ok())
    })
    .await?;
    let failed = status(&mut world, Part::Server).await?;
    ensure!(failed["certificate"]["renewalFailure"]["error"].as_str().is_some(), "{failed}");

    world.restart(Part::Enrolment).await?;
    eventually("a session after the outage", HEALED, async || {
        let answer = proxy::connect(world.proxy_addr(), &target).await?;
        Ok(answer.opened().ok())
    })
    .await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_first_waits_for_the_process_that_enrols() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = apart().target(host.local_addr()?).start().await?;
    world.part(Part::Enrolment)?.kill().await?;
    let mark = world.client.mark();
    world.restart(Part::Server).await?;
    not_ready(&mut world, Part::Server, "no certificate of its own yet").await?;
    ensure!(status(&mut world, Part::Server).await?["principal"].is_null(), "a name without a certificate");
    ensure!(Peer::connect(&world, None).await.is_err(), "a handshake without a certificate");
    world.restart(Part::Enrolment).await?;
    world.roster(mark, 1).await?;
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_server_passes_on_gets_it_no_certificate() -> Result<()> {
    let world = apart().start().await?;
    // It keeps a token and puts a request for a key of its own beside it.
    let (_, mut request) = enrolment(&world, "agent.json")?;
    let (_, own) = enrolment(&world, "agent.json")?;
    request.certificate_signing_request = own.certificate_signing_request;
    ensure!(answer(&world, &request).await? == UNAUTHENTICATED, "a swapped request");
    // It passes the same on twice.
    let (key, request) = enrolment(&world, "agent.json")?;
    enrol_on(&Peer::connect_to_enrolment(&world, None).await?, key, &request).await?;
    ensure!(answer(&world, &request).await? == UNAUTHENTICATED, "a replayed token");
    let reasons = |log: &[Value]| -> Vec<String> {
        let refused = log.iter().filter(|record| record["event"] == "enrolmentRefused");
        refused.map(|record| record["reason"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let log = world.enrolment_audit_until("two refusals", |log| reasons(log).len() >= 2).await?;
    ensure!(reasons(&log) == ["binding", "replayed"], "{:?}", reasons(&log));
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_key_makes_neither_a_server_nor_a_relay() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = apart().target(host.local_addr()?).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;

    // Whatever it says of callers, it is given what is its own: an agent's certificate without a name.
    let peer = Peer::connect_to_enrolment(&world, None).await?;
    let (key, request) = enrolment(&world, "agent.json")?;
    let mut call = peer.call_with(path::ENROL, &[("ginnel-forwarded-for", "203.0.113.9:4000")]).await?;
    call.say(&request)?;
    call.end()?;
    let answer: ginnel_wire::v1::EnrolResponse = call.hear().await?;
    let chain = answer.certificate_chain.into_iter().map(Into::into).collect();
    let identity = ginnel_identity::certificate::Identity::new(chain, key)?;
    ensure!(identity.leaf().principal.to_string() == "spiffe://acme.example/agent/acme", "{identity:?}");
    let said = |record: &Value| record["forwardedFor"] == "203.0.113.9:4000" && record["event"] == "enrolled";
    world.enrolment_audit_until("the record of what it said", |log| log.iter().any(said)).await?;

    // With it, nothing can be passed on by way of the server.
    let peer = Peer::connect(&world, Some(&identity)).await?;
    let mut call = peer.call(path::ENROL).await?;
    ensure!(call.status().await? == PERMISSION_DENIED, "an agent may call Enrol");

    // A server that is started with an agent's key gets no certificate to show.
    let text = std::fs::read_to_string(world.directory().join("server.yaml"))?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["issuer"]["enrolment"]["credential"]["serviceAccountKeyFile"] = json!("agent.json");
    config["server"]["adminSocket"] = json!("foreign.sock");
    config["audit"]["file"]["directory"] = json!("foreign-audit");
    std::fs::write(world.directory().join("foreign.yaml"), config.to_string())?;
    let mut command = command(world.binary(), world.directory());
    command.args(["server", "--log-format", "json", "--config"]).arg(world.directory().join("foreign.yaml"));
    let mut foreign = Daemon::spawn("foreign server", command)?;
    let is_refused = |line: &Value| line["error"].as_str().is_some_and(|error| error.contains("which is no server"));
    foreign.wait_for("could not renew the server's certificate", is_refused).await?;
    let address = foreign.said("listening").into_iter().find(|line| line["listener"] == "server");
    let address = address.context("a listener")?["address"].as_str().context("an address")?.parse()?;
    ensure!(Peer::connect_to(&world, (address, SERVER_NAME), None).await.is_err(), "a foreign server was believed");
    foreign.kill().await?;
    foreign.check()?;

    // Neither is taken for the other.
    let relay = (world.server_addr(), ENROLMENT_NAME);
    ensure!(Peer::connect_to(&world, relay, None).await.is_err(), "the server passes for the process that enrols");
    let process = (world.enrolment_addr()?, SERVER_NAME);
    ensure!(Peer::connect_to(&world, process, None).await.is_err(), "the process that enrols passes for the server");
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_server_hear_no_more_than_of_one_that_enrols() -> Result<()> {
    let mut world = apart().start().await?;
    let ask = async |world: &World, request: &ginnel_wire::v1::EnrolRequest| {
        let peer = Peer::connect(world, None).await?;
        let mut call = peer.call(path::ENROL).await?;
        call.say(request)?;
        call.end()?;
        call.status().await
    };
    let (_, good) = enrolment(&world, "agent.json")?;
    let mut bad = good.clone();
    bad.token.push('x');
    ensure!(ask(&world, &bad).await? == UNAUTHENTICATED, "a token that is not right");
    ensure!(ask(&world, &good).await? == 0, "a good one after that");
    world.part(Part::Enrolment)?.kill().await?;
    let (_, good) = enrolment(&world, "agent.json")?;
    ensure!(ask(&world, &good).await? == UNAVAILABLE, "nobody enrols");
    // Too large for anybody's enrolment: it is not passed on at all.
    let mut large = good.clone();
    large.token = "x".repeat(20 << 10);
    ensure!(ask(&world, &large).await? != 0, "a large message");
    let outcomes = |log: &[Value]| -> Vec<Value> {
        log.iter()
            .filter(|record| record["event"] == "enrolmentForwarded")
            .map(|record| record["outcome"].clone())
            .collect()
    };
    let log = world.audit_until("the outcomes", |log| outcomes(log).contains(&json!("unavailable"))).await?;
    ensure!(outcomes(&log)[2..] == ["refused", "answered", "unavailable"], "{:?}", outcomes(&log));
    world.finish(&[Part::Enrolment])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_enrols_and_hangs_holds_up_callers_and_nobody_else() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = apart().target(host.local_addr()?).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    world.part(Part::Enrolment)?.pause()?;
    // More than are passed on at once.
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let (_, request) = enrolment(&world, "agent.json")?;
        let peer = Peer::connect(&world, None).await?;
        let mut call = peer.call(path::ENROL).await?;
        call.say(&request)?;
        call.end()?;
        callers.push((peer, call));
    }
    bystander.exchange().await?;
    let mut answered = 0;
    for (_peer, call) in &mut callers {
        // Those whose turn did not come before their connection was over hear nothing.
        if let Ok(status) = call.status().await {
            ensure!(status == UNAVAILABLE, "{status}");
            answered += 1;
        }
    }
    ensure!(answered > 0, "nobody was answered");
    bystander.exchange().await?;
    world.part(Part::Enrolment)?.resume()?;
    let (key, request) = enrolment(&world, "agent.json")?;
    enrol_on(&Peer::connect(&world, None).await?, key, &request).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_answer_that_is_passed_back_late_is_not_cut_off() -> Result<()> {
    let mut world = apart().start().await?;
    let (key, request) = enrolment(&world, "agent.json")?;
    let caller = Peer::connect(&world, None).await?;
    world.part(Part::Enrolment)?.pause()?;
    let began = Instant::now();
    // Longer than a connection without a certificate stays for anybody whose enrolment is not passed on.
    let silence = ENROL_DEADLINE + Duration::from_secs(1);
    let resume = async {
        tokio::time::sleep(silence).await;
        world.part(Part::Enrolment)?.resume()
    };
    let (enrolled, resumed) = tokio::join!(enrol_on(&caller, key, &request), resume);
    resumed?;
    enrolled?;
    ensure!(began.elapsed() >= silence, "{:?}", began.elapsed());
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_that_enrols_reloads_its_identities_and_stops_in_order() -> Result<()> {
    let mut world = apart().start().await?;
    let path = world.directory().join("enrolment/enrolment.yaml");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let identities = config["identities"].as_array_mut().context("identities")?;
    identities.retain(|identity| identity["role"] != "agent");
    let next = world.directory().join("next");
    std::fs::write(&next, config.to_string())?;
    std::fs::rename(next, &path)?;
    let said = post(&world.socket(Part::Enrolment), "/reload").await?;
    ensure!(said.contains("identities removed: agent acme"), "{said}");
    let (_, request) = enrolment(&world, "agent.json")?;
    ensure!(answer(&world, &request).await? == UNAUTHENTICATED, "an identity that is gone");
    let (_, request) = enrolment(&world, "client.json")?;
    ensure!(answer(&world, &request).await? == 0, "an identity that stays");

    let ended = world.part(Part::Enrolment)?.stop().await?;
    ensure!(ended.success(), "{ended}");
    let log = world.enrolment_audit_until("the last record", |log| !log.is_empty()).await?;
    ensure!(log.iter().any(|record| record["event"] == "reloaded"), "{log:?}");
    world.finish(&[Part::Enrolment])
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_of_python_enrols_and_its_certificate_opens_attach_and_roster() -> Result<()> {
    let world = apart().start().await?;
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto").canonicalize()?;
    for (role, uri) in
        [("client", "spiffe://acme.example/client/frontend"), ("agent", "spiffe://acme.example/agent/acme")]
    {
        let server = (world.server_addr(), SERVER_NAME);
        let foreign = Foreign { role, enrolment: (world.enrolment_addr()?, ENROLMENT_NAME), server };
        let said = succeed(foreign.command(world.directory(), &proto)?).await?;
        ensure!(said == uri, "{said}");
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_its_way_to_the_process_that_enrols() -> Result<()> {
    let world = apart().start().await?;
    let check = async |role: &str, config: PathBuf| {
        let mut check = world.ginnel();
        check.current_dir(world.directory()).args(["check", role, "--config"]).arg(config);
        let output = output(check).await?;
        anyhow::Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (code, said) = check("server", world.directory().join("server.yaml")).await?;
    ensure!(code == Some(0) && said.contains("spiffe://acme.example/server/tunnel"), "{said}");
    let (code, said) = check("enrolment", world.directory().join("enrolment/enrolment.yaml")).await?;
    ensure!(code == Some(0) && said.contains("3 public keys of 3 identities"), "{said}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_passes_enrolments_on_reads_its_roots_again() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = apart().target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    let ca = world.directory().join("ca");
    let both =
        std::fs::read_to_string(ca.join("agent-root.pem"))? + &std::fs::read_to_string(ca.join("server-root.pem"))?;
    std::fs::write(ca.join("agent-root.pem"), both)?;
    let mark = world.server.mark();
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(Part::Server));
    // The change of the file may have been noticed before the command.
    let said = succeed(reload).await?;
    let has_changed = "roots of the agents have changed";
    if !said.contains(has_changed) {
        world.server.wait_for_after(mark, "rules replaced", |line| line.to_string().contains(has_changed)).await?;
    }
    pair.exchange().await?;
    world.finish(&[])
}
