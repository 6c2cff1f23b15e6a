//! What one connection may call: Enrolment without a certificate, the services of its own role with one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ginnel_core::limits::{CONTROL_MESSAGE_MAX, ENROL_MESSAGE_MAX, STRANGER_RESETS_MAX};
use ginnel_net::accept::Answer;
use ginnel_net::call::Call;
use ginnel_wire::path;
use ginnel_wire::v1::agent_link_server::AgentLinkServer;
use ginnel_wire::v1::client_link_server::ClientLinkServer;
use ginnel_wire::v1::enrolment_server::EnrolmentServer;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::attach::AgentSeat;
use crate::enrol::Enrol;
use crate::forward::Forward;
use crate::roster::{ClientCalls, ClientSeat};

/// Answers the calls of one connection.
pub(crate) enum Calls {
    /// No certificate.
    Anonymous(EnrolmentServer<Enrol>, Stranger),
    /// No certificate, at a server that passes enrolments on.
    Forwarding(Forward, Stranger),
    /// An agent's certificate.
    Agent(Arc<AgentSeat>, AgentLinkServer<AgentSeat>),
    /// A client's certificate.
    Client(Arc<ClientSeat>, ClientLinkServer<ClientCalls>),
}

impl Calls {
    pub(crate) fn anonymous(enrol: Enrol, closed: CancellationToken) -> Self {
        let service = EnrolmentServer::new(enrol).max_decoding_message_size(ENROL_MESSAGE_MAX);
        Self::Anonymous(service, Stranger::new(closed))
    }

    pub(crate) fn forwarding(forward: Forward, closed: CancellationToken) -> Self {
        Self::Forwarding(forward, Stranger::new(closed))
    }

    pub(crate) fn agent(seat: Arc<AgentSeat>) -> Self {
        let service = AgentLinkServer::from_arc(Arc::clone(&seat)).max_decoding_message_size(CONTROL_MESSAGE_MAX);
        Self::Agent(seat, service)
    }

    pub(crate) fn client(seat: Arc<ClientSeat>) -> Self {
        let service =
            ClientLinkServer::new(ClientCalls(Arc::clone(&seat))).max_decoding_message_size(CONTROL_MESSAGE_MAX);
        Self::Client(seat, service)
    }
}

impl Answer for Calls {
    fn answer(&self, call: Call) {
        match self {
            Self::Anonymous(service, stranger) => stranger.answer(call, service.clone()),
            Self::Forwarding(forward, stranger) => stranger.answer(call, forward.clone()),
            Self::Agent(seat, service) => {
                let Some((call, place)) = seat.hear(call) else { return };
                match call.path() {
                    path::CARRY => call.carry(|reader, writer| seat.carry(place, reader, writer)),
                    other if other.starts_with(path::AGENT_SERVICE) => call.answer(service.clone(), || drop(place)),
                    // Enrolment is for those who have no certificate yet.
                    other if other.starts_with(path::CLIENT_SERVICE) || other == path::ENROL => {
                        refuse(call);
                        seat.turn_away();
                    }
                    _ => refuse(call),
                }
            }
            Self::Client(seat, service) => {
                let Some((call, place)) = seat.hear(call) else { return };
                match call.path() {
                    path::OPEN => call.carry(|reader, writer| seat.open(place, reader, writer)),
                    other if other.starts_with(path::CLIENT_SERVICE) => call.answer(service.clone(), || drop(place)),
                    other if other.starts_with(path::AGENT_SERVICE) || other == path::ENROL => {
                        refuse(call);
                        seat.turn_away();
                    }
                    _ => refuse(call),
                }
            }
        }
    }
}

/// Somebody without a certificate. Its calls come one at a time; what is bounded here is how many it takes back.
pub(crate) struct Stranger {
    begun: AtomicU64,
    answered: Arc<AtomicU64>,
    closed: CancellationToken,
}

impl Stranger {
    fn new(closed: CancellationToken) -> Self {
        Self { begun: AtomicU64::new(0), answered: Arc::default(), closed }
    }

    fn answer<S>(&self, call: Call, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        // Counters of one connection, which nothing else is ordered by.
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        if begun.saturating_sub(self.answered.load(Ordering::Relaxed)) > STRANGER_RESETS_MAX {
            tracing::debug!("a stranger takes its calls back: the connection is closed");
            return self.closed.cancel();
        }
        if call.path() != path::ENROL {
            return refuse(call);
        }
        let answered = Arc::clone(&self.answered);
        call.answer(service, move || {
            answered.fetch_add(1, Ordering::Relaxed);
        });
    }
}

fn refuse(call: Call) {
    call.refuse(&Status::permission_denied("this connection may not call that"));
}
