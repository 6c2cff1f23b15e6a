//! What each cause looks like from every side, collected for the golden file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_core::cause::Cause;
use ginnel_testkit::stream::read_to_ending;
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Ending, Part, Refused, World, eventually, proxy, within};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::observed::{Series, metrics};
use crate::pair::Pair;

/// Requests of a refusal: one with CONNECT, one with SOCKS.
const REFUSALS: u32 = 2;

/// Sections by the place of their cause in [`Cause::ALL`].
#[derive(Default)]
pub(super) struct Book(BTreeMap<usize, String>);

/// Who puts down what became of a request, beside the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The server, in the audit.
    Audit,
    /// Nobody, for this reason.
    Nowhere(&'static str),
}

/// What happened to a request, in the words that every side should use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    pub(super) cause: Cause,
    /// As the client names it.
    pub(super) hop: &'static str,
    pub(super) record: Record,
    /// How the test brings it about.
    pub(super) how: &'static str,
}

impl Fate {
    pub(super) fn new(cause: Cause, hop: &'static str, how: &'static str) -> Self {
        Self { cause, hop, record: Record::Audit, how }
    }

    pub(super) fn without_record(self, why: &'static str) -> Self {
        Self { record: Record::Nowhere(why), ..self }
    }

    fn metric(&self, event: &str) -> String {
        format!("ginnel_sessions_{event}_total{{hop=\"{}\",cause=\"{}\"}}", self.hop, self.cause)
    }
}

impl Book {
    /// Asks for `target` with CONNECT and with SOCKS, is refused both times, and puts down what that looks like.
    pub(super) async fn refused(&mut self, world: &mut World, target: &str, fate: Fate) -> Result<()> {
        self.refused_while(world, target, fate, async { Ok(()) }).await
    }

    /// Does the same while `meanwhile` brings both refusals about.
    pub(super) async fn refused_while(
        &mut self,
        world: &mut World,
        target: &str,
        fate: Fate,
        meanwhile: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let before = metrics(world, Part::Client).await?;
        let (host, port) = target.rsplit_once(':').context("a host and a port")?;
        let http = async { proxy::connect(world.proxy_addr(), target).await?.refused() };
        let socks = async { proxy::socks5(world.proxy_addr(), host, port.parse()?).await };
        let (http, socks, ()) = tokio::try_join!(http, socks, meanwhile).with_context(|| format!("{fate:?}"))?;
        let code = socks.err().with_context(|| format!("{fate:?}: SOCKS opened"))?;
        self.put_refused(world, fate, &http, code, &before).await
    }

    async fn put_refused(
        &mut self,
        world: &mut World,
        fate: Fate,
        http: &Refused,
        socks: u8,
        before: &Series,
    ) -> Result<()> {
        let is = (http.cause.as_str(), http.hop.as_str());
        ensure!(is == (fate.cause.as_str(), fate.hop), "{fate:?}: {http:?}");
        let mut text = format!("HTTP:    {}, Ginnel-Cause: {}, Ginnel-Hop: {}\n", http.status, http.cause, http.hop);
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "         {}", http.body.lines().next().unwrap_or_default());
        let _ = writeln!(text, "SOCKS5:  reply {socks}");
        text.push_str(&told(world, fate, &http.request_id, "refused").await?);
        text.push_str(&counted(world, fate, "refused", before, REFUSALS).await?);
        self.put(fate, &text);
        Ok(())
    }

    /// Sees a session end, at both of its ends as `ending`, and puts down what that looks like.
    pub(super) async fn ended(
        &mut self,
        world: &mut World,
        mut pair: Pair,
        ending: Ending,
        before: &Series,
        fate: Fate,
    ) -> Result<()> {
        for (who, stream) in [("application", &mut pair.app), ("target", &mut pair.target)] {
            let seen = end_of(stream).await?;
            ensure!(seen == ending, "{fate:?}: the {who} sees {seen:?}");
        }
        self.end_seen(world, &pair.request_id, ending, before, fate).await
    }

    /// Puts down what the end of a session looks like whose application has seen it.
    pub(super) async fn end_seen(
        &mut self,
        world: &mut World,
        request: &str,
        ending: Ending,
        before: &Series,
        fate: Fate,
    ) -> Result<()> {
        let seen = match ending {
            Ending::Eof => "end of file in both directions",
            Ending::Reset => "connection reset",
            Ending::Other(_) => "another error",
        };
        let mut text = format!("socket:  {seen}\n");
        text.push_str(&told(world, fate, request, "ended").await?);
        text.push_str(&counted(world, fate, "ended", before, 1).await?);
        self.put(fate, &text);
        Ok(())
    }

    fn put(&mut self, fate: Fate, text: &str) {
        let at = Cause::ALL.iter().position(|cause| *cause == fate.cause).unwrap_or(Cause::ALL.len());
        let section = format!("{}\n\n```\n{text}```\n", fate.how);
        let known = self.0.entry(at).or_insert_with(|| format!("## {}\n", fate.cause));
        let _ = write!(known, "\n{section}");
    }

    /// Whether there is something about this cause.
    pub(super) fn has(&self, cause: Cause) -> bool {
        Cause::ALL.iter().position(|known| *known == cause).is_some_and(|at| self.0.contains_key(&at))
    }

    /// Takes in another book.
    pub(super) fn and(&mut self, other: Self) {
        for (at, text) in other.0 {
            match self.0.get_mut(&at) {
                Some(known) => known.push_str(text.split_once('\n').map_or("", |(_, sections)| sections)),
                None => drop(self.0.insert(at, text)),
            }
        }
    }

    pub(super) fn text(&self) -> String {
        self.0.values().map(|section| format!("\n{section}")).collect()
    }
}

async fn end_of(stream: &mut TcpStream) -> Result<Ending> {
    Ok(within("the end of a session", SOON, read_to_ending(stream)).await?.1)
}

/// The log line of the client and the record of the audit.
async fn told(world: &World, fate: Fate, request: &str, event: &str) -> Result<String> {
    let line = world.client.wait_for(event, |line| line["request"] == request).await?;
    ensure!(line["cause"] == fate.cause.as_str() && line["hop"] == fate.hop, "{fate:?}: {line}");
    let level = line["level"].as_str().unwrap_or_default();
    let mut text = format!("log:     {level} {event} hop={} cause={} request=ID\n", fate.hop, fate.cause);
    let is_it = |record: &Value| record["requestId"] == request && record["event"] == event;
    match fate.record {
        Record::Audit => {
            let what = format!("{fate:?} in the audit");
            let log = world.audit_until(&what, |log| log.iter().any(is_it)).await?;
            let record = log.iter().find(|record| is_it(record)).context("a record")?;
            let word = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
            ensure!(record["cause"] == fate.cause.as_str() && record["hop"] == fate.hop, "{fate:?}: {record}");
            let _ = writeln!(text, "audit:   {event} hop={} cause={}", word("hop"), word("cause"));
        }
        Record::Nowhere(why) => {
            ensure!(!world.audit()?.iter().any(is_it), "{fate:?} is in the audit");
            let _ = writeln!(text, "audit:   nothing: {why}");
        }
    }
    Ok(text)
}

/// The metric of the client, once it has grown by what was done.
async fn counted(world: &mut World, fate: Fate, event: &str, before: &Series, by: u32) -> Result<String> {
    let key = fate.metric(event);
    let was = before.get(&key).copied().unwrap_or_default();
    let wanted = was + f64::from(by);
    eventually(&format!("{key} to grow by {by}"), Duration::from_secs(10), async || {
        Ok((metrics(world, Part::Client).await?.get(&key) == Some(&wanted)).then_some(()))
    })
    .await?;
    Ok(format!("metric:  {key} +1 a request\n"))
}
