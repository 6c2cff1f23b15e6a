use bytes::Bytes;
use ginnel_core::stream::Frame;
use ginnel_wire::frame::SessionFrame;
use h2::server::SendResponse;
use tokio::io::duplex;
use tokio::sync::oneshot;

use super::*;

/// A connection to a peer that answers calls and says that it goes away when it is told to.
async fn to_a_peer(leave: oneshot::Receiver<()>) -> Connection {
    let (near, far) = duplex(1 << 16);
    tokio::spawn(async move {
        let mut connection = http2::server().handshake::<_, Piece>(far).await.unwrap();
        let mut leave = Some(leave);
        let mut calls = Vec::new();
        loop {
            tokio::select! {
                told = async { leave.as_mut().unwrap().await }, if leave.is_some() => {
                    leave = told.err().map(|_| unreachable!());
                    connection.graceful_shutdown();
                }
                call = connection.accept() => {
                    let Some(Ok((request, mut respond))) = call else { return };
                    let respond: &mut SendResponse<Piece> = &mut respond;
                    let mut answer = respond.send_response(Response::new(()), false).unwrap();
                    // Every byte comes back.
                    calls.push(tokio::spawn(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(bytes)) = body.data().await {
                            answer.send_data(bytes.into(), false).unwrap();
                        }
                    }));
                }
            }
        }
    });
    let (requests, connection) = http2::client().handshake(near).await.unwrap();
    let closed = CancellationToken::new();
    let on_close = closed.clone().drop_guard();
    tokio::spawn(async move {
        let _on_close = on_close;
        let _ = connection.await;
    });
    let (budget, crowd) = (Budget::default(), Crowd::default());
    Connection { requests, origin: Uri::from_static("https://server/"), closed, budget, crowd }
}

async fn echoes(session: &mut (FrameReader, FrameWriter), offset: u64) {
    let frame = SessionFrame::Stream(Frame::Data { offset, bytes: Bytes::from_static(b"x") });
    let mut piece = Piece::default();
    piece.push(frame.clone());
    session.1.ready().await.unwrap().send(piece);
    assert_eq!(session.0.next().await.unwrap(), Some(frame));
}

#[tokio::test]
async fn a_peer_that_goes_away_gets_no_more_sessions_and_keeps_those_that_it_has() {
    let (leave, told) = oneshot::channel();
    let connection = to_a_peer(told).await;
    let mut session = connection.call("/ginnel.v1.ClientLink/Open");
    echoes(&mut session, 0).await;
    assert!(connection.takes_sessions());
    leave.send(()).unwrap();
    timeout(Duration::from_secs(20), connection.going_away()).await.expect("it says so");
    assert!(!connection.takes_sessions());
    assert!(!connection.is_closed());
    echoes(&mut session, 1).await;
}
