//! Decides what a connection may do, from its verified certificate alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ginnel_core::audit::Text;
use ginnel_core::cause::Cause;
use ginnel_core::denial::Shown;
use ginnel_core::limits::HELLO_WAIT;
use ginnel_core::principal::{Principal, Role};
use ginnel_core::report::Chain;
use ginnel_net::accept::{Admit, NotAnnounced, Peer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::attach::AgentSeat;
use crate::broker::Broker;
use crate::enrol::Enrol;
use crate::forward::Forward;
use crate::reload::LAST_WORDS;
use crate::remote::Enrolment;
use crate::roster::ClientSeat;
use crate::service::Calls;
use crate::signals::note_source;

/// Admits connections to the broker.
#[derive(Clone)]
pub(crate) struct Admission(pub(crate) Arc<Broker>);

impl Admit for Admission {
    type Calls = Calls;

    fn might_come_from(&self, address: IpAddr) -> bool {
        self.0.rules.deciding().sources.might_come_from(address)
    }

    fn turned_away(&self, from: SocketAddr) {
        self.record_turned_away(from, Cause::SourceRefused, None);
    }

    fn not_announced(&self, balancer: SocketAddr, why: &NotAnnounced) {
        self.record_turned_away(balancer, Cause::ProtocolError, None);
        tracing::warn!(error = %Chain(why), "a load balancer's connection does not say where it comes from");
        tracing::debug!(%balancer, "that balancer");
    }

    fn admit(&self, peer: Peer) -> Option<Calls> {
        let broker = Arc::clone(&self.0);
        let Some(leaf) = peer.leaf else {
            let Peer { address: peer, closed, admitted, leaf: _ } = peer;
            return Some(match broker.enrolment.clone() {
                Enrolment::Here(desk) => {
                    let failures = Some(Arc::clone(&broker.bounds.failures));
                    Calls::anonymous(Enrol { desk, peer, admitted, failures }, closed)
                }
                Enrolment::Elsewhere(remote) => Calls::forwarding(Forward { broker, remote, peer, admitted }, closed),
            });
        };
        let principal = leaf.principal.clone();
        let from = peer.address;
        let (calls, certificate) = match principal.role {
            Role::Agent => {
                let seat = Arc::new(AgentSeat::new(Arc::clone(&broker), peer.address, leaf, peer.closed.clone()));
                expect_hello(&broker, &seat, peer.closed, AgentSeat::has_said_hello);
                let certificate = Arc::clone(&seat.certificate);
                (Calls::agent(seat), certificate)
            }
            Role::Client => {
                let seat = Arc::new(ClientSeat::new(Arc::clone(&broker), peer.address, leaf, peer.closed.clone()));
                expect_hello(&broker, &seat, peer.closed, ClientSeat::has_said_hello);
                let certificate = Arc::clone(&seat.certificate);
                (Calls::client(seat), certificate)
            }
            Role::Server => return None,
        };
        // A certificate outlives the identity that it was issued to: whoever was taken out of the configuration stays out. Asked when the
        // connection is in the table already, so that a change of identities or denials either comes before this or finds it there.
        let rules = broker.rules.now();
        if rules.denials.denies(&certificate) {
            tracing::warn!(%principal, serial = certificate.serial, "certificate that was revoked, itself or its identity or key");
            return None;
        }
        match rules.admission(&certificate) {
            Ok(()) => {}
            Err(Cause::SourceRefused) => {
                tracing::warn!(%principal, serial = certificate.serial, "certificate from an address from which its holder may not come");
                self.record_turned_away(from, Cause::SourceRefused, Some(&certificate));
                return None;
            }
            Err(_) => {
                tracing::warn!(%principal, "certificate of an identity that is not configured, or for a proof that it has no longer");
                return None;
            }
        }
        if broker.is_gone_at_google(&certificate) {
            tracing::warn!(%principal, "certificate that was enrolled with a key that is gone at Google");
            return None;
        }
        note_source(&broker, &certificate, peer.address);
        Some(calls)
    }
}

impl Admission {
    fn record_turned_away(&self, peer: SocketAddr, cause: Cause, shown: Option<&Shown>) {
        let Self(broker) = self;
        tracing::debug!(%peer, %cause, "turned away");
        if let Some(event) = broker.doorkeeper.turned_away(peer, cause, shown) {
            broker.note(event);
        }
    }
}

/// Closes a connection that was called for what another role may do. Its end is told why first, as far as that gets.
pub(crate) fn turn_away(broker: &Broker, principal: &Principal, closed: &CancellationToken) {
    tracing::warn!(%principal, cause = "role", "a call that this role may not make: the connection is closed");
    let closed = closed.clone();
    broker.tasks.spawn(async move {
        sleep(LAST_WORDS).await;
        closed.cancel();
    });
}

/// Says that somebody's first message cannot be taken, and why. One that broke off says nothing about who sent it.
pub(crate) fn refused_hello(principal: &Principal, status: &Status) {
    if !matches!(status.code(), Code::DeadlineExceeded | Code::Internal | Code::InvalidArgument | Code::OutOfRange) {
        return;
    }
    // A message that does not decode is told in words of the peer's choice.
    let reason = Text::new(status.message());
    tracing::warn!(%principal, cause = "hello", %reason, "a first message that cannot be taken: the call is refused");
}

/// Closes a connection that does not say who is calling: only a hello gives it a lease, and with that an end.
fn expect_hello<S: Send + Sync + 'static>(
    broker: &Broker,
    seat: &Arc<S>,
    closed: CancellationToken,
    has_said_hello: fn(&S) -> bool,
) {
    let seat = Arc::downgrade(seat);
    let shutdown = broker.shutdown.clone();
    broker.tasks.spawn(async move {
        tokio::select! {
            () = closed.cancelled() => return,
            () = shutdown.cancelled() => return,
            () = sleep(HELLO_WAIT) => {}
        }
        if seat.upgrade().is_some_and(|seat| !has_said_hello(&seat)) {
            closed.cancel();
        }
    });
}
