use std::time::Duration;

use bytes::Bytes;
use ginnel_core::cause::Cause;
use ginnel_core::limits::{DATA_MAX, DATA_SHARED_MAX};
use ginnel_core::stream;
use tokio::time::timeout;

use super::*;
use pair::{RawCaller, before_raw_server, encoded, pair, pair_with_pause, soon};

pub(crate) mod pair;

fn data(offset: u64, bytes: &'static [u8]) -> SessionFrame {
    SessionFrame::Stream(stream::Frame::Data { offset, bytes: Bytes::from_static(bytes) })
}

async fn write(writer: &mut FrameWriter, frame: SessionFrame) {
    soon(writer.ready()).await.unwrap().send(encoded([frame]).into());
}

#[tokio::test]
async fn frames_arrive_both_ways_and_each_way_ends_by_itself() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut answer, mut request) = caller.call();
    write(&mut request, data(0, b"there")).await;
    let (mut received, mut response) = callee.accept().await;
    assert_eq!(soon(received.next()).await.unwrap(), Some(data(0, b"there")));
    request.end();
    assert_eq!(soon(received.next()).await.unwrap(), None);
    write(&mut response, data(0, b"back")).await;
    assert_eq!(soon(answer.next()).await.unwrap(), Some(data(0, b"back")));
    response.end();
    assert_eq!(soon(answer.next()).await.unwrap(), None);
}

#[tokio::test]
async fn frames_are_smaller_while_several_sessions_of_a_connection_wait_for_room() {
    // What is written stays where it is: nothing passes the connection.
    let (caller, _callee, _cable) = pair_with_pause(Duration::ZERO..Duration::from_secs(60)).await;
    let ((_, mut one), (_, mut other)) = (caller.call(), caller.call());
    fill(&mut one).await;
    assert_eq!((one.data_max(), other.data_max()), (DATA_MAX, DATA_SHARED_MAX));
    fill(&mut other).await;
    assert_eq!((one.data_max(), other.data_max()), (DATA_SHARED_MAX, DATA_SHARED_MAX));
    drop(other);
    assert_eq!(one.data_max(), DATA_MAX);
}

/// Writes until there is no room.
async fn fill(writer: &mut FrameWriter) {
    let bytes = Bytes::from(vec![7; DATA_MAX]);
    while timeout(Duration::from_millis(200), writer.ready()).await.is_ok() {
        let frame = SessionFrame::Stream(stream::Frame::Data { offset: 0, bytes: bytes.clone() });
        writer.send(encoded([frame]).into());
    }
}

#[tokio::test]
async fn the_first_frames_do_not_wait_for_the_response() {
    let (_caller, (mut answer, mut request), mut raw) = before_raw_server(Response::new(())).await;
    write(&mut request, data(0, b"early")).await;
    raw.send([data(0, b"answer")]);
    assert_eq!(soon(answer.next()).await.unwrap(), Some(data(0, b"answer")));
}

#[tokio::test]
async fn a_body_that_is_dropped_without_its_end_is_no_clean_end() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut answer, request) = caller.call();
    let (mut received, response) = callee.accept().await;
    drop(request);
    assert!(matches!(soon(received.next()).await, Err(ReadError::Broken(_))));
    drop(response);
    assert!(matches!(soon(answer.next()).await, Err(ReadError::Broken(_))));
}

#[tokio::test]
async fn nobody_writes_into_a_stream_that_is_gone() {
    let (caller, mut callee, cable) = pair().await;
    let (_answer, request) = caller.call();
    let (_received, response) = callee.accept().await;
    cable.cut();
    for mut writer in [request, response] {
        soon(async {
            while writer.ready().await.is_ok() {
                yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_no_frame_is_an_error_at_the_reader() {
    let unknown_kind = [0, 0, 0, 0, 2, 0x7a, 0];
    let too_long = [0, 0xff, 0, 0, 0];
    let compressed = [1, 0, 0, 0, 1, 0];
    let garbage = [0, 0, 0, 0, 1, 0xff];
    for bytes in [&unknown_kind[..], &too_long, &compressed, &garbage] {
        let (caller, mut callee) = RawCaller::new().await;
        let (_response, mut raw) = caller.call().await;
        raw.send.send_data(Bytes::copy_from_slice(bytes), false).unwrap();
        let (mut received, _response) = callee.accept().await;
        let error = soon(received.next()).await.unwrap_err();
        assert!(matches!(error, ReadError::Framing(_) | ReadError::Frame(_)), "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn waiting_for_last_words_to_leave_takes_no_room_from_others() {
    // Its windows are those that HTTP/2 begins with, smaller than what may wait in a stream.
    let (caller, mut callee) = RawCaller::new().await;
    let (_response, _raw) = caller.call().await;
    let (_received, mut one) = callee.accept().await;
    let (_response, _raw) = caller.call().await;
    let (_received, mut other) = callee.accept().await;
    let mut reset = Piece::default();
    reset.push(SessionFrame::Stream(stream::Frame::Reset { cause: Cause::Reset, hop: None }));
    soon(one.ready()).await.unwrap().send(reset);
    soon(poll_fn(|cx| one.poll_left(cx))).await;
    soon(poll_fn(|cx| one.poll_left(cx))).await;
    soon(other.ready()).await.unwrap();
}

#[tokio::test]
async fn half_a_frame_is_no_frame() {
    let (caller, mut callee) = RawCaller::new().await;
    let (_response, mut raw) = caller.call().await;
    let reset = encoded([SessionFrame::Stream(stream::Frame::Reset { cause: Cause::Reset, hop: None })]);
    raw.send.send_data(reset.slice(..reset.len() - 1), true).unwrap();
    let (mut received, _response) = callee.accept().await;
    assert_eq!(soon(received.next()).await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_that_is_no_stream_says_what_it_is() {
    for (http, grpc) in [(404, None), (200, Some("7")), (503, Some("14")), (302, Some("0"))] {
        let mut answer = Response::builder().status(http);
        if let Some(grpc) = grpc {
            answer = answer.header("grpc-status", grpc);
        }
        let (_caller, (mut reader, _request), _raw) = before_raw_server(answer.body(()).unwrap()).await;
        let error = soon(reader.next()).await.unwrap_err();
        let ReadError::Status { http: told, grpc: status } = error else { panic!("{error}") };
        assert_eq!((told, status.as_deref()), (http, grpc));
    }
}
