//! What somebody may write in place of a permitted host, and what the DNS may answer: table H of the attacks. Every case goes through real
//! processes, and a session that has nothing to do with it goes on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::succeed;
use ginnel_testkit::dns::{Dns, Reply};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::proxy::{self, request_answer, socks5};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Part, World, WorldBuilder, eventually, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::pair::Pair;
use crate::world;

/// Where names lead that may lead somewhere: no pattern lists the rest of loopback.
const LISTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// The answer of a resolver that hangs, with what a busy machine adds to the five seconds that it is given.
const GIVEN_UP: Duration = Duration::from_secs(15);

/// What somebody asks for, what a CONNECT and a plain request are told, and what SOCKS replies; `None`: it is carried.
type Case = (String, Option<&'static str>);

fn forbidden(host: &str) -> Case {
    (host.to_owned(), Some("addressForbidden"))
}

fn malformed(host: &str) -> Case {
    (host.to_owned(), Some("malformed"))
}

/// Hosts that are written in unusual ways, or are not ordinary, with one rule and one list that mean every ordinary address and some names.
fn spellings() -> Vec<Case> {
    let mut cases: Vec<Case> =
        ["git.acme.test", "Git.ACME.Test", "git.acme.test."].map(|host| (host.to_owned(), None)).to_vec();
    cases.extend(["git.acme.test..", ".git.acme.test", "git..acme.test"].map(malformed));
    // Loopback, as C's inet_aton reads it.
    cases.extend(["127.1", "0", "0x7f000001", "0177.0.0.1", "2130706433", "127.0.0.1."].map(malformed));
    cases.extend(["127.0.0.1", "127.0.0.3", "0.0.0.0", "localhost", "localhost.acme.test"].map(forbidden));
    // Credentials of the cloud, and what hides them.
    cases.extend(["169.254.169.254", "metadata.acme.test", "169.254.169.254.nip.test"].map(forbidden));
    cases.extend(["255.255.255.255", "224.0.0.1", "100.64.0.1", "240.0.0.1"].map(forbidden));
    let inside = ['\0', '\t', '@', '/', '\\', '#', '?', '%', '`', '*', ','];
    cases.extend(inside.map(|character| malformed(&format!("git{character}acme.test"))));
    cases
}

/// The same for addresses that need brackets, which SOCKS has a form of its own for.
fn bracketed() -> Vec<Case> {
    let mut cases =
        ["[::1]", "[fd00:ec2::254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[ff02::1]"]
            .map(forbidden)
            .to_vec();
    cases.extend(["[127.0.0.1]", "[git.acme.test]", "[fe80::1%25eth0]", "::1"].map(malformed));
    cases
}

fn addresses(name: &str) -> Reply {
    let address: IpAddr = match name {
        "git.acme.test" => LISTED,
        "metadata.acme.test" | "169.254.169.254.nip.test" => Ipv4Addr::new(169, 254, 169, 254).into(),
        "localhost.acme.test" => Ipv4Addr::LOCALHOST.into(),
        _ => return Reply::NoSuchName,
    };
    Reply::Addresses(vec![address])
}

fn asking(world: WorldBuilder, dns: &Dns) -> WorldBuilder {
    let starter = dns.starter();
    world.started_by("agent", &starter.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The cause of a refusal, if it is one. What is no HTTP at all is told no more than that it is a bad request.
fn cause_of(answer: proxy::Answer) -> Option<String> {
    let refused = answer.refused().ok()?;
    Some(if refused.status == 400 && refused.cause.is_empty() { "malformed".to_owned() } else { refused.cause })
}

/// What a plain request for this authority is told: the cause, or none for an answer of the target.
async fn plain(world: &World, authority: &str) -> Result<Option<String>> {
    let request = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    let answer = within("an answer", SOON, request_answer(world.proxy_addr(), request.as_bytes())).await??;
    Ok(cause_of(answer))
}

/// A web server that gives every request the same answer.
async fn answering(mut stream: TcpStream, answer: &str) -> Result<()> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await?);
    }
    stream.write_all(answer.as_bytes()).await?;
    Ok(stream.read_to_end(&mut Vec::new()).await.map(drop)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_what_it_means_in_every_front_end_however_it_is_written() -> Result<()> {
    let dns = Dns::start(|name, _| addresses(name)).await?;
    let host = TcpListener::bind((LISTED, 0)).await?;
    let port = host.local_addr()?.port();
    let by_name =
        ["git.acme.test", "metadata.acme.test", "localhost.acme.test", "169.254.169.254.nip.test", "localhost"];
    let mut building = world().target(format!("{LISTED}:{port}"));
    for pattern in by_name.into_iter().chain(["0.0.0.0/0", "[::/0]"]) {
        building = building.target(format!("{pattern}:1-65535"));
    }
    let world = asking(building, &dns).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let _answering = TcpHost::on(host, async |stream: TcpStream| {
        answering(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
    })?;

    let mut refusals = 0;
    for ((host, expected), for_socks) in
        spellings().into_iter().map(|case| (case, true)).chain(bracketed().into_iter().map(|case| (case, false)))
    {
        let target = format!("{host}:{port}");
        let answer = proxy::connect(world.proxy_addr(), &target).await.with_context(|| format!("{target:?}"))?;
        let cause = cause_of(answer);
        ensure!(cause.as_deref() == expected, "CONNECT {target:?}: {cause:?}");
        let cause = plain(&world, &target).await.with_context(|| format!("{target:?}"))?;
        // What comes after these is no part of the authority.
        let is_another_url = host.contains(['/', '\\', '#', '?', '@']);
        ensure!(is_another_url || cause.as_deref() == expected, "GET {target:?}: {cause:?}");
        let mut asked = if is_another_url { 1 } else { 2 };
        if for_socks {
            asked += 1;
            let reply = socks5(world.proxy_addr(), &host, port).await?.err();
            let expected = match expected {
                None => None,
                Some("malformed") => Some(1),
                Some(_) => Some(2),
            };
            ensure!(reply == expected, "SOCKS {target:?}: {reply:?}");
        }
        refusals += if expected == Some("addressForbidden") { asked } else { 0 };
    }
    bystander.exchange().await?;
    // What is malformed never left the client; everything else is on record once.
    let is_refused = |record: &&Value| record["event"] == "refused" && record["cause"] == "addressForbidden";
    let log = world
        .audit_until("every refusal in the audit", |log| log.iter().filter(is_refused).count() >= refusals)
        .await?;
    let refused: Vec<_> = log.iter().filter(|record| record["event"] == "refused").collect();
    ensure!(refused.len() == refusals && refused.iter().all(is_refused), "{refusals}: {refused:#?}");
    ensure!(refused.iter().all(|record| record["hop"] == "agent"), "{refused:#?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_none_and_ports_of_others_are_refused() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let permitted = host.local_addr()?;
    let world = world().target(permitted).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let another = if permitted.port() == 1 { 2 } else { 1 };
    let refused = proxy::connect(world.proxy_addr(), &format!("127.0.0.1:{another}")).await?.refused()?;
    ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("notAllowed", "server"), "{refused:?}");
    for port in ["0", "65536", "-1", "007", "https", "", "443:443"] {
        let cause = cause_of(proxy::connect(world.proxy_addr(), &format!("127.0.0.1:{port}")).await?);
        ensure!(cause.as_deref() == Some("malformed"), "{port:?}: {cause:?}");
    }
    bystander.exchange().await?;
    world.finish(&[])
}

/// What the DNS says of the hosts of the next test.
fn turning(name: &str, asked_before: usize) -> Reply {
    let elsewhere = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match name {
        "rebound.acme.test" => Reply::Addresses(vec![if asked_before == 0 { LISTED } else { elsewhere }]),
        "mixed.acme.test" => Reply::Addresses(vec![elsewhere, LISTED]),
        "embedded.acme.test" => Reply::Addresses(vec![IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), LISTED]),
        "held.acme.test" => Reply::Held(vec![LISTED]),
        _ => Reply::NoSuchName,
    }
}

/// A session to this name, and the address that the agent dialled for it.
async fn dialled(world: &World, name: &str, port: u16) -> Result<String> {
    let opened = proxy::connect(world.proxy_addr(), &format!("{name}:{port}")).await?.opened()?;
    let is_it = |record: &Value| record["event"] == "connected" && record["requestId"] == opened.request_id;
    let log = world.audit_until("the session in the audit", |log| log.iter().any(is_it)).await?;
    let record = log.iter().find(|record| is_it(record)).context("a record")?;
    Ok(record["address"].as_str().context("an address")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_once_and_only_addresses_that_may_be_dialled_are() -> Result<()> {
    let dns = Dns::start(turning).await?;
    let host = TcpListener::bind((LISTED, 0)).await?;
    let port = host.local_addr()?.port();
    // Whatever listens there must not be reached. If the port is taken, somebody else does.
    let _trap = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let building = world().target(format!("{LISTED}:{port}")).target(format!("*.acme.test:{port}"));
    let world = asking(building, &dns).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let right = SocketAddr::from((LISTED, port)).to_string();

    for name in ["rebound.acme.test", "mixed.acme.test", "embedded.acme.test"] {
        let address = dialled(&world, name, port).await.context(name)?;
        ensure!(address == right, "{name}: {address}");
        ensure!(dns.asked(name) == 1, "{name} was looked up {} times", dns.asked(name));
    }
    // The second answer is judged like the first.
    let refused = proxy::connect(world.proxy_addr(), &format!("rebound.acme.test:{port}")).await?.refused()?;
    ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("addressForbidden", "agent"), "{refused:?}");

    // The list is asked again after the lookup.
    let (proxy_addr, held) = (world.proxy_addr(), format!("held.acme.test:{port}"));
    let asking = tokio::spawn(async move { proxy::connect(proxy_addr, &held).await });
    eventually("the lookup", SOON, async || Ok((dns.asked("held.acme.test") > 0).then_some(()))).await?;
    world.edit("agent", |config| config["allow"] = json!([right]))?;
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(Part::Agent(0)));
    succeed(reload).await?;
    dns.release();
    let refused = asking.await??.refused()?;
    ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("notOnAllowList", "agent"), "{refused:?}");
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_dns_that_is_none_is_given_up_in_time() -> Result<()> {
    let dns = Dns::start(|name, _| match name {
        "forged.acme.test" => Reply::OtherId(vec![LISTED]),
        "elsewhere.acme.test" => Reply::OtherPort(vec![LISTED]),
        "truncated.acme.test" => Reply::Truncated,
        "garbage.acme.test" => Reply::Garbage,
        _ => Reply::NoSuchName,
    })
    .await?;
    let host = TcpListener::bind((LISTED, 0)).await?;
    let port = host.local_addr()?.port();
    let building = world().target(format!("{LISTED}:{port}")).target(format!("*.acme.test:{port}"));
    let world = asking(building, &dns).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let refused = async |name: &str| {
        let target = format!("{name}.acme.test:{port}");
        let refused = within(name, GIVEN_UP, proxy::connect(world.proxy_addr(), &target)).await??.refused()?;
        ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("nameNotResolved", "agent"), "{name}: {refused:?}");
        Ok(())
    };
    tokio::try_join!(
        refused("forged"),
        refused("elsewhere"),
        refused("truncated"),
        refused("garbage"),
        refused("missing"),
    )?;
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_connect_to_itself() -> Result<()> {
    let dns = Dns::start(|_, _| Reply::Addresses(vec![Ipv4Addr::LOCALHOST.into()])).await?;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let building = world().target("127.0.0.0/8:1-65535").target("own.acme.test:1-65535");
    let mut world = asking(building, &dns).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let own = world.admin(Part::Agent(0)).await?;
    for target in [own.to_string(), format!("own.acme.test:{}", own.port()), format!("127.0.0.9:{}", own.port())] {
        let answer = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
        // Nobody listens on the third.
        let expected = if target.starts_with("127.0.0.9") { "connectionRefused" } else { "addressForbidden" };
        ensure!(answer.cause == expected, "{target}: {answer:?}");
    }
    let beside = dialled(&world, "own.acme.test", host.local_addr()?.port()).await?;
    ensure!(beside == host.local_addr()?.to_string(), "{beside}");
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_follows_a_redirect_and_what_is_said_inside_of_a_session_is_bytes() -> Result<()> {
    const ELSEWHERE: &str = "http://169.254.169.254/latest/meta-data/";
    let redirecting = TcpHost::start(async |stream: TcpStream| {
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {ELSEWHERE}\r\nContent-Length: 0\r\n\r\n");
        answering(stream, &answer).await
    })
    .await?;
    let echo = TcpHost::echo().await?;
    let world = world().target(redirecting.address()).target(echo.address()).start().await?;

    let mut app = TcpStream::connect(world.proxy_addr()).await?;
    let url = redirecting.address();
    app.write_all(format!("GET http://{url}/ HTTP/1.1\r\nHost: {url}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    within("an answer", SOON, app.read_to_string(&mut answer)).await??;
    ensure!(
        answer.starts_with("HTTP/1.1 302 ") && answer.to_lowercase().contains(&format!("location: {ELSEWHERE}")),
        "{answer}"
    );
    // Whoever follows it is judged like anybody else.
    ensure!(plain(&world, "169.254.169.254").await?.as_deref() == Some("notAllowed"), "it was carried");
    ensure!(world.audit_of("allowed")?.len() == 1, "{:?}", world.audit_of("allowed")?);

    let said = b"GET / HTTP/1.1\r\nHost: another.acme.test\r\n\r\n";
    let mut session = proxy::connect(world.proxy_addr(), &echo.address().to_string()).await?.opened()?.stream;
    session.write_all(said).await?;
    let mut heard = vec![0; said.len()];
    within("the same bytes", SOON, session.read_exact(&mut heard)).await??;
    ensure!(heard == said, "{:?}", String::from_utf8_lossy(&heard));
    world.finish(&[])
}
