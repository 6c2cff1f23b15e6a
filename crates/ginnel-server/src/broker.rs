//! What every connection shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ginnel_config::{ServerConfig, Source};
use ginnel_core::audit::{Event, Timestamp};
use ginnel_core::budget::Budget;
use ginnel_core::id::InstanceId;
use ginnel_core::principal::{Principal, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_core::status::Enrolments;
use ginnel_enrol::{Denied, Issuer};
use ginnel_ops::audit::AuditLog;
use ginnel_ops::ledger::Ledger;
use ginnel_wire::hello::{INNER_TLS, PROTOCOL_VERSION, software_version};
use ginnel_wire::v1::Welcome;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::Connections;
use crate::directory::{Directory, Facts};
use crate::lease::Leases;
use crate::own::OwnCertificate;
use crate::rules::InForceRules;

/// What every connection shares.
pub(crate) struct Broker {
    pub(crate) server_id: InstanceId,
    /// Milliseconds since 1970 at which this process started.
    pub(crate) epoch: u64,
    pub(crate) trust_domain: TrustDomain,
    /// What can change while the server runs.
    pub(crate) rules: InForceRules,
    /// One reload at a time: an older file must not come into force after a newer one.
    pub(crate) reloading: Mutex<()>,
    /// Where that comes from; none for a server without a file.
    pub(crate) source: Option<Source<ServerConfig>>,
    pub(crate) connections: Connections,
    pub(crate) ledger: Ledger,
    /// What all sessions together may have under way beyond their first credit.
    pub(crate) budget: Budget,
    pub(crate) directory: Box<dyn Directory>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) rosters: Rosters,
    pub(crate) audit: AuditLog,
    pub(crate) enrolments: Mutex<Enrolments>,
    pub(crate) own: OwnCertificate,
    pub(crate) issuer: Box<dyn Issuer>,
    /// Every session and every standing stream.
    pub(crate) tasks: TaskTracker,
    /// The server is on its way out: nothing new, what runs may finish.
    pub(crate) shutdown: CancellationToken,
    /// The grace is over: what still runs is reset.
    pub(crate) cut: CancellationToken,
    pub(crate) started: Timestamp,
}

/// The roster stream of each client process, so that a newer one can replace an older one.
#[derive(Debug, Default)]
pub(crate) struct Rosters {
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    held: BTreeMap<(Principal, InstanceId), (u64, CancellationToken, Facts)>,
}

/// One roster stream.
#[derive(Debug)]
pub(crate) struct RosterStream {
    number: u64,
    /// Cancelled when another stream of the same process replaced this one.
    pub(crate) replaced: CancellationToken,
}

impl Rosters {
    /// Takes a stream in; it replaces an older one of the same process.
    pub(crate) fn join(&self, client: &Principal, instance: InstanceId, facts: Facts) -> RosterStream {
        let replaced = CancellationToken::new();
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let number = streams.next;
        streams.next += 1;
        if let Some((_, old, _)) = streams.held.insert((client.clone(), instance), (number, replaced.clone(), facts)) {
            old.cancel();
        }
        RosterStream { number, replaced }
    }

    /// Takes a stream out, unless another one has replaced it.
    pub(crate) fn leave(&self, client: &Principal, instance: InstanceId, stream: &RosterStream) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (client.clone(), instance);
        if streams.held.get(&key).is_some_and(|(number, ..)| *number == stream.number) {
            streams.held.remove(&key);
        }
    }

    /// The connected clients, ordered by principal and process.
    pub(crate) fn all(&self) -> Vec<(Principal, InstanceId, Facts)> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let held = streams.held.iter();
        held.map(|((client, instance), (.., facts))| (client.clone(), *instance, facts.clone())).collect()
    }
}

impl Broker {
    /// The answer to a hello.
    pub(crate) fn welcome(&self) -> Welcome {
        Welcome {
            server_id: self.server_id.to_bytes().to_vec(),
            epoch: self.epoch,
            live_servers: 1,
            draining: self.shutdown.is_cancelled(),
            software_version: software_version().to_owned(),
            protocol_version: PROTOCOL_VERSION,
            capabilities: vec![INNER_TLS.to_owned()],
        }
    }

    /// Counts an enrolment.
    pub(crate) fn enrolment(&self, outcome: Result<(), Denied>) {
        let mut enrolments = self.enrolments.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => enrolments.issued += 1,
            Err(denied) => *enrolments.refused.entry(denied.as_str().to_owned()).or_default() += 1,
        }
    }

    /// Records what has happened already: if that fails, the log itself refuses what comes next.
    pub(crate) fn note(&self, event: Event) {
        if let Err(error) = self.audit.record(event) {
            tracing::error!(error = %Chain(&error), "could not record an event");
        }
    }
}
