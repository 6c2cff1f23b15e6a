//! Decides what a connection may do, from its verified certificate alone.

use std::sync::Arc;

use ginnel_core::principal::Role;
use ginnel_net::accept::{Admit, Peer};

use crate::attach::AgentSeat;
use crate::broker::Broker;
use crate::enrol::Enrol;
use crate::roster::ClientSeat;
use crate::service::Calls;

/// Admits connections to the broker.
#[derive(Clone)]
pub(crate) struct Admission(pub(crate) Arc<Broker>);

impl Admit for Admission {
    type Service = Calls;

    fn admit(&self, peer: Peer) -> Option<Calls> {
        let broker = Arc::clone(&self.0);
        let Some(leaf) = peer.leaf else {
            return Some(Calls::anonymous(Enrol { broker, peer: peer.address }));
        };
        // A certificate outlives the identity that it was issued to: whoever was taken out of the configuration stays out.
        if broker.identities.get(&leaf.principal) != Some(&leaf.email) {
            tracing::warn!(peer = %peer.address, principal = %leaf.principal, "certificate of an identity that is not configured");
            return None;
        }
        match leaf.principal.role {
            Role::Agent => Some(Calls::agent(Arc::new(AgentSeat::new(broker, peer.address, leaf, peer.closed)))),
            Role::Client => Some(Calls::client(Arc::new(ClientSeat::new(broker, peer.address, leaf, peer.closed)))),
            Role::Server => None,
        }
    }
}
