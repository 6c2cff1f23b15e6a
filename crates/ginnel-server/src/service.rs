//! What one connection may call: Enrolment without a certificate, the services of its own role with one.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use ginnel_core::limits::{CONTROL_MESSAGE_MAX, ENROL_MESSAGE_MAX};
use ginnel_net::body::{CallBody, FrameReader, FrameWriter};
use ginnel_wire::path;
use ginnel_wire::v1::agent_link_server::AgentLinkServer;
use ginnel_wire::v1::client_link_server::ClientLinkServer;
use ginnel_wire::v1::enrolment_server::EnrolmentServer;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tower_service::Service as _;

use crate::attach::AgentSeat;
use crate::enrol::Enrol;
use crate::roster::{ClientCalls, ClientSeat};

/// Answers the calls of one connection.
pub(crate) enum Calls {
    /// No certificate.
    Anonymous(EnrolmentServer<Enrol>),
    /// An agent's certificate.
    Agent(Arc<AgentSeat>, AgentLinkServer<AgentSeat>),
    /// A client's certificate.
    Client(Arc<ClientSeat>, ClientLinkServer<ClientCalls>),
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<CallBody>, Infallible>> + Send>>;

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

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        match self {
            Self::Anonymous(service) if path == path::ENROL => messages(service.clone().call(request)),
            Self::Agent(seat, _) if path == path::CARRY => {
                carrying(request, |reader, writer| seat.carry(reader, writer))
            }
            Self::Client(seat, _) if path == path::OPEN => {
                carrying(request, |reader, writer| seat.open(reader, writer))
            }
            Self::Agent(_, service) if path.starts_with(path::AGENT_SERVICE) => messages(service.clone().call(request)),
            Self::Client(_, service) if path.starts_with(path::CLIENT_SERVICE) => {
                messages(service.clone().call(request))
            }
            Self::Anonymous(_) | Self::Agent(..) | Self::Client(..) => {
                refuse(&Status::permission_denied("this connection may not call that"))
            }
        }
    }
}

/// Answers a call that carries bytes: headers at once, then whatever the session says.
fn carrying(request: Request<Incoming>, start: impl FnOnce(FrameReader, FrameWriter)) -> Answer {
    let is_grpc =
        request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if request.method() != Method::POST || !is_grpc {
        return refuse(&Status::invalid_argument("not a gRPC call"));
    }
    let (writer, body) = FrameWriter::response();
    start(FrameReader::new(request.into_body()), writer);
    let mut response = Response::new(CallBody::Frames(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Box::pin(ready(Ok(response)))
}

/// The answer of a generated service.
fn messages(answer: impl Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send + 'static) -> Answer {
    Box::pin(async { Ok(answer.await?.map(CallBody::Messages)) })
}

fn refuse(status: &Status) -> Answer {
    messages(ready(Ok(status.clone().into_http())))
}
