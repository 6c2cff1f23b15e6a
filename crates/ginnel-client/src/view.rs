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
use crate::sessions::Sessions;

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
    /// How many forwards there are.
    pub(crate) forwards: usize,
    pub(crate) in_force: InForce,
    /// One reload at a time: an older file must not come into force after a newer one.
    pub(crate) reloading: Mutex<()>,
}

impl Observed for View {
    fn status(&self) -> Status {
        let draining = self.draining.is_cancelled();
        let connected = self.upstream.progress.is_connected();
        let agents = self.agents();
        let reasons = [
            (draining, "the client is draining: it takes no more sessions"),
            (!connected, "there is no connection to the server"),
            (connected && agents.is_empty(), "the server knows of no live agent that this client may use"),
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
        match &outcome {
            Ok(_) => self.in_force.applied(String::new(), self.forwards),
            Err(why) => self.in_force.failed(&why.whole),
        }
        outcome
    }

    /// Reads the trusted roots again; they count for handshakes: who was verified stays.
    fn try_reload(&self) -> Result<String, Fault> {
        let source = self.source.as_ref().ok_or("this client was started without a configuration file")?;
        let config = source.load().map_err(|error| Fault { whole: error.whole(), logged: error.without_quotes() })?;
        let read = |path: &Path| Roots::read(path).map_err(|error| Chain(&error).to_string());
        let trust = &config.trust;
        let (server_roots, agent_roots) = (read(&trust.server)?, read(&trust.agent)?);
        let mut lines: Vec<_> = self.server_roots.replace(&trust.server, server_roots, "server").into_iter().collect();
        lines.extend(self.agent_roots.replace(&trust.agent, agent_roots, "agents"));
        if lines.is_empty() {
            lines.push(
                "the file is right; nothing of a client's configuration but its roots changes without a restart"
                    .to_owned(),
            );
        }
        Ok(lines.join("\n"))
    }
}

impl View {
    /// The agents on the roster.
    fn agents(&self) -> Vec<Peer> {
        let live = self.live.borrow();
        let Some(live) = live.as_ref() else { return Vec::new() };
        let entries = live.roster.entries().iter();
        let peer = |entry: &ginnel_core::roster::Entry| Peer {
            principal: live.agent(&entry.agent).to_string(),
            instance: entry.instance.to_string(),
            version: None,
            peer: None,
            connections: None,
            since: None,
            certificate: None,
            sessions: Some(self.sessions.ledger().of_agent(entry.instance)),
            draining: entry.draining,
            targets: entry.targets.iter().map(ToString::to_string).collect(),
        };
        entries.map(peer).collect()
    }
}
