//! Agents that do what no agent does: they say what they are not asked, answer what nobody asked them, and reach for what is others'. The
//! server takes their certificate's word for who they are, and nothing else's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{InstanceId, SessionId};
use ginnel_core::limits::VIOLATIONS_MAX;
use ginnel_core::stream::Frame;
use ginnel_testkit::command::succeed;
use ginnel_testkit::peer::{Call, Peer, enrol};
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, proxy, within};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::hello::Dial;
use ginnel_wire::path;
use ginnel_wire::v1::{self, AgentMessage, ServerMessage, agent_message, server_message};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::admin::get;
use crate::pair::Pair;
use crate::world;

const ATTACH: &str = "/ginnel.v1.AgentLink/Attach";

/// The agent of another customer: known to the server, with a target of its own, and somebody else's enemy.
const RIVAL: &str = "spiffe://acme.example/agent/rival";

/// Where the rival may be asked for, and by rights nobody else.
const ITS_OWN: &str = "rival.example:443";

/// How soon somebody hears that they are not heard.
const PROMPT: Duration = Duration::from_secs(10);

/// gRPC's INVALID_ARGUMENT and OUT_OF_RANGE.
const INVALID_ARGUMENT: u32 = 3;
const OUT_OF_RANGE: u32 = 11;

/// A world with a bystander's session in it, and a second agent in the server's configuration.
struct Stage {
    world: World,
    host: TcpListener,
    bystander: Pair,
    /// The process of the honest agent.
    honest: InstanceId,
}

impl Stage {
    async fn set() -> Result<Self> {
        let host = TcpListener::bind("127.0.0.1:0").await?;
        let mut world = world().target(host.local_addr()?).start().await?;
        let email = "rival@acme.iam.gserviceaccount.com";
        let mut create = world.ginnel();
        create.args(["credentials", "create", email, "--out"]).arg(world.directory().join("rival.json"));
        let public = succeed(create).await?;
        std::fs::write(world.directory().join("rival.pub.pem"), public + "\n")?;
        world.edit("server", |config| {
            let identity = json!({"name": "rival", "role": "agent", "email": email, "publicKeys": ["rival.pub.pem"]});
            let rule = json!({"name": "rival", "clients": ["frontend"], "agents": ["rival"], "targets": [ITS_OWN]});
            for (list, item) in [("identities", identity), ("rules", rule)] {
                if let Some(list) = config[list].as_array_mut() {
                    list.push(item);
                }
            }
        })?;
        let mut reload = world.ginnel();
        reload.args(["reload", "--socket"]).arg(world.socket(Part::Server));
        succeed(reload).await?;
        let bystander = Pair::open(&world, &host).await?;
        let agents = agents(&mut world).await?;
        let honest = agents.first().context("an agent")?.1.parse()?;
        Ok(Self { world, host, bystander, honest })
    }

    fn target(&self) -> Result<SocketAddr> {
        Ok(self.host.local_addr()?)
    }

    /// The bystander has not noticed, sessions go where they went before, and nothing panicked.
    async fn clear(mut self) -> Result<()> {
        self.bystander.exchange().await?;
        Pair::open(&self.world, &self.host).await?.exchange().await?;
        self.world.finish(&[])
    }
}

/// The agents as the client knows them: name, process, targets, and whether it is about to go.
async fn agents(world: &mut World) -> Result<Vec<(String, String, Vec<String>, bool)>> {
    let admin = world.admin(Part::Client).await?.to_string();
    let status: Value = serde_json::from_str(&get(&admin, "/status").await?.1)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let agents = status["agents"].as_array().context("agents")?.iter().map(|agent| {
        let name = text(&agent["principal"]).rsplit('/').next().unwrap_or_default().to_owned();
        let targets = agent["targets"].as_array().into_iter().flatten().map(text).collect();
        (name, text(&agent["instance"]), targets, agent["draining"] == true)
    });
    let mut agents: Vec<_> = agents.collect();
    agents.sort();
    Ok(agents)
}

/// The rival, connected, and its link if it has been let in.
struct Rival {
    peer: Peer,
    link: Call,
}

impl Rival {
    async fn attach(world: &World, hello: v1::Hello) -> Result<Self> {
        let peer = Peer::connect(world, Some(&enrol(world, "rival.json").await?)).await?;
        let mut link = peer.call(ATTACH).await?;
        link.say(&AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) })?;
        let welcome: ServerMessage = link.hear().await?;
        ensure!(matches!(welcome.kind, Some(server_message::Kind::Welcome(_))), "{welcome:?}");
        Ok(Self { peer, link })
    }

    /// Waits for the next order.
    async fn order(&mut self) -> Result<Dial> {
        match self.link.hear::<ServerMessage>().await?.kind {
            Some(server_message::Kind::Dial(dial)) => Ok(dial.try_into()?),
            other => bail!("{other:?} where there must be Dial"),
        }
    }

    /// Takes a session up and says this.
    async fn take(&self, session: SessionId, words: Vec<SessionFrame>) -> Result<Call> {
        let mut call = self.peer.call(path::CARRY).await?;
        call.say_frame(SessionFrame::Take(session))?;
        for frame in words {
            call.say_frame(frame)?;
        }
        Ok(call)
    }
}

/// The record of a link that went down for having broken the protocol.
async fn went_down(world: &World) -> Result<()> {
    let is_it = |record: &Value| {
        record["event"] == "linkDown" && record["agent"] == RIVAL && record["cause"] == "protocolError"
    };
    world.audit_until("the end of the rival's link", |log| log.iter().any(is_it)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_announces_what_is_others_is_given_what_is_its_own() -> Result<()> {
    let mut stage = Stage::set().await?;
    let target = stage.target()?.to_string();
    let before = agents(&mut stage.world).await?;
    // It says to be the honest agent's process, and that it serves everything: in words that exist, and in fields that do not.
    let capabilities =
        [&target, "*", "0.0.0.0/0:1-65535", "spiffe://acme.example/agent/acme", "group:acme", "draining"];
    let hello = v1::Hello { capabilities: capabilities.map(str::to_owned).to_vec(), ..Peer::hello(stage.honest) };
    let peer = Peer::connect(&stage.world, Some(&enrol(&stage.world, "rival.json").await?)).await?;
    let mut link = peer.call(ATTACH).await?;
    let mark = stage.world.client.mark();
    link.say_hello_with(&hello, &[(6, &target), (7, "acme"), (15, "*:443"), (1000, "draining")])?;
    let welcome: ServerMessage = link.hear().await?;
    ensure!(matches!(welcome.kind, Some(server_message::Kind::Welcome(_))), "{welcome:?}");
    stage.world.roster(mark, 2).await?;

    let mut expected = before.clone();
    expected.push(("rival".to_owned(), stage.honest.to_string(), vec![ITS_OWN.to_owned()], false));
    ensure!(agents(&mut stage.world).await? == expected, "{:?}", agents(&mut stage.world).await?);
    let up = stage.world.audit_of("linkUp")?;
    ensure!(up.last().is_some_and(|record| record["agent"] == RIVAL), "{up:?}");
    // It goes, and takes nobody along.
    let mark = stage.world.client.mark();
    link.end()?;
    stage.world.roster(mark, 1).await?;
    ensure!(agents(&mut stage.world).await? == before, "{:?}", agents(&mut stage.world).await?);
    stage.clear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_answers_for_another_place_than_it_was_asked_for_opens_nothing() -> Result<()> {
    let stage = Stage::set().await?;
    let mark = stage.world.client.mark();
    let mut rival = Rival::attach(&stage.world, Peer::hello(Peer::instance())).await?;
    stage.world.roster(mark, 2).await?;
    let (elsewhere, right): (SocketAddr, SocketAddr) = ("192.0.2.7:22".parse()?, "192.0.2.7:443".parse()?);
    let broken = SessionFrame::Opened(elsewhere);
    let twice = [SessionFrame::Opened(right), SessionFrame::Opened(right)];
    let not_its_word = SessionFrame::Refused(Refusal::new(Hop::Server, Cause::NotAllowed));
    let opens = SessionFrame::Open(ginnel_wire::frame::Open {
        request: ginnel_core::id::RequestId::from_bytes(&[7; 16])?,
        target: stage.target()?.to_string(),
        agent: None,
        inner_tls: false,
    });
    let beyond = SessionFrame::Stream(Frame::Data { offset: 1 << 40, bytes: "x".into() });
    let cases = [
        ("another port", vec![broken]),
        ("two answers", twice.to_vec()),
        ("a word that is the server's", vec![not_its_word]),
        ("a session of its own", vec![opens]),
        ("bytes that nobody granted", vec![beyond]),
    ];
    for (number, (name, words)) in cases.into_iter().enumerate() {
        // That was the last of many.
        if number == usize::try_from(VIOLATIONS_MAX)? {
            within("the end of its connection", PROMPT, rival.peer.closed()).await?;
            let mark = stage.world.client.mark();
            rival = Rival::attach(&stage.world, Peer::hello(Peer::instance())).await?;
            stage.world.roster(mark, 2).await?;
        }
        let asking = tokio::spawn({
            let proxy = stage.world.proxy_addr();
            async move { proxy::connect(proxy, ITS_OWN).await }
        });
        let dial = rival.order().await.context(name)?;
        ensure!(dial.target.to_string() == ITS_OWN, "{name}: asked for {}", dial.target);
        let _call = rival.take(dial.session, words).await?;
        let refused = asking.await??.refused().context(name)?;
        ensure!((refused.hop.as_str(), refused.cause.as_str()) == ("agent", "protocolError"), "{name}: {refused:?}");
        let request = dial.request.to_string();
        // Whether the application was told of success before is a matter of time; it has one end either way.
        let is_end = |record: &&Value| {
            record["requestId"] == request && (record["event"] == "refused" || record["event"] == "ended")
        };
        let log = stage.world.audit_until(name, |log| log.iter().any(|record| is_end(&record))).await?;
        let [record] = &log.iter().filter(is_end).collect::<Vec<_>>()[..] else { bail!("{name}: {log:?}") };
        ensure!(record["cause"] == "protocolError" && record["hop"] == "agent", "{name}: {record}");
    }
    stage.clear().await
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_speaks_before_it_is_asked_or_in_anothers_name_is_not_heard() -> Result<()> {
    let stage = Stage::set().await?;
    let mark = stage.world.client.mark();
    let mut rival = Rival::attach(&stage.world, Peer::hello(Peer::instance())).await?;
    stage.world.roster(mark, 2).await?;
    // Calls that begin with something else than Take, and Take of what nobody awaits: each ends, and nothing else does.
    let data = || SessionFrame::Stream(Frame::Data { offset: 0, bytes: "GET / HTTP/1.1\r\n\r\n".into() });
    let first_words = [
        data(),
        SessionFrame::Opened(stage.target()?),
        SessionFrame::Stream(Frame::Fin { offset: 0 }),
        SessionFrame::Stream(Frame::Credit { consumed: 0, limit: u64::MAX }),
    ];
    for words in first_words {
        let mark = stage.world.server.mark();
        let mut call = rival.peer.call(path::CARRY).await?;
        call.say_frame(words.clone())?;
        let heard = within("the end of a call", PROMPT, call.hear_frame()).await?;
        ensure!(heard.is_err(), "{words:?}: heard {heard:?}");
        let is_it = |line: &Value| line["agent"] == RIVAL;
        stage.world.server.wait_for_after(mark, "an agent's call did not begin with Take", is_it).await?;
    }
    let mut call =
        rival.take(SessionId::from_bytes(&[9; 16])?, vec![SessionFrame::Opened(stage.target()?), data()]).await?;
    let heard = within("the end of a call", PROMPT, call.hear_frame()).await?;
    ensure!(heard.is_err(), "a session that nobody awaits: heard {heard:?}");

    // On its link it may say hello, once.
    let again = agent_message::Kind::Hello(Peer::hello(stage.honest));
    rival.link.say(&AgentMessage { kind: Some(again) })?;
    went_down(&stage.world).await?;
    within("the connection to close", PROMPT, rival.peer.closed()).await?;
    stage.clear().await
}

/// Hellos that cannot be taken, and what the server says of each.
fn bad_hellos() -> Vec<(&'static str, v1::Hello, u32)> {
    let hello = || Peer::hello(Peer::instance());
    let with = |capabilities: Vec<String>| v1::Hello { capabilities, ..hello() };
    vec![
        ("version 0", v1::Hello { protocol_version: 0, ..hello() }, INVALID_ARGUMENT),
        ("the greatest version", v1::Hello { protocol_version: u32::MAX, ..hello() }, INVALID_ARGUMENT),
        ("a version in colours", v1::Hello { software_version: "\u{1b}[31m1\n".into(), ..hello() }, INVALID_ARGUMENT),
        ("a long version", v1::Hello { software_version: "1".repeat(65), ..hello() }, INVALID_ARGUMENT),
        ("too many capabilities", with(vec![String::new(); 65]), INVALID_ARGUMENT),
        ("a million names", with(vec!["acme".to_owned(); 1_000_000]), OUT_OF_RANGE),
        ("no process", v1::Hello { instance_id: Vec::new(), ..hello() }, INVALID_ARGUMENT),
        ("a lane that cannot be", v1::Hello { lane: u32::MAX, ..hello() }, INVALID_ARGUMENT),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_of_no_version_or_beyond_its_bounds_is_refused_and_garbage_in_it_passed_over() -> Result<()> {
    let stage = Stage::set().await?;
    let identity = enrol(&stage.world, "rival.json").await?;
    for (name, hello, status) in bad_hellos() {
        let mark = stage.world.server.mark();
        let peer = Peer::connect(&stage.world, Some(&identity)).await?;
        let mut link = peer.call(ATTACH).await?;
        // The server may have heard enough before all of it is said.
        link.say(&AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }).ok();
        let said = link.status().await.context(name)?;
        ensure!(said == status, "{name}: status {said}");
        let is_it = |line: &Value| line["principal"] == RIVAL && line["cause"] == "hello";
        let line = stage
            .world
            .server
            .wait_for_after(mark, "a first message that cannot be taken: the call is refused", is_it)
            .await
            .context(name)?;
        ensure!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
    }
    let none_is_up = stage.world.audit_of("linkUp")?.iter().all(|record| record["agent"] != RIVAL);
    ensure!(none_is_up, "a link came up");

    let capabilities = ["", "\0\u{1b}[2J\n", "innerTls ", "INNERTLS", &"x".repeat(900), "🦀"];
    let hello = v1::Hello { capabilities: capabilities.map(str::to_owned).to_vec(), ..Peer::hello(Peer::instance()) };
    let _rival = Rival::attach(&stage.world, hello).await?;
    stage.clear().await
}
