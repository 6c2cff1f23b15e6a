//! What the server shows of itself, and what its admin socket asks it to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use ginnel_core::audit::Timestamp;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{InstanceId, RequestId};
use ginnel_core::policy::{Ask, Source, matrix, verdict};
use ginnel_core::principal::{Name, Principal, Role};
use ginnel_core::status::{Audit, Certificate, Denied, Peer, Request, Revoked, Status, Verdict};
use ginnel_identity::hex;
use ginnel_ops::admin::{NotRevoked, Observed, Question, Revocation, Which};
use ginnel_ops::audit::forward::Forwarding;
use ginnel_ops::reload::{Fault, apart};
use ginnel_wire::hello::software_version;

use crate::broker::Broker;
use crate::directory::{Facts, Process};

/// The broker, as its admin listeners see it.
pub(crate) struct View(pub(crate) Arc<Broker>);

impl Observed for View {
    fn status(&self) -> Status {
        let Self(broker) = self;
        let now = SystemTime::now();
        let (agents, clients) = (self.agents(now), self.clients(now));
        let certificate = broker.own.shown(now);
        let not_ready = self.not_ready(&agents, certificate.as_ref());
        let mut status = Status {
            role: Role::Server.to_string(),
            principal: broker.own.current.get().map(|identity| identity.leaf().principal.to_string()),
            instance: broker.server_id.to_string(),
            version: software_version().to_owned(),
            time: Timestamp::from(now),
            started: broker.started,
            draining: broker.shutdown.is_cancelled(),
            ready: not_ready.is_empty(),
            not_ready,
            config: broker.rules.shown.config(),
            certificate,
            renewals: broker.own.renewals().0,
            agents,
            clients,
            enrolments: Some(broker.enrolment.counted()),
            bounds: broker.bounds.shown(&broker.leases),
            denials: Some(broker.rules.now().denials.count()),
            audit: Some(Audit { sink: broker.forwarding.as_ref().map(Forwarding::status), ..broker.audit.status() }),
            signals: Some(broker.signals.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            ..Status::default()
        };
        broker.ledger.fill(&mut status);
        status
    }

    fn sessions(&self) -> Vec<Request> {
        self.0.ledger.live()
    }

    fn request(&self, id: RequestId) -> Option<Request> {
        self.0.ledger.find(id)
    }

    fn judge(&self, question: &Question) -> Option<Result<Vec<Verdict>, String>> {
        let rules = self.0.rules.now();
        let version = rules.version.as_str();
        let processes = self.0.directory.processes();
        let live = |name: &Name| {
            let processes = processes.iter().filter(|process| process.link.agent.principal.name == *name).count();
            u64::try_from(processes).unwrap_or(u64::MAX)
        };
        let now = rules.clock.now();
        let (client, target, from) = match question {
            Question::All => return Some(Ok(matrix(&rules.policy, version, now, live))),
            Question::One { client, target, from } => (client, target, from),
        };
        let client: Name = match client.parse() {
            Ok(client) => client,
            Err(error) => return Some(Err(format!("{client:?} is no name of a client: {error}."))),
        };
        let is_known = rules.identities.keys().any(|known| known.role == Role::Client && known.name == client);
        if !is_known {
            return Some(Err(format!("No identity with the role client is named {client}.")));
        }
        let source = match from.as_ref().map(|from| (from, from.parse())) {
            None => Source::Anywhere,
            Some((_, Ok(address))) => Source::Address(address),
            Some((from, Err(_))) => return Some(Err(format!("{from:?} is no address."))),
        };
        Some(match target.parse() {
            Ok(target) => {
                let ask = Ask { client: &client, target: &target, source, now };
                Ok(vec![verdict(&rules.policy, version, &ask, live)])
            }
            Err(error) => Err(format!("{target:?} is no target: {error}.")),
        })
    }

    fn end_sessions(&self, which: &Which) -> u64 {
        self.0.ledger.end(which, Refusal::new(Hop::Server, Cause::EndedByOperator))
    }

    fn denials(&self) -> Option<Vec<Denied>> {
        Some(self.0.denied())
    }

    fn revoke(&self, order: Revocation) -> Pin<Box<dyn Future<Output = Result<Revoked, NotRevoked>> + Send + '_>> {
        Box::pin(Arc::clone(&self.0).revoke(order))
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, Fault>> + Send + '_>> {
        let broker = Arc::clone(&self.0);
        // Building a large policy takes its time as well.
        Box::pin(apart(move || broker.reload()))
    }
}

impl View {
    fn not_ready(&self, agents: &[Peer], certificate: Option<&Certificate>) -> Vec<String> {
        let Self(broker) = self;
        let certificate_missing = match (certificate, broker.own.renewals().1) {
            (Some(_), _) => None,
            (None, None) => Some("the server has no certificate of its own yet".to_owned()),
            (None, Some(failure)) => Some(format!("the server has no certificate of its own yet: {}", failure.error)),
        };
        let reasons = [
            (broker.shutdown.is_cancelled(), "the server is draining: it takes nothing new"),
            (!broker.audit.healthy(), "the audit log cannot be written, so nothing new is allowed"),
            (
                certificate.is_some_and(|certificate| certificate.remaining_seconds == 0),
                "the server's own certificate has expired",
            ),
            (agents.is_empty(), "no agent is connected"),
        ];
        let reasons = reasons.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason.to_owned());
        certificate_missing.into_iter().chain(reasons).collect()
    }

    fn agents(&self, now: SystemTime) -> Vec<Peer> {
        let peer = |process: Process| {
            let Process { link, links } = process;
            let instance = link.agent.instance;
            let sessions = self.0.ledger.of_agent(instance);
            peer(&link.agent.principal, instance, &link.facts, links, sessions, now)
        };
        self.0.directory.processes().into_iter().map(peer).collect()
    }

    fn clients(&self, now: SystemTime) -> Vec<Peer> {
        let clients = self.0.rosters.all().into_iter();
        let peer = |(client, instance, facts, connections): (Principal, InstanceId, Facts, u64)| {
            peer(&client, instance, &facts, connections, self.0.ledger.of_client(instance), now)
        };
        clients.map(peer).collect()
    }
}

fn peer(
    principal: &Principal,
    instance: InstanceId,
    facts: &Facts,
    connections: u64,
    sessions: u64,
    now: SystemTime,
) -> Peer {
    Peer {
        principal: principal.to_string(),
        instance: instance.to_string(),
        version: Some(facts.version.clone()),
        peer: Some(facts.peer.to_string()),
        connections: Some(connections),
        since: Some(facts.since),
        certificate: Some(certificate(facts, now)),
        sessions: Some(sessions),
        draining: false,
        on_route: None,
        targets: Vec::new(),
    }
}

fn certificate(facts: &Facts, now: SystemTime) -> Certificate {
    let evidence = facts.certificate.evidence.as_ref();
    Certificate {
        serial: facts.serial.clone(),
        not_after: Timestamp::from(facts.not_after),
        remaining_seconds: facts.not_after.duration_since(now).unwrap_or_default().as_secs(),
        renewal_failure: None,
        credential: None,
        proof: evidence.map(|evidence| evidence.proof.to_string()),
        verified_by: evidence.map(|evidence| hex(&evidence.verified_by)),
    }
}
