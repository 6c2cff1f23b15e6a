//! Passes enrolments on to the process that enrols, and its answers back, without reading either.
//!
//! A token is bound to the key that its holder made, so that whoever passes it on can keep it back and nothing else. The caller hears what it
//! would hear from an enrolling server: one refusal whatever was wrong, or that nothing can be issued now.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use ginnel_core::audit::{Event, Forwarded};
use ginnel_core::limits::ENROL_MESSAGE_MAX;
use ginnel_core::network::Network;
use ginnel_wire::path;
use http::uri::PathAndQuery;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Request, Response, Status};
use tower_service::Service;

use crate::broker::Broker;
use crate::enrol::{FORWARDED_FOR, RETRY_AFTER_MS, not_now, refused};
use crate::remote::Remote;

/// Longest that a caller is told to wait by an answer that is passed back: more is no advice.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The enrolment service of one connection of a server that does not enrol.
#[derive(Clone)]
pub(crate) struct Forward {
    pub(crate) broker: Arc<Broker>,
    pub(crate) remote: Arc<Remote>,
    pub(crate) peer: SocketAddr,
    /// Cancelled when a request is passed on, so that the connection stays for the answer.
    pub(crate) admitted: CancellationToken,
}

impl Service<http::Request<Body>> for Forward {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let forward = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Unread).max_decoding_message_size(ENROL_MESSAGE_MAX);
            Ok(grpc.unary(forward, request).await)
        })
    }
}

impl UnaryService<Bytes> for Forward {
    type Response = Bytes;
    type Future = Boxed<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let forward = self.clone();
        // What else the caller has put beside its message goes no further.
        Box::pin(async move { forward.pass(request.into_inner()).await })
    }
}

impl Forward {
    async fn pass(self, message: Bytes) -> Result<Response<Bytes>, Status> {
        let source = Network::of(self.peer.ip());
        if let Some(wait) = self.broker.bounds.failures.wait(source) {
            // Counted with what the other side has no time for; strangers cause it at will, so that it has no record of its own.
            self.remote.count(Forwarded::Unavailable);
            return Err(not_now(Some(wait)));
        }
        let mut request = Request::new(message);
        if let Ok(peer) = self.peer.to_string().parse() {
            request.metadata_mut().insert(FORWARDED_FOR, peer);
        }
        let answer = self.remote.pass(request, PathAndQuery::from_static(path::ENROL), &self.admitted).await;
        let (outcome, answer) = match answer {
            // Metadata of the answer stays here: the message is all that an enrolling server says.
            Ok(answer) => (Forwarded::Answered, Ok(Response::new(answer))),
            Err(status) => opaque(&status),
        };
        if outcome == Forwarded::Refused {
            self.broker.bounds.failures.charge(source);
        }
        self.remote.count(outcome);
        self.broker.note(Event::EnrolmentForwarded { peer: self.peer, outcome });
        answer
    }
}

/// What the caller hears in place of a status. Of its own the process that enrols says nothing else; what stands between might.
fn opaque(status: &Status) -> (Forwarded, Result<Response<Bytes>, Status>) {
    if status.code() == Code::Unauthenticated {
        return (Forwarded::Refused, Err(refused()));
    }
    let after = status.metadata().get(RETRY_AFTER_MS).and_then(|ms| ms.to_str().ok()?.parse().ok());
    let after = after.map(Duration::from_millis).filter(|after| *after <= RETRY_AFTER_MAX);
    (Forwarded::Unavailable, Err(not_now(after)))
}

/// Takes messages for bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unread;

impl Codec for Unread {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_hear_a_refusal_or_that_nothing_can_be_issued_and_nothing_else() {
        let said = |status: &Status| {
            let (outcome, answer) = opaque(status);
            let heard = answer.unwrap_err();
            (outcome, heard.code(), heard.message().to_owned(), heard.metadata().len())
        };
        let refused = (Forwarded::Refused, Code::Unauthenticated, "enrolment refused".to_owned(), 0);
        assert_eq!(said(&Status::unauthenticated("the token is bound to another key")), refused);
        let unavailable = (Forwarded::Unavailable, Code::Unavailable, "no certificate can be issued now".to_owned(), 0);
        for code in 0..=16 {
            let code = Code::from(code);
            if code != Code::Unauthenticated {
                assert_eq!(said(&Status::new(code, "something about the inside")), unavailable, "{code:?}");
            }
        }
    }

    #[test]
    fn advice_on_when_to_ask_again_is_passed_back_within_a_bound() {
        for (ms, passed) in [("1500", Some("1500")), ("600001", None), ("-1", None), ("soon", None)] {
            let mut status = Status::unavailable("busy");
            status.metadata_mut().insert(RETRY_AFTER_MS, ms.parse().unwrap());
            let heard = opaque(&status).1.unwrap_err();
            let heard = heard.metadata().get(RETRY_AFTER_MS).map(|ms| ms.to_str().unwrap().to_owned());
            assert_eq!(heard.as_deref(), passed, "{ms}");
        }
    }
}
