//! One call that a peer makes, and the ways to answer it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};

use ginnel_core::cause::Refusal;
use ginnel_wire::frame::reset_code;
use ginnel_wire::piece::Piece;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::body::{FrameReader, FrameWriter};
use crate::crowd::Crowd;
use crate::messages::{Received, send};

/// One call that a peer makes.
pub struct Call {
    request: Request<RecvStream>,
    respond: SendResponse<Piece>,
    crowd: Crowd,
}

impl Call {
    /// A call on the connection with this crowd.
    pub(crate) fn new(request: Request<RecvStream>, respond: SendResponse<Piece>, crowd: Crowd) -> Self {
        Self { request, respond, crowd }
    }

    /// Which call it is.
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Answers a call that carries bytes: headers at once, then whatever the session says.
    pub fn carry(mut self, start: impl FnOnce(FrameReader, FrameWriter)) {
        let content = self.request.headers().get(CONTENT_TYPE);
        let is_grpc = content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
        if self.request.method() != Method::POST || !is_grpc {
            return self.refuse(&Status::invalid_argument("not a gRPC call"));
        }
        let mut response = Response::new(());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // A peer that is gone already has nothing to be told, and no session.
        if let Ok(stream) = self.respond.send_response(response, false) {
            start(FrameReader::new(self.request.into_body()), FrameWriter::response(stream, &self.crowd));
        }
    }

    /// Lets a generated service answer, and says so when it has begun to. A caller that cancels ends the service's work.
    pub fn answer<S>(self, mut service: S, answers: impl FnOnce() + Send + 'static)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        let answer = service.call(self.request.map(|body| Body::new(Received(body))));
        // It ends with the stream, which ends with the connection.
        tokio::spawn(respond(answer, self.respond, answers));
    }

    /// Refuses a call unheard that wants a session or is about one, with the HTTP/2 code that says it all.
    pub fn turn_away(mut self, refusal: Refusal) {
        self.respond.send_reset(Reason::from(reset_code(refusal.cause, Some(refusal.hop))));
    }

    /// Refuses the call.
    pub fn refuse(mut self, status: &Status) {
        let response: Response<()> = status.clone().into_http();
        let _ = self.respond.send_response(response, true);
    }
}

async fn respond(
    answer: impl Future<Output = Result<Response<Body>, Infallible>>,
    mut respond: SendResponse<Piece>,
    answers: impl FnOnce(),
) {
    let answer = tokio::select! {
        biased;
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
        answer = answer => answer,
    };
    let Ok(response) = answer;
    answers();
    let (parts, body) = response.into_parts();
    let has_ended = http_body::Body::is_end_stream(&body);
    if let Ok(stream) = respond.send_response(Response::from_parts(parts, ()), has_ended)
        && !has_ended
    {
        send(body, stream).await;
    }
}
