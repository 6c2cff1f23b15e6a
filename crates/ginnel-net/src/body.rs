//! Frames on HTTP/2 streams: the gRPC framing spoken directly.
//!
//! The end of a stream means nothing by itself, and a reset of it means only that it broke. Only `Fin` and `Reset` frames say how a session
//! ended. In the same spirit a [`FrameWriter`] that is dropped without [`FrameWriter::end`] resets the HTTP/2 stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use ginnel_core::limits::{FRAME_MAX, TURN_FRAMES_MAX, UNSENT_PER_STREAM_MAX};
use ginnel_wire::frame::{SessionFrame, WireError, reset_from_code};
use ginnel_wire::grpc::{Decoder, FramingError};
use ginnel_wire::piece::{Last, Left, Piece};
use ginnel_wire::v1;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use tokio::task::yield_now;

use crate::crowd::{Crowd, Waiting};
pub use crate::http2::Gone;
use crate::http2::poll_room;

#[cfg(test)]
pub(crate) mod tests;

/// Why no more frames can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection or the stream broke (transport).
    #[error("the stream broke off")]
    Broken(#[source] h2::Error),
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

/// Reads the frames that one side of a call says.
pub struct FrameReader {
    source: Source,
    decoder: Decoder,
}

enum Source {
    /// The response may not have come yet.
    Pending(ResponseFuture),
    Body(RecvStream),
    /// The call could not be made.
    Failed(Option<h2::Error>),
}

impl FrameReader {
    /// Reads the request of a call.
    pub(crate) fn new(body: RecvStream) -> Self {
        Self::from(Source::Body(body))
    }

    /// Reads the response of a call, whose headers may still be on their way.
    pub(crate) fn pending(response: ResponseFuture) -> Self {
        Self::from(Source::Pending(response))
    }

    /// Fails.
    pub(crate) fn failed(error: h2::Error) -> Self {
        Self::from(Source::Failed(Some(error)))
    }

    fn from(source: Source) -> Self {
        Self { source, decoder: Decoder::new(FRAME_MAX) }
    }

    /// The next frame; `None` when the stream ended, which says nothing about how the session did. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError`]; nothing can be read after one.
    pub async fn next(&mut self) -> Result<Option<SessionFrame>, ReadError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for [`Self::next`].
    ///
    /// # Errors
    /// [`ReadError`]; nothing can be read after one.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<SessionFrame>, ReadError>> {
        loop {
            if let Some(frame) = self.decoder.next_message::<v1::Frame>().map_err(ReadError::Framing)? {
                return Poll::Ready(frame.try_into().map(Some).map_err(ReadError::Frame));
            }
            let body = match &mut self.source {
                Source::Body(body) => body,
                Source::Pending(response) => {
                    let response = ready!(Pin::new(response).poll(cx)).map_err(ReadError::Broken)?;
                    self.source = Source::Body(accepted(response)?);
                    continue;
                }
                Source::Failed(error) => {
                    return Poll::Ready(error.take().map_or(Ok(None), |error| Err(ReadError::Broken(error))));
                }
            };
            match ready!(body.poll_data(cx)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) => {
                    let said =
                        error.reason().filter(|_| error.is_remote()).and_then(|code| reset_from_code(code.into()));
                    let Some(reset) = said else { return Poll::Ready(Err(ReadError::Broken(error))) };
                    self.source = Source::Failed(None);
                    return Poll::Ready(Ok(Some(reset)));
                }
                Some(Ok(bytes)) => {
                    // Credits bound what a session holds; the window is given back at once. It fails only for more than was received.
                    let _ = body.flow_control().release_capacity(bytes.len());
                    self.decoder.put(bytes);
                }
            }
        }
    }

    /// Reads on to the end of the stream and drops what comes.
    pub async fn drain(&mut self) {
        let mut turn = 0;
        while let Ok(Some(_)) = self.next().await {
            turn += 1;
            if turn % TURN_FRAMES_MAX == 0 {
                yield_now().await;
            }
        }
    }
}

fn accepted(response: Response<RecvStream>) -> Result<RecvStream, ReadError> {
    let grpc =
        response.headers().get("grpc-status").map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned());
    let fine = grpc.as_deref().is_none_or(|status| status == "0");
    if response.status().is_success() && fine {
        return Ok(response.into_body());
    }
    Err(ReadError::Status { http: response.status().as_u16(), grpc })
}

/// Writes frames to one side of a call, a piece ahead of the connection.
pub struct FrameWriter {
    /// None where the call could not be made.
    stream: Option<SendStream<Piece>>,
    waiting: Waiting,
    /// The side that answers ends with a status.
    answers: bool,
    ended: bool,
    /// Bytes that were written.
    sent: usize,
    /// A frame that ends the session's half was written.
    said_last: bool,
    /// The last such frame, while it may still wait to be written.
    leaving: Option<Left>,
}

impl FrameWriter {
    /// Writes the request of a call.
    pub(crate) fn request(stream: SendStream<Piece>, crowd: &Crowd) -> Self {
        let waiting = crowd.enter();
        Self { stream: Some(stream), waiting, answers: false, ended: false, sent: 0, said_last: false, leaving: None }
    }

    /// Writes the response of a call, which ends with `grpc-status: 0`.
    pub(crate) fn response(stream: SendStream<Piece>, crowd: &Crowd) -> Self {
        let waiting = crowd.enter();
        Self { stream: Some(stream), waiting, answers: true, ended: false, sent: 0, said_last: false, leaving: None }
    }

    /// Fails.
    pub(crate) fn gone() -> Self {
        let waiting = Crowd::default().enter();
        Self { stream: None, waiting, answers: false, ended: true, sent: 0, said_last: false, leaving: None }
    }

    /// Waits for room for one piece. Cancel safe.
    ///
    /// # Errors
    /// [`Gone`] once nobody takes what is written any more.
    pub async fn ready(&mut self) -> Result<Room<'_>, Gone> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        Ok(Room(self))
    }

    /// Polls for room for one piece.
    ///
    /// # Errors
    /// [`Gone`] once nobody takes what is written any more.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        match &mut self.stream {
            Some(stream) => {
                let room = poll_room(stream, cx);
                self.waiting.set(room.is_pending());
                room
            }
            None => Poll::Ready(Err(Gone)),
        }
    }

    /// Most bytes of data that the next frame should have.
    pub fn data_max(&self) -> usize {
        self.waiting.data_max()
    }

    /// Writes one piece, for which there is room.
    ///
    /// A reset after many bytes takes back those that are still queued: nobody will read them, and whoever shares the connection would wait for
    /// them. After few it goes as a frame, so that an answer that came just before is not lost, and so it does after a clean end.
    pub fn send(&mut self, mut piece: Piece) {
        let Some(stream) = &mut self.stream else { return };
        match piece.last() {
            Some(Last::Reset(code)) if self.sent > UNSENT_PER_STREAM_MAX && !self.said_last => {
                self.ended = true;
                return stream.send_reset(Reason::from(code));
            }
            Some(Last::Fin | Last::Reset(_)) => {
                self.said_last = true;
                self.leaving = Some(piece.watch());
            }
            None => {}
        }
        self.sent = self.sent.saturating_add(piece.remaining());
        // It fails when the stream is gone, which the next wait for room tells.
        let _ = stream.send_data(piece, false);
    }

    /// Ready when the frame that ends the session's half, and so everything before it, has left the HTTP/2 library or never will; at once where
    /// there is no such frame. Asks for no room: that would be the other calls' room on the connection.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(leaving) = &mut self.leaving {
            ready!(Pin::new(leaving).poll(cx));
            self.leaving = None;
        }
        Poll::Ready(())
    }

    /// Ends this side of the call: after everything that was written, or, where the session was reset, without what many bytes are still queued.
    pub fn end(&mut self) {
        self.waiting.set(false);
        if !std::mem::replace(&mut self.ended, true)
            && let Some(stream) = &mut self.stream
        {
            if self.sent > UNSENT_PER_STREAM_MAX && !self.said_last {
                return stream.send_reset(Reason::CANCEL);
            }
            // A stream that is gone has ended already.
            let _ = if self.answers {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                stream.send_trailers(trailers)
            } else {
                stream.send_data(Piece::default(), true)
            };
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if !self.ended
            && let Some(stream) = &mut self.stream
        {
            stream.send_reset(Reason::CANCEL);
        }
    }
}

/// Room for one piece.
pub struct Room<'a>(&'a mut FrameWriter);

impl Room<'_> {
    /// Most bytes of data that the piece should have.
    pub fn data_max(&self) -> usize {
        self.0.data_max()
    }

    /// Writes one piece.
    pub fn send(self, piece: Piece) {
        self.0.send(piece);
    }
}
