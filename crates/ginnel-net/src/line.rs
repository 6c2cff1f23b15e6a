//! What the TLS with a server runs on: a TCP connection, or TLS with a proxy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;

use crate::connect::tune;
use crate::live::Live;
use crate::tcp::first_to_answer;

/// A line to the server. Silence is noticed at the bottom, where bytes are seen before anybody reads them.
#[derive(Debug)]
pub enum Line {
    /// TCP: to the server, or to a proxy that has opened the way to it.
    Plain(Live<TcpStream>),
    /// TLS with a proxy.
    ThroughTls(Box<TlsStream<Live<TcpStream>>>),
}

impl Line {
    /// The TCP connection at the bottom.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream.inner(),
            Self::ThroughTls(stream) => stream.get_ref().0.inner(),
        }
    }
}

/// Resolves a name and connects to the first of its addresses that answers. The caller sets the deadline.
///
/// # Errors
/// What the system says of the name, or of the address that failed last.
pub async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let connected = first_to_answer(&addresses, TcpStream::connect).await;
    let connected =
        connected.map_err(|failure| failure.unwrap_or_else(|| io::Error::other("the name has no address")))?;
    tune(&connected);
    Ok(connected)
}

macro_rules! on_either {
    ($line:expr, $inner:ident => $call:expr) => {
        match $line.get_mut() {
            Line::Plain(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            Line::ThroughTls(stream) => {
                let $inner = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_either!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, inner => inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, inner => inner.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::ThroughTls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, inner => inner.poll_shutdown(cx))
    }
}
