//! Wall clocks that jump by more than a day while the process runs. The monotonic clock goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use ginnel_core::audit::Timestamp;
use ginnel_testkit::command::succeed;
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Part, Peer, World, WorldBuilder, eventually, peer, proxy, within};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::world;

/// How far a clock jumps: further than a certificate lives.
pub(crate) const JUMP_SECONDS: i64 = 25 * 3600;

/// From the moment at which the clock is right again to the moment at which everything carries.
const HEALED: Duration = Duration::from_secs(60);

/// A clock for the daemons of one role.
pub(crate) struct Clock {
    directory: TempDir,
}

impl Clock {
    pub(crate) fn new() -> Result<Self> {
        let clock = Self { directory: tempfile::tempdir()? };
        clock.set(0)?;
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// Has the daemons of a role read this clock.
    pub(crate) fn of(&self, world: WorldBuilder, role: &'static str) -> Result<WorldBuilder> {
        Ok(world
            .environment(role, "LD_PRELOAD", library()?.display())
            .environment(role, "FAKETIME_TIMESTAMP_FILE", self.file().display())
            .environment(role, "FAKETIME_CACHE_DURATION", 1)
            .environment(role, "FAKETIME_DONT_FAKE_MONOTONIC", 1)
            .environment(role, "DONT_FAKE_MONOTONIC", 1))
    }

    fn set(&self, offset_seconds: i64) -> Result<()> {
        let next = self.directory.path().join("next");
        fs::write(&next, format!("{offset_seconds:+}\n"))?;
        Ok(fs::rename(next, self.file())?)
    }

    /// Jumps, and waits until the process has seen it.
    pub(crate) async fn jump(&self, world: &mut World, part: Part, offset_seconds: i64) -> Result<()> {
        self.set(offset_seconds)?;
        let admin = world.admin(part).await?.to_string();
        eventually("the clock to jump", SOON, async || {
            let (_, body) = crate::admin::get(&admin, "/status").await?;
            let time: Timestamp = serde_json::from_value(serde_json::from_str::<Value>(&body)?["time"].clone())?;
            let wanted = match u64::try_from(offset_seconds) {
                Ok(ahead) => SystemTime::now() + Duration::from_secs(ahead),
                Err(_) => SystemTime::now() - Duration::from_secs(offset_seconds.unsigned_abs()),
            };
            let shown = SystemTime::from(time);
            let apart = shown.duration_since(wanted).or_else(|_| wanted.duration_since(shown))?;
            Ok((apart < Duration::from_secs(60)).then_some(()))
        })
        .await
    }
}

/// Debian puts the library where only its own architecture looks.
fn library() -> Result<PathBuf> {
    let is_there = |path: &PathBuf| path.exists();
    let of_architecture = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let places = of_architecture.chain([Path::new("/usr/lib").to_owned()]);
    places.map(|path| path.join("faketime/libfaketimeMT.so.1")).find(is_there).context("no libfaketime")
}

/// Whoever has the wrong time believes nobody that it has not verified before.
async fn is_refused(world: &World, part: Part, target: &str) -> Result<()> {
    match part {
        Part::Server => ensure!(peer::enrol(world, "agent.json").await.is_err(), "it has enrolled somebody"),
        // A ticket that the agent gave while its clock was right is good for as long as the monotonic clock says.
        Part::Agent(_) | Part::Enrolment => {}
        Part::Client => {
            let refused = proxy::connect(world.proxy_addr(), target).await?.refused()?;
            ensure!(refused.cause == "peerNotVerified" && refused.hop == "client", "{refused:?}");
        }
    }
    Ok(())
}

/// A session that lives through all of it.
async fn jumps(role: &'static str, part: Part) -> Result<()> {
    let clock = Clock::new()?;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = clock.of(world().target(&target), role)?.start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    for offset in [JUMP_SECONDS, -JUMP_SECONDS] {
        let mark = world.part(part)?.mark();
        clock.jump(&mut world, part, offset).await?;
        pair.exchange().await.with_context(|| format!("{offset}"))?;
        is_refused(&world, part, &target).await.with_context(|| format!("{offset}"))?;
        if part != Part::Server {
            // By its own clock its certificate is worth nothing, and so is the server's that it meets when it wants another.
            world.part(part)?.wait_for_after(mark, "renewal failed; the certificate stays in use", |_| true).await?;
        }
        // Long enough for every look at the clock.
        let quiet = tokio::time::timeout(Duration::from_secs(4), pair.app.read_u8()).await;
        ensure!(quiet.is_err(), "{offset}: the session said {quiet:?}");
        pair.exchange().await.with_context(|| format!("{offset}"))?;

        clock.jump(&mut world, part, 0).await?;
        eventually("new sessions with the right time", HEALED, async || {
            let opened = proxy::connect(world.proxy_addr(), &target).await?.opened();
            Ok(opened.ok().map(drop))
        })
        .await?;
        // Whoever was waiting for that session is not in the way of the next one.
        within("the host to take it", SOON, host.accept()).await??;
        eventually("an enrolment with the right time", HEALED, async || {
            peer::enrol(&world, "agent.json").await.map(|_| Some(()))
        })
        .await?;
        pair.exchange().await.with_context(|| format!("{offset}"))?;
    }
    let ended = world.audit_of("ended")?;
    let id = Value::from(pair.request_id.as_str());
    ensure!(ended.iter().all(|record| record["requestId"] != id), "the session was ended: {ended:?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_clock_that_jumps_ends_no_session_and_heals() -> Result<()> {
    jumps("server", Part::Server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_clock_that_jumps_ends_no_session_and_heals() -> Result<()> {
    jumps("agent", Part::Agent(0)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_clock_that_jumps_ends_no_session_and_heals() -> Result<()> {
    jumps("client", Part::Client).await
}

/// The issuer refuses while its clock is before its own beginning, and nobody gets a certificate, the server neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_valid_certificate_of_its_own_heals_with_everybody_else() -> Result<()> {
    let clock = Clock::new()?;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let mut world = clock.of(world().target(&target).certificate_lifetime("5s"), "server")?.start().await?;
    let Pair { mut app, .. } = Pair::open(&world, &host).await?;
    clock.jump(&mut world, Part::Server, -JUMP_SECONDS).await?;
    world.server.wait_for("could not renew the server's certificate", |_| true).await?;
    within("the session to end", SOON, async { while app.read_u8().await.is_ok() {} }).await?;
    // What the server shows is expired by everybody else's clock.
    eventually("the server's certificate to expire", SOON, async || {
        Ok(Peer::connect(&world, None).await.is_err().then_some(()))
    })
    .await?;
    clock.jump(&mut world, Part::Server, 0).await?;
    eventually("a session after the outage", HEALED, async || {
        Ok(proxy::connect(world.proxy_addr(), &target).await?.opened().ok().map(drop))
    })
    .await?;
    world.finish(&[])
}

/// A rule ends by whichever clock says so first, and none of them brings it back that was put back itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_expires_by_the_later_of_the_wall_clock_and_the_time_that_passed() -> Result<()> {
    let clock = Clock::new()?;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?.to_string();
    let in_seconds = |seconds| Timestamp::from(SystemTime::now() + Duration::from_secs(seconds));
    let world = world().target(&target).server_setting("/rules/0/expires", json!(in_seconds(20 * 3600)));
    let mut world = clock.of(world, "server")?.start().await?;

    // A machine that slept, or a clock that runs ahead: the rule has ended, and comes back with the right time.
    let mut pair = Pair::open(&world, &host).await?;
    clock.jump(&mut world, Part::Server, JUMP_SECONDS).await?;
    is_ended_with_its_rule(&world, &mut pair, &target).await?;
    // Rules that are made anew in this time come back as well.
    let mut revoke = world.ginnel();
    revoke.args(["revoke", "--serial", "ff", "--socket"]).arg(world.socket(Part::Server));
    succeed(revoke).await?;
    clock.jump(&mut world, Part::Server, 0).await?;
    eventually("the rule to be back", HEALED, async || {
        let opened = proxy::connect(world.proxy_addr(), &target).await?.opened();
        Ok(opened.ok().map(drop))
    })
    .await?;
    within("the host to take it", SOON, host.accept()).await??;

    // A clock that is put back gives it no longer life, neither by itself nor with a new reading of the file.
    let expires = in_seconds(4);
    world.edit("server", |config| config["rules"][0]["expires"] = json!(expires))?;
    world.server.hang_up()?;
    let is_soon = |line: &Value| line["rules"].as_str().is_some_and(|rules| rules.contains(&expires.to_string()));
    world.server.wait_for("rules expire within a week", is_soon).await?;
    let mut pair = Pair::open(&world, &host).await?;
    clock.jump(&mut world, Part::Server, -JUMP_SECONDS).await?;
    is_ended_with_its_rule(&world, &mut pair, &target).await?;
    ensure!(Timestamp::from(SystemTime::now()) >= expires, "it ended before its rule");
    let mark = world.server.mark();
    world.edit("server", |config| config["rules"][0]["name"] = json!("renamed"))?;
    world.server.hang_up()?;
    world.server.wait_for_after(mark, "rules replaced", |_| true).await?;
    let refused = proxy::connect(world.proxy_addr(), &target).await?.refused()?;
    ensure!(refused.cause == "ruleExpired", "{refused:?}");
    world.finish(&[])
}

async fn is_ended_with_its_rule(world: &World, pair: &mut Pair, target: &str) -> Result<()> {
    let (_, ending) = within("the end of the session", SOON, read_to_ending(&mut pair.app)).await?;
    ensure!(ending == Ending::Reset, "{ending:?}");
    let id = Value::from(pair.request_id.as_str());
    let is_end = |record: &Value| record["requestId"] == id && record["event"] == "ended";
    let log = world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
    ensure!(log.iter().any(|record| is_end(record) && record["cause"] == "ruleExpired"), "{log:?}");
    let refused = proxy::connect(world.proxy_addr(), target).await?.refused()?;
    ensure!(refused.cause == "ruleExpired", "{refused:?}");
    Ok(())
}
