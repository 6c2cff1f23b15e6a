//! The agent owner's word: which clients may reach which targets, lists to try out, a record of the owner's own, and the owner's brake.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_core::id::{RequestId, SessionId};
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::relay::CLIENT;
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::{Part, Relay, World, eventually, proxy, within};
use ginnel_wire::hello::Dial;
use ginnel_wire::inner::InnerHello;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::observed::metrics;
use crate::pair::Pair;
use crate::revoke::CUT_WITHIN;
use crate::world;

mod record;

/// A client that no process of the world is.
const OTHER: &str = "spiffe://acme.example/client/other";

const AGENT: Part = Part::Agent(0);

/// A target at which somebody listens and nobody accepts, so that the kernel remembers whoever connected.
struct Watched(std::net::TcpListener);

impl Watched {
    fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    fn target(&self) -> Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }

    /// Whether nobody has connected so far.
    fn is_untouched(&self) -> bool {
        self.0.accept().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

async fn ginnel(world: &World, words: &[&str], part: Part) -> Result<String> {
    let mut command = world.ginnel();
    command.args(words).arg("--socket").arg(world.socket(part));
    succeed(command).await
}

async fn is_cut(pair: &mut Pair) -> Result<()> {
    for stream in [&mut pair.app, &mut pair.target] {
        let (_, ending) = within("the end of a session that was cut", CUT_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    Ok(())
}

/// The agent's records of one request, once it has the last one.
async fn records_of(world: &World, request: &str) -> Result<Vec<Value>> {
    let is_last =
        |record: &Value| record["requestId"] == request && (record["event"] == "ended" || record["event"] == "refused");
    let log = world.agent_audit_until("the end in the agent's log", |log| log.iter().any(is_last)).await?;
    Ok(log.into_iter().filter(|record| record["requestId"] == request).collect())
}

fn events(records: &[Value]) -> Vec<&str> {
    records.iter().filter_map(|record| record["event"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_with_clients_is_for_them_alone() -> Result<()> {
    let (listed, others) = (TcpListener::bind("127.0.0.1:0").await?, Watched::start()?);
    let (listed_at, others_at) = (listed.local_addr()?.to_string(), others.target()?);
    let world = world()
        .rule_only("127.0.0.1:1024-65535")
        .agent_setting(
            "/allow",
            json!([{"target": listed_at, "clients": ["frontend"]}, {"target": others_at, "clients": ["other"]}]),
        )
        .agent_audited()
        .start()
        .await?;
    let mut pair = Pair::open(&world, &listed).await?;
    pair.exchange().await?;
    // Again with a handshake that is resumed: the certificate of the first one counts.
    Pair::open(&world, &listed).await?.exchange().await?;
    let refused = proxy::connect(world.proxy_addr(), &others_at).await?.refused()?;
    ensure!(refused.status == 403 && refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    ensure!(others.is_untouched(), "a target was dialled for a client that may not have it");
    let records = records_of(&world, &refused.request_id).await?;
    ensure!(events(&records) == ["refused"] && records[0]["client"] == CLIENT, "{records:?}");
    ensure!(records[0]["target"] == others_at && records[0]["peer"].is_null(), "{records:?}");
    // A target that nobody may have is refused before anybody has proved anything: then the client is the server's word.
    let nobody = proxy::connect(world.proxy_addr(), "127.0.0.1:1024").await?.refused()?;
    ensure!(nobody.cause == "notOnAllowList" && nobody.hop == "agent", "{nobody:?}");
    let records = records_of(&world, &nobody.request_id).await?;
    ensure!(records[0]["client"].is_null() && records[0]["clientClaimed"] == CLIENT, "{records:?}");
    world.finish(&[])
}

/// A dial as a hostile server says it, and what a client repeats inside.
fn order(target: &str, client: &str) -> Result<(Dial, InnerHello)> {
    let (session, request) = (SessionId::random(&mut SystemRandom), RequestId::random(&mut SystemRandom));
    let target: ginnel_core::target::Target = target.parse()?;
    let (client, early) = (client.parse()?, Default::default());
    let dial = Dial { session, request, target: target.clone(), client, inner_tls: true, early };
    Ok((dial, InnerHello { request, target }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_names_a_permitted_client_brings_no_other_in() -> Result<()> {
    let host = Watched::start()?;
    let target = host.target()?;
    let mut world = world()
        .rule_only(&target)
        .agent_setting("/allow", json!([{"target": target, "clients": ["other"]}]))
        .agent_audited()
        .start()
        .await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, _) = relay.welcome_agent().await?;
    // Who the server says it is, who the certificate says it is, and what the agent makes of it.
    let cases = [
        (CLIENT, CLIENT, "notOnAllowList", Some(CLIENT)),
        (OTHER, CLIENT, "peerNotVerified", None),
        (CLIENT, OTHER, "peerNotVerified", None),
    ];
    for (said, shown, cause, proved) in cases {
        let (dial, hello) = order(&target, said)?;
        let call = relay.dial(&mut link, &dial).await?;
        let inside = relay.play_client(call, shown).await;
        if let Ok(mut inside) = inside {
            // An agent that has refused already does not listen any more.
            inside.write_all(&hello.encode()).await.ok();
            inside.flush().await.ok();
            let records = records_of(&world, &dial.request.to_string()).await?;
            ensure!(events(&records) == ["refused"], "{said} {shown}: {records:?}");
            ensure!(
                records[0]["cause"] == cause && records[0]["client"] == json!(proved),
                "{said} {shown}: {records:?}"
            );
        } else {
            anyhow::bail!("{said} {shown}: no handshake");
        }
        ensure!(host.is_untouched(), "{said} {shown}: the target was dialled");
    }
    // A server that never lets the client speak makes nothing of the target either.
    let (dial, _) = order(&target, OTHER)?;
    let mut silent = relay.dial(&mut link, &dial).await?;
    silent.end()?;
    let records = records_of(&world, &dial.request.to_string()).await?;
    ensure!(events(&records) == ["refused"] && host.is_untouched(), "{records:?}");
    // The very client: it is the certificate that opens.
    let (dial, hello) = order(&target, OTHER)?;
    let call = relay.dial(&mut link, &dial).await?;
    let mut inside = relay.play_client(call, OTHER).await?;
    inside.write_all(&hello.encode()).await?;
    inside.flush().await?;
    let connected = |log: &[Value]| {
        log.iter().any(|record| record["event"] == "connected" && record["requestId"] == dial.request.to_string())
    };
    world.agent_audit_until("the connection", connected).await?;
    ensure!(!host.is_untouched(), "the target was not dialled");
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_wants_it_has_nothing_dialled_before_the_client_is_known() -> Result<()> {
    let host = Watched::start()?;
    let target = host.target()?;
    let mut world = world().target(&target).agent_setting("/dial", json!("afterHandshake")).start().await?;
    let mut relay = Relay::take_over(&mut world).await?;
    let (mut link, _) = relay.welcome_agent().await?;
    let (dial, _) = order(&target, CLIENT)?;
    let request = dial.request.to_string();
    let mut call = relay.dial(&mut link, &dial).await?;
    call.end()?;
    world.agents[0].wait_for("refused", |line| line["request"] == request).await?;
    ensure!(host.is_untouched(), "the target was dialled for nobody");
    // Without the setting the same server makes the agent connect: that is what it is for.
    world.edit("agent", |config| config["dial"] = json!("early"))?;
    let said = ginnel(&world, &["reload"], AGENT).await?;
    ensure!(said.contains("dial: early"), "{said}");
    let (dial, _) = order(&target, CLIENT)?;
    let _call = relay.dial(&mut link, &dial).await?;
    eventually("the connection", Duration::from_secs(10), async || Ok((!host.is_untouched()).then_some(()))).await?;
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_taken_off_an_entry_loses_its_sessions_and_no_other() -> Result<()> {
    let (first, second) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (first_at, second_at) = (first.local_addr()?.to_string(), second.local_addr()?.to_string());
    let allow = |clients: &[&str]| json!([{"target": first_at, "clients": clients}, second_at]);
    let world = world()
        .rule_only("127.0.0.1:1024-65535")
        .agent_setting("/allow", allow(&["frontend", "other"]))
        .agent_audited()
        .start()
        .await?;
    let (mut cut, mut bystander) = (Pair::open(&world, &first).await?, Pair::open(&world, &second).await?);
    world.edit("agent", |config| config["allow"] = allow(&["frontend"]))?;
    let said = ginnel(&world, &["reload"], AGENT).await?;
    ensure!(
        said.contains(&format!("allow removed: {first_at} for frontend other")) && !said.contains("ended"),
        "{said}"
    );
    cut.exchange().await?;
    world.edit("agent", |config| config["allow"] = allow(&["other"]))?;
    let said = ginnel(&world, &["reload"], AGENT).await?;
    is_cut(&mut cut).await?;
    ensure!(said.contains("1 session is no longer permitted and was ended"), "{said}");
    bystander.exchange().await?;
    let records = records_of(&world, &cut.request_id).await?;
    let end = records.last().context("an end")?;
    ensure!(end["event"] == "ended" && end["cause"] == "notOnAllowList" && end["hop"] == "agent", "{end}");
    let reloaded = world.agent_audit()?.into_iter().filter(|record| record["event"] == "reloaded").count();
    ensure!(reloaded >= 2, "{reloaded} reloads on record");
    let refused = proxy::connect(world.proxy_addr(), &first_at).await?.refused()?;
    ensure!(refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    // From a list that names nobody: a session that is being opened and one that runs are judged by the certificate all the same.
    world.edit("agent", |config| config["allow"] = json!([first_at, second_at]))?;
    ginnel(&world, &["reload"], AGENT).await?;
    let mut again = Pair::open(&world, &first).await?;
    world.edit("agent", |config| config["allow"] = allow(&["other"]))?;
    ginnel(&world, &["reload"], AGENT).await?;
    is_cut(&mut again).await?;
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_under_observation_says_what_it_would_refuse_and_decides_nothing() -> Result<()> {
    let (kept, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let unlisted = TcpHost::echo().await?;
    let (kept_at, other_at) = (kept.local_addr()?.to_string(), other.local_addr()?.to_string());
    let tighter = json!([{"target": kept_at, "clients": ["frontend"]}, {"target": other_at, "clients": ["other"]}, unlisted.address()]);
    let mut world = world()
        .target(&kept_at)
        .target(&other_at)
        .rule_only(unlisted.address())
        .agent_setting("/observe", json!({"allow": tighter}))
        .agent_audited()
        .start()
        .await?;
    let (mut fits, mut does_not) = (Pair::open(&world, &kept).await?, Pair::open(&world, &other).await?);
    fits.exchange().await?;
    does_not.exchange().await?;
    // What only the list under observation names stays refused.
    let refused = proxy::connect(world.proxy_addr(), &unlisted.address().to_string()).await?.refused()?;
    ensure!(refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    let would = |log: &[Value]| log.iter().any(|record| record["event"] == "wouldRefuse");
    let log = world.agent_audit_until("what would be refused", would).await?;
    let found: Vec<_> = log.iter().filter(|record| record["event"] == "wouldRefuse").collect();
    ensure!(found.len() == 1 && found[0]["requestId"] == does_not.request_id, "{found:?}");
    ensure!(
        found[0]["cause"] == "notOnAllowList" && found[0]["client"] == CLIENT && found[0]["address"] == other_at,
        "{found:?}"
    );
    let words = "the list under observation would refuse this session";
    world.agents[0].wait_for(words, |line| line["request"] == does_not.request_id).await?;
    let seen = metrics(&mut world, AGENT).await?;
    let counted = seen.get("ginnel_observed_refusals_total{cause=\"notOnAllowList\"}");
    ensure!(counted == Some(&1.0), "{counted:?}");
    let said = ginnel(&world, &["status"], AGENT).await?;
    ensure!(
        said.contains("under observation: 3 entries") && said.contains("would have refused 1 notOnAllowList"),
        "{said}"
    );
    // Tighter still: those that are open already are counted, and go on.
    world.edit("agent", |config| config["observe"]["allow"] = json!([]))?;
    let said = ginnel(&world, &["reload"], AGENT).await?;
    ensure!(said.contains("of the sessions now it would refuse 2") && !said.contains("ended"), "{said}");
    // Put into force, it does what it said.
    world.edit("agent", |config| {
        config["allow"] = tighter.clone();
        drop(config.as_object_mut().and_then(|config| config.remove("observe")));
    })?;
    let said = ginnel(&world, &["reload"], AGENT).await?;
    ensure!(said.contains("nothing is under observation any more"), "{said}");
    is_cut(&mut does_not).await?;
    fits.exchange().await?;
    world.finish(&[])
}

/// Sessions that are live when the owner pulls the brake.
const LIVE: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn to_stop_everything_waits_for_no_disk() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let disk = tempfile::tempdir()?;
    let file = disk.path().join("denials.jsonl");
    let mut world = world().target(&target).agent_setting("/denials", json!({"file": file})).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    let directory = disk.path().to_owned();
    disk.close()?;
    let said = ginnel(&world, &["revoke", "--all"], AGENT).await?;
    is_cut(&mut pair).await?;
    ensure!(said.contains("a restart of the agent undoes it"), "{said}");
    let refused = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    // Once there is a disk, the same order makes it last, although nothing changes.
    std::fs::create_dir(&directory)?;
    let said = ginnel(&world, &["revoke", "--all"], AGENT).await?;
    ensure!(!said.contains("undoes it"), "{said}");
    let mark = world.client.mark();
    world.restart(AGENT).await?;
    world.roster(mark, 1).await?;
    let refused = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    std::fs::remove_dir_all(directory)?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_stops_everything_at_once_and_for_as_long_as_it_takes() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world =
        world().target(&target).agent_setting("/denials", json!({"file": "agent-denials.jsonl"})).start().await?;
    let all = async |world: &World| {
        let mut pairs = Vec::new();
        for _ in 0..LIVE {
            pairs.push(Pair::open(world, &host).await?);
        }
        anyhow::Ok(pairs)
    };
    let are_cut = async |pairs: Vec<Pair>| {
        let ends = pairs.into_iter().map(|mut pair| tokio::spawn(async move { is_cut(&mut pair).await }));
        for end in ends.collect::<Vec<_>>() {
            end.await??;
        }
        anyhow::Ok(())
    };
    let ended_by = async |world: &World, cause: &str| {
        let is_end =
            |record: &Value| record["event"] == "ended" && record["cause"] == cause && record["hop"] == "agent";
        let enough = |log: &[Value]| log.iter().filter(|record| is_end(record)).count() == LIVE;
        world.audit_until(&format!("the ends by {cause}"), enough).await.map(drop)
    };
    // Sessions alone, which may come back.
    let pairs = all(&world).await?;
    let said = ginnel(&world, &["sessions", "end", "--all"], AGENT).await?;
    are_cut(pairs).await?;
    ensure!(said.contains(&LIVE.to_string()), "{said}");
    ended_by(&world, "endedByOperator").await?;
    // Everything, until the owner says otherwise.
    let pairs = all(&world).await?;
    let said = ginnel(&world, &["revoke", "--all", "--reason", "incident 12"], AGENT).await?;
    are_cut(pairs).await?;
    ensure!(said.contains("revoked all sessions") && said.contains(&format!("{LIVE} sessions")), "{said}");
    ended_by(&world, "notOnAllowList").await?;
    let mark = world.client.mark();
    world.restart(AGENT).await?;
    world.roster(mark, 1).await?;
    let refused = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(refused.cause == "notOnAllowList" && refused.hop == "agent", "{refused:?}");
    let mut ready = world.ginnel();
    ready.args(["status", "--ready", "--socket"]).arg(world.socket(AGENT));
    let answer = output(ready).await?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(answer.status.code() == Some(1) && said.contains("the owner has revoked everything"), "{said}");
    let listed = ginnel(&world, &["revoke", "--list"], AGENT).await?;
    ensure!(listed.contains("all") && listed.contains("incident 12"), "{listed}");
    ginnel(&world, &["revoke", "--all", "--undo"], AGENT).await?;
    Pair::open(&world, &host).await?.exchange().await?;
    let mut of_server = world.ginnel();
    of_server.args(["revoke", "--all", "--socket"]).arg(world.socket(Part::Server));
    ensure!(output(of_server).await?.status.code() == Some(2), "a server denied everything");
    world.finish(&[])
}

/// An agent that runs without inner TLS takes up no list that it could not judge by.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_proof_takes_up_no_list_of_clients() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let world = world().target(&target).danger_disable_inner_tls().start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    world.edit("agent", |config| {
        config["allow"] = json!([{"target": target, "clients": ["other"]}]);
        config["dangerDisableInnerTls"] = json!(false);
    })?;
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(AGENT));
    let answer = output(reload).await?;
    let said = [answer.stdout, answer.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(answer.status.code() == Some(1) && said.contains("runs without inner TLS"), "{said}");
    pair.exchange().await?;
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}
