//! HTTP/1 from applications: CONNECT, and plain requests in absolute form.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::target::{InvalidTarget, Target};
use ginnel_net::splice::{Ended, Socket};
use ginnel_net::tunnel::Tunnel;
use http::header::{CONNECTION, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug};

use super::answer::{self, Text};
use super::closing::{Closers, linger};
use super::exchange::{Exchange, exchange};
use super::request::Request;
use super::{HEAD_DEADLINE, headers};
use crate::open::Opener;

/// Most bytes of a request's head: four times what browsers and package managers have ever been seen to send.
const HEAD_MAX: usize = 48 * 1024;

/// Most bytes that are buffered in either direction beside the kernel's.
const BUFFER_MAX: usize = 64 * 1024;

/// Serves one connection of an application, request by request, until one of them is a CONNECT that succeeds.
pub(super) async fn serve<O: Opener>(socket: Socket, from: SocketAddr, opener: O, draining: CancellationToken) {
    let front = Front {
        from,
        opener,
        draining,
        connected: Mutex::default(),
        stopped: Mutex::default(),
        closers: Closers::default(),
    };
    let front = Arc::new(front);
    carry(socket, &front).await;
    front.closers.finish().await;
}

type Stopped = Pin<Box<dyn Future<Output = Refusal> + Send>>;

/// What the requests of one connection share.
struct Front<O: Opener> {
    from: SocketAddr,
    opener: O,
    /// From here on the connection ends after the request that it is at.
    draining: CancellationToken,
    /// The session of a CONNECT whose answer may not have been written yet.
    connected: Mutex<Option<(Request, O::Tunnel)>>,
    /// Resolves when the request whose answer is being written is told to end.
    stopped: Mutex<Option<Stopped>>,
    closers: Closers,
}

async fn carry<O: Opener>(socket: Socket, front: &Arc<Front<O>>) {
    let service = {
        let front = Arc::clone(front);
        service_fn(move |message| {
            let front = Arc::clone(&front);
            async move { Ok::<_, Infallible>(front.answer(message).await) }
        })
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_header_size(HEAD_MAX)
        .max_buf_size(BUFFER_MAX)
        .half_close(true)
        .title_case_headers(true)
        .preserve_header_case(true)
        .auto_date_header(false);
    let mut connection = builder.serve_connection(TokioIo::new(Unended(socket.clone())), service);
    let mut draining = false;
    let end = loop {
        tokio::select! {
            biased;
            end = &mut connection => break Some(end),
            () = socket.failed() => break None,
            // An application that has stopped reading gets neither a word nor an end otherwise: nothing more is written to it.
            () = front.told() => break None,
            () = front.draining.cancelled(), if !draining => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let rest = match &end {
        Some(_) => connection.into_parts().read_buf,
        None => {
            drop(connection);
            Bytes::new()
        }
    };
    let connected = front.connected.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (end, connected) {
        (Some(Ok(())), Some((request, tunnel))) => {
            let span = request.span();
            request.carry(socket, rest, tunnel).instrument(span).await;
        }
        (Some(Ok(())), None) => linger(socket).await,
        (Some(Err(error)), None) => give_up(socket, &error, !rest.is_empty()).await,
        (Some(Err(_)) | None, Some((request, mut tunnel))) => {
            let Refusal { hop, cause } = request.told().unwrap_or(Refusal::new(Hop::Application, Cause::Reset));
            tunnel.abort(cause);
            request.ended(Ended { up: 0, down: 0, cause, hop });
        }
        (None, None) => {}
    }
}

/// Ends a connection on which HTTP failed.
async fn give_up(mut socket: Socket, error: &hyper::Error, mid_head: bool) {
    debug!(%error, "the application's connection failed");
    let status = if error.is_parse_version_h2() {
        Some(StatusCode::BAD_REQUEST)
    } else if error.is_timeout() && mid_head {
        Some(StatusCode::REQUEST_TIMEOUT)
    } else {
        None
    };
    if let Some(status) = status {
        let _ = socket.write_all(answer::bare(status).as_bytes()).await;
    }
    // Other parse errors were answered already. Everything else happened in mid answer and is left to end in a reset.
    if error.is_parse() || error.is_timeout() {
        linger(socket).await;
    }
}

/// What a request asks for.
pub(super) enum Asked {
    Connect(Target),
    Plain(Target, HeaderValue),
}

impl<O: Opener> Front<O> {
    async fn answer(&self, message: http::Request<Incoming>) -> Response<Answer<O::Tunnel>> {
        let front = if message.method() == Method::CONNECT { "connect" } else { "http" };
        let request = Request::new(front, self.from, self.opener.ledger());
        let span = request.span();
        async {
            match judge(message.method(), message.uri(), message.version(), message.headers(), message.body()) {
                Ok(Asked::Connect(target)) => self.connect(request, target).await.map(Answer::Text),
                Ok(Asked::Plain(target, host)) => self.exchange(request, target, host, message).await,
                Err(why) => {
                    request.refused(Refusal::new(Hop::Client, Cause::Malformed));
                    answer::malformed(&why, request.id()).map(Answer::Text)
                }
            }
        }
        .instrument(span)
        .await
    }

    async fn connect(&self, request: Request, target: Target) -> Response<Text> {
        match request.open(target.clone(), &self.opener).await {
            Ok(tunnel) => {
                let mut response = Response::new(Text::empty());
                answer::name(request.id(), response.headers_mut());
                self.answers(&request);
                *self.connected.lock().unwrap_or_else(PoisonError::into_inner) = Some((request, tunnel));
                response
            }
            Err(refusal) => answer::refused(refusal, &target, request.id()),
        }
    }

    async fn exchange(
        &self,
        request: Request,
        target: Target,
        host: HeaderValue,
        mut message: http::Request<Incoming>,
    ) -> Response<Answer<O::Tunnel>> {
        let id = request.id();
        let path = message.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *message.uri_mut() = path.into();
        *message.version_mut() = Version::HTTP_11;
        let length = message.body().size_hint().exact();
        headers::for_target(message.headers_mut(), host, length);
        let tunnel = match request.open(target.clone(), &self.opener).await {
            Ok(tunnel) => tunnel,
            Err(refusal) => return answer::refused(refusal, &target, id).map(Answer::Text),
        };
        match exchange(&request, message, tunnel, &self.closers).await {
            Ok(mut response) => {
                *response.version_mut() = Version::HTTP_11;
                headers::for_application(response.headers_mut());
                answer::name(id, response.headers_mut());
                self.answers(&request);
                response.map(|exchange| Answer::Carried(Box::new(exchange)))
            }
            Err(refusal) => {
                let mut response = answer::refused(refusal, &target, id).map(Answer::Text);
                // The request's body may be half read.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }

    /// From here on the answer to this request is being written.
    fn answers(&self, request: &Request) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(request.stopped()));
    }

    /// Resolves when the request whose answer is being written is told to end. Which one that is may change with every poll of the
    /// connection: this is to be polled after it.
    async fn told(&self) {
        poll_fn(|cx| match &mut *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stopped) => stopped.as_mut().poll(cx).map(drop),
            None => Poll::Pending,
        })
        .await;
    }
}

/// Reads what a request asks for, or says in a sentence why it is not for this port.
pub(super) fn judge(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    body: &impl Body,
) -> Result<Asked, String> {
    let authority = uri.authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("A user name in the address is not taken.".to_owned());
    }
    if method == Method::CONNECT {
        let Some(authority) = authority.filter(|_| uri.scheme().is_none() && uri.path_and_query().is_none()) else {
            return Err("CONNECT is followed by host:port and nothing else.".to_owned());
        };
        if !body.is_end_stream() {
            return Err("A CONNECT request has no body.".to_owned());
        }
        return authority.as_str().parse().map(Asked::Connect).map_err(no_target);
    }
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), authority) else {
        return Err("The request is for a web server, not for a proxy: its address is not in absolute form.".to_owned());
    };
    if scheme != "http" {
        return Err("Only http:// is taken in absolute form; https:// goes through CONNECT.".to_owned());
    }
    let target = with_default_port(authority.as_str())?;
    agrees(headers, version, &target)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| "The host is malformed.".to_owned())?;
    Ok(Asked::Plain(target, host))
}

/// Reads an authority of `http://`, where the port may be left out.
fn with_default_port(authority: &str) -> Result<Target, String> {
    // Colons before a bracket belong to an IPv6 address.
    if authority.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
        authority.parse().map_err(no_target)
    } else {
        format!("{authority}:80").parse().map_err(no_target)
    }
}

/// Checks that the `Host` header names the same target. A page that was made to send its own host here by DNS does not get far.
fn agrees(headers: &HeaderMap, version: Version, target: &Target) -> Result<(), String> {
    let mut hosts = headers.get_all(HOST).iter();
    let agree = match (hosts.next(), hosts.next()) {
        (None, _) => version < Version::HTTP_11,
        (Some(host), None) => host.to_str().is_ok_and(|host| with_default_port(host).is_ok_and(|host| host == *target)),
        (Some(_), Some(_)) => false,
    };
    if agree { Ok(()) } else { Err("The Host header does not name the host of the address.".to_owned()) }
}

fn no_target(error: InvalidTarget) -> String {
    format!("The address is not taken: {error}.")
}

/// The body of an answer: our own words or the target's.
enum Answer<T: Tunnel> {
    Text(Text),
    Carried(Box<Exchange<T>>),
}

impl<T: Tunnel> Body for Answer<T> {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Self::Carried(exchange) => Pin::new(exchange).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Carried(exchange) => exchange.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Carried(exchange) => exchange.size_hint(),
        }
    }
}

/// A socket whose end is not HTTP's to tell: after CONNECT it goes on, and after the last answer it lingers.
struct Unended(Socket);

impl AsyncRead for Unended {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unended {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
