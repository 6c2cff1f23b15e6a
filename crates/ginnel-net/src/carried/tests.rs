//! Sessions over real HTTP/2 connections: what is delivered, and how every ending looks to the application.

use bytes::{Bytes, BytesMut};
use ginnel_core::budget::Budget;
use ginnel_core::id::{RequestId, SessionId};
use ginnel_core::limits::CREDIT_INITIAL;
use ginnel_core::stream::{Frame, Read};
use ginnel_wire::frame::Open;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::*;
use crate::body::tests::pair::{Callee, Caller, pair, pair_with_pause, soon};
use crate::tunnel::reason;

mod cuts;
mod halves;
mod stalls;

fn open() -> SessionFrame {
    let request = RequestId::from_bytes(&[1; 16]).unwrap();
    SessionFrame::Open(Open { request, target: "target.example:22".to_owned(), agent: None, inner_tls: false })
}

fn address() -> SocketAddr {
    "192.0.2.7:22".parse().unwrap()
}

fn data(offset: u64, bytes: &'static [u8]) -> SessionFrame {
    SessionFrame::Stream(Frame::Data { offset, bytes: Bytes::from_static(bytes) })
}

/// Takes a session up at the server's end of a connection, as an agent would at its own.
async fn serving((mut reader, writer): (FrameReader, FrameWriter)) -> Carried {
    assert!(matches!(soon(reader.next()).await, Ok(Some(SessionFrame::Open(_)))));
    Carried::taking(SessionFrame::Opened(address()), reader, writer, Budget::default(), Bytes::new())
}

/// Both ends of a new session on a connection, each with a task of its own: most of these tests do not poll what they do not look at.
pub(crate) async fn session(caller: &Caller, callee: &mut Callee) -> (Carried, Carried) {
    let (reader, writer) = caller.call();
    let mut near = Carried::opening(open(), reader, writer, Budget::default());
    let answers = near.answers();
    let far = async { serving(callee.accept().await).await };
    let (answer, mut far) = soon(async { tokio::join!(answers.answer(), far) }).await;
    assert_eq!(answer, Ok(address()));
    near.tend();
    far.tend();
    (near, far)
}

/// Reads to the end: everything, or why it broke off.
pub(crate) async fn rest(carried: &mut Carried) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    match soon(carried.read_to_end(&mut bytes)).await {
        Ok(_) => Ok(bytes),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            Err(reason(&error))
        }
    }
}

/// Writes until that fails, and says why it did.
async fn writes_until(carried: &mut Carried) -> Refusal {
    soon(async {
        loop {
            if let Err(error) = carried.write(b"x").await {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                return reason(&error);
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Bytes that are not all alike.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    (0_u32..).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).take(len).collect()
}

#[tokio::test]
async fn a_refusal_is_the_answer_and_the_end() {
    let (caller, mut callee, _cable) = pair().await;
    let (reader, writer) = caller.call();
    let mut near = Carried::opening(open(), reader, writer, Budget::default());
    let (_reader, mut writer) = callee.accept().await;
    let refusal = Refusal::new(Hop::Agent, Cause::NotOnAllowList);
    let mut bytes = BytesMut::new();
    SessionFrame::Refused(refusal).encode(&mut bytes);
    soon(writer.ready()).await.unwrap().send(bytes.freeze().into());
    assert_eq!(soon(near.answers().answer()).await, Err(refusal));
    assert_eq!(rest(&mut near).await.unwrap_err().cause, Cause::NotOnAllowList);
}

#[tokio::test]
async fn a_lost_connection_is_an_answer_too() {
    let (caller, mut callee, _cable) = pair().await;
    let (reader, writer) = caller.call();
    let near = Carried::opening(open(), reader, writer, Budget::default());
    let _call = callee.accept().await;
    callee.stop();
    assert_eq!(soon(near.answers().answer()).await, Err(Refusal::new(Hop::Client, Cause::ServerLost)));
}

#[tokio::test]
async fn an_abort_reaches_the_other_end_with_its_cause() {
    let (caller, mut callee, _cable) = pair().await;
    for cause in [Cause::Reset, Cause::CertificateExpired] {
        let (mut near, mut far) = session(&caller, &mut callee).await;
        soon(near.write_all(b"lost on the way")).await.unwrap();
        near.abort(cause);
        assert_eq!(soon(poll_fn(|cx| far.poll_broken(cx))).await.cause, cause);
        assert_eq!(rest(&mut far).await.unwrap_err().cause, cause);
        assert_eq!(rest(&mut near).await.unwrap_err().cause, cause);
        assert_eq!(writes_until(&mut far).await.cause, cause);
    }
}

#[tokio::test]
async fn frames_that_have_no_place_in_a_session_end_it_for_both() {
    let take = SessionFrame::Take(SessionId::from_bytes(&[2; 16]).unwrap());
    let refused = SessionFrame::Refused(Refusal::new(Hop::Agent, Cause::Overloaded));
    let gap = data(100, b"too far");
    for frame in [open(), take, SessionFrame::Opened(address()), refused, gap] {
        let (caller, mut callee, _cable) = pair().await;
        let (mut near, mut far) = session(&caller, &mut callee).await;
        near.answers().say(frame.clone());
        assert_eq!(rest(&mut far).await.unwrap_err().cause, Cause::ProtocolError, "{frame:?}");
        assert_eq!(rest(&mut near).await.unwrap_err().cause, Cause::ProtocolError, "{frame:?}");
    }
}
