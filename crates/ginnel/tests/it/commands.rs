//! What the commands of the second day say on a running world: status, sessions, explain, policy and reload, word by word.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, eventually, proxy, within};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::admin::get;
use crate::pair::Pair;
use crate::transcript::{Transcript, json as in_json};
use crate::world;

const PARTS: [(Part, &str); 3] =
    [(Part::Server, "SERVER-ADMIN"), (Part::Agent(0), "AGENT-ADMIN"), (Part::Client, "CLIENT-ADMIN")];

/// A world that has carried, ended and refused something.
struct Busy {
    world: World,
    admins: Vec<String>,
    carried: Pair,
    ended: String,
    no_rule: String,
    not_listed: String,
    transcript: Transcript,
    _hosts: [TcpHost; 2],
    _listener: TcpListener,
}

impl Busy {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (unlisted, unruled) = (TcpHost::echo().await?, TcpHost::echo().await?);
        let git = listener.local_addr()?;
        let mut world = world().target(git).rule_only(unlisted.address()).allow_only(unruled.address()).start().await?;
        let mut transcript = Transcript::of(&world);
        let admins = admins(&mut world, &mut transcript).await?;
        let named = [(git, "GIT"), (unlisted.address(), "UNLISTED"), (unruled.address(), "UNRULED")];
        for (address, name) in named {
            transcript.name(address, name);
        }
        let mut finished = Pair::open(&world, &listener).await?;
        finished.exchange().await?;
        let ended = finished.request_id.clone();
        finish(finished).await?;
        settled(&admins, &ended).await?;
        let no_rule = refused(&world, unruled.address()).await?;
        let not_listed = refused(&world, unlisted.address()).await?;
        let mut carried = Pair::open(&world, &listener).await?;
        carried.exchange().await?;
        let ids =
            [(&ended, "ENDED"), (&no_rule, "NO-RULE"), (&not_listed, "NOT-LISTED"), (&carried.request_id, "CARRIED")];
        for (id, name) in ids {
            transcript.name(id, name);
        }
        let _hosts = [unlisted, unruled];
        Ok(Self { world, admins, carried, ended, no_rule, not_listed, transcript, _hosts, _listener: listener })
    }
}

/// The admin listeners in the order of [`PARTS`], named in the transcript.
async fn admins(world: &mut World, transcript: &mut Transcript) -> Result<Vec<String>> {
    let mut admins = Vec::new();
    for (part, name) in PARTS {
        let admin = world.admin(part).await?.to_string();
        transcript.name(&admin, name);
        admins.push(admin);
    }
    Ok(admins)
}

async fn refused(world: &World, target: SocketAddr) -> Result<String> {
    Ok(proxy::connect(world.proxy_addr(), &target.to_string()).await?.refused()?.request_id)
}

/// Ends a session as both of its applications would.
async fn finish(mut pair: Pair) -> Result<()> {
    pair.app.shutdown().await?;
    pair.target.shutdown().await?;
    for stream in [&mut pair.app, &mut pair.target] {
        let (_, ending) = within("the end", ginnel_testkit::wait::SOON, read_to_ending(stream)).await?;
        ensure!(ending == Ending::Eof, "{ending:?}");
    }
    Ok(())
}

/// Waits until every process says how the request went.
async fn settled(admins: &[String], request: &str) -> Result<()> {
    for admin in admins {
        eventually("a request to be over", ginnel_testkit::wait::SOON, async || {
            let (_, body) = get(admin, &format!("/requests/{request}")).await?;
            Ok(body.contains("\"cause\"").then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_each_process_is_and_does() -> Result<()> {
    let Busy { world, admins, mut transcript, mut carried, .. } = Busy::start().await?;
    for ((_, name), admin) in PARTS.iter().zip(&admins) {
        transcript.run(&world, &["status", "--admin", admin]).await?;
        transcript.run(&world, &["status", "--ready", "--admin", admin]).await?;
        let status = in_json(&world, &["status", "--json", "--admin", admin], 0).await?;
        let role = name.split('-').next().unwrap_or_default().to_lowercase();
        ensure!(status["role"] == role && status["ready"] == true && status["sessions"]["live"] == 1, "{status}");
    }
    let socket = world.socket(Part::Server).display().to_string();
    let over_socket = in_json(&world, &["status", "--json", "--socket", &socket], 0).await?;
    ensure!(over_socket["role"] == "server", "{over_socket}");
    transcript.note("a process that is not there");
    let nobody = ginnel_testkit::hosts::nobody()?.1.to_string();
    transcript.name(&nobody, "NOBODY");
    transcript.run(&world, &["status", "--admin", &nobody]).await?;
    let gone = world.directory().join("gone.sock").display().to_string();
    transcript.run(&world, &["status", "--socket", &gone]).await?;
    transcript.is_golden("status.txt")?;
    carried.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended_by_whoever_asks() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let other = TcpListener::bind("127.0.0.1:0").await?;
    let (git, registry) = (listener.local_addr()?, other.local_addr()?);
    let mut world = world().target(git).target(registry).start().await?;
    let mut transcript = Transcript::of(&world);
    let admins = admins(&mut world, &mut transcript).await?;
    transcript.name(git, "GIT");
    transcript.name(registry, "REGISTRY");
    transcript.run(&world, &["sessions", "list", "--admin", &admins[0]]).await?;
    let mut bystander = Pair::open(&world, &other).await?;
    bystander.exchange().await?;
    transcript.name(&bystander.request_id, "BYSTANDER");
    for (number, ((part, name), admin)) in PARTS.iter().zip(&admins).enumerate() {
        let mut pair = Pair::open(&world, &listener).await?;
        pair.exchange().await?;
        transcript.name(&pair.request_id, "REQUEST");
        transcript.run(&world, &["sessions", "list", "--admin", admin]).await?;
        let list =
            in_json(&world, &["sessions", "list", "--json", "--target", &git.to_string(), "--admin", admin], 0).await?;
        let is_it = list.as_array().is_some_and(|list| list.len() == 1) && list[0]["requestId"] == pair.request_id;
        ensure!(is_it && list[0]["bytesUp"].as_u64() > Some(0), "{list}");
        let socket = world.socket(*part).display().to_string();
        if number == 0 {
            transcript.run(&world, &["sessions", "list", "--client", "nobody", "--admin", admin]).await?;
            transcript.run(&world, &["sessions", "end", "--socket", &socket]).await?;
            transcript.run(&world, &["sessions", "end", "not-an-id", "--socket", &socket]).await?;
            transcript.run(&world, &["sessions", "end", "--all", "--rule", "hosts", "--socket", &socket]).await?;
            transcript
                .run(&world, &["sessions", "end", "--target", "git.acme.example:443", "--socket", &socket])
                .await?;
        }
        let (request, target) = (pair.request_id.clone(), git.to_string());
        // Alternately by its id and by what it leads to.
        let which = if number == 1 { vec!["--target", target.as_str()] } else { vec![request.as_str()] };
        let end = [vec!["sessions", "end"], which, vec!["--socket", socket.as_str()]].concat();
        transcript.run(&world, &end).await?;
        for stream in [&mut pair.app, &mut pair.target] {
            let (_, ending) = within("the reset", ginnel_testkit::wait::SOON, read_to_ending(stream)).await?;
            ensure!(ending == Ending::Reset, "{name}: {ending:?}");
        }
        settled(&admins, &request).await?;
        let hop = name.split('-').next().unwrap_or_default().to_lowercase();
        for asked in &admins {
            let (_, body) = get(asked, &format!("/requests/{request}")).await?;
            let seen: Value = serde_json::from_str(&body)?;
            ensure!(
                seen["state"] == "ended" && seen["cause"] == "endedByOperator" && seen["hop"] == hop,
                "{name}: {seen}"
            );
        }
        let is_end = |record: &Value| record["requestId"] == request && record["event"] == "ended";
        let log = world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
        let record = log.iter().find(|record| is_end(record)).context("a record")?;
        ensure!(record["cause"] == "endedByOperator" && record["hop"] == hop, "{record}");
        bystander.exchange().await?;
    }
    transcript.is_golden("sessions.txt")?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_how_a_request_went_and_who_can_mend_it() -> Result<()> {
    let Busy { world, admins, mut transcript, carried, ended, no_rule, not_listed, .. } = Busy::start().await?;
    let [server, agent, client] = [&admins[0], &admins[1], &admins[2]];
    let everywhere = format!("{client},{server},{agent}");
    for id in [&carried.request_id, &ended, &no_rule, &not_listed] {
        transcript.run(&world, &["explain", id, "--admin", &everywhere]).await?;
    }
    transcript.note("from files alone");
    for (part, name) in [(&world.client, "client.log"), (&world.server, "server.log"), (&world.agents[0], "agent.log")]
    {
        std::fs::write(world.directory().join(name), part.lines().join("\n") + "\n")?;
    }
    let file = |name: &str| world.directory().join(name).display().to_string();
    let files = [file("audit"), file("client.log"), file("server.log"), file("agent.log")];
    for id in [&ended, &no_rule, &not_listed] {
        let mut args = vec!["explain", id.as_str()];
        args.extend(files.iter().map(String::as_str));
        transcript.run(&world, &args).await?;
    }
    transcript.note("nothing is known of it");
    let unknown = "00000000000000000000000000000000";
    transcript.run(&world, &["explain", unknown, &files[0], "--admin", server]).await?;
    transcript.run(&world, &["explain", "no-id"]).await?;
    transcript.run(&world, &["explain", unknown, &file("gone.log")]).await?;
    transcript.is_golden("explain.txt")?;
    let told = in_json(&world, &["explain", "--json", &not_listed, "--admin", &everywhere], 0).await?;
    ensure!(told["conclusion"]["cause"] == "notOnAllowList" && told["conclusion"]["hop"] == "agent", "{told}");
    ensure!(told["whoCanMendIt"].as_str().is_some_and(|who| who.contains("agent's owner")), "{told}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_test_says_what_the_rules_say() -> Result<()> {
    let mut world = world().target("git.acme.example:443").target("*.build.acme.example:22").start().await?;
    let mut transcript = Transcript::of(&world);
    let admins = admins(&mut world, &mut transcript).await?;
    let server = admins[0].as_str();
    let test = ["policy", "test"];
    let questions: [&[&str]; 8] = [
        &["frontend", "git.acme.example:443"],
        &["frontend", "git.acme.example:22"],
        &["frontend", "build.acme.example:22"],
        &["nobody", "git.acme.example:443"],
        &["frontend", "git.acme.example"],
        &["frontend"],
        &["--all"],
        &[],
    ];
    for question in questions {
        transcript.run(&world, &[&test, question, &["--admin", server]].concat()).await?;
    }
    transcript.note("a file instead of a server");
    let config = world.directory().join("server.yaml").display().to_string();
    for question in &questions[..4] {
        transcript.run(&world, &[&test, *question, &["--config", &config]].concat()).await?;
    }
    transcript.run(&world, &["policy", "test", "--all", "--config", &config]).await?;
    transcript.run(&world, &["policy", "test", "--all", "--config", &format!("{config}.gone")]).await?;
    transcript.note("an agent has no policy");
    transcript.run(&world, &["policy", "test", "--all", "--admin", &admins[1]]).await?;
    transcript.is_golden("policy.txt")?;
    let denied = in_json(&world, &[&test[..], questions[1], &["--json", "--admin", server]].concat(), 1).await?;
    ensure!(denied["allowed"] == false && denied["nearest"].is_string(), "{denied}");
    let all = in_json(&world, &["policy", "test", "--all", "--json", "--admin", server], 0).await?;
    ensure!(all.as_array().is_some_and(|all| all.len() == 2), "{all}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_says_what_changed_and_what_is_wrong() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let git = listener.local_addr()?;
    let mut world = world().target(git).start().await?;
    let mut transcript = Transcript::of(&world);
    let admins = admins(&mut world, &mut transcript).await?;
    transcript.name(git, "GIT");
    let mut pair = Pair::open(&world, &listener).await?;
    for (part, role) in [(Part::Server, "server"), (Part::Agent(0), "agent"), (Part::Client, "client")] {
        let socket = world.socket(part).display().to_string();
        let reload = ["reload", "--socket", &socket];
        transcript.note(&format!("the {role}, nothing changed"));
        transcript.run(&world, &reload).await?;
        let good = std::fs::read_to_string(world.directory().join(format!("{role}.yaml")))?;
        let (key, more) = match part {
            Part::Server => (
                "rules",
                json!([{"name": "hosts", "clients": ["frontend"], "agents": ["acme"], "targets": [git]},
                {"name": "more", "clients": ["frontend"], "agents": ["acme"], "targets": ["registry.acme.example:443"]}]),
            ),
            Part::Agent(_) => ("allow", json!([git, "registry.acme.example:443"])),
            Part::Client => ("adminSocket", json!("other.sock")),
            Part::Enrolment => anyhow::bail!("nobody enrols apart here"),
        };
        transcript.note(&format!("the {role}, {key} changed"));
        world.edit(role, |config| config[key] = more)?;
        transcript.run(&world, &reload).await?;
        transcript.note(&format!("the {role}, a file that is wrong"));
        world.edit(role, |config| config["nonsense"] = json!(1))?;
        transcript.run(&world, &reload).await?;
        world.write(role, "{")?;
        transcript.run(&world, &reload).await?;
        world.write(role, &good)?;
    }
    transcript.run(&world, &["reload", "--socket", &world.directory().join("gone.sock").display().to_string()]).await?;
    transcript.note("a session that is no longer allowed");
    world.edit("server", |config| config["rules"] = json!([]))?;
    let socket = world.socket(Part::Server).display().to_string();
    transcript.run(&world, &["reload", "--socket", &socket]).await?;
    let (_, ending) = within("the reset", ginnel_testkit::wait::SOON, read_to_ending(&mut pair.app)).await?;
    ensure!(ending == Ending::Reset, "{ending:?}");
    transcript.is_golden("reload.txt")?;
    let status = in_json(&world, &["status", "--json", "--admin", &admins[0]], 0).await?;
    ensure!(status["config"]["failures"].as_u64() >= Some(2) && status["config"]["failure"].is_null(), "{status}");
    world.finish(&[])
}
