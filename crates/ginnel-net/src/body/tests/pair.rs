//! Real HTTP/2 connections in memory: the tunnel's own at both ends, or a bare one at the other, which can do what no honest one does.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::piece::Piece;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, copy_bidirectional, duplex};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::body::{FrameReader, FrameWriter};
use crate::crowd::Crowd;
use crate::http2;

const URI: &str = "http://server/ginnel.v1.ClientLink/Open";

/// Waits, but not for ever: a test that hangs should say where.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("happens soon")
}

/// Frames as they travel.
pub(crate) fn encoded(frames: impl IntoIterator<Item = SessionFrame>) -> Bytes {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes.freeze()
}

/// The client's end of a connection.
pub(crate) struct Caller {
    requests: h2::client::SendRequest<Piece>,
    crowd: Crowd,
}

impl Caller {
    async fn new(io: DuplexStream) -> Self {
        let (requests, connection) = http2::client().handshake(io).await.unwrap();
        tokio::spawn(async move {
            // How the connection ends is seen at its streams.
            let _ = connection.await;
        });
        Self { requests, crowd: Crowd::default() }
    }

    pub(crate) fn call(&self) -> (FrameReader, FrameWriter) {
        let request = Request::post(URI).body(()).unwrap();
        match self.requests.clone().send_request(request, false) {
            Ok((response, stream)) => (FrameReader::pending(response), FrameWriter::request(stream, &self.crowd)),
            Err(error) => (FrameReader::failed(error), FrameWriter::gone()),
        }
    }
}

/// The server's end of a connection.
pub(crate) struct Callee {
    calls: mpsc::Receiver<(FrameReader, FrameWriter)>,
    connection: JoinHandle<()>,
}

impl Callee {
    fn new(io: DuplexStream) -> Self {
        let (sender, calls) = mpsc::channel(16);
        let connection = tokio::spawn(async move {
            let mut connection = http2::server().handshake::<_, Piece>(io).await.unwrap();
            let crowd = Crowd::default();
            // How the connection ends is seen at its streams.
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let stream = respond.send_response(Response::new(()), false).unwrap();
                let call = (FrameReader::new(request.into_body()), FrameWriter::response(stream, &crowd));
                sender.send(call).await.expect("somebody accepts");
            }
        });
        Self { calls, connection }
    }

    pub(crate) async fn accept(&mut self) -> (FrameReader, FrameWriter) {
        soon(self.calls.recv()).await.expect("the connection lives")
    }

    /// Ends the server's end, which the client notices by itself.
    pub(crate) fn stop(&self) {
        self.connection.abort();
    }
}

/// What a connection runs over.
pub(crate) struct Cable(JoinHandle<()>);

impl Cable {
    /// Cuts the connection for both ends.
    pub(crate) fn cut(self) {
        self.0.abort();
    }
}

/// The tunnel's own at both ends.
pub(crate) async fn pair() -> (Caller, Callee, Cable) {
    pair_with_pause(Duration::ZERO..Duration::ZERO).await
}

/// The same on a way that lets nothing through in either direction for some time, counted from now.
pub(crate) async fn pair_with_pause(pause: Range<Duration>) -> (Caller, Callee, Cable) {
    let ((near, near_plug), (far_plug, far)) = (duplex(1 << 16), duplex(1 << 16));
    let (mut near_plug, mut far_plug) = (Paused::new(near_plug, &pause), Paused::new(far_plug, &pause));
    let cable = tokio::spawn(async move {
        // Ends when an end does.
        let _ = copy_bidirectional(&mut near_plug, &mut far_plug).await;
    });
    let callee = Callee::new(far);
    (Caller::new(near).await, callee, Cable(cable))
}

/// Reads nothing for some time.
struct Paused {
    inner: DuplexStream,
    from: Instant,
    over: Pin<Box<Sleep>>,
}

impl Paused {
    fn new(inner: DuplexStream, pause: &Range<Duration>) -> Self {
        Self { inner, from: Instant::now() + pause.start, over: Box::pin(sleep(pause.end)) }
    }
}

impl AsyncRead for Paused {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.over.is_elapsed() && Instant::now() >= self.from {
            ready!(self.over.as_mut().poll(cx));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paused {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// One stream of a bare HTTP/2 peer, which can do what no honest one does.
pub(crate) struct Raw {
    pub(crate) send: SendStream<Bytes>,
    _receive: Option<RecvStream>,
    connection: AbortHandle,
}

impl Raw {
    pub(crate) fn send(&mut self, frames: impl IntoIterator<Item = SessionFrame>) {
        self.send.send_data(encoded(frames), false).unwrap();
    }

    /// Cuts the connection.
    pub(crate) fn cut(&self) {
        self.connection.abort();
    }
}

/// A call that a bare server has accepted and answered.
pub(crate) async fn before_raw_server(answer: Response<()>) -> (Caller, (FrameReader, FrameWriter), Raw) {
    let (near, far) = duplex(1 << 16);
    let (sender, mut accepted) = mpsc::channel(1);
    let connection = tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        while let Some(Ok(call)) = connection.accept().await {
            sender.send(call).await.unwrap();
        }
    });
    let caller = Caller::new(near).await;
    let call = caller.call();
    let (request, mut respond) = soon(accepted.recv()).await.unwrap();
    let send = respond.send_response(answer, false).unwrap();
    (caller, call, Raw { send, _receive: Some(request.into_body()), connection: connection.abort_handle() })
}

/// A bare client of a server.
pub(crate) struct RawCaller {
    requests: h2::client::SendRequest<Bytes>,
    connection: AbortHandle,
}

impl RawCaller {
    pub(crate) async fn new() -> (Self, Callee) {
        let (near, far) = duplex(1 << 16);
        let callee = Callee::new(far);
        let (requests, connection) = h2::client::handshake(near).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        (Self { requests, connection: connection.abort_handle() }, callee)
    }

    pub(crate) async fn call(&self) -> (h2::client::ResponseFuture, Raw) {
        let mut requests = soon(self.requests.clone().ready()).await.unwrap();
        let (response, send) = requests.send_request(Request::post(URI).body(()).unwrap(), false).unwrap();
        (response, Raw { send, _receive: None, connection: self.connection.clone() })
    }
}
