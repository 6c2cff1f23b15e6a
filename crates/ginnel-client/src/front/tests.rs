//! Front ends between raw sockets on one side and a fake tunnel over plain TCP on the other.

mod connect;
mod forward;
mod malformed;
mod plain;
mod socks;

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, ready};

use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::RequestId;
use ginnel_core::principal::Role;
use ginnel_core::target::Host;
use ginnel_ops::ledger::{Ledger, Tracked};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::open::Tunnel;

pub(crate) const RESET: Result<(), io::ErrorKind> = Err(io::ErrorKind::ConnectionReset);

/// A session that is a TCP connection.
pub(crate) struct Fake {
    stream: BufReader<TcpStream>,
    read_ended: bool,
    write_ended: bool,
}

impl Fake {
    fn note(&self) {
        if self.read_ended && self.write_ended {
            socket_end(self.stream.get_ref());
        }
    }
}

fn socket_end(stream: &TcpStream) {
    // Undoes what `open` did.
    socket2::SockRef::from(stream).set_linger(None).unwrap();
}

impl Tunnel for Fake {
    fn abort(&mut self, _: Cause) {
        self.stream.get_ref().set_zero_linger().unwrap();
        self.read_ended = false;
    }
}

impl AsyncRead for Fake {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before {
            self.read_ended = true;
            self.note();
        }
        read
    }
}

impl AsyncBufRead for Fake {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if ready!(Pin::new(&mut this.stream).poll_fill_buf(cx))?.is_empty() {
            this.read_ended = true;
            this.note();
        }
        Pin::new(&mut this.stream).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.stream).consume(count);
    }
}

impl AsyncWrite for Fake {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_ended = true;
        self.note();
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Opens by connecting to the port on loopback, whatever the host; hosts named after a cause are refused for it by the agent.
#[derive(Clone, Default)]
pub(crate) struct Direct(Arc<Mutex<Vec<(RequestId, Target)>>>);

impl Opener for Direct {
    type Tunnel = Fake;

    fn ledger(&self) -> &Ledger {
        static LEDGER: LazyLock<Ledger> = LazyLock::new(|| Ledger::new(Role::Client));
        &LEDGER
    }

    async fn open(&self, request: RequestId, target: Target, _: SocketAddr, _: &Tracked) -> Result<Fake, Refusal> {
        self.0.lock().unwrap().push((request, target.clone()));
        if let Host::Name(name) = &target.host {
            let label = name.as_str().split('.').next().unwrap();
            if label == "never" {
                return pending().await;
            }
            if let Some(cause) = Cause::ALL.iter().find(|cause| cause.as_str().eq_ignore_ascii_case(label)) {
                return Err(Refusal::new(Hop::Agent, *cause));
            }
        }
        let stream = TcpStream::connect(("127.0.0.1", target.port.get())).await.unwrap();
        stream.set_zero_linger().unwrap();
        Ok(Fake { stream: BufReader::new(stream), read_ended: false, write_ended: false })
    }
}

/// A proxy, and the listener that every target leads to.
pub(crate) struct World {
    pub(crate) proxy: SocketAddr,
    pub(crate) host: TcpListener,
    pub(crate) opener: Direct,
    pub(crate) stop: Stops,
    pub(crate) serving: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let opener = Direct::default();
        let stop = Stops::default();
        let serving = tokio::spawn(serve_proxy(listener, opener.clone(), stop.clone()));
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { proxy, host, opener, stop, serving }
    }

    pub(crate) fn port(&self) -> u16 {
        self.host.local_addr().unwrap().port()
    }

    pub(crate) async fn dial(&self) -> TcpStream {
        soon(TcpStream::connect(self.proxy)).await.unwrap()
    }

    /// A connection of an application that has said `text`, where `PORT` is that of the host.
    pub(crate) async fn say(&self, text: &str) -> TcpStream {
        let mut app = self.dial().await;
        say(&mut app, &text.replace("PORT", &self.port().to_string())).await;
        app
    }

    /// The connection that the host has accepted.
    pub(crate) async fn accept(&self) -> TcpStream {
        soon(self.host.accept()).await.unwrap().0
    }

    pub(crate) fn opened(&self) -> Vec<(RequestId, Target)> {
        self.opener.0.lock().unwrap().clone()
    }

    /// An application and a host that are connected by CONNECT.
    pub(crate) async fn connected(&self) -> (TcpStream, TcpStream) {
        let mut app = self.say("CONNECT host.internal:PORT HTTP/1.1\r\nHost: host.internal:PORT\r\n\r\n").await;
        let host = self.accept().await;
        assert!(head(&mut app).await.starts_with("HTTP/1.1 200 "));
        (app, host)
    }
}

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("this happens soon")
}

pub(crate) async fn say(stream: &mut TcpStream, text: &str) {
    soon(stream.write_all(text.as_bytes())).await.unwrap();
}

/// Reads up to and including the empty line after a head.
pub(crate) async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// A header's value in a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
        .map(|(_, v)| v)
}

/// Reads a head and as many bytes as its `Content-Length` says.
pub(crate) async fn answer(stream: &mut TcpStream) -> (String, String) {
    let head = head(stream).await;
    let length = header(&head, "content-length").unwrap_or("0").parse().unwrap();
    (head, hear(stream, length).await)
}

pub(crate) async fn hear(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Reads to the end, whichever it is.
pub(crate) async fn end_of(stream: &mut TcpStream) -> (String, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = soon(stream.read_to_end(&mut bytes)).await.map(|_| ()).map_err(|error| error.kind());
    (String::from_utf8(bytes).unwrap(), end)
}

pub(crate) fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}
