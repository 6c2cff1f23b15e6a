//! Every cause that can be brought about, for real, and what it looks like: to the application, in the client's log, in the audit, and as a
//! metric. The golden file is what an operator may search for a word that somebody has seen.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::SessionId;
use ginnel_core::stream::Frame;
use ginnel_testkit::command::{command, output, succeed};
use ginnel_testkit::daemon::Daemon;
use ginnel_testkit::hosts::{TcpHost, nobody};
use ginnel_testkit::peer::{Call, Peer, enrol};
use ginnel_testkit::{Ending, Part, World};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::path;
use ginnel_wire::v1::{self, AgentMessage, ServerMessage, agent_message, server_message};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use self::book::{Book, Fate};
use crate::clocks::{Clock, JUMP_SECONDS};
use crate::observed::metrics;
use crate::pair::Pair;
use crate::transcript::is_golden;
use crate::world;

mod book;

const ATTACH: &str = "/ginnel.v1.AgentLink/Attach";

/// HTTP/2's code for a stream that fails.
const INTERNAL_ERROR: u32 = 2;

/// A number that no version gives to a cause.
const NEWER: u32 = 4000;

/// An address that no kernel connects to over TCP, with or without a route.
const NOWHERE: &str = "255.255.255.255:9";

/// Causes that no session can be given here, and why.
const NOT_PRODUCED: [(Cause, &str); 1] = [(
    Cause::EnrolmentRefused,
    "it is kept for enrolments, which have no session; the audit has them as enrolmentRefused with a reason",
)];

#[tokio::test(flavor = "multi_thread")]
async fn every_cause_says_the_same_word_everywhere() -> Result<()> {
    let books = tokio::join!(
        refused_by_somebody(),
        played_by_an_agent(),
        sessions_that_end(),
        lost_processes(),
        expired_certificate(),
        full_disk(),
        told_to_stop(),
        refused_by_terms(),
    );
    let mut book = Book::default();
    let mut failed = Vec::new();
    for part in [books.0, books.1, books.2, books.3, books.4, books.5, books.6, books.7] {
        match part {
            Ok(part) => book.and(part),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    let mut text = String::from(
        "# Causes, and what each looks like\n\nWritten by the test `causes` from worlds in which each was brought about.\n",
    );
    text.push_str(&book.text());
    text.push_str("\n## Not brought about\n\n");
    for (cause, why) in NOT_PRODUCED {
        ensure!(!book.has(cause), "{cause} can be brought about");
        text.push_str(&format!("- {cause}: {why}\n"));
    }
    for cause in Cause::ALL {
        let is_known = book.has(*cause) || NOT_PRODUCED.iter().any(|(known, _)| known == cause);
        ensure!(is_known, "nothing brings {cause} about, and nothing says why");
    }
    is_golden("causes.md", &text)
}

async fn refused_by_somebody() -> Result<Book> {
    let mut book = Book::default();
    let (unlisted, unruled, by_name) = (TcpHost::echo().await?, TcpHost::echo().await?, TcpHost::echo().await?);
    let (_held, silent) = nobody()?;
    let named = format!("localhost:{}", by_name.address().port());
    let mut world = world()
        .rule_only(unlisted.address())
        .target(&named)
        .target(silent)
        .target("no-such-host.invalid:443")
        .target(NOWHERE)
        .start()
        .await?;
    let (unlisted, unruled, silent) =
        (unlisted.address().to_string(), unruled.address().to_string(), silent.to_string());
    let cases = [
        (
            "git.acme.example:0",
            Fate::new(Cause::Malformed, "client", "A port that is none.")
                .without_record("the server has not heard of it"),
        ),
        (&unruled, Fate::new(Cause::NotAllowed, "server", "A target that no rule names.")),
        (
            &unlisted,
            Fate::new(Cause::NotOnAllowList, "agent", "A target that a rule names and the agent's list does not."),
        ),
        (&named, Fate::new(Cause::AddressForbidden, "agent", "A listed name that leads to loopback.")),
        ("no-such-host.invalid:443", Fate::new(Cause::NameNotResolved, "agent", "A name that does not exist.")),
        (&silent, Fate::new(Cause::ConnectionRefused, "target", "A port on which nobody listens.")),
        (NOWHERE, Fate::new(Cause::TargetUnreachable, "agent", "An address to which there is no way.")),
    ];
    for (target, fate) in cases {
        book.refused(&mut world, target, fate).await?;
    }
    world.finish(&[])?;

    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let mut world = crate::world().agents(0).target(&target).start().await?;
    let fate = Fate::new(Cause::NoLiveAgent, "server", "No agent is connected.");
    book.refused(&mut world, &target, fate).await?;
    world.finish(&[])?;

    let mut world = crate::world().target(&target).danger_disable_inner_tls_of_agents().start().await?;
    let fate = Fate::new(Cause::PeerNotVerified, "agent", "The agent has inner TLS switched off, the client has not.");
    book.refused(&mut world, &target, fate).await?;
    world.finish(&[])?;
    Ok(book)
}

/// Rules that name the target, and more than that.
async fn refused_by_terms() -> Result<Book> {
    let mut book = Book::default();
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let terms = [
        ("/rules/0/expires", json!("2020-01-31"), Cause::RuleExpired, "A rule that has expired."),
        (
            "/rules/0/sources",
            json!(["203.0.113.0/24"]),
            Cause::SourceRefused,
            "A rule for clients from another network.",
        ),
    ];
    for (setting, value, cause, how) in terms {
        let mut world = world().target(&target).server_setting(setting, value).start_unready().await?;
        world.client.wait_for("roster received", |_| true).await?;
        book.refused(&mut world, &target, Fate::new(cause, "server", how)).await?;
        world.finish(&[])?;
    }
    Ok(book)
}

/// An agent that the test plays: it says what a real one says only under load, when it fails, or when it is newer than the server.
struct PlayedAgent {
    peer: Peer,
    link: Call,
}

impl PlayedAgent {
    async fn attach(world: &World) -> Result<Self> {
        let peer = Peer::connect(world, Some(&enrol(world, "agent.json").await?)).await?;
        let mut link = peer.call(ATTACH).await?;
        link.say(&AgentMessage { kind: Some(agent_message::Kind::Hello(Peer::hello(Peer::instance()))) })?;
        let welcome: ServerMessage = link.hear().await?;
        ensure!(matches!(welcome.kind, Some(server_message::Kind::Welcome(_))), "{welcome:?}");
        Ok(Self { peer, link })
    }

    /// Takes the next session up.
    async fn take(&mut self) -> Result<Call> {
        let said: ServerMessage = self.link.hear().await?;
        let Some(server_message::Kind::Dial(dial)) = said.kind else { anyhow::bail!("no dial: {said:?}") };
        let mut call = self.peer.call(path::CARRY).await?;
        call.say_frame(SessionFrame::Take(SessionId::from_bytes(&dial.session_id)?))?;
        Ok(call)
    }
}

async fn played_by_an_agent() -> Result<Book> {
    let mut book = Book::default();
    let target = "git.acme.example:443";
    let mut world = world().agents(0).target(target).start().await?;
    let mark = world.client.mark();
    let mut agent = PlayedAgent::attach(&world).await?;
    world.roster(mark, 1).await?;
    let refused = |hop, cause| v1::Frame::from(SessionFrame::Refused(Refusal::new(hop, cause)));
    let mut newer = refused(Hop::Agent, Cause::Internal);
    if let Some(v1::frame::Kind::Refused(refused)) = &mut newer.kind {
        refused.cause = NEWER;
    }
    let cases = [
        (
            Some(newer),
            Fate::new(
                Cause::Unknown,
                "agent",
                "An agent that is newer than the server says a cause that this version does not know (played).",
            ),
        ),
        (
            Some(refused(Hop::Target, Cause::TimedOut)),
            Fate::new(Cause::TimedOut, "target", "The target does not answer (played by an agent)."),
        ),
        (
            Some(refused(Hop::Agent, Cause::Overloaded)),
            Fate::new(Cause::Overloaded, "agent", "The agent has as many sessions as it takes (played)."),
        ),
        (
            Some(refused(Hop::Agent, Cause::Internal)),
            Fate::new(Cause::Internal, "agent", "Something inside the agent fails (played)."),
        ),
        (
            Some(refused(Hop::Agent, Cause::NotAllowed)),
            Fate::new(Cause::ProtocolError, "agent", "The agent uses a word that is the server's (played)."),
        ),
        (
            Some(v1::Frame::from(SessionFrame::Stream(Frame::Reset { cause: Cause::Aborted, hop: Some(Hop::Client) }))),
            Fate::new(
                Cause::Aborted,
                "agent",
                "The agent gives the session up without a reason, and says that it was the client (played).",
            ),
        ),
        (None, Fate::new(Cause::AgentLost, "agent", "The agent breaks the session's stream off (played).")),
    ];
    for (frame, fate) in cases {
        let mut held = Vec::new();
        let play = async {
            // Once for CONNECT and once for SOCKS.
            for _ in 0..2 {
                let mut call = agent.take().await?;
                match &frame {
                    Some(frame) => call.say(frame)?,
                    None => {
                        // The server knows whose stream this is once it passes the client's first words on.
                        call.hear_frame().await?;
                        call.reset(INTERNAL_ERROR);
                    }
                }
                held.push(call);
            }
            Ok(())
        };
        book.refused_while(&mut world, target, fate, play).await?;
    }
    world.finish(&[])?;
    Ok(book)
}

async fn sessions_that_end() -> Result<Book> {
    let mut book = Book::default();
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;

    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    pair.app.shutdown().await?;
    pair.target.shutdown().await?;
    let fate = Fate::new(Cause::Finished, "application", "Both sides end their halves.");
    book.ended(&mut world, pair, Ending::Eof, &before, fate).await?;

    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    let Pair { mut app, target, request_id } = pair;
    target.set_zero_linger()?;
    drop(target);
    let (_, ending) = ginnel_testkit::stream::read_to_ending(&mut app).await;
    let fate = Fate::new(Cause::Reset, "target", "The target resets its connection.");
    book.end_seen(&mut world, &request_id, ending, &before, fate).await?;

    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    let mut end = world.ginnel();
    end.args(["sessions", "end", &pair.request_id, "--socket"]).arg(world.socket(Part::Server));
    succeed(end).await?;
    let fate = Fate::new(Cause::EndedByOperator, "server", "`ginnel sessions end` at the server.");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;

    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    let mut end = world.ginnel();
    end.args(["sessions", "end", &pair.request_id, "--socket"]).arg(world.socket(Part::Agent(0)));
    succeed(end).await?;
    let fate = Fate::new(Cause::EndedByOperator, "agent", "`ginnel sessions end` at the agent.");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;

    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    world.edit("server", |config| {
        if let Some(identities) = config["identities"].as_array_mut() {
            identities.retain(|identity| identity["role"] != "agent");
        }
        config["rules"] = json!([]);
    })?;
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(Part::Server));
    succeed(reload).await?;
    let fate = Fate::new(Cause::NotAdmitted, "agent", "The agent's identity is taken out of the configuration.");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;
    world.finish(&[])?;
    Ok(book)
}

async fn lost_processes() -> Result<Book> {
    let mut book = Book::default();
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = world().agents(2).target(&target).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    for agent in 0..2 {
        world.kill_agent(agent).await?;
    }
    let fate = Fate::new(Cause::AgentLost, "agent", "The agent is killed.");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;
    let mark = world.client.mark();
    world.restart(Part::Agent(0)).await?;
    world.roster(mark, 1).await?;

    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    world.server.kill().await?;
    let fate = Fate::new(Cause::ServerLost, "client", "The server is killed.")
        .without_record("the server is gone before it could write");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;
    let fate = Fate::new(Cause::ServerUnreachable, "client", "The server stays away.")
        .without_record("the server has not heard of it");
    book.refused(&mut world, &target, fate).await?;
    world.finish(&[Part::Server, Part::Agent(1)])?;
    Ok(book)
}

/// The agent's clock is a day behind, so that nobody takes its tokens and it cannot renew.
async fn expired_certificate() -> Result<Book> {
    let mut book = Book::default();
    let clock = Clock::new()?;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).certificate_lifetime("10s");
    let mut world = clock.of(world, "agent")?.start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    clock.jump(&mut world, Part::Agent(0), -JUMP_SECONDS).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    let fate = Fate::new(Cause::CertificateExpired, "agent", "The agent cannot renew its certificate, which expires.");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;
    world.finish(&[])?;
    Ok(book)
}

/// The server may write no byte more into any file: the kernel says what it says when a disk is full, but for the number.
async fn full_disk() -> Result<Book> {
    let mut book = Book::default();
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let mut world = world().target(&target).start().await?;
    let mark = world.client.mark();
    world.server.kill().await?;
    // A write beyond the limit would otherwise end the process with SIGXFSZ.
    let mut shell = command("sh", world.directory());
    shell.current_dir(world.directory()).args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(world.binary());
    shell.arg("server").arg("--config").arg(world.directory().join("server.yaml")).args(["--log-format", "json"]);
    shell.arg("--set").arg(format!("server.listen={}", world.server_addr()));
    world.server.check()?;
    world.server = Daemon::spawn("server", shell)?;
    world.roster(mark, 1).await?;
    let log: PathBuf = world.directory().join("audit/audit.jsonl");
    let size = std::fs::metadata(&log).context("the audit log")?.len();
    let mut limit = command("prlimit", world.directory());
    limit.args(["--pid", &world.server.pid().to_string(), &format!("--fsize={size}")]);
    let limited = output(limit).await?;
    ensure!(limited.status.success(), "{limited:?}");
    let fate = Fate::new(Cause::AuditUnavailable, "server", "The disk of the audit log is full.")
        .without_record("it cannot be written");
    book.refused(&mut world, &target, fate).await?;
    world.finish(&[])?;
    Ok(book)
}

async fn told_to_stop() -> Result<Book> {
    let mut book = Book::default();
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = world().target(&target).grace("1s").start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let before = metrics(&mut world, Part::Client).await?;
    world.server.terminate()?;
    let fate = Fate::new(Cause::ShuttingDown, "server", "The server is told to stop, and its grace is over.");
    book.ended(&mut world, pair, Ending::Reset, &before, fate).await?;
    world.server.ended().await?;
    world.finish(&[Part::Server])?;
    Ok(book)
}
