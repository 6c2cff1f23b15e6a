//! What an application is told of a refusal.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::RequestId;
use ginnel_core::target::Target;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

/// The cause of a refusal, in the vocabulary of [`Cause`].
pub(crate) const CAUSE: HeaderName = HeaderName::from_static("ginnel-cause");

/// Who refused, in the vocabulary of [`Hop`].
pub(crate) const HOP: HeaderName = HeaderName::from_static("ginnel-hop");

/// The request's id, the same in all logs; on refusals and on successes.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("ginnel-request-id");

/// What to use this port for, for somebody who used it for something else.
const PURPOSE: &str = "This is the proxy port of a Ginnel client. It takes CONNECT host:port, http:// requests in absolute form, and SOCKS 5.";

/// A body that is there as a whole.
pub(super) struct Text(Option<Bytes>);

impl Text {
    /// No bytes at all.
    pub(super) fn empty() -> Self {
        Self(None)
    }
}

/// The status of a refusal: whose fault it is, as far as HTTP has words for it.
pub fn status(cause: Cause) -> StatusCode {
    match cause {
        Cause::Malformed => StatusCode::BAD_REQUEST,
        Cause::NotAllowed
        | Cause::NotOnAllowList
        | Cause::NotOnRoute
        | Cause::AddressForbidden
        | Cause::NotAdmitted
        | Cause::RuleExpired
        | Cause::SourceRefused => StatusCode::FORBIDDEN,
        Cause::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Cause::Unknown
        | Cause::Finished
        | Cause::Reset
        | Cause::AgentLost
        | Cause::ServerLost
        | Cause::NameNotResolved
        | Cause::ConnectionRefused
        | Cause::TargetUnreachable
        | Cause::PeerNotVerified
        | Cause::ProtocolError
        | Cause::Aborted => StatusCode::BAD_GATEWAY,
        Cause::NoLiveAgent
        | Cause::ServerUnreachable
        | Cause::AuditUnavailable
        | Cause::Overloaded
        | Cause::CertificateExpired
        | Cause::ShuttingDown
        | Cause::EnrolmentRefused
        | Cause::EndedByOperator => StatusCode::SERVICE_UNAVAILABLE,
        Cause::TimedOut => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The reply field of SOCKS 5 (RFC 1928, 6) for a refusal.
pub fn reply(cause: Cause) -> u8 {
    match cause {
        Cause::NotAllowed
        | Cause::NotOnAllowList
        | Cause::NotOnRoute
        | Cause::AddressForbidden
        | Cause::NotAdmitted
        | Cause::RuleExpired
        | Cause::SourceRefused => 0x02,
        Cause::NoLiveAgent | Cause::AgentLost | Cause::ServerUnreachable | Cause::ServerLost => 0x03,
        Cause::NameNotResolved | Cause::TargetUnreachable => 0x04,
        Cause::ConnectionRefused => 0x05,
        // "TTL expired" is what clients show as a timeout.
        Cause::TimedOut => 0x06,
        Cause::Unknown
        | Cause::Finished
        | Cause::Reset
        | Cause::Malformed
        | Cause::PeerNotVerified
        | Cause::AuditUnavailable
        | Cause::Overloaded
        | Cause::ProtocolError
        | Cause::Aborted
        | Cause::CertificateExpired
        | Cause::ShuttingDown
        | Cause::EnrolmentRefused
        | Cause::EndedByOperator
        | Cause::Internal => 0x01,
    }
}

/// Answers a request for `target` that was refused.
pub(super) fn refused(refusal: Refusal, target: &Target, id: RequestId) -> Response<Text> {
    let sentence = refusal.cause.sentence();
    answer(refusal, id, format!("{sentence}\nrefused by: {}\ntarget: {target}\nrequest: {id}\n", refusal.hop))
}

/// Answers a request that this port does not take; the connection is closed after it, because the two sides may not agree on where
/// the next request begins.
pub(super) fn malformed(why: &str, id: RequestId) -> Response<Text> {
    let refusal = Refusal::new(Hop::Client, Cause::Malformed);
    let mut response = answer(refusal, id, format!("{PURPOSE}\n{why}\nrequest: {id}\n"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn answer(refusal: Refusal, id: RequestId, text: String) -> Response<Text> {
    let mut response = Response::new(Text(Some(text.into())));
    *response.status_mut() = status(refusal.cause);
    let headers = response.headers_mut();
    headers.insert(CAUSE, HeaderValue::from_static(refusal.cause.as_str()));
    headers.insert(HOP, HeaderValue::from_static(refusal.hop.as_str()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    name(id, headers);
    response
}

/// Adds the request's id.
pub(super) fn name(id: RequestId, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
}

/// A whole answer for a connection that speaks no HTTP/1 that could be answered in the usual way.
pub(super) fn bare(status: StatusCode) -> String {
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{PURPOSE}\n",
        PURPOSE.len() + 1
    )
}

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_a_refusal_in_both_languages() {
        for &cause in Cause::ALL {
            assert!(status(cause).is_client_error() || status(cause).is_server_error(), "{cause}");
            assert!((0x01..=0x06).contains(&reply(cause)), "{cause}");
        }
    }

    #[test]
    fn tells_policy_from_failure() {
        let cases = [
            (Cause::Malformed, 400, 0x01),
            (Cause::NotAllowed, 403, 0x02),
            (Cause::NotOnAllowList, 403, 0x02),
            (Cause::NotOnRoute, 403, 0x02),
            (Cause::AddressForbidden, 403, 0x02),
            (Cause::ConnectionRefused, 502, 0x05),
            (Cause::NameNotResolved, 502, 0x04),
            (Cause::PeerNotVerified, 502, 0x01),
            (Cause::AuditUnavailable, 503, 0x01),
            (Cause::NoLiveAgent, 503, 0x03),
            (Cause::TimedOut, 504, 0x06),
        ];
        for (cause, http, socks) in cases {
            assert_eq!((status(cause).as_u16(), reply(cause)), (http, socks), "{cause}");
        }
    }
}
