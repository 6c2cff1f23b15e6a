//! What every connection shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_config::{ServerConfig, Source};
use ginnel_core::audit::{Event, Timestamp};
use ginnel_core::budget::Budget;
use ginnel_core::id::InstanceId;
use ginnel_core::principal::Principal;
use ginnel_core::report::Chain;
use ginnel_core::status::Signals;
use ginnel_identity::tls::CurrentTrust;
use ginnel_ops::audit::AuditLog;
use ginnel_ops::audit::forward::Forwarding;
use ginnel_ops::denials::DenialFile;
use ginnel_ops::ledger::Ledger;
use ginnel_ops::networks::NetworkBook;
use ginnel_wire::hello::{INNER_TLS, LANES, PROTOCOL_VERSION, software_version};
use ginnel_wire::v1::Welcome;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bounds::Bounds;
use crate::connections::Connections;
use crate::directory::{Directory, Facts};
use crate::doorkeeper::Doorkeeper;
use crate::keys::AtGoogle;
use crate::lease::Leases;
use crate::own::OwnCertificate;
use crate::remote::Enrolment;
use crate::rules::InForceRules;

/// What every connection shares.
pub(crate) struct Broker {
    pub(crate) server_id: InstanceId,
    /// Milliseconds since 1970 at which this process started.
    pub(crate) epoch: u64,
    /// What can change while the server runs.
    pub(crate) rules: InForceRules,
    /// One reload at a time: an older file must not come into force after a newer one.
    pub(crate) reloading: Mutex<()>,
    /// Where that comes from; none for a server without a file.
    pub(crate) source: Option<Source<ServerConfig>>,
    /// Where denials are kept.
    pub(crate) denial_file: DenialFile,
    pub(crate) connections: Connections,
    /// Who was turned away lately.
    pub(crate) doorkeeper: Doorkeeper,
    /// What each principal and each source may have.
    pub(crate) bounds: Bounds,
    pub(crate) ledger: Ledger,
    /// What all sessions together may have under way beyond their first credit.
    pub(crate) budget: Budget,
    pub(crate) directory: Box<dyn Directory>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) rosters: Rosters,
    pub(crate) audit: AuditLog,
    /// What takes the records of that log elsewhere as well.
    pub(crate) forwarding: Option<Forwarding>,
    /// Where principals are known to come from.
    pub(crate) networks: Arc<NetworkBook>,
    /// What may be somebody who has no right to be here.
    pub(crate) signals: Mutex<Signals>,
    /// What is known of the proofs that hang on Google.
    pub(crate) at_google: AtGoogle,
    pub(crate) own: OwnCertificate,
    /// Tokens for certificates, here or elsewhere.
    pub(crate) enrolment: Enrolment,
    /// Whose certificates are accepted.
    pub(crate) trust: CurrentTrust,
    /// Every session and every standing stream.
    pub(crate) tasks: TaskTracker,
    /// The server is on its way out: nothing new, what runs may finish.
    pub(crate) shutdown: CancellationToken,
    /// The grace is over: what still runs is reset.
    pub(crate) cut: CancellationToken,
    pub(crate) started: Timestamp,
}

/// The roster stream on each connection of each client process, so that a newer one can replace an older one.
#[derive(Debug, Default)]
pub(crate) struct Rosters {
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    held: BTreeMap<(Principal, InstanceId), BTreeMap<u32, Held>>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    replaced: CancellationToken,
    facts: Facts,
}

/// One roster stream.
#[derive(Debug)]
pub(crate) struct RosterStream {
    number: u64,
    lane: u32,
    /// Cancelled when another stream of the same process and lane replaced this one.
    pub(crate) replaced: CancellationToken,
}

impl Rosters {
    /// Takes a stream in; it replaces an older one of the same process and lane.
    pub(crate) fn join(&self, client: &Principal, instance: InstanceId, lane: u32, facts: Facts) -> RosterStream {
        let replaced = CancellationToken::new();
        let mut streams = self.streams();
        let number = streams.next;
        streams.next += 1;
        let held = Held { number, replaced: replaced.clone(), facts };
        if let Some(old) = streams.held.entry((client.clone(), instance)).or_default().insert(lane, held) {
            old.replaced.cancel();
        }
        RosterStream { number, lane, replaced }
    }

    /// Takes a stream out, unless another one has replaced it.
    pub(crate) fn leave(&self, client: &Principal, instance: InstanceId, stream: &RosterStream) {
        let mut streams = self.streams();
        let key = (client.clone(), instance);
        let Some(lanes) = streams.held.get_mut(&key) else { return };
        if lanes.get(&stream.lane).is_some_and(|held| held.number == stream.number) {
            lanes.remove(&stream.lane);
        }
        if lanes.is_empty() {
            streams.held.remove(&key);
        }
    }

    /// The serial number of the certificate on the first connection of a process.
    pub(crate) fn serial_of_first(&self, client: &Principal, instance: InstanceId) -> Option<String> {
        let streams = self.streams();
        Some(streams.held.get(&(client.clone(), instance))?.get(&0)?.facts.serial.clone())
    }

    /// The connected clients, ordered by principal and process, each with what is known of its first connection, or the next one if that was
    /// lost, and the number of connections.
    pub(crate) fn all(&self) -> Vec<(Principal, InstanceId, Facts, u64)> {
        let streams = self.streams();
        let client = |((client, instance), lanes): (&(Principal, InstanceId), &BTreeMap<u32, Held>)| {
            let held = lanes.values().next()?;
            let connections = u64::try_from(lanes.len()).unwrap_or(u64::MAX);
            Some((client.clone(), *instance, held.facts.clone(), connections))
        };
        streams.held.iter().filter_map(client).collect()
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
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
            capabilities: vec![INNER_TLS.to_owned(), LANES.to_owned()],
        }
    }

    /// Records what has happened already: if that fails, the log itself refuses what comes next.
    pub(crate) fn note(&self, event: Event) {
        if let Err(error) = self.audit.record(event) {
            tracing::error!(error = %Chain(&error), "could not record an event");
        }
    }
}
