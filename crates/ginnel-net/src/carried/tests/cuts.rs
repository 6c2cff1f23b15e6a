//! Every way in which HTTP/2 lets a peer stop, none of which is an end.

use bytes::Bytes;
use ginnel_core::budget::Budget;
use ginnel_core::stream::Frame;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};

use super::*;
use crate::body::tests::pair::{Raw, RawCaller, before_raw_server, encoded};

#[derive(Clone, Copy, Debug)]
enum Cut {
    /// `RST_STREAM` with this code.
    Code(Reason),
    /// `END_STREAM`, but no word on how the session ended.
    End,
    /// Trailers that claim success.
    Trailers,
    /// `END_STREAM` in the middle of a `Fin`.
    HalfFin,
    /// The connection is gone.
    Connection,
}

fn cuts() -> impl Iterator<Item = Cut> {
    let codes = (0..14).map(|code| Cut::Code(Reason::from(code)));
    codes.chain([Cut::End, Cut::Trailers, Cut::HalfFin, Cut::Connection])
}

fn fin(offset: u64) -> SessionFrame {
    SessionFrame::Stream(Frame::Fin { offset })
}

fn cut_off(raw: &mut Raw, cut: Cut) {
    match cut {
        Cut::Code(reason) => raw.send.send_reset(reason),
        Cut::End => raw.send.send_data(Bytes::new(), true).unwrap(),
        Cut::Trailers => {
            let ok =
                HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
            raw.send.send_trailers(ok).unwrap();
        }
        Cut::HalfFin => {
            let fin = encoded([fin(5)]);
            raw.send.send_data(fin.slice(..fin.len() - 1), true).unwrap();
        }
        Cut::Connection => raw.cut(),
    }
}

async fn read_five(carried: &mut Carried) {
    soon(carried.read_exact(&mut [0; 5])).await.unwrap();
}

#[tokio::test]
async fn no_cut_by_the_server_reads_as_an_end() {
    for cut in cuts() {
        let (_caller, (reader, writer), mut raw) = before_raw_server(Response::new(())).await;
        let mut near = Carried::opening(open(), reader, writer, Budget::default());
        raw.send([SessionFrame::Opened(address()), data(0, b"hello")]);
        read_five(&mut near).await;
        cut_off(&mut raw, cut);
        assert_eq!(rest(&mut near).await, Err(Refusal::new(Hop::Client, Cause::ServerLost)), "{cut:?}");
        assert!(soon(near.write(b"x")).await.is_err(), "{cut:?}");
    }
}

#[tokio::test]
async fn no_cut_by_the_caller_reads_as_an_end() {
    for cut in cuts() {
        let (caller, mut callee) = RawCaller::new().await;
        let (_response, mut raw) = caller.call().await;
        raw.send([open(), data(0, b"hello")]);
        let mut far = serving(callee.accept().await).await;
        read_five(&mut far).await;
        cut_off(&mut raw, cut);
        assert_eq!(rest(&mut far).await.unwrap_err().cause, Cause::ServerLost, "{cut:?}");
        assert!(soon(far.write(b"x")).await.is_err(), "{cut:?}");
    }
}

#[tokio::test]
async fn what_had_ended_whole_before_the_cut_stays_whole() {
    for cut in cuts() {
        let (caller, mut callee) = RawCaller::new().await;
        let (_response, mut raw) = caller.call().await;
        raw.send([open(), data(0, b"hello"), fin(5)]);
        let mut far = serving(callee.accept().await).await;
        read_five(&mut far).await;
        assert_eq!(rest(&mut far).await, Ok(vec![]), "{cut:?}");
        cut_off(&mut raw, cut);
        assert_eq!(writes_until(&mut far).await.cause, Cause::ServerLost, "{cut:?}");
        assert_eq!(rest(&mut far).await, Ok(vec![]), "{cut:?}");
    }
}

#[tokio::test]
async fn a_lost_connection_resets_both_ends() {
    for stop_server in [true, false] {
        let (caller, mut callee, cable) = pair().await;
        let (mut near, mut far) = session(&caller, &mut callee).await;
        soon(near.write_all(b"hello")).await.unwrap();
        read_five(&mut far).await;
        if stop_server {
            callee.stop()
        } else {
            cable.cut()
        }
        for end in [&mut near, &mut far] {
            assert_eq!(rest(end).await.unwrap_err().cause, Cause::ServerLost);
        }
    }
}

#[tokio::test]
async fn a_reset_frame_keeps_its_cause_whatever_follows_it() {
    for cut in cuts() {
        let (_caller, (reader, writer), mut raw) = before_raw_server(Response::new(())).await;
        let mut near = Carried::opening(open(), reader, writer, Budget::default());
        let cause = Cause::TimedOut;
        raw.send([SessionFrame::Opened(address()), SessionFrame::Stream(Frame::Reset { cause, hop: None })]);
        assert_eq!(soon(poll_fn(|cx| near.poll_broken(cx))).await.cause, cause);
        cut_off(&mut raw, cut);
        assert_eq!(rest(&mut near).await.unwrap_err().cause, cause, "{cut:?}");
    }
}

#[tokio::test]
async fn a_reset_comes_from_the_hop_that_the_server_names() {
    let of = Refusal::new;
    let lie = of(Hop::Server, Cause::ProtocolError);
    let cases = [
        (Cause::EndedByOperator, Some(Hop::Agent), of(Hop::Agent, Cause::EndedByOperator)),
        (Cause::CertificateExpired, Some(Hop::Client), of(Hop::Client, Cause::CertificateExpired)),
        (Cause::Reset, Some(Hop::Application), of(Hop::Application, Cause::Reset)),
        // Words that only this end can say, from a server that is not honest.
        (Cause::NotOnRoute, Some(Hop::Client), lie),
        (Cause::NotOnRoute, Some(Hop::Agent), lie),
        (Cause::NotOnRoute, None, lie),
        (Cause::PeerNotVerified, Some(Hop::Client), lie),
        // A server that knows no hop in a reset.
        (Cause::EndedByOperator, None, of(Hop::Server, Cause::EndedByOperator)),
        (Cause::AgentLost, None, of(Hop::Agent, Cause::AgentLost)),
        (Cause::Reset, None, of(Hop::Target, Cause::Reset)),
    ];
    for (cause, hop, heard) in cases {
        let (_caller, (reader, writer), mut raw) = before_raw_server(Response::new(())).await;
        let mut near = Carried::opening(open(), reader, writer, Budget::default());
        raw.send([SessionFrame::Opened(address()), SessionFrame::Stream(Frame::Reset { cause, hop })]);
        assert_eq!(soon(poll_fn(|cx| near.poll_broken(cx))).await, heard);
        // Neither the loss that follows nor this end's own reset is to blame.
        raw.cut();
        near.abort(Cause::Aborted);
        assert_eq!(rest(&mut near).await, Err(heard));
    }
}

#[tokio::test]
async fn what_this_end_resets_a_session_for_is_its_own_word() {
    let (_caller, (reader, writer), _raw) = before_raw_server(Response::new(())).await;
    let mut near = Carried::opening(open(), reader, writer, Budget::default());
    near.abort(Cause::NotOnRoute);
    assert_eq!(rest(&mut near).await, Err(Refusal::new(Hop::Client, Cause::NotOnRoute)));
}

#[tokio::test]
async fn a_refusal_in_this_ends_own_name_is_a_lie_of_the_servers() {
    for hop in [Hop::Client, Hop::Server] {
        let (_caller, (reader, writer), mut raw) = before_raw_server(Response::new(())).await;
        let mut near = Carried::opening(open(), reader, writer, Budget::default());
        let answers = near.answers();
        raw.send([SessionFrame::Refused(Refusal::new(hop, Cause::NotOnRoute))]);
        let lie = Refusal::new(Hop::Server, Cause::ProtocolError);
        assert_eq!(soon(answers.answer()).await, Err(lie), "{hop}");
        assert_eq!(rest(&mut near).await, Err(lie), "{hop}");
    }
}

#[tokio::test]
async fn the_last_word_is_heard_by_an_end_that_is_still_writing() {
    // Often enough for either order of the two things that happen at once.
    for round in 0..40 {
        let (_caller, (reader, writer), mut raw) = before_raw_server(Response::new(())).await;
        let mut near = Carried::opening(open(), reader, writer, Budget::default());
        soon(near.write_all(&noise(100_000))).await.unwrap();
        let cause = Cause::TimedOut;
        raw.send([SessionFrame::Opened(address()), SessionFrame::Stream(Frame::Reset { cause, hop: None })]);
        cut_off(&mut raw, Cut::Trailers);
        drop(raw);
        assert_eq!(rest(&mut near).await.unwrap_err().cause, cause, "round {round}");
    }
}
