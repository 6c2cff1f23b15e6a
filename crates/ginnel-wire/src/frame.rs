//! The frames of `Open` and `Carry` as types that cannot be wrong.

use std::net::SocketAddr;

use bytes::BytesMut;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{InstanceId, RequestId, SessionId};
use ginnel_core::principal::Principal;
use ginnel_core::stream::Frame;

use crate::grpc;
use crate::v1;

/// What a session's stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionFrame {
    /// A client wants a session.
    Open(Open),
    /// The target is connected at this address.
    Opened(SocketAddr),
    /// There will be no session.
    Refused(Refusal),
    /// Bytes, credit and endings.
    Stream(Frame),
    /// An agent takes up the session of this id.
    Take(SessionId),
}

/// A client's wish for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The request of the application.
    pub request: RequestId,
    /// `host:port` as the client wrote it: a target that does not parse is the server's to refuse, with a record.
    pub target: String,
    /// The agent that the client chose from its roster.
    pub agent: Option<Choice>,
    /// Whether the client speaks inner TLS on this session.
    pub inner_tls: bool,
}

/// One agent process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who it is.
    pub principal: Principal,
    /// Which process of that principal.
    pub instance: InstanceId,
}

/// A frame or message that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field does not have its form.
    #[error("field {0} is malformed")]
    Field(&'static str),
    /// A message without the kind that it must have: empty, or of a version that was not negotiated.
    #[error("message of an unknown kind")]
    Kind,
}

impl TryFrom<v1::Frame> for SessionFrame {
    type Error = WireError;

    fn try_from(frame: v1::Frame) -> Result<Self, WireError> {
        use v1::frame::Kind;
        Ok(match frame.kind.ok_or(WireError::Kind)? {
            Kind::Data(v1::Data { offset, bytes }) => Self::Stream(Frame::Data { offset, bytes }),
            Kind::Credit(v1::Credit { consumed, limit }) => Self::Stream(Frame::Credit { consumed, limit }),
            Kind::Fin(v1::Fin { offset }) => Self::Stream(Frame::Fin { offset }),
            Kind::Reset(v1::Reset { cause, hop }) => {
                // A hop that only a newer peer knows is as good as none: the session is over either way, and the cause counts.
                let hop = hop_from_number(hop);
                Self::Stream(Frame::Reset { cause: cause_of_failure(cause, "reset.cause")?, hop })
            }
            Kind::Open(open) => Self::Open(open.try_into()?),
            Kind::Opened(v1::Opened { address }) => {
                Self::Opened(address.parse().map_err(|_| WireError::Field("opened.address"))?)
            }
            Kind::Refused(v1::Refused { cause, hop }) => {
                let hop = hop_from_number(hop).ok_or(WireError::Field("refused.hop"))?;
                Self::Refused(Refusal::new(hop, cause_of_failure(cause, "refused.cause")?))
            }
            Kind::Take(v1::Take { session_id }) => {
                Self::Take(SessionId::from_bytes(&session_id).map_err(|_| WireError::Field("take.session_id"))?)
            }
        })
    }
}

impl From<SessionFrame> for v1::Frame {
    fn from(frame: SessionFrame) -> Self {
        use v1::frame::Kind;
        let kind = match frame {
            SessionFrame::Stream(Frame::Data { offset, bytes }) => Kind::Data(v1::Data { offset, bytes }),
            SessionFrame::Stream(Frame::Credit { consumed, limit }) => Kind::Credit(v1::Credit { consumed, limit }),
            SessionFrame::Stream(Frame::Fin { offset }) => Kind::Fin(v1::Fin { offset }),
            SessionFrame::Stream(Frame::Reset { cause, hop }) => {
                Kind::Reset(v1::Reset { cause: cause.number(), hop: hop.map_or(HOP_NOT_SAID, hop_number) })
            }
            SessionFrame::Open(open) => Kind::Open(open.into()),
            SessionFrame::Opened(address) => Kind::Opened(v1::Opened { address: address.to_string() }),
            SessionFrame::Refused(Refusal { hop, cause }) => {
                Kind::Refused(v1::Refused { cause: cause.number(), hop: hop_number(hop) })
            }
            SessionFrame::Take(id) => Kind::Take(v1::Take { session_id: id.to_bytes().to_vec() }),
        };
        Self { kind: Some(kind) }
    }
}

impl SessionFrame {
    /// Appends the frame in gRPC framing.
    pub fn encode(self, into: &mut BytesMut) {
        grpc::encode(&v1::Frame::from(self), into);
    }
}

impl TryFrom<v1::Open> for Open {
    type Error = WireError;

    fn try_from(open: v1::Open) -> Result<Self, WireError> {
        let agent = if open.agent.is_empty() && open.agent_instance.is_empty() {
            None
        } else {
            Some(Choice {
                principal: open.agent.parse().map_err(|_| WireError::Field("open.agent"))?,
                instance: InstanceId::from_bytes(&open.agent_instance)
                    .map_err(|_| WireError::Field("open.agent_instance"))?,
            })
        };
        Ok(Self {
            request: RequestId::from_bytes(&open.request_id).map_err(|_| WireError::Field("open.request_id"))?,
            target: open.target,
            agent,
            inner_tls: open.inner_tls,
        })
    }
}

impl From<Open> for v1::Open {
    fn from(open: Open) -> Self {
        let (agent, agent_instance) = match open.agent {
            None => (String::new(), Vec::new()),
            Some(choice) => (choice.principal.to_string(), choice.instance.to_bytes().to_vec()),
        };
        Self {
            request_id: open.request.to_bytes().to_vec(),
            target: open.target,
            agent,
            agent_instance,
            inner_tls: open.inner_tls,
        }
    }
}

/// Upper half of the HTTP/2 error codes that stand for a reset of a session, well away from those of RFC 9113, section 7.
const RESET_CODES: u32 = 0x6767_0000;

/// The HTTP/2 error code that says the same as a `Reset` frame. As a frame it would wait behind everything that its stream has queued.
pub fn reset_code(cause: Cause, hop: Option<Hop>) -> u32 {
    RESET_CODES | hop.map_or(0, hop_number) << 8 | (cause.number() & 0xff)
}

/// The `Reset` frame that an HTTP/2 error code stands for, if it stands for one.
pub fn reset_from_code(code: u32) -> Option<SessionFrame> {
    if code & 0xffff_0000 != RESET_CODES {
        return None;
    }
    let cause = cause_of_failure(code & 0xff, "reset").ok()?;
    Some(SessionFrame::Stream(Frame::Reset { cause, hop: hop_from_number(code >> 8 & 0xff) }))
}

/// A reset or refusal that calls itself a clean end is a lie.
fn cause_of_failure(number: u32, field: &'static str) -> Result<Cause, WireError> {
    let cause = Cause::from_number(number);
    if cause == Cause::Finished { Err(WireError::Field(field)) } else { Ok(cause) }
}

/// The hop of a reset that names none, as every field that is left out.
const HOP_NOT_SAID: u32 = 0;

fn hop_number(hop: Hop) -> u32 {
    match hop {
        Hop::Application => 1,
        Hop::Client => 2,
        Hop::Server => 3,
        Hop::Agent => 4,
        Hop::Target => 5,
    }
}

fn hop_from_number(number: u32) -> Option<Hop> {
    [Hop::Application, Hop::Client, Hop::Server, Hop::Agent, Hop::Target]
        .into_iter()
        .find(|&hop| hop_number(hop) == number)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::grpc::Decoder;

    #[test]
    fn every_frame_reads_back() {
        let request = RequestId::from_bytes(&[1; 16]).unwrap();
        let instance = InstanceId::from_bytes(&[2; 16]).unwrap();
        let principal: Principal = "spiffe://acme.example/agent/acme".parse().unwrap();
        let target = "gitlab.acme.internal:443".to_owned();
        let frames = [
            SessionFrame::Open(Open { request, target: target.clone(), agent: None, inner_tls: false }),
            SessionFrame::Open(Open { request, target, agent: Some(Choice { principal, instance }), inner_tls: true }),
            SessionFrame::Opened("[fd00::7]:443".parse().unwrap()),
            SessionFrame::Refused(Refusal::new(Hop::Agent, Cause::NotOnAllowList)),
            SessionFrame::Take(SessionId::from_bytes(&[3; 16]).unwrap()),
            SessionFrame::Stream(Frame::Data { offset: u64::MAX, bytes: Bytes::from_static(b"x") }),
            SessionFrame::Stream(Frame::Credit { consumed: 1, limit: 2 }),
            SessionFrame::Stream(Frame::Fin { offset: 7 }),
            SessionFrame::Stream(Frame::Reset { cause: Cause::Reset, hop: None }),
            SessionFrame::Stream(Frame::Reset { cause: Cause::ShuttingDown, hop: Some(Hop::Agent) }),
        ];
        let mut body = BytesMut::new();
        for frame in &frames {
            frame.clone().encode(&mut body);
        }
        let mut decoder = Decoder::new(4096);
        decoder.put(body.freeze());
        for frame in frames {
            let read = decoder.next_message::<v1::Frame>().unwrap().unwrap();
            assert_eq!(SessionFrame::try_from(read), Ok(frame));
        }
    }

    #[test]
    fn a_reset_names_its_hop_or_none() {
        let hops = [
            (0, None),
            (1, Some(Hop::Application)),
            (2, Some(Hop::Client)),
            (3, Some(Hop::Server)),
            (4, Some(Hop::Agent)),
            (5, Some(Hop::Target)),
        ];
        let cause = Cause::EndedByOperator;
        for (number, hop) in hops {
            let wire =
                v1::Frame { kind: Some(v1::frame::Kind::Reset(v1::Reset { cause: cause.number(), hop: number })) };
            let frame = SessionFrame::Stream(Frame::Reset { cause, hop });
            assert_eq!(SessionFrame::try_from(wire.clone()), Ok(frame.clone()));
            assert_eq!(v1::Frame::from(frame), wire);
        }
    }

    #[test]
    fn a_reset_of_another_version_keeps_its_cause() {
        // The cause alone, as a version says it that knows no hop; then hops that no version has.
        let cause = Cause::EndedByOperator;
        let number = u8::try_from(cause.number()).unwrap();
        for body in [vec![0x08, number], vec![0x08, number, 0x10, 6], vec![0x08, number, 0x10, 0xff, 0x7f]] {
            let reset = v1::Reset::decode(&body[..]).unwrap();
            let wire = v1::Frame { kind: Some(v1::frame::Kind::Reset(reset)) };
            let frame = SessionFrame::Stream(Frame::Reset { cause, hop: None });
            assert_eq!(SessionFrame::try_from(wire), Ok(frame), "{body:?}");
        }
    }

    #[test]
    fn malformed_fields_are_named() {
        use v1::frame::Kind;
        let open = v1::Open { request_id: vec![0; 16], ..v1::Open::default() };
        let cases = [
            (None, WireError::Kind),
            (Some(Kind::Open(v1::Open::default())), WireError::Field("open.request_id")),
            (Some(Kind::Open(v1::Open { agent: "x".into(), ..open.clone() })), WireError::Field("open.agent")),
            (Some(Kind::Open(v1::Open { agent_instance: vec![1], ..open })), WireError::Field("open.agent")),
            (Some(Kind::Opened(v1::Opened { address: "localhost:1".into() })), WireError::Field("opened.address")),
            (Some(Kind::Refused(v1::Refused { cause: 2, hop: 9 })), WireError::Field("refused.hop")),
            (Some(Kind::Refused(v1::Refused { cause: 1, hop: 4 })), WireError::Field("refused.cause")),
            (Some(Kind::Reset(v1::Reset { cause: 1, hop: 4 })), WireError::Field("reset.cause")),
            (Some(Kind::Take(v1::Take { session_id: vec![0; 15] })), WireError::Field("take.session_id")),
        ];
        for (kind, error) in cases {
            assert_eq!(SessionFrame::try_from(v1::Frame { kind }), Err(error));
        }
    }

    #[test]
    fn a_reset_reads_back_from_its_code_and_no_other_code_is_one() {
        for &cause in Cause::ALL.iter().filter(|&&cause| cause != Cause::Finished) {
            for hop in [None, Some(Hop::Application), Some(Hop::Target)] {
                let frame = SessionFrame::Stream(Frame::Reset { cause, hop });
                assert_eq!(reset_from_code(reset_code(cause, hop)), Some(frame));
            }
        }
        let clean = reset_code(Cause::Finished, None);
        for code in (0..14).chain([0x6766_0002, 0x0002, u32::MAX, clean]) {
            assert_eq!(reset_from_code(code), None, "{code:#x}");
        }
    }

    /// Bytes that are nearly frames: some field of some kind, with any bytes in it.
    fn nearly_frames() -> impl Strategy<Value = Vec<u8>> {
        (1_u8..10, vec((0_u8..64, any::<u8>()), 0..6), vec(any::<u8>(), 0..20)).prop_map(|(kind, fields, rest)| {
            let mut inside: Vec<u8> = fields.into_iter().flat_map(|(tag, value)| [tag, value]).collect();
            inside.extend(rest);
            let length = u8::try_from(inside.len()).unwrap();
            [vec![kind << 3 | 2, length], inside].concat()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_do_harm_and_what_is_read_is_written_alike(bytes in prop_oneof![vec(any::<u8>(), 0..60), nearly_frames()]) {
            if let Ok(message) = v1::Frame::decode(&bytes[..])
                && let Ok(frame) = SessionFrame::try_from(message)
            {
                prop_assert_eq!(SessionFrame::try_from(v1::Frame::from(frame.clone())), Ok(frame));
            }
        }
    }
}
