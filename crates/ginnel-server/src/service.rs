//! What one connection may call: Enrolment without a certificate, the services of its own role with one.

use std::sync::Arc;

use ginnel_core::limits::{CONTROL_MESSAGE_MAX, ENROL_MESSAGE_MAX};
use ginnel_net::accept::Answer;
use ginnel_net::call::Call;
use ginnel_wire::path;
use ginnel_wire::v1::agent_link_server::AgentLinkServer;
use ginnel_wire::v1::client_link_server::ClientLinkServer;
use ginnel_wire::v1::enrolment_server::EnrolmentServer;
use tonic::Status;

use crate::attach::AgentSeat;
use crate::enrol::Enrol;
use crate::forward::Forward;
use crate::roster::{ClientCalls, ClientSeat};

/// Answers the calls of one connection.
pub(crate) enum Calls {
    /// No certificate.
    Anonymous(EnrolmentServer<Enrol>),
    /// No certificate, at a server that passes enrolments on.
    Forwarding(Forward),
    /// An agent's certificate.
    Agent(Arc<AgentSeat>, AgentLinkServer<AgentSeat>),
    /// A client's certificate.
    Client(Arc<ClientSeat>, ClientLinkServer<ClientCalls>),
}

impl Calls {
    pub(crate) fn anonymous(enrol: Enrol) -> Self {
        let service = EnrolmentServer::new(enrol).max_decoding_message_size(ENROL_MESSAGE_MAX);
        Self::Anonymous(service)
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
            Self::Anonymous(service) if call.path() == path::ENROL => call.answer(service.clone()),
            Self::Forwarding(forward) if call.path() == path::ENROL => call.answer(forward.clone()),
            Self::Agent(seat, _) if call.path() == path::CARRY => {
                call.carry(|reader, writer| seat.carry(reader, writer))
            }
            Self::Client(seat, _) if call.path() == path::OPEN => {
                call.carry(|reader, writer| seat.open(reader, writer))
            }
            Self::Agent(_, service) if call.path().starts_with(path::AGENT_SERVICE) => call.answer(service.clone()),
            Self::Client(_, service) if call.path().starts_with(path::CLIENT_SERVICE) => call.answer(service.clone()),
            // Enrolment is for those who have no certificate yet.
            Self::Agent(seat, _) if call.path().starts_with(path::CLIENT_SERVICE) || call.path() == path::ENROL => {
                refuse(call);
                seat.turn_away();
            }
            Self::Client(seat, _) if call.path().starts_with(path::AGENT_SERVICE) || call.path() == path::ENROL => {
                refuse(call);
                seat.turn_away();
            }
            Self::Anonymous(_) | Self::Forwarding(_) | Self::Agent(..) | Self::Client(..) => refuse(call),
        }
    }
}

fn refuse(call: Call) {
    call.refuse(&Status::permission_denied("this connection may not call that"));
}
