//! What may be somebody with another's credentials: on record, and counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::SystemTime;

use ginnel_core::audit::{Event, Text};
use ginnel_core::denial::Shown;
use ginnel_core::id::InstanceId;
use ginnel_core::network::{Network, Seen};
use ginnel_core::principal::Role;
use ginnel_core::status::Signals;
use ginnel_identity::certificate::Leaf;
use tonic::Status;

use crate::broker::Broker;

/// Puts a connection on record that comes from where its principal is not known to come from. Whoever is turned away is no principal.
pub(crate) fn note_source(broker: &Broker, certificate: &Shown, peer: SocketAddr) {
    let Shown { principal, email, serial, .. } = certificate;
    let known = match broker.networks.see(principal, peer.ip(), SystemTime::now()) {
        Seen::Today | Seen::Before => return,
        Seen::Never(known) => known,
    };
    if known > 0 {
        tracing::warn!(%principal, known, "a connection from a network that its principal was not known to come from");
        count(broker, principal.role, |signals| &mut signals.new_sources);
    }
    broker.note(Event::NewSource {
        principal: principal.clone(),
        email: Text::new(email),
        peer,
        network: Text::new(Network::of(peer.ip())),
        serial: Text::new(serial),
        known: u64::try_from(known).unwrap_or(u64::MAX),
    });
}

/// Puts a process on record that is one too many, and gives what it is told.
pub(crate) fn too_many_instances(broker: &Broker, leaf: &Leaf, instance: InstanceId, peer: SocketAddr) -> Status {
    tracing::warn!(principal = %leaf.principal, %instance, "too many processes of one principal");
    count(broker, leaf.principal.role, |signals| &mut signals.too_many_instances);
    broker.note(Event::TooManyInstances {
        principal: leaf.principal.clone(),
        email: Text::new(&leaf.email),
        instance,
        peer,
        serial: Text::new(&leaf.serial),
        most: u64::try_from(broker.bounds.instances_each).unwrap_or(u64::MAX),
    });
    Status::resource_exhausted("too many processes of this principal")
}

fn count(broker: &Broker, role: Role, which: impl FnOnce(&mut Signals) -> &mut BTreeMap<String, u64>) {
    let mut signals = broker.signals.lock().unwrap_or_else(PoisonError::into_inner);
    *which(&mut signals).entry(role.to_string()).or_default() += 1;
}
