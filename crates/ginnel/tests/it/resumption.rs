//! Sessions that resume an inner handshake of an earlier one, and everything that keeps them from it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::succeed;
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, eventually, proxy};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::observed::metrics;
use crate::pair::Pair;
use crate::world;

/// Inner handshakes that agent and client counted: full ones, and resumed ones.
type Counted = (f64, f64);

async fn counted(world: &mut World) -> Result<Counted> {
    let mut both = Vec::new();
    for part in [Part::Agent(0), Part::Client] {
        let seen = metrics(world, part).await?;
        let of = |kind: &str| seen.get(&format!("ginnel_inner_handshakes_total{{kind=\"{kind}\"}}")).copied();
        both.push((of("full").context("a count")?, of("resumed").context("a count")?));
    }
    ensure!(both[0] == both[1], "agent and client differ: {both:?}");
    Ok(both[0])
}

/// One session, from its first byte to its last; what it added to the counts.
async fn session(world: &mut World, host: &TcpListener) -> Result<Counted> {
    let before = counted(world).await?;
    let mut pair = Pair::open(world, host).await?;
    pair.exchange().await?;
    let after = counted(world).await?;
    Ok((after.0 - before.0, after.1 - before.1))
}

const FULL: Counted = (1.0, 0.0);
const RESUMED: Counted = (0.0, 1.0);

async fn reload(world: &World, part: Part) -> Result<()> {
    let mut command = world.ginnel();
    command.args(["reload", "--socket"]).arg(world.socket(part));
    succeed(command).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_session_resumes_until_something_changes() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).start().await?;
    ensure!(session(&mut world, &host).await? == FULL, "the first session");
    for number in 2..5 {
        ensure!(session(&mut world, &host).await? == RESUMED, "session {number}");
    }

    // A reload of the agent's allow-list.
    world.edit("agent", |config| config["allow"] = json!([host.local_addr().ok(), "192.0.2.1:9"]))?;
    reload(&world, Part::Agent(0)).await?;
    ensure!(session(&mut world, &host).await? == FULL, "after a reload of the agent");

    // A rule that is taken away and comes back: in between there is no session, with a ticket or without.
    let rules = std::fs::read_to_string(world.directory().join("server.yaml"))?;
    let before = counted(&mut world).await?;
    world.edit("server", |config| config["rules"] = json!([]))?;
    reload(&world, Part::Server).await?;
    let refused = proxy::connect(world.proxy_addr(), &host.local_addr()?.to_string()).await?.refused()?;
    ensure!(refused.cause == "notAllowed" && refused.hop == "server", "{refused:?}");
    ensure!(counted(&mut world).await? == before, "no handshake without a rule");
    let mark = world.client.mark();
    world.write("server", &rules)?;
    reload(&world, Part::Server).await?;
    world.roster(mark, 1).await?;
    session(&mut world, &host).await?;
    world.finish(&[])
}

async fn serials(world: &mut World) -> Result<[Value; 2]> {
    let mut serials = [Value::Null, Value::Null];
    for (at, part) in [Part::Agent(0), Part::Client].into_iter().enumerate() {
        let admin = world.admin(part).await?.to_string();
        let (_, body) = crate::admin::get(&admin, "/status").await?;
        serials[at] = serde_json::from_str::<Value>(&body)?["certificate"]["serial"].clone();
    }
    Ok(serials)
}

/// Sessions while both ends renew their certificates every few seconds.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_resumes_what_was_under_a_certificate_that_was_replaced() -> Result<()> {
    /// Renewed after about a third of it by agent and client each.
    const LIFETIME: &str = "9s";
    /// Renewals that are looked at.
    const RENEWALS: u32 = 4;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).certificate_lifetime(LIFETIME).start().await?;
    let mut renewals = 0;
    while renewals < RENEWALS {
        let before = serials(&mut world).await?;
        let kinds = [session(&mut world, &host).await?, session(&mut world, &host).await?];
        let after = serials(&mut world).await?;
        // With a renewal in between, nobody knows which certificates a session had.
        if before == after {
            ensure!(kinds == [FULL, RESUMED], "{before:?}: {kinds:?}");
            renewals += 1;
        }
        eventually("a renewal", Duration::from_secs(30), async || {
            Ok((serials(&mut world).await? != after).then_some(()))
        })
        .await?;
    }
    ensure!(world.audit_of("refused")?.is_empty(), "a session was refused");
    world.finish(&[])
}
