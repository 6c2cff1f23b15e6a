//! One call that a client or agent makes, seen from the server.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ginnel_core::limits::{CONNECTION_WINDOW, STREAM_WINDOW};
use ginnel_core::stream::Frame;
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::grpc::Decoder;
use ginnel_wire::v1;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use memchr::memmem;
use prost::Message;

use crate::peer::send_message;
use crate::wait::{SOON, within};

/// Longest message that is read.
const MESSAGE_MAX: usize = 1 << 20;

/// A call, answered with status 200 and nothing else so far.
pub struct Call {
    path: String,
    send: SendStream<Bytes>,
    received: RecvStream,
    decoder: Decoder,
}

/// HTTP/2 with the windows of the real server.
pub(super) fn http2() -> Builder {
    let mut builder = Builder::new();
    builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

impl Call {
    pub(super) fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<Self> {
        let (head, received) = request.into_parts();
        let response = Response::builder().header("content-type", "application/grpc").body(())?;
        let send = respond.send_response(response, false)?;
        Ok(Self { path: head.uri.path().to_owned(), send, received, decoder: Decoder::new(MESSAGE_MAX) })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Says a message.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn say(&mut self, message: &impl Message) -> Result<()> {
        send_message(&mut self.send, message)
    }

    /// Says a frame of a session, even one that no well-behaved server would say.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn say_frame(&mut self, frame: SessionFrame) -> Result<()> {
        self.say(&v1::Frame::from(frame))
    }

    /// Ends this side of the call with the status of success.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn end(&mut self) -> Result<()> {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        Ok(self.send.send_trailers(trailers)?)
    }

    /// Waits for the next message, `None` once the other side has ended or reset the call.
    ///
    /// # Errors
    /// If what comes is not an `M`, or nothing comes in time.
    pub async fn hear<M: Message + Default>(&mut self) -> Result<Option<M>> {
        let path = self.path.clone();
        within(&format!("a message on {path}"), SOON, self.read()).await?
    }

    /// Waits for the next frame of a session, `None` once the other side has ended or reset the call. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If what comes is no such frame.
    pub async fn next(&mut self) -> Result<Option<SessionFrame>> {
        Ok(self.read::<v1::Frame>().await?.map(SessionFrame::try_from).transpose()?)
    }

    /// Takes in everything until the other side ends or resets the call.
    ///
    /// # Errors
    /// As soon as `secret` is among the bytes, and if the other side does not end in time.
    pub async fn to_end(&mut self, secret: &[u8]) -> Result<Vec<SessionFrame>> {
        let read = async {
            let (mut frames, mut bytes_heard) = (Vec::new(), Vec::new());
            while let Some(frame) = self.next().await? {
                if let SessionFrame::Stream(Frame::Data { bytes, .. }) = &frame {
                    bytes_heard.extend_from_slice(bytes);
                    ensure!(memmem::find(&bytes_heard, secret).is_none(), "the secret came in the clear");
                }
                frames.push(frame);
            }
            Ok(frames)
        };
        within("the end of a call", SOON, read).await?
    }

    async fn read<M: Message + Default>(&mut self) -> Result<Option<M>> {
        loop {
            if let Some(message) = self.decoder.next_message().context("reading a message")? {
                return Ok(Some(message));
            }
            let Some(Ok(bytes)) = self.received.data().await else { return Ok(None) };
            self.received.flow_control().release_capacity(bytes.len())?;
            self.decoder.put(bytes);
        }
    }
}
