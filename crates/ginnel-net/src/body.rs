//! Frames on HTTP/2 bodies: the gRPC framing spoken directly, with room for one piece between a session and its connection.
//!
//! The end of a body means nothing by itself: a peer that was cancelled looks like one that finished (some HTTP/2 codes are read as a
//! clean end). Only `Fin` and `Reset` frames say how a session ended. In the same spirit a [`FrameWriter`] that is dropped without
//! [`FrameWriter::end`] resets the HTTP/2 stream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ginnel_core::limits::FRAME_MAX;
use ginnel_wire::frame::{SessionFrame, WireError};
use ginnel_wire::grpc::{Decoder, FramingError};
use ginnel_wire::piece::Piece;
use ginnel_wire::v1;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

#[cfg(test)]
pub(crate) mod tests;

/// Why no more frames can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection or the stream broke (transport).
    #[error("the stream broke off")]
    Broken(#[source] hyper::Error),
    /// The peer's bytes are no frames (peer).
    #[error("the peer broke the framing")]
    Framing(#[source] FramingError),
    /// The peer's frame is malformed (peer).
    #[error("the peer sent a malformed frame")]
    Frame(#[source] WireError),
    /// The peer answered the call with an error instead of a stream (peer).
    #[error("the call was refused with HTTP status {http}, gRPC status {grpc:?}")]
    Status {
        /// HTTP status.
        http: u16,
        /// `grpc-status`, if there was one.
        grpc: Option<String>,
    },
}

/// The response to a call that may not have come yet.
type PendingResponse = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

/// Reads the frames of one body.
pub struct FrameReader {
    source: Source,
    decoder: Decoder,
}

enum Source {
    Pending(PendingResponse),
    Body(Incoming),
}

impl FrameReader {
    /// Reads the request of a call.
    pub fn new(body: Incoming) -> Self {
        Self { source: Source::Body(body), decoder: Decoder::new(FRAME_MAX) }
    }

    /// Reads the response of a call whose headers may still be on their way.
    pub(crate) fn pending(response: PendingResponse) -> Self {
        Self { source: Source::Pending(response), decoder: Decoder::new(FRAME_MAX) }
    }

    /// The next frame; `None` when the body ended, which says nothing about how the session did. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError`]; nothing can be read after one.
    pub async fn next(&mut self) -> Result<Option<SessionFrame>, ReadError> {
        loop {
            if let Some(frame) = self.decoder.next_message::<v1::Frame>().map_err(ReadError::Framing)? {
                return frame.try_into().map(Some).map_err(ReadError::Frame);
            }
            let body = match &mut self.source {
                Source::Body(body) => body,
                Source::Pending(response) => {
                    let response = response.await.map_err(ReadError::Broken)?;
                    self.source = Source::Body(accepted(response)?);
                    continue;
                }
            };
            match body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ReadError::Broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.decoder.put(bytes);
                    }
                }
            }
        }
    }

    /// Reads on to the end of the body and drops what comes.
    pub async fn drain(&mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}

fn accepted(response: Response<Incoming>) -> Result<Incoming, ReadError> {
    let grpc =
        response.headers().get("grpc-status").map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned());
    let fine = grpc.as_deref().is_none_or(|status| status == "0");
    if response.status().is_success() && fine {
        return Ok(response.into_body());
    }
    Err(ReadError::Status { http: response.status().as_u16(), grpc })
}

enum Part {
    Piece(Piece),
    End,
}

/// The body that a [`FrameWriter`] writes.
pub struct FrameBody {
    parts: mpsc::Receiver<Part>,
    ended: bool,
    trailers: Option<HeaderMap>,
}

/// The session went away without ending its body.
#[derive(Debug, thiserror::Error)]
#[error("the session was dropped")]
pub struct Dropped;

impl Body for FrameBody {
    type Data = Piece;
    type Error = Dropped;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Dropped>>> {
        if self.ended {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        self.parts.poll_recv(cx).map(|part| match part {
            Some(Part::Piece(piece)) => Some(Ok(Frame::data(piece))),
            Some(Part::End) => {
                self.ended = true;
                self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))
            }
            None => {
                self.ended = true;
                self.trailers = None;
                Some(Err(Dropped))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.trailers.is_none()
    }
}

/// Writes encoded frames to one body, one piece ahead of the connection.
pub struct FrameWriter {
    parts: mpsc::Sender<Part>,
}

/// The body was dropped: the stream or its connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the stream is gone")]
pub struct Gone;

impl FrameWriter {
    /// The request body of a call.
    pub fn request() -> (Self, FrameBody) {
        Self::with_trailers(None)
    }

    /// The response body of a call, which ends with `grpc-status: 0`.
    pub fn response() -> (Self, FrameBody) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Self::with_trailers(Some(trailers))
    }

    fn with_trailers(trailers: Option<HeaderMap>) -> (Self, FrameBody) {
        let (sender, parts) = mpsc::channel(1);
        (Self { parts: sender }, FrameBody { parts, ended: false, trailers })
    }

    /// Waits for room for one piece. Cancel safe.
    ///
    /// # Errors
    /// [`Gone`] once nobody reads the body any more.
    pub async fn ready(&self) -> Result<Room<'_>, Gone> {
        self.parts.reserve().await.map(Room).map_err(|_| Gone)
    }

    /// Ends the body after everything that was written.
    pub async fn end(self) {
        // A body that is gone has ended already.
        let _ = self.parts.send(Part::End).await;
    }
}

/// Room for one piece.
pub struct Room<'a>(mpsc::Permit<'a, Part>);

impl Room<'_> {
    /// Writes one piece.
    pub fn send(self, piece: Piece) {
        self.0.send(Part::Piece(piece));
    }
}

/// What one side of a call says: a session's frames, or the messages of a generated service.
pub enum CallBody {
    /// The frames of a session.
    Frames(FrameBody),
    /// Messages, or nothing.
    Messages(tonic::body::Body),
}

impl Body for CallBody {
    type Data = Piece;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Self::Error>>> {
        match self.get_mut() {
            Self::Frames(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Messages(body) => {
                Pin::new(body).poll_frame(cx).map_ok(|frame| frame.map_data(Piece::from)).map_err(Into::into)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Frames(body) => body.is_end_stream(),
            Self::Messages(body) => body.is_end_stream(),
        }
    }
}
