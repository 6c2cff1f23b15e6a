//! Revocations at random moments of somebody's busy life: while it enrols, connects, says hello, opens sessions and renews. Nothing of it
//! outlives the denial, nobody else notices.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use ginnel_core::id::RequestId;
use ginnel_core::principal::Principal;
use ginnel_identity::certificate::Identity;
use ginnel_identity::random::SystemRandom;
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Call, enrol};
use ginnel_testkit::world::Part;
use ginnel_testkit::{Peer, World, eventually};
use ginnel_wire::frame::{Choice, Open, SessionFrame};
use ginnel_wire::hello::RosterEntry;
use ginnel_wire::path;
use ginnel_wire::v1::{RosterMessage, RosterRequest};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{CUT_WITHIN, stranger};
use crate::{admin, pair::Pair, report, world};

/// Lives that one victim leads side by side, each as quick as it can.
const LIVES: usize = 3;

/// Connections that a life keeps before it lets the oldest go, as a process that renews does.
const KEPT_MAX: usize = 4;

/// Connections with one certificate before the next is asked for.
const CONNECTIONS_PER_CERTIFICATE: usize = 3;

/// From the beginning of a phase to the revocation at most: longer than any phase takes on a quiet machine.
const DELAY_MAX_MICROS: u64 = 3_000;

/// The call that says hello, which no other program has to name.
const ROSTER: &str = "/ginnel.v1.ClientLink/Roster";

/// From the acknowledgement until what the server had said before it has arrived.
const ARRIVED: Duration = Duration::from_millis(50);

/// What a life is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Enrol,
    Connect,
    Hello,
    Open,
}

const PHASES: [Phase; 4] = [Phase::Enrol, Phase::Connect, Phase::Hello, Phase::Open];

/// How the victim is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Principal,
    Email,
    Key,
    Serial,
}

const WAYS: [Way; 4] = [Way::Principal, Way::Email, Way::Key, Way::Serial];

/// A connection that the server has welcomed.
struct Held {
    certificate: (String, String),
    begun: Instant,
    peer: Peer,
    _roster: Call,
    session: Option<Session>,
}

struct Session {
    request: RequestId,
    begun: Instant,
    _call: Call,
}

/// What all lives of the victim have in common.
struct Victim<'a> {
    world: &'a World,
    target: String,
    phase: watch::Sender<Phase>,
    held: Mutex<Vec<Held>>,
    /// Serial number and key of the newest certificate.
    newest: Mutex<Option<(String, String)>>,
    opened: AtomicU64,
}

impl Victim<'_> {
    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn live(&self) {
        loop {
            self.phase.send_replace(Phase::Enrol);
            let Ok(identity) = enrol(self.world, "stranger.json").await else {
                // Shut out: what comes back is what the server must keep out.
                sleep(Duration::from_millis(2)).await;
                continue;
            };
            let leaf = identity.leaf();
            let key: String = leaf.spki_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
            let certificate = (leaf.serial.clone(), key);
            *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone());
            for _ in 0..CONNECTIONS_PER_CERTIFICATE {
                // A denial ends whatever is under way here; that is what it is for.
                let _ = self.connect(&identity, &certificate).await;
                let mut held = self.held();
                if held.len() > KEPT_MAX * LIVES {
                    held.remove(0);
                }
            }
        }
    }

    async fn connect(&self, identity: &Identity, certificate: &(String, String)) -> Result<()> {
        let begun = Instant::now();
        self.phase.send_replace(Phase::Connect);
        let peer = Peer::connect(self.world, Some(identity)).await?;
        self.phase.send_replace(Phase::Hello);
        let mut roster = peer.call(ROSTER).await?;
        roster.say(&RosterRequest { hello: Some(Peer::hello(Peer::instance())) })?;
        roster.end()?;
        let message: RosterMessage = roster.hear().await?;
        let choice = message.entries.first().cloned().map(choice).transpose()?;
        let agent = choice.context("an agent on the roster");
        let (request, opening) = (RequestId::random(&mut SystemRandom), Instant::now());
        let opened = async {
            self.phase.send_replace(Phase::Open);
            let mut call = peer.call(path::OPEN).await?;
            let open = Open { request, target: self.target.clone(), agent: Some(agent?), inner_tls: false };
            call.say_frame(SessionFrame::Open(open))?;
            match call.hear_frame().await? {
                SessionFrame::Opened(_) => Ok(call),
                other @ (SessionFrame::Open(_)
                | SessionFrame::Refused(_)
                | SessionFrame::Stream(_)
                | SessionFrame::Take(_)) => bail!("{other:?}"),
            }
        };
        let session = opened.await.ok().map(|call| Session { request, begun: opening, _call: call });
        self.opened.fetch_add(u64::from(session.is_some()), Relaxed);
        self.held().push(Held { certificate: certificate.clone(), begun, peer, _roster: roster, session });
        Ok(())
    }
}

fn choice(entry: ginnel_wire::v1::RosterEntry) -> Result<Choice> {
    let RosterEntry { agent, instances, .. } = RosterEntry::try_from(entry)?;
    let principal: Principal = agent;
    let (instance, _) = instances.first().context("an instance")?;
    Ok(Choice { principal, instance: *instance })
}

/// A generator whose seed a failure names: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).unwrap_or(0)]
    }
}

/// Asks the server for it, and gives back when it answered.
async fn order(world: &World, query: &str) -> Result<Instant> {
    let answer = admin::post(&world.socket(Part::Server), &format!("/revoke?{query}")).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{query}: {answer}");
    Ok(Instant::now())
}

async fn sessions(admin: &[String]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for at in admin {
        let (status, body) = admin::get(at, "/sessions").await?;
        ensure!(status == 200, "{body}");
        let sessions: Vec<Value> = serde_json::from_str(&body)?;
        ids.extend(sessions.iter().filter_map(|session| session["requestId"].as_str().map(str::to_owned)));
    }
    Ok(ids)
}

/// One revocation, at a moment after the beginning of `phase`.
async fn once(victim: &Victim<'_>, admin: &[String], way: Way, phase: Phase, delay: Duration) -> Result<()> {
    let mut phases = victim.phase.subscribe();
    phases.mark_changed();
    phases.wait_for(|now| *now == phase).await?;
    let known = || victim.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (serial, key) = match known() {
        Some(known) => known,
        None => {
            phases.wait_for(|_| known().is_some()).await?;
            known().context("a certificate")?
        }
    };
    sleep(delay).await;
    let query = match way {
        Way::Principal => "who=client/stranger".to_owned(),
        Way::Email => "who=stranger@acme.example".to_owned(),
        Way::Key => format!("key={key}"),
        Way::Serial => format!("serial={serial}"),
    };
    let before: Vec<_> = victim.held().iter().map(|held| held.certificate.clone()).collect();
    let acknowledged = order(victim.world, &query).await?;
    let is_meant = |certificate: &(String, String)| match way {
        Way::Principal | Way::Email => true,
        Way::Key => certificate.1 == key,
        Way::Serial => certificate.0 == serial,
    };
    let admin_of = async || sessions(admin).await;
    let no_survivor = async || {
        let ids: Vec<String> = {
            let held = victim.held();
            for one in held.iter().filter(|one| is_meant(&one.certificate)) {
                ensure!(one.begun < acknowledged, "a connection came in after the acknowledgement");
                let late = one.session.as_ref().is_some_and(|session| session.begun > acknowledged);
                ensure!(!late, "a session was opened after the acknowledgement");
                if !one.peer.is_closed() {
                    return Ok(None);
                }
            }
            let meant = held.iter().filter(|one| is_meant(&one.certificate));
            meant.filter_map(|one| one.session.as_ref().map(|session| session.request.to_string())).collect()
        };
        let live = admin_of().await?;
        Ok((!ids.iter().any(|id| live.contains(id))).then_some(()))
    };
    eventually("the end of all that was revoked", CUT_WITHIN, no_survivor).await?;
    // Once more when what was under way at that moment has arrived here: a hello that was answered just before, say.
    sleep(ARRIVED).await;
    let rest = CUT_WITHIN.saturating_sub(acknowledged.elapsed());
    eventually("the end of what was under way", rest, no_survivor).await?;
    let bystanders = before.iter().filter(|certificate| !is_meant(certificate)).count();
    let others: Vec<bool> =
        victim.held().iter().filter(|one| !is_meant(&one.certificate)).map(|one| one.peer.is_closed()).collect();
    ensure!(!others.contains(&true), "of {bystanders} connections with other certificates some were closed");
    order(victim.world, &format!("{query}&undo=true")).await?;
    // What a denial closed is of no more interest, and the next one finds those that are alive.
    victim.held().retain(|one| !one.peer.is_closed());
    Ok(())
}

async fn revocations(count: u64) -> Result<()> {
    let seed = match std::env::var("GINNEL_REVOKE_SEED") {
        Ok(seed) => seed.parse().context("GINNEL_REVOKE_SEED")?,
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos().into(),
    };
    let mut dice = Dice(u64::max(seed, 1));
    let host = TcpHost::echo().await?;
    let quiet = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (target, quiet_at) = (host.address().to_string(), quiet.local_addr()?);
    // The victim is played by the test, which speaks no inner TLS.
    let mut world = world().target(&target).target(quiet_at).danger_disable_inner_tls().start().await?;
    stranger(&world).await?;
    let admin = [world.admin(Part::Server).await?.to_string(), world.admin(Part::Agent(0)).await?.to_string()];
    let mut bystander = Pair::open(&world, &quiet).await?;
    let victim = Victim {
        world: &world,
        target,
        phase: watch::Sender::new(Phase::Enrol),
        held: Mutex::default(),
        newest: Mutex::default(),
        opened: AtomicU64::new(0),
    };
    let started = Instant::now();
    let lives = async {
        tokio::join!(victim.live(), victim.live(), victim.live());
    };
    let judge = async {
        for number in 0..count {
            let (way, phase) = (dice.one_of(&WAYS), dice.one_of(&PHASES));
            let delay = Duration::from_micros(dice.below(DELAY_MAX_MICROS));
            once(&victim, &admin, way, phase, delay).await.with_context(|| {
                format!("revocation {number} by {way:?}, {delay:?} into {phase:?}; GINNEL_REVOKE_SEED={seed}")
            })?;
            bystander.exchange().await.context("a bystander")?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = lives => bail!("a life has ended"),
        judged = judge => judged?,
    }
    let opened = victim.opened.load(Relaxed);
    report(format_args!(
        "{count} revocations in {:?}, seed {seed}, {opened} sessions were opened meanwhile",
        started.elapsed()
    ));
    ensure!(opened > 0, "no session was ever opened");
    drop(victim);
    let ended =
        world.audit()?.iter().filter(|record| record["event"] == "ended" && record["cause"] == "notAdmitted").count();
    ensure!(ended > 0, "no session was ever cut");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_revocations_at_random_moments_leave_no_survivor_and_hit_no_bystander() -> Result<()> {
    Box::pin(revocations(50)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a thousand revocations, or as many as GINNEL_REVOCATIONS says: ./test revoke"]
async fn a_thousand_revocations_at_random_moments_leave_no_survivor_and_hit_no_bystander() -> Result<()> {
    let count = std::env::var("GINNEL_REVOCATIONS").map_or(Ok(1_000), |count| count.parse());
    Box::pin(revocations(count.context("GINNEL_REVOCATIONS")?)).await
}
