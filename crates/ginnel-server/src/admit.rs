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
        // The trust anchor that verified the certificate has fixed its role; the domain is checked here because anchors may be shared.
        if leaf.principal.trust_domain != broker.trust_domain {
            tracing::warn!(peer = %peer.address, "certificate of another trust domain");
            return None;
        }
        match leaf.principal.role {
            Role::Agent => Some(Calls::agent(Arc::new(AgentSeat::new(broker, peer.address, leaf, peer.closed)))),
            Role::Client => Some(Calls::client(Arc::new(ClientSeat::new(broker, peer.address, leaf, peer.closed)))),
            Role::Server => None,
        }
    }
}
