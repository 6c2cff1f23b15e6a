//! What enrolment costs the server: how many certificates it gives in a second, what each kind of refusal takes, and what a flood of bad
//! signatures takes from sessions.
//!
//! Tokens and requests are made before anything is counted, and connections are used again, so that what is measured is the server's work for
//! one call. The load comes from this process, on the same cores.

mod load;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_testkit::World;
use ginnel_testkit::peer::Enrolment;
use serde_json::json;

use self::load::{Bulk, Calls, Kind, bulk, flood};
use crate::process::{raise_descriptors, to_f64};

const USAGE: &str = "usage: ginnel-bench enrol --ginnel PROGRAM [--out FILE] [--quick]";

/// Service accounts that enrol: the server remembers 4,096 used tokens of each.
const ACCOUNTS: usize = 8;

/// Bad signatures in a second beside which sessions are measured.
const FLOOD: u32 = 10_000;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// How often everything is measured; medians are reported.
    rounds: usize,
    /// Enrolments that are admitted in one round.
    admitted: usize,
    /// How long refusals and bytes are counted.
    window: Duration,
}

impl Effort {
    /// To see that it works.
    const QUICK: Self = Self { rounds: 1, admitted: 200, window: Duration::from_millis(500) };

    /// To have figures.
    const FULL: Self = Self { rounds: 5, admitted: 4_000, window: Duration::from_secs(3) };
}

/// What one round saw.
#[derive(Debug, Default)]
struct Round {
    /// By kind, in the order of [`Kind::ALL`].
    calls: Vec<Calls>,
    /// One session, alone and beside the flood.
    bulk: [Bulk; 2],
    /// Bad signatures in a second that the server answered meanwhile.
    flood: f64,
}

/// Runs the bench that `words` describe.
pub(crate) async fn main(words: &[String]) -> Result<()> {
    let (mut ginnel, mut out, mut effort) = (None, None, Effort::FULL);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ginnel" => ginnel = words.next().map(PathBuf::from),
            "--out" => out = words.next().map(PathBuf::from),
            "--quick" => effort = Effort::QUICK,
            _ => bail!("{word}: {USAGE}"),
        }
    }
    let ginnel = ginnel.context(USAGE)?;
    raise_descriptors(crate::DESCRIPTORS)?;
    let load_before = crate::report::load()?;
    let mut rounds = Vec::new();
    for round in 1..=effort.rounds {
        eprintln!("round {round} of {}", effort.rounds);
        rounds.push(one(&ginnel, effort).await?);
    }
    let document = report::document(&effort, &load_before, &rounds)?;
    match out {
        Some(path) => std::fs::write(&path, document).with_context(|| format!("writing {}", path.display())),
        None => {
            eprint!("{document}");
            Ok(())
        }
    }
}

/// One server with its agent and client, new for each round.
async fn one(ginnel: &std::path::Path, effort: Effort) -> Result<Round> {
    let target = load::Source::start().await?;
    // What is measured is the work: with the bound on failures most of it would not be done.
    let limits = json!({"failedEnrolmentsPerSecond": 1_000_000});
    let world = World::builder(ginnel).forward(target.address()).server_setting("/limits", limits).start().await?;
    accounts(&world).await?;
    let file = |index: usize| world.directory().join(format!("account-{}.json", index % ACCOUNTS));
    let mut round = Round::default();
    for kind in Kind::ALL {
        let good = Enrolment::new(&file(0))?;
        let other = Enrolment::new(&file(0))?;
        let calls = match kind {
            Kind::Admitted => {
                let enrolments =
                    (0..effort.admitted).map(|index| Enrolment::new(&file(index))).collect::<Result<Vec<_>>>()?;
                load::each_once(&world, &enrolments).await
            }
            Kind::Malformed => load::again(&world, &good.with_token("no.token.this"), effort.window).await,
            Kind::Unknown => {
                let stranger = Enrolment::new(&world.directory().join("stranger.json"))?;
                load::again(&world, &stranger, effort.window).await
            }
            Kind::Signature => load::again(&world, &good.with_bad_signature(), effort.window).await,
            Kind::Binding => load::again(&world, &good.with_request_of(&other), effort.window).await,
            Kind::Possession => load::again(&world, &good.with_bad_request(), effort.window).await,
            Kind::Replay => {
                ensure!(load::once(&world, &good).await? == 0, "the first use of a token was refused");
                load::again(&world, &good, effort.window).await
            }
        };
        round.calls.push(calls.with_context(|| kind.name())?);
    }
    let alone = bulk(&world, effort.window).await?;
    let flooding = flood(&world, Enrolment::new(&file(0))?.with_bad_signature(), FLOOD).await?;
    let before = flooding.answered();
    let beside = bulk(&world, effort.window).await?;
    round.flood = to_f64(flooding.answered() - before) / (effort.window.as_secs_f64() + load::WARM_UP.as_secs_f64());
    drop(flooding);
    round.bulk = [alone, beside];
    world.finish(&[])?;
    Ok(round)
}

/// Lets some accounts enrol that share a key under different names, and makes one more that nobody knows.
async fn accounts(world: &World) -> Result<()> {
    let directory = world.directory();
    let mut key: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(directory.join("agent.json"))?)?;
    let email = |name: &str| format!("{name}@acme.iam.gserviceaccount.com");
    let names: Vec<String> = (0..ACCOUNTS).map(|index| format!("account-{index}")).collect();
    for name in names.iter().map(String::as_str).chain(["stranger"]) {
        key["client_email"] = json!(email(name));
        let path = directory.join(format!("{name}.json"));
        std::fs::write(&path, key.to_string())?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    let mark = world.server.mark();
    world.edit("server", |config| {
        if let Some(list) = config["identities"].as_array_mut() {
            list.extend(names.iter().map(
                |name| json!({"name": name, "role": "agent", "email": email(name), "publicKeys": ["agent.pub.pem"]}),
            ));
        }
    })?;
    world.server.hang_up()?;
    world.server.wait_for_after(mark, "configuration reloaded", |_| true).await?;
    Ok(())
}
