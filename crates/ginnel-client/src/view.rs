//! What the client shows of itself, and what its admin socket asks it to do.

use std::future::{Future, ready};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ginnel_config::{ClientConfig, Source};
use ginnel_core::audit::Timestamp;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{InstanceId, RequestId};
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_core::roster::{Entry, Process};
use ginnel_core::status::{Denied, Peer, Request, Revoked, Status, Verdict};
use ginnel_identity::trust::{Roots, RootsFile};
use ginnel_net::upstream::Upstream;
use ginnel_ops::admin::{NotRevoked, Observed, Question, Revocation, Which};
use ginnel_ops::reload::{Fault, InForce, apart};
use ginnel_wire::hello::software_version;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::link::Live;
use crate::open::Opener;
use crate::routes;
use crate::sessions::Sessions;

/// Targets that a status gives in all. Each process of an agent has the same ones: without a bound a small roster of many processes and many
/// targets would become a status that no memory holds.
const TARGETS_SHOWN_MAX: usize = 100_000;

/// The client, as its admin listeners see it.
pub(crate) struct View {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) live: watch::Receiver<Option<Live>>,
    pub(crate) instance: InstanceId,
    pub(crate) files: Arc<Reloadable>,
    pub(crate) draining: CancellationToken,
    pub(crate) started: Timestamp,
}

/// What a client reads again while it runs.
pub(crate) struct Reloadable {
    pub(crate) source: Option<Source<ClientConfig>>,
    pub(crate) server_roots: RootsFile,
    pub(crate) agent_roots: RootsFile,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) in_force: InForce,
    /// One reload at a time: older routes must not come into force after newer ones.
    pub(crate) reloading: Mutex<()>,
}

impl Observed for View {
    fn status(&self) -> Status {
        let draining = self.draining.is_cancelled();
        let connected = self.upstream.progress.is_connected();
        let agents = self.agents();
        // An agent counts that a route names for any target: which target is meant is only known once a session asks for it.
        let nobody_is_on_a_route = agents.iter().all(|agent| agent.on_route == Some(false));
        let reasons = [
            (draining, "the client is draining: it takes no more sessions"),
            (!connected, "there is no connection to the server"),
            (connected && agents.is_empty(), "the server knows of no live agent that this client may use"),
            (
                connected && !agents.is_empty() && nobody_is_on_a_route,
                "none of the agents that the server offers is on a route",
            ),
        ];
        let not_ready: Vec<_> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, why)| (*why).to_owned()).collect();
        let mut status = Status {
            role: Role::Client.to_string(),
            instance: self.instance.to_string(),
            version: software_version().to_owned(),
            time: Timestamp::from(SystemTime::now()),
            started: self.started,
            draining,
            ready: not_ready.is_empty(),
            not_ready,
            config: self.files.in_force.config(),
            routes: routes::seen(&self.sessions.routes()),
            agents,
            ..Status::default()
        };
        self.upstream.progress.fill(&self.upstream.endpoint, &mut status);
        self.sessions.ledger().fill(&mut status);
        self.sessions.handshakes().fill(&mut status);
        status
    }

    fn sessions(&self) -> Vec<Request> {
        self.sessions.ledger().live()
    }

    fn request(&self, id: RequestId) -> Option<Request> {
        self.sessions.ledger().find(id)
    }

    fn judge(&self, _: &Question) -> Option<Result<Vec<Verdict>, String>> {
        None
    }

    fn end_sessions(&self, which: &Which) -> u64 {
        self.sessions.ledger().end(which, Refusal::new(Hop::Client, Cause::EndedByOperator))
    }

    fn denials(&self) -> Option<Vec<Denied>> {
        None
    }

    fn revoke(&self, _: Revocation) -> Pin<Box<dyn Future<Output = Result<Revoked, NotRevoked>> + Send + '_>> {
        Box::pin(ready(Err(NotRevoked::NotHere)))
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, Fault>> + Send + '_>> {
        let files = Arc::clone(&self.files);
        Box::pin(apart(move || files.reload()))
    }
}

impl Reloadable {
    /// Reads the configuration again, which waits for files.
    fn reload(&self) -> Result<String, Fault> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.try_reload();
        if let Err(why) = &outcome {
            self.in_force.failed(&why.whole);
        }
        outcome
    }

    /// Reads the routes and the trusted roots again, puts them into force, and ends the sessions that the routes do not permit. Roots count for
    /// handshakes: who was verified stays.
    fn try_reload(&self) -> Result<String, Fault> {
        let source = self.source.as_ref().ok_or("this client was started without a configuration file")?;
        let config = source.load().map_err(|error| Fault { whole: error.whole(), logged: error.without_quotes() })?;
        // The file is sound by itself, because it has no dangerDisableInnerTls any more; this process still has.
        if config.routes.entries().is_some() && !self.sessions.has_inner_tls() {
            return Err(
                "the routes are not in force: this client runs without inner TLS, which proves which agent serves; \
                        switching it on takes a restart"
                    .into(),
            );
        }
        let read = |path: &Path| Roots::read(path).map_err(|error| Chain(&error).to_string());
        let trust = &config.trust;
        let (server_roots, agent_roots) = (read(&trust.server)?, read(&trust.agent)?);
        let mut lines = routes::changes(&self.sessions.routes(), &config.routes);
        lines.extend(self.server_roots.replace(&trust.server, server_roots, "server"));
        lines.extend(self.agent_roots.replace(&trust.agent, agent_roots, "agents"));
        if lines.is_empty() {
            lines.push("routes and roots have not changed; everything else takes a restart".to_owned());
        }
        let (version, entries) = (routes::version(&config.routes), config.routes.entries().map_or(0, <[_]>::len));
        match self.sessions.replace_routes(config.routes) {
            0 => {}
            1 => lines.push("1 session is no longer permitted and was ended".to_owned()),
            more => lines.push(format!("{more} sessions are no longer permitted and were ended")),
        }
        self.in_force.applied(version, entries);
        Ok(lines.join("\n"))
    }
}

impl View {
    /// The processes of the agents on the roster.
    fn agents(&self) -> Vec<Peer> {
        let routes = self.sessions.routes();
        let live = self.live.borrow();
        let Some(live) = live.as_ref() else { return Vec::new() };
        let mut shown = 0;
        let mut peer = |entry: &Entry, process: &Process| Peer {
            principal: live.agent(&entry.agent).to_string(),
            instance: process.instance.to_string(),
            version: None,
            peer: None,
            connections: None,
            since: None,
            certificate: None,
            sessions: Some(self.sessions.ledger().of_agent(process.instance)),
            draining: process.draining,
            on_route: routes.entries().map(|_| routes.names(&entry.agent)),
            targets: targets_within(TARGETS_SHOWN_MAX, &mut shown, entry),
        };
        let mut peers = Vec::new();
        for entry in live.roster.entries() {
            peers.extend(entry.processes.iter().map(|process| peer(entry, process)));
        }
        peers
    }
}

/// The targets of an agent, as far as there is room for them beside those that were shown before.
fn targets_within(max: usize, shown: &mut usize, entry: &Entry) -> Vec<String> {
    let targets: Vec<_> = entry.targets.iter().take(max - *shown).map(ToString::to_string).collect();
    *shown += targets.len();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shown_up_to_the_bound_whatever_a_roster_repeats() {
        let targets = ["git", "npm", "pip"].map(|host| format!("{host}.acme.internal:443").parse().unwrap()).to_vec();
        let entry = Entry { agent: "acme".parse().unwrap(), targets, processes: Vec::new() };
        let mut shown = 0;
        let lengths: Vec<_> = (0..4).map(|_| targets_within(7, &mut shown, &entry).len()).collect();
        assert_eq!((lengths, shown), (vec![3, 3, 1, 0], 7));
    }
}
