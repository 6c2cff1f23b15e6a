//! What comes from a peer: gRPC framing and the messages in it.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use ginnel_core::balancer::{self, HEADER_MAX, Origin, Progress};
use ginnel_core::cause::Cause;
use ginnel_core::stream::Frame;
use ginnel_wire::frame::{SessionFrame, WireError};
use ginnel_wire::grpc::{Decoder, FramingError};
use ginnel_wire::hello::{Dial, Hello, PROTOCOL_VERSIONS, RosterEntry};
use ginnel_wire::inner::{self, InnerHello};
use ginnel_wire::v1;
use prost::Message;

/// Bound of the messages in [`grpc_framing`]; small, so that short inputs reach it.
const MESSAGE_MAX: usize = 256;

/// Headers of the PROXY protocol: no byte too many is asked for, what is wrong stays wrong, and a peer has one spelling.
pub fn balancer_header(data: &[u8]) {
    let mut at = 0;
    loop {
        let begun = &data[..at.min(data.len())];
        match balancer::read(begun) {
            Ok(Progress::Needs(more)) => {
                assert!(more > begun.len() && more <= HEADER_MAX, "{more} after {}", begun.len());
                if more > data.len() {
                    // The end of the input: the rest would decide, or is wrong already and only shows in more bytes.
                    return;
                }
                at = more;
            }
            Ok(Progress::Done(origin)) => {
                assert_eq!(balancer::read(data), Ok(Progress::Done(origin)), "what follows a header is no part of it");
                if let Origin::Peer(peer) = origin {
                    assert_eq!(peer.ip(), peer.ip().to_canonical());
                    assert_eq!(data[13] >> 4, if peer.is_ipv4() && data[13] != 0x21 { 1 } else { 2 });
                }
                return;
            }
            Err(error) => {
                assert_eq!(balancer::read(data), Err(error), "a wrong beginning does not become right");
                return;
            }
        }
    }
}

/// Frames of a session: what is read is written alike, and a failure never calls itself a clean end.
pub fn session_frame(data: &[u8]) {
    let Ok(message) = v1::Frame::decode(data) else { return };
    let Ok(frame) = SessionFrame::try_from(message) else { return };
    match &frame {
        SessionFrame::Refused(refusal) => assert_ne!(refusal.cause, Cause::Finished),
        SessionFrame::Stream(Frame::Reset { cause, hop: _ }) => assert_ne!(*cause, Cause::Finished),
        SessionFrame::Stream(Frame::Data { bytes, .. }) => assert!(bytes.len() <= data.len()),
        SessionFrame::Open(_) | SessionFrame::Opened(_) | SessionFrame::Take(_) | SessionFrame::Stream(_) => {}
    }
    let mut body = BytesMut::new();
    frame.clone().encode(&mut body);
    let mut decoder = Decoder::new(body.len());
    decoder.put(body.freeze());
    let read = decoder.next_message::<v1::Frame>().unwrap().expect("a whole message");
    assert_eq!(SessionFrame::try_from(read), Ok(frame));
    assert!(matches!(decoder.next_message::<v1::Frame>(), Ok(None)));
}

/// The messages of the control streams, one after the other on the same bytes.
pub fn control_messages(data: &[u8]) {
    if let Some(hello) = reads_back::<v1::Hello, Hello>(data) {
        assert!(hello.software_version.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    reads_back::<v1::Dial, Dial>(data);
    if let Some(entry) = reads_back::<v1::RosterEntry, RosterEntry>(data) {
        let count = entry.instances.len();
        assert_eq!(entry.into_entry().processes.len(), count);
    }
}

fn reads_back<M, T>(data: &[u8]) -> Option<T>
where
    M: Message + Default + From<T>,
    T: TryFrom<M, Error = WireError> + Clone + Debug + PartialEq,
{
    let value = T::try_from(M::decode(data).ok()?).ok()?;
    let again = M::from(value.clone()).encode_to_vec();
    assert_eq!(T::try_from(M::decode(&again[..]).unwrap()).as_ref(), Ok(&value));
    Some(value)
}

/// The first messages inside: what the client repeats reads back.
pub fn inner_hello(data: &[u8]) {
    if let Ok(hello) = InnerHello::decode(data) {
        let again = hello.encode();
        let (length, message) = again.split_first_chunk::<2>().expect("a length");
        assert_eq!(usize::from(u16::from_be_bytes(*length)), message.len());
        assert!(message.len() <= inner::MESSAGE_MAX);
        assert_eq!(InnerHello::decode(message), Ok(hello));
    }
    if inner::decode_welcome(data).is_ok() {
        let version = v1::InnerWelcome::decode(data).map(|welcome| welcome.protocol_version);
        assert!(version.is_ok_and(|version| PROTOCOL_VERSIONS.contains(&version)));
    }
}

/// gRPC framing: the first byte says how the rest is cut, and no cut changes what is read.
pub fn grpc_framing(data: &[u8]) {
    let Some((&cut, body)) = data.split_first() else { return };
    let whole = messages(body, body.len().max(1));
    let cut = messages(body, usize::from(cut).max(1));
    assert_eq!(whole, cut);
    assert!(whole.0.iter().all(|message| message.len() <= MESSAGE_MAX));
}

/// The messages that could be read, in an encoding of our own, and how reading ended.
fn messages(body: &[u8], piece: usize) -> (Vec<Vec<u8>>, &'static str) {
    let mut decoder = Decoder::new(MESSAGE_MAX);
    let mut read = Vec::new();
    for piece in body.chunks(piece) {
        decoder.put(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_message::<v1::Data>() {
                Ok(Some(message)) => read.push(message.encode_to_vec()),
                Ok(None) => break,
                Err(FramingError::Compressed) => return (read, "compressed"),
                Err(FramingError::Message(_)) => return (read, "message"),
                Err(FramingError::TooLong { claimed, allowed }) => {
                    assert!(claimed > allowed && allowed == MESSAGE_MAX);
                    return (read, "too long");
                }
            }
        }
    }
    (read, "more")
}
