//! `ginnel connect`: standard input and output through a running client, for SSH's `ProxyCommand`.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop};
use ginnel_core::target::Target;
use ginnel_net::splice::Socket;
use http::header::{HOST, HeaderMap, HeaderName};
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front::{CAUSE, HOP, REQUEST_ID};

/// How long the connection to the proxy may take. It is on this machine or near it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long the answer may take: the client tries several agents, each of which may wait for a lookup and a dial.
const ANSWER_DEADLINE: Duration = Duration::from_secs(150);

/// Bytes that are copied at once.
const BUFFER: usize = 32 * 1024;

/// Why there was no session, or no proper end of one.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The session broke off.
    #[error("the session broke off")]
    Broken(#[source] io::Error),
    /// Standard input or output failed.
    #[error("cannot use standard input and output")]
    Local(#[source] io::Error),
    /// Something answered that is no Ginnel client.
    #[error("what listens on {proxy} is no Ginnel client: it answered with status {status}")]
    NotOurs {
        /// The proxy's address.
        proxy: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The proxy's connection ended before there was an answer, or its answer is no HTTP.
    #[error("the proxy {proxy} gave no answer")]
    NoAnswer {
        /// The proxy's address.
        proxy: String,
        /// What happened.
        #[source]
        source: hyper::Error,
    },
    /// The session was refused.
    #[error("refused by the {hop}: {cause} (request {request}). {}", cause.sentence())]
    Refused {
        /// Why.
        cause: Cause,
        /// By whom.
        hop: Hop,
        /// The request's id in the logs.
        request: String,
    },
    /// The proxy took too long.
    #[error("the proxy {proxy} did not answer in time")]
    TimedOut {
        /// The proxy's address.
        proxy: String,
    },
    /// The proxy could not be reached.
    #[error("cannot reach the proxy {proxy}; is the client running?")]
    Unreachable {
        /// The proxy's address.
        proxy: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// Opens a session to `target` through the client whose proxy port is `proxy` and carries `stdin` and `stdout` over it.
///
/// The end of `stdin` ends that direction only. The session's own end ends the call, although `stdin` may go on, because a program that
/// reads `stdout` sees the end only when the process ends.
///
/// # Errors
/// A refusal says who refused and why; a session that breaks off is never a success.
pub async fn connect(
    proxy: &str,
    target: &Target,
    stdin: impl AsyncRead + Unpin,
    stdout: impl AsyncWrite + Unpin,
) -> Result<(), ConnectError> {
    let late = |_| ConnectError::TimedOut { proxy: proxy.to_owned() };
    let stream = timeout(CONNECT_DEADLINE, TcpStream::connect(proxy)).await.map_err(late)?;
    let stream = stream.map_err(|source| ConnectError::Unreachable { proxy: proxy.to_owned(), source })?;
    let socket = Socket::new(stream);
    let first = timeout(ANSWER_DEADLINE, ask(proxy, target, socket.clone())).await.map_err(late)??;
    carry(socket, first, stdin, stdout).await
}

/// Sends CONNECT and gives back what came after the answer.
async fn ask(proxy: &str, target: &Target, socket: Socket) -> Result<Bytes, ConnectError> {
    let no_answer = |source| ConnectError::NoAnswer { proxy: proxy.to_owned(), source };
    let (mut sender, mut connection) = http1::handshake(TokioIo::new(socket)).await.map_err(no_answer)?;
    let mut request = Request::new(Nothing);
    *request.method_mut() = Method::CONNECT;
    let text = target.to_string();
    // Both accept every target.
    if let (Ok(uri), Ok(host)) = (text.parse(), text.parse()) {
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, host);
    }
    let mut answer = pin!(sender.send_request(request));
    let mut finished = false;
    let answer = poll_fn(|cx| {
        // The connection's own error reaches the answer as well.
        finished = finished || connection.poll_without_shutdown(cx).is_ready();
        answer.as_mut().poll(cx)
    })
    .await
    .map_err(no_answer)?;
    if !answer.status().is_success() {
        return Err(refusal(proxy, answer.status(), answer.headers()));
    }
    if !finished {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(no_answer)?;
    }
    Ok(connection.into_parts().read_buf)
}

fn refusal(proxy: &str, status: StatusCode, headers: &HeaderMap) -> ConnectError {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(CAUSE), text(HOP).and_then(hop)) {
        (Some(cause), Some(hop)) => ConnectError::Refused {
            // A newer client may know more causes.
            cause: cause.parse().unwrap_or(Cause::Unknown),
            hop,
            request: text(REQUEST_ID).unwrap_or("without id").to_owned(),
        },
        _ => ConnectError::NotOurs { proxy: proxy.to_owned(), status },
    }
}

fn hop(text: &str) -> Option<Hop> {
    [Hop::Application, Hop::Client, Hop::Server, Hop::Agent, Hop::Target].into_iter().find(|hop| hop.as_str() == text)
}

async fn carry(
    socket: Socket,
    first: Bytes,
    stdin: impl AsyncRead + Unpin,
    stdout: impl AsyncWrite + Unpin,
) -> Result<(), ConnectError> {
    let mut up = pin!(send(stdin, socket.clone()));
    let mut down = pin!(receive(socket.clone(), first, stdout));
    let mut sending = true;
    loop {
        tokio::select! {
            biased;
            end = &mut down => {
                end?;
                socket.end_on_close();
                return Ok(());
            }
            end = &mut up, if sending => {
                end?;
                sending = false;
            }
        }
    }
}

async fn send(mut stdin: impl AsyncRead + Unpin, mut socket: Socket) -> Result<(), ConnectError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match stdin.read(&mut buffer).await.map_err(ConnectError::Local)? {
            0 => return socket.shutdown().await.map_err(ConnectError::Broken),
            length => socket.write_all(&buffer[..length]).await.map_err(ConnectError::Broken)?,
        }
    }
}

async fn receive(mut socket: Socket, first: Bytes, mut stdout: impl AsyncWrite + Unpin) -> Result<(), ConnectError> {
    let mut buffer = vec![0; BUFFER];
    stdout.write_all(&first).await.map_err(ConnectError::Local)?;
    stdout.flush().await.map_err(ConnectError::Local)?;
    loop {
        match socket.read(&mut buffer).await.map_err(ConnectError::Broken)? {
            0 => return stdout.shutdown().await.map_err(ConnectError::Local),
            length => {
                stdout.write_all(&buffer[..length]).await.map_err(ConnectError::Local)?;
                // A full buffer has more behind it.
                if length < BUFFER {
                    stdout.flush().await.map_err(ConnectError::Local)?;
                }
            }
        }
    }
}

/// The body of CONNECT.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
