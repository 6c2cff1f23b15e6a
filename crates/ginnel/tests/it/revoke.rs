//! Somebody or something is shut out while everything runs: who goes, who stays, and what a restart keeps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::peer::enrol;
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::world::Part;
use ginnel_testkit::{Peer, World, eventually, proxy, within};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::world;

mod apart;
mod races;
mod scale;

/// From the acknowledgement to the last byte of whatever depended on what is revoked.
pub(crate) const CUT_WITHIN: Duration = Duration::from_secs(1);

/// The answer of `ginnel revoke`.
async fn revoke(world: &World, part: Part, what: &[&str]) -> Result<Value> {
    let mut command = world.ginnel();
    command.arg("revoke").args(what).args(["--json", "--socket"]).arg(world.socket(part));
    Ok(serde_json::from_str(&succeed(command).await?)?)
}

/// The exit code of `ginnel revoke`, and everything that it says.
async fn refused(world: &World, part: Part, what: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = world.ginnel();
    command.arg("revoke").args(what).arg("--socket").arg(world.socket(part));
    let answer = output(command).await?;
    let said = [answer.stdout, answer.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((answer.status.code(), said.concat()))
}

async fn is_cut(pair: &mut Pair) -> Result<()> {
    for stream in [&mut pair.app, &mut pair.target] {
        let (_, ending) = within("the end of a session that was cut", CUT_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    Ok(())
}

/// The record of a session's end.
async fn end_of(world: &World, pair: &Pair) -> Result<Value> {
    let is_end = |record: &Value| record["requestId"] == pair.request_id && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
    log.into_iter().find(is_end).context("a record")
}

/// Adds a second client identity with a key of its own, which no process of the world has.
async fn stranger(world: &World) -> Result<()> {
    let mut create = world.ginnel();
    let key = world.directory().join("stranger.json");
    create.args(["credentials", "create", "stranger@acme.example", "--out"]).arg(key);
    std::fs::write(world.directory().join("stranger.pub.pem"), succeed(create).await? + "\n")?;
    world.edit("server", |config| {
        let identity = json!({"name": "stranger", "role": "client", "email": "stranger@acme.example", "publicKeys": ["stranger.pub.pem"]});
        config["identities"].as_array_mut().map(|identities| identities.push(identity)).unwrap_or_default();
        config["rules"][0]["clients"] = json!(["frontend", "stranger"]);
    })?;
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(Part::Server));
    succeed(reload).await.map(drop)
}

/// Serial number and key of the newest certificate of a principal.
fn certificate(world: &World, principal: &str) -> Result<(String, String)> {
    let enrolled = world.audit_of("enrolled")?;
    let newest = enrolled.iter().rev().find(|record| record["principal"] == principal).context("an enrolment")?;
    let word = |name: &str| newest[name].as_str().map(str::to_owned).context("a word");
    Ok((word("serial")?, word("spkiSha256")?))
}

const CLIENT: &str = "spiffe://acme.example/client/frontend";
const AGENT: &str = "spiffe://acme.example/agent/acme";

/// K03: every way to name the client cuts it, a way that names somebody else does not, and what is undone works again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_denied_by_principal_email_key_and_serial_in_exact_scope() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = world().target(&target).start().await?;
    stranger(&world).await?;
    let other_key = enrol(&world, "stranger.json").await?.leaf().spki_sha256;
    let other_key: String = other_key.iter().map(|byte| format!("{byte:02x}")).collect();
    for others in
        [vec!["client/stranger"], vec!["stranger@acme.example"], vec!["--key", &other_key], vec!["--serial", "0aff"]]
    {
        let mut bystander = Pair::open(&world, &host).await?;
        let answer = revoke(&world, Part::Server, &others).await?;
        ensure!(answer["sessions"] == 0 && answer["connections"] == 0 && answer["lasting"] == true, "{answer}");
        bystander.exchange().await?;
    }
    // Every certificate is a new one after a restart, so each way is tried with the one that is in use.
    let ways: [fn(String, String) -> Vec<String>; 4] = [
        |_, _| vec!["client/frontend".to_owned()],
        |_, _| vec!["client@acme.iam.gserviceaccount.com".to_owned()],
        |_, key| vec!["--key".to_owned(), key],
        |serial, _| vec!["--serial".to_owned(), serial.to_uppercase()],
    ];
    for way in ways {
        let (serial, key) = certificate(&world, CLIENT)?;
        let what = way(serial, key);
        let mut what: Vec<_> = what.iter().map(String::as_str).collect();
        let mut cut = Pair::open(&world, &host).await?;
        cut.exchange().await?;
        let answer = revoke(&world, Part::Server, &what).await?;
        is_cut(&mut cut).await?;
        ensure!(answer["sessions"] == 1 && answer["connections"].as_u64() >= Some(1), "{what:?}: {answer}");
        let end = end_of(&world, &cut).await?;
        ensure!(end["cause"] == "notAdmitted" && end["hop"] == "server", "{end}");
        let mark = world.server.mark();
        let turned_away = "certificate that was revoked, itself or its identity or key";
        world.server.wait_for_after(mark, turned_away, |line| line["principal"] == CLIENT).await?;
        what.push("--undo");
        revoke(&world, Part::Server, &what).await?;
        world.restart(Part::Client).await?;
        world.roster(0, 1).await?;
        Pair::open(&world, &host).await?.exchange().await?;
    }
    let log = world.audit()?;
    let of = |event: &str| log.iter().filter(|record| record["event"] == event).collect::<Vec<_>>();
    ensure!((of("revoked").len(), of("unrevoked").len()) == (8, 4), "{log:?}");
    let by = of("revoked")[0]["by"].as_str().unwrap_or_default();
    ensure!(by.starts_with("uid ") && by.contains(", pid "), "{by}");
    world.finish(&[])
}

/// K07: the agent goes from the roster at once, what it carried is cut, and the client uses the other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_agent_is_offered_to_nobody_and_clients_dial_another() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = world().agents(2).target(&target).start().await?;
    let links = world.audit_of("linkUp")?;
    let (serial, instance) = (links[0]["serial"].as_str().context("a serial")?, &links[0]["agentInstance"]);
    let mut pairs = Vec::new();
    for _ in 0..16 {
        pairs.push(Pair::open(&world, &host).await?);
    }
    let connected = world.audit_of("connected")?;
    let agent_of = |pair: &Pair| {
        connected.iter().find(|record| record["requestId"] == pair.request_id).map(|r| &r["agentInstance"])
    };
    let (mut cut, mut kept): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|pair| agent_of(pair) == Some(instance));
    ensure!(!cut.is_empty() && !kept.is_empty(), "all sessions went through one agent");
    let mark = world.client.mark();
    let answer = revoke(&world, Part::Server, &["--serial", serial, "--reason", "lost host"]).await?;
    ensure!(answer["sessions"] == cut.len(), "{answer}");
    for pair in &mut cut {
        is_cut(pair).await?;
        let end = end_of(&world, pair).await?;
        ensure!(end["cause"] == "notAdmitted" && end["hop"] == "agent", "{end}");
    }
    for pair in &mut kept {
        pair.exchange().await?;
    }
    world.roster(mark, 1).await?;
    for _ in 0..8 {
        Pair::open(&world, &host).await?.exchange().await?;
    }
    // A process that is started anew has another certificate: it was the certificate that was denied, not the identity.
    let revived = usize::from(world.agents[0].said("enrolled").iter().all(|line| line["serial"] != serial));
    let mark = world.client.mark();
    world.restart(Part::Agent(revived)).await?;
    world.roster(mark, 2).await?;
    revoke(&world, Part::Server, &["agent/acme"]).await?;
    world.roster(mark, 0).await?;
    let refused = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(refused.cause == "noLiveAgent", "{refused:?}");
    world.finish(&[])
}

/// K01 in small: what the rule allowed goes, also where the client's other rule stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_rule_cuts_what_it_alone_allowed() -> Result<()> {
    let (kept, removed) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (kept_at, removed_at) = (kept.local_addr()?, removed.local_addr()?);
    let world = world().target(kept_at).allow_only(removed_at).start().await?;
    let rule = json!({"name": "second", "clients": ["frontend"], "agents": ["acme"], "targets": [removed_at]});
    let mark = world.client.mark();
    world.edit("server", |config| config["rules"].as_array_mut().map(|rules| rules.push(rule)).unwrap_or_default())?;
    world.roster(mark, 1).await?;
    let mut bystander = Pair::open(&world, &kept).await?;
    let mut cut = Pair::open(&world, &removed).await?;
    let answer = revoke(&world, Part::Server, &["--rule", "second"]).await?;
    is_cut(&mut cut).await?;
    ensure!(answer["sessions"] == 1 && answer["connections"] == 0, "{answer}");
    bystander.exchange().await?;
    let end = end_of(&world, &cut).await?;
    ensure!(end["cause"] == "notAllowed" && end["hop"] == "server", "{end}");
    let refused = proxy::connect(world.proxy_addr(), &removed_at.to_string()).await?.refused()?;
    ensure!(refused.cause == "notAllowed", "{refused:?}");
    // A reload of a file that still has the rule does not bring it back; undoing does.
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(Part::Server));
    let said = succeed(reload).await?;
    ensure!(said.contains("denials in force as before: 1"), "{said}");
    proxy::connect(world.proxy_addr(), &removed_at.to_string()).await?.refused()?;
    let mark = world.client.mark();
    revoke(&world, Part::Server, &["--rule", "second", "--undo"]).await?;
    world.roster(mark, 1).await?;
    Pair::open(&world, &removed).await?.exchange().await?;
    world.finish(&[])
}

/// What becomes of a session to `host` that the agent does not want: no byte arrives on either side, and the record says whose word it is.
async fn is_unwanted(world: &World, host: &TcpListener) -> Result<()> {
    let before = world.audit()?.len();
    if let proxy::Answer::Opened(mut opened) =
        proxy::connect(world.proxy_addr(), &host.local_addr()?.to_string()).await?
    {
        // By its certificate a client is only known once the handshake is done, which the application may hear of first.
        let (bytes, ending) = within("the end", CUT_WITHIN, read_to_ending(&mut opened.stream)).await?;
        ensure!(bytes == 0 && ending == Ending::Reset, "{bytes} {ending:?}");
    }
    let is_word = |record: &Value| record["cause"] == "notOnAllowList" && record["hop"] == "agent";
    world.audit_until("the agent's word", |log| log.iter().skip(before).any(is_word)).await.map(drop)
}

/// The agent's owner shuts clients and targets out, whatever the server says; a resumed inner handshake is judged like a full one.
#[tokio::test(flavor = "multi_thread")]
async fn the_agents_owner_shuts_out_clients_and_targets() -> Result<()> {
    let (host, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let other_target = other.local_addr()?.to_string();
    // Each way has a host of its own: a connection that came to nothing may wait there.
    let world = world().target("127.0.0.1:1024-65535").start().await?;
    let agent = Part::Agent(0);
    // A ticket for the handshakes that follow.
    Pair::open(&world, &host).await?.exchange().await?;
    let (serial, key) = certificate(&world, CLIENT)?;
    let ways = [
        vec!["client/frontend"],
        vec!["client@acme.iam.gserviceaccount.com"],
        vec!["--key", &key],
        vec!["--serial", &serial],
    ];
    for mut what in ways {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let mut cut = Pair::open(&world, &host).await?;
        cut.exchange().await?;
        let answer = revoke(&world, agent, &what).await?;
        is_cut(&mut cut).await?;
        ensure!(answer["sessions"] == 1 && answer["lasting"] == false, "{what:?}: {answer}");
        ensure!(answer["notes"].to_string().contains("until the agent is restarted"), "{answer}");
        let end = end_of(&world, &cut).await?;
        ensure!(end["cause"] == "notOnAllowList" && end["hop"] == "agent", "{end}");
        is_unwanted(&world, &host).await?;
        is_unwanted(&world, &host).await?;
        what.push("--undo");
        revoke(&world, agent, &what).await?;
        let host = TcpListener::bind("127.0.0.1:0").await?;
        Pair::open(&world, &host).await?.exchange().await?;
    }
    let (mut cut, mut bystander) = (Pair::open(&world, &other).await?, Pair::open(&world, &host).await?);
    let answer = revoke(&world, agent, &["--target", &other_target]).await?;
    is_cut(&mut cut).await?;
    ensure!(answer["sessions"] == 1, "{answer}");
    bystander.exchange().await?;
    let refused_by = proxy::connect(world.proxy_addr(), &other_target).await?.refused()?;
    ensure!(refused_by.cause == "notOnAllowList" && refused_by.hop == "agent", "{refused_by:?}");
    // What the server may be asked, an agent may not, and the other way round.
    for (part, what) in [
        (agent, ["--rule", "hosts"]),
        (agent, ["--target", "192.0.2.1:9"]),
        (Part::Server, ["--target", &other_target]),
        (Part::Server, ["--rule", "host"]),
    ] {
        let (code, said) = refused(&world, part, &what).await?;
        ensure!(code == Some(2), "{what:?}: {code:?} {said}");
    }
    for who in ["agent/acme", "client/fronted", "server/tunnel", "frontend"] {
        let part = if who == "agent/acme" { agent } else { Part::Server };
        let (code, said) = refused(&world, part, &[who]).await?;
        ensure!(code == Some(2), "{who}: {code:?} {said}");
    }
    let (code, said) = refused(&world, Part::Client, &["client/frontend"]).await?;
    ensure!(code == Some(1) && said.contains("Nothing can be denied at a client"), "{code:?} {said}");
    let (code, said) = refused(&world, Part::Server, &["client/frontend", "--undo"]).await?;
    ensure!(code == Some(1) && said.contains("was not revoked"), "{code:?} {said}");
    world.finish(&[])
}

/// What was acknowledged survives a SIGKILL in the same moment, on server and agent, and a broken file keeps them from starting.
#[tokio::test(flavor = "multi_thread")]
async fn denials_survive_a_kill_and_a_broken_file_is_said() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = world().target(&target).start().await?;
    stranger(&world).await?;
    world.edit("agent", |config| config["denials"] = json!({"file": "agent-denials.jsonl"}))?;
    world.restart(Part::Agent(0)).await?;
    let up = world.agents[0].wait_for("link up", |_| true);
    up.await?;
    let said = revoke(&world, Part::Agent(0), &["--target", &target]).await?;
    world.agents[0].kill().await?;
    ensure!(said["lasting"] == true && said["notes"] == json!([]), "{said}");
    revoke(&world, Part::Server, &["client/stranger", "--reason", "incident \u{1b}12"]).await?;
    world.server.kill().await?;
    world.restart(Part::Server).await?;
    let mark = world.client.mark();
    world.restart(Part::Agent(0)).await?;
    world.roster(mark, 1).await?;
    let refused_by = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(refused_by.cause == "notOnAllowList", "{refused_by:?}");
    // Who is shut out does not enrol either; the caller hears what every stranger hears.
    let error = enrol(&world, "stranger.json").await.err().context("a refusal")?;
    ensure!(!format!("{error:#}").contains("revoked"), "{error:#}");
    let is_refusal = |record: &Value| record["event"] == "enrolmentRefused" && record["reason"] == "revoked";
    world.audit_until("the refusal in the audit", |log| log.iter().any(is_refusal)).await?;
    let mut list = world.ginnel();
    list.args(["revoke", "--list", "--socket"]).arg(world.socket(Part::Server));
    let listed = succeed(list).await?;
    ensure!(listed.contains("client/stranger") && listed.contains(r"incident \u{1b}12"), "{listed}");

    let file = world.directory().join("audit/denials.jsonl");
    let whole = std::fs::read_to_string(&file)?;
    std::fs::write(&file, whole.trim_end())?;
    world.server.kill().await?;
    let mut start = world.ginnel();
    start.current_dir(world.directory()).args(["server", "--config", "server.yaml"]);
    let answer = output(start).await?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(!answer.status.success() && said.contains("denials.jsonl:2:") && said.contains("from a copy"), "{said}");
    world.finish(&[Part::Server, Part::Agent(0)])
}

/// Without room on the disk nothing is acknowledged, nothing changes, and the same demand works once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_acknowledged() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    // What is written there meets a full disk.
    std::os::unix::fs::symlink("/dev/full", world.directory().join("audit/denials.jsonl.next"))?;
    let (code, said) = refused(&world, Part::Server, &["client/frontend"]).await?;
    ensure!(
        code == Some(1) && said.contains("Nothing has changed") && said.contains("No space left"),
        "{code:?} {said}"
    );
    pair.exchange().await?;
    ensure!(world.audit_of("revoked")?.is_empty(), "it is on record");
    revoke(&world, Part::Server, &["client/frontend"]).await?;
    is_cut(&mut pair).await?;
    world.finish(&[])
}

/// Only what hangs on the denied certificate goes: an older connection of the same process with another certificate stays, and its sessions.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_certificate_does_not_take_the_renewed_one_of_the_same_process_with_it() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).certificate_lifetime("12s").start().await?;
    let mut old = Pair::open(&world, &host).await?;
    let (first, _) = certificate(&world, CLIENT)?;
    let mark = world.client.mark();
    world.client.wait_for_after(mark, "certificate renewed", |_| true).await?;
    let mut new = Pair::open(&world, &host).await?;
    let answer = revoke(&world, Part::Server, &["--serial", &first]).await?;
    ensure!(answer["sessions"] == 1, "{answer}");
    is_cut(&mut old).await?;
    new.exchange().await?;
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}

/// Whoever was turned away with a certificate that is denied, and is not denied itself, asks for another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_certificate_is_denied_comes_back_with_another() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let (denied, _) = certificate(&world, AGENT)?;
    revoke(&world, Part::Server, &["--serial", &denied]).await?;
    let is_new = |record: &Value| {
        record["event"] == "linkUp" && record["agent"] == AGENT && record["serial"].as_str() != Some(denied.as_str())
    };
    world.audit_until("a link with another certificate", |log| log.iter().any(is_new)).await?;
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}

/// A certificate that somebody else holds is closed at the server within a second, and comes in no more; the identity itself works on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_certificate_is_thrown_out_and_its_owner_is_not() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut owner = Pair::open(&world, &host).await?;
    let stolen = enrol(&world, "client.json").await?;
    let thief = Peer::connect(&world, Some(&stolen)).await?;
    let serial = stolen.leaf().serial.clone();
    revoke(&world, Part::Server, &["--serial", &serial]).await?;
    eventually("the end of the thief's connection", CUT_WITHIN, async || {
        Ok(thief.call("/x").await.is_err().then_some(()))
    })
    .await?;
    let mark = world.server.mark();
    drop(Peer::connect(&world, Some(&stolen)).await);
    let turned_away = "certificate that was revoked, itself or its identity or key";
    world.server.wait_for_after(mark, turned_away, |line| line["serial"] == serial).await?;
    owner.exchange().await?;
    world.finish(&[])
}

/// The key that signs tokens takes every certificate with it that was given for one of its tokens, also those from before a restart of the
/// server, and no token of it works.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_service_account_key_takes_its_certificates_with_it() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    let (before, mark) = (world.audit_of("enrolled")?.len(), world.client.mark());
    world.restart(Part::Server).await?;
    world.roster(mark, 1).await?;
    ensure!(world.audit_of("enrolled")?.len() == before, "the certificates are no longer those from before");
    let mut cut = Pair::open(&world, &host).await?;
    let mut hash = tokio::process::Command::new("sh");
    let script = "openssl pkey -pubin -in client.pub.pem -outform DER | sha256sum | cut -d' ' -f1";
    hash.current_dir(world.directory()).args(["-c", script]);
    let key = succeed(hash).await?;
    let answer = revoke(&world, Part::Server, &["--key", key.trim()]).await?;
    ensure!(answer["sessions"] == 1, "{answer}");
    is_cut(&mut cut).await?;
    ensure!(enrol(&world, "client.json").await.is_err(), "a token of a denied key was taken");
    ensure!(enrol(&world, "agent.json").await.is_ok(), "another key is not denied");
    let is_refusal = |record: &Value| record["event"] == "enrolmentRefused" && record["reason"] == "revoked";
    world.audit_until("the refusal in the audit", |log| log.iter().any(is_refusal)).await?;
    ensure!(certificate(&world, AGENT).is_ok());
    world.finish(&[])
}

/// A key that is taken out of an identity takes what was enrolled with it, and leaves what was enrolled with the identity's other key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_out_of_an_identity_takes_its_connections_with_it() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut create = world.ginnel();
    let email = "client@acme.iam.gserviceaccount.com";
    create.args(["credentials", "create", email, "--out"]).arg(world.directory().join("second.json"));
    std::fs::write(world.directory().join("second.pub.pem"), succeed(create).await? + "\n")?;
    let keys = |keys: Value| {
        world.edit("server", |config| {
            for identity in config["identities"].as_array_mut().into_iter().flatten() {
                if identity["role"] == "client" {
                    identity["publicKeys"] = keys.clone();
                }
            }
        })
    };
    let reload = async || {
        let mut command = world.ginnel();
        command.args(["reload", "--socket"]).arg(world.socket(Part::Server));
        succeed(command).await
    };
    keys(json!(["client.pub.pem", "second.pub.pem"]))?;
    reload().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let by_second = enrol(&world, "second.json").await?;
    let peer = Peer::connect(&world, Some(&by_second)).await?;
    keys(json!(["client.pub.pem"]))?;
    let said = reload().await?;
    eventually("the end of the connection", CUT_WITHIN, async || Ok(peer.is_closed().then_some(()))).await?;
    ensure!(said.contains("1 connection is no longer admitted"), "{said}");
    bystander.exchange().await?;
    ensure!(enrol(&world, "second.json").await.is_err(), "a token of the key that is gone was taken");
    world.finish(&[])
}
