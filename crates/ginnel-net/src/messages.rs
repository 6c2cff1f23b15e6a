//! The calls of generated services on HTTP/2 streams.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ginnel_wire::piece::Piece;
use h2::{Reason, RecvStream, SendStream};
use http_body::{Body, Frame};
use http_body_util::BodyExt;

use crate::http2::room;

/// What the peer says in one call.
pub(crate) struct Received(pub(crate) RecvStream);

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(cx)) {
            Some(Ok(bytes)) => {
                // It fails only for more than was received.
                let _ = self.0.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => self
                .0
                .poll_trailers(cx)
                .map(|trailers| trailers.transpose().map(|trailers| trailers.map(Frame::trailers))),
        }
    }
}

/// Sends a body to its end. One that fails resets the stream; a peer that resets the stream ends the body.
pub(crate) async fn send(mut body: tonic::body::Body, mut stream: SendStream<Piece>) {
    loop {
        let frame = tokio::select! {
            biased;
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
            frame = body.frame() => frame,
        };
        // Whatever fails below fails because the peer is gone: nobody is left to tell.
        match frame {
            None => {
                let _ = stream.send_data(Piece::default(), true);
                return;
            }
            Some(Err(_)) => return stream.send_reset(Reason::INTERNAL_ERROR),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => {
                    if room(&mut stream).await.is_err() || stream.send_data(bytes.into(), false).is_err() {
                        return;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = stream.send_trailers(trailers);
                        return;
                    }
                }
            },
        }
    }
}
