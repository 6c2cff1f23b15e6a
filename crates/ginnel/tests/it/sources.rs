//! Where connections come from: ranges by role and identity, and balancers that say it (table I of the attacks).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use ginnel_core::audit::Timestamp;
use ginnel_identity::certificate::Identity;
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::peer::{Enrolment, Peer, enrol, tcp_from};
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, proxy, within};
use ginnel_wire::v1::{self, AgentMessage, ServerMessage, agent_message};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::world;

/// From a change, or an expiry, to the last byte of a session that is no longer allowed.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// How long a connection may stand whose header does not come, with room for a busy machine.
const HEADER_WITHIN: Duration = Duration::from_secs(10);

const ATTACH: &str = "/ginnel.v1.AgentLink/Attach";
const ROSTER: &str = "/ginnel.v1.ClientLink/Roster";

/// Another address of this machine.
fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

async fn reload(world: &World) -> Result<String> {
    let mut command = world.ginnel();
    command.args(["reload", "--socket"]).arg(world.socket(Part::Server));
    succeed(command).await
}

/// Whether the server answers an agent's hello on a connection.
async fn attaches(peer: &Peer) -> Result<()> {
    let mut link = peer.call(ATTACH).await?;
    link.say(&AgentMessage { kind: Some(agent_message::Kind::Hello(Peer::hello(Peer::instance()))) })?;
    link.hear::<ServerMessage>().await.map(drop)
}

/// The same of a client.
async fn is_given_a_roster(peer: &Peer) -> Result<()> {
    let mut call = peer.call(ROSTER).await?;
    call.say(&v1::RosterRequest { hello: Some(Peer::hello(Peer::instance())) })?;
    call.end()?;
    call.hear::<v1::RosterMessage>().await.map(drop)
}

/// What is heard on a connection from `from` that says `said`, until it ends.
async fn answer(world: &World, from: IpAddr, said: &[u8]) -> Result<Vec<u8>> {
    Ok(addressed_answer(world, from, said).await?.1)
}

/// The same, with the address that the connection has come from.
async fn addressed_answer(world: &World, from: IpAddr, said: &[u8]) -> Result<(SocketAddr, Vec<u8>)> {
    let mut tcp = tcp_from(from, world.server_addr()).await?;
    let own = tcp.local_addr()?;
    // Who is closed at once may not get to say it.
    tcp.write_all(said).await.ok();
    let mut heard = Vec::new();
    // A reset is an end as well.
    within("the end of the connection", HEADER_WITHIN, tcp.read_to_end(&mut heard)).await?.ok();
    Ok((own, heard))
}

/// Waits for the record of a connection that was turned away.
async fn turned_away(world: &World, cause: &str, is_peer: impl Fn(SocketAddr) -> bool) -> Result<Value> {
    let is_it = |record: &Value| {
        let peer = record["peer"].as_str().and_then(|peer| peer.parse().ok());
        record["event"] == "turnedAway" && record["cause"] == cause && peer.is_some_and(&is_peer)
    };
    let log = world.audit_until(&format!("{cause} in the audit"), |log| log.iter().any(is_it)).await?;
    log.into_iter().find(is_it).context("a record")
}

async fn is_reset(pair: &mut Pair) -> Result<()> {
    for stream in [&mut pair.app, &mut pair.target] {
        let (_, ending) =
            within("the end of a session that is not allowed", CUT_WITHIN, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    Ok(())
}

/// How a session ended, by the server's record.
async fn end_of(world: &World, pair: &Pair) -> Result<(String, String)> {
    let request = pair.request_id.clone();
    let is_end = |record: &Value| record["requestId"] == request && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
    let record = log.iter().find(|record| is_end(record)).context("a record")?;
    let word = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
    Ok((word("hop"), word("cause")))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_from_elsewhere_is_turned_away_with_everything_valid() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let ranges = json!({"agent": ["127.0.0.1", "127.0.0.3"], "client": ["127.0.0.1", "127.0.0.2"]});
    let world =
        world().target(host.local_addr()?).server_setting("/server/allowedSourceRanges", ranges).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let (agent, client) = (enrol(&world, "agent.json").await?, enrol(&world, "client.json").await?);

    // Nobody may come from here: not a byte of TLS is answered.
    ensure!(answer(&world, loopback(4), b"this is no ClientHello").await?.is_empty(), "it was answered");
    ensure!(Peer::connect_from(&world, loopback(4), b"", Some(&agent)).await.is_err(), "the handshake went on");
    let record = turned_away(&world, "sourceRefused", |peer| peer.ip() == loopback(4)).await?;
    ensure!(record["principal"].is_null(), "{record}");

    // Clients may come from here, so that only the certificate shows it.
    let refused = async { attaches(&Peer::connect_from(&world, loopback(2), b"", Some(&agent)).await?).await };
    ensure!(
        within("an answer", SOON, Box::pin(refused)).await?.is_err(),
        "an agent was taken from where only clients may be"
    );
    let record = turned_away(&world, "sourceRefused", |peer| peer.ip() == loopback(2)).await?;
    ensure!(record["principal"] == "spiffe://acme.example/agent/acme" && record["serial"].is_string(), "{record}");
    is_given_a_roster(&Peer::connect_from(&world, loopback(2), b"", Some(&client)).await?).await?;
    attaches(&Peer::connect_from(&world, loopback(3), b"", Some(&agent)).await?).await?;

    // And an agent does not get a certificate there either. It hears what everybody hears who is refused.
    let own = Enrolment::new(&world.directory().join("agent.json"))?;
    let there = Peer::connect_from(&world, loopback(2), b"", None).await?;
    ensure!(there.enrol(&own).await? == 16, "an agent has enrolled from where only clients may be");
    let is_it = |record: &Value| record["event"] == "enrolmentRefused" && record["reason"] == "sourceRefused";
    world.audit_until("the refusal in the audit", |log| log.iter().any(is_it)).await?;
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_a_balancer_is_believed_about_an_address() -> Result<()> {
    const SAID: &str = "203.0.113.7";
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let ranges = json!({"agent": ["127.0.0.1", SAID], "client": ["127.0.0.1", "127.0.0.2"]});
    let world =
        world().target(host.local_addr()?).server_setting("/server/allowedSourceRanges", ranges).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let agent = enrol(&world, "agent.json").await?;
    let forwarded = format!("for={SAID}");
    let claims = [
        ("x-forwarded-for", SAID),
        ("forwarded", forwarded.as_str()),
        ("x-real-ip", SAID),
        ("ginnel-forwarded-for", "203.0.113.7:40000"),
    ];
    let hello = AgentMessage { kind: Some(agent_message::Kind::Hello(Peer::hello(Peer::instance()))) };

    let refused = async {
        let peer = Peer::connect_from(&world, loopback(2), b"", Some(&agent)).await?;
        let mut link = peer.call_with(ATTACH, &claims).await?;
        link.say(&hello)?;
        link.hear::<ServerMessage>().await
    };
    ensure!(within("an answer", SOON, Box::pin(refused)).await?.is_err(), "a header has opened the door");
    turned_away(&world, "sourceRefused", |peer| peer.ip() == loopback(2)).await?;

    // Who may come is on record by its own address.
    let mark = world.audit_of("linkUp")?.len();
    let peer = Peer::connect_from(&world, loopback(1), b"", Some(&agent)).await?;
    let mut link = peer.call_with(ATTACH, &claims).await?;
    link.say(&hello)?;
    link.hear::<ServerMessage>().await?;
    let links = world.audit_of("linkUp")?;
    let record = links.get(mark).context("a record")?;
    ensure!(record["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{record}");

    // A header of the PROXY protocol is no TLS, in either version.
    let v2 = header(0x21, 0x11, &v4([203, 0, 113, 7]));
    for said in [v2.as_slice(), b"PROXY TCP4 203.0.113.7 10.0.0.1 40000 443\r\n"] {
        let heard = answer(&world, loopback(1), &[said, b"\x16\x03\x01"].concat()).await?;
        ensure!(heard.first() == Some(&21), "no alert of TLS, but {heard:?}");
        ensure!(Peer::connect_from(&world, loopback(1), said, Some(&agent)).await.is_err(), "it was passed over");
    }
    let believed =
        world.audit()?.into_iter().find(|record| record["peer"].as_str().is_some_and(|peer| peer.starts_with(SAID)));
    ensure!(believed.is_none(), "{believed:?}");
    bystander.exchange().await?;
    world.finish(&[])
}

/// A header of the PROXY protocol with this command and family.
fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(rest.len()).unwrap_or_default().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family, high, low], rest].concat()
}

/// From port 40000 of this address to 10.0.0.1:443.
fn v4(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[10, 0, 0, 1, 0x9c, 0x40, 1, 0xbb]].concat()
}

fn v6(source: &str) -> Result<Vec<u8>> {
    let source: std::net::Ipv6Addr = source.parse()?;
    Ok([&source.octets()[..], &[0xfd; 16], &[0x9c, 0x40, 1, 0xbb]].concat())
}

/// What a balancer may send that names no peer, and what it is.
fn wrong_headers() -> Vec<(&'static str, Vec<u8>)> {
    let source = v4([203, 0, 113, 9]);
    let with = |field: &[u8]| header(0x21, 0x11, &[&source[..], field].concat());
    vec![
        ("a UNIX socket", header(0x21, 0x31, &[0; 216])),
        ("no family", header(0x21, 0x00, &[])),
        ("UDP", header(0x21, 0x12, &source)),
        ("a field that is too long", with(&[1, 0, 9, b'h'])),
        ("a checksum of nothing", with(&[3, 0, 4, 1, 2, 3, 4])),
        ("addresses that are cut off", header(0x21, 0x11, &source[..8])),
        ("another command", header(0x23, 0x11, &source)),
        ("version 1", b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 443\r\n".to_vec()),
        ("no header", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancers_header_is_the_address_and_a_wrong_one_is_the_end() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let ranges = json!(["127.0.0.1", "203.0.113.0/24", "2001:db8::/32"]);
    let world = world()
        .target(host.local_addr()?)
        .server_setting("/server/proxyProtocol", json!({"from": ["127.0.0.8/31"]}))
        .server_setting("/server/allowedSourceRanges", json!({"agent": ranges, "client": ranges}))
        .start()
        .await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let client = enrol(&world, "client.json").await?;
    let balancer = loopback(9);
    let mut silent = tcp_from(balancer, world.server_addr()).await?;
    let silent_address = silent.local_addr()?;

    // Its word is the address, for certificates and for enrolment.
    for (preface, peer) in [
        (header(0x21, 0x11, &v4([203, 0, 113, 9])), "203.0.113.9:40000"),
        (header(0x21, 0x21, &v6("2001:db8::9")?), "[2001:db8::9]:40000"),
        (header(0x21, 0x21, &v6("::ffff:203.0.113.10")?), "203.0.113.10:40000"),
    ] {
        arrives(&world, balancer, &preface, &client, peer).await?;
    }
    let own = Enrolment::new(&world.directory().join("client.json"))?;
    let preface = header(0x21, 0x11, &v4([203, 0, 113, 11]));
    ensure!(Peer::connect_from(&world, balancer, &preface, None).await?.enrol(&own).await? == 0, "no certificate");
    let is_it = |record: &Value| record["event"] == "enrolled" && record["peer"] == "203.0.113.11:40000";
    world.audit_until("the enrolment in the audit", |log| log.iter().any(is_it)).await?;

    // Ranges mean that address too.
    let outside = header(0x21, 0x11, &v4([198, 51, 100, 9]));
    ensure!(answer(&world, balancer, &[&outside[..], b"\x16\x03\x01"].concat()).await?.is_empty(), "it was answered");
    turned_away(&world, "sourceRefused", |peer| peer.to_string() == "198.51.100.9:40000").await?;

    // The balancer's own connections are its own, which nobody let in; it wanted nothing else than to see whether somebody is there.
    let (with_local, heard) = addressed_answer(&world, balancer, &header(0x20, 0x00, &[])).await?;
    ensure!(heard.is_empty(), "it was answered");
    let mut looking = tcp_from(balancer, world.server_addr()).await?;
    let with_nothing = looking.local_addr()?;
    looking.shutdown().await?;
    within("the end of a look", HEADER_WITHIN, looking.read_to_end(&mut Vec::new())).await??;

    for (what, preface) in wrong_headers() {
        let (own, heard) = addressed_answer(&world, balancer, &preface).await?;
        ensure!(heard.is_empty(), "{what} was answered");
        turned_away(&world, "protocolError", |peer| peer == own).await.context(what)?;
    }
    let mut nothing = Vec::new();
    within("the end of a silent connection", HEADER_WITHIN, silent.read_to_end(&mut nothing)).await??;
    ensure!(nothing.is_empty(), "{nothing:?}");
    turned_away(&world, "protocolError", |peer| peer == silent_address).await?;
    let looks = [with_local, with_nothing].map(|address| json!(address.to_string()));
    let own = world.audit()?.into_iter().find(|record| looks.contains(&record["peer"]));
    ensure!(own.is_none(), "a balancer's own look is on record as an attempt: {own:?}");
    bystander.exchange().await?;
    world.finish(&[])
}

/// Whether a client that comes through a balancer is taken, and on record with this address.
async fn arrives(world: &World, balancer: IpAddr, preface: &[u8], client: &Identity, peer: &str) -> Result<()> {
    let connected = Peer::connect_from(world, balancer, preface, Some(client)).await.context(peer.to_owned())?;
    is_given_a_roster(&connected).await.context(peer.to_owned())?;
    let is_it = |record: &Value| record["event"] == "clientUp" && record["peer"] == peer;
    world.audit_until(peer, |log| log.iter().any(is_it)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_ranges_end_what_is_outside_of_them_and_nothing_else() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let elsewhere = json!(["203.0.113.0/24"]);
    for (role, hop, name) in [("agent", "agent", "agent acme"), ("client", "server", "client frontend")] {
        // Of the role, then of the identity alone.
        for of_identity in [false, true] {
            let mut pair = Pair::open(&world, &host).await?;
            let before = world.audit_of("turnedAway")?.len();
            let good = std::fs::read_to_string(world.directory().join("server.yaml"))?;
            world.edit("server", |config| {
                if !of_identity {
                    config["server"]["allowedSourceRanges"] = json!({role: elsewhere});
                    return;
                }
                for identity in config["identities"].as_array_mut().into_iter().flatten() {
                    if identity["role"] == role {
                        identity["sourceRanges"] = elsewhere.clone();
                    }
                }
            })?;
            let said = reload(&world).await?;
            is_reset(&mut pair).await.with_context(|| format!("{role}: {said}"))?;
            let change = if of_identity {
                format!("identities changed: {name}")
            } else {
                "allowedSourceRanges changed".to_owned()
            };
            ensure!(said.contains(&change) && said.contains("no longer admitted"), "{said}");
            ensure!(end_of(&world, &pair).await? == (hop.to_owned(), "sourceRefused".to_owned()), "{role}: {said}");
            let comes_back =
                |log: &[Value]| log.iter().filter(|record| record["event"] == "turnedAway").count() > before;
            world.audit_until(&format!("{role} to come back and be turned away"), comes_back).await?;

            let mark = world.client.mark();
            world.write("server", &good)?;
            reload(&world).await?;
            world.roster(mark, 1).await?;
        }
    }
    Pair::open(&world, &host).await?.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_expires_ends_what_it_alone_allowed() -> Result<()> {
    let (host, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (short, long) = (host.local_addr()?, other.local_addr()?);
    let world = world().target(long).allow_only(short).start().await?;
    let expires = Timestamp::from(SystemTime::now() + Duration::from_secs(5));
    let rule = |name: &str, expires: Timestamp, target: SocketAddr| json!({"name": name, "clients": ["frontend"], "agents": ["acme"], "targets": [target], "expires": expires});
    let mark = world.client.mark();
    world.edit("server", |config| {
        if let Some(rules) = config["rules"].as_array_mut() {
            // What another rule allows as well outlives it.
            rules.extend([rule("short", expires, short), rule("both", expires, long)]);
        }
    })?;
    reload(&world).await?;
    world.server.wait_for("rules expire within a week", |line| line["count"] == 2).await?;
    world.roster(mark, 1).await?;
    let mut cut = Pair::open(&world, &host).await?;
    let mut bystander = Pair::open(&world, &other).await?;
    cut.exchange().await?;
    ensure!(Timestamp::from(SystemTime::now()) < expires, "the machine was too slow for this test");

    let (_, ending) = within("the end of the session", SOON, read_to_ending(&mut cut.app)).await?;
    let ended = SystemTime::now();
    let late = ended.duration_since(SystemTime::from(expires)).context("it ended before the rule did")?;
    ensure!(ending == Ending::Reset && late < CUT_WITHIN, "{ending:?}, {late:?} after the rule");
    ensure!(end_of(&world, &cut).await? == ("server".to_owned(), "ruleExpired".to_owned()), "another end");
    world
        .server
        .wait_for("rules have expired; the sessions that they alone allowed are ended", |line| line["ended"] == 1)
        .await?;
    bystander.exchange().await?;

    let refused = proxy::connect(world.proxy_addr(), &short.to_string()).await?.refused()?;
    ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("ruleExpired", "server"), "{refused:?}");
    Pair::open(&world, &other).await?.exchange().await?;
    let mut test = world.ginnel();
    test.args(["policy", "test", "frontend", &short.to_string(), "--config", "server.yaml"])
        .current_dir(world.directory());
    let said = String::from_utf8(output(test).await?.stdout)?;
    ensure!(
        said.contains("DENIED") && said.contains("cause: ruleExpired") && said.contains("rule short allowed it until"),
        "{said}"
    );
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_counts_only_for_connections_from_its_sources() -> Result<()> {
    let (host, other) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let (near, far) = (host.local_addr()?, other.local_addr()?);
    let world =
        world().target(near).allow_only(far).server_setting("/rules/0/sources", json!(["127.0.0.0/8"])).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let mark = world.client.mark();
    let rule =
        json!({"name": "far", "clients": ["frontend"], "agents": ["acme"], "targets": [far], "sources": ["127.0.0.1"]});
    world.edit("server", |config| config["rules"].as_array_mut().map(|rules| rules.push(rule)).unwrap_or_default())?;
    reload(&world).await?;
    world.roster(mark, 1).await?;
    let mut cut = Pair::open(&world, &other).await?;
    cut.exchange().await?;
    world.edit("server", |config| config["rules"][1]["sources"] = json!(["10.0.0.0/8"]))?;
    let said = reload(&world).await?;
    is_reset(&mut cut).await?;
    ensure!(said.contains("rules changed: far"), "{said}");
    ensure!(end_of(&world, &cut).await? == ("server".to_owned(), "sourceRefused".to_owned()), "another end");
    let refused = proxy::connect(world.proxy_addr(), &far.to_string()).await?.refused()?;
    ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("sourceRefused", "server"), "{refused:?}");
    for (from, is_allowed) in [("10.0.0.9", true), ("127.0.0.1", false)] {
        let mut test = world.ginnel();
        test.args(["policy", "test", "frontend", &far.to_string(), "--from", from, "--config", "server.yaml"]);
        test.current_dir(world.directory());
        let said = String::from_utf8(output(test).await?.stdout)?;
        ensure!(said.starts_with("ALLOWED") == is_allowed, "{from}: {said}");
        ensure!(is_allowed || said.contains("rule far allows it from 10.0.0.0/8, not from 127.0.0.1"), "{said}");
    }
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_a_file_warns_of_rules_that_have_expired_or_are_about_to() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("server.yaml");
    let soon = Timestamp::from(SystemTime::now() + Duration::from_secs(3 * 24 * 3600));
    let later = Timestamp::from(SystemTime::now() + Duration::from_secs(30 * 24 * 3600));
    let mut text = ginnel_config::example(ginnel_core::principal::Role::Server);
    let rule = |name: &str, expires: &str| {
        format!(
            "  - {{name: {name}, clients: [frontend], agents: [acme], targets: [\"a.acme.internal:443\"], expires: {expires}}}\n"
        )
    };
    let at = text.find("rules:\n").context("rules")? + "rules:\n".len();
    let rules = [rule("old", "2020-01-31"), rule("soon", &soon.to_string()), rule("later", &later.to_string())];
    let line = text[..at].lines().count() + 1;
    text.insert_str(at, &rules.concat());
    std::fs::write(&file, &text)?;
    let mut check =
        ginnel_testkit::command::command(std::path::Path::new(env!("CARGO_BIN_EXE_ginnel")), directory.path());
    check.args(["config", "check", "server"]).arg(&file);
    let answer = output(check).await?;
    let said = String::from_utf8(answer.stderr)?;
    ensure!(answer.status.success(), "{said}");
    ensure!(said.contains(&format!("{}:{line}:", file.display())), "{said}");
    ensure!(
        said.contains("rules[0].expires: rule old expired at 2020-01-31T00:00:00.000000Z and allows nothing"),
        "{said}"
    );
    ensure!(said.contains(&format!("{}:{}:", file.display(), line + 1)), "{said}");
    ensure!(
        said.contains(&format!("rules[1].expires: rule soon expires at {soon}")) && !said.contains("later"),
        "{said}"
    );
    Ok(())
}
