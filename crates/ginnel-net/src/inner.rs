//! TLS between client and agent inside a session, so that the server carries what it cannot read.
//!
//! The client's handshake is done when it has verified the agent; its first message repeats the target where the server cannot change
//! it. The agent lets no application byte out before it has verified the client's certificate and that message. Both verify after the
//! handshake, because one that resumes an earlier one has shown no certificate. A clean end needs both words: `close_notify` inside and `Fin`
//! outside. One without the other is a reset.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::status::{InnerHandshakes, Status};
use ginnel_identity::certificate::Leaf;
use ginnel_identity::tls::{Handshake, Initiating, Responding, Verified, inner_server_name};
use ginnel_wire::hello::Dial;
use ginnel_wire::inner::{InnerHello, MESSAGE_MAX, decode_welcome, encode_welcome};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::carried::Carried;
use crate::tunnel::{Tunnel, broken, said};

/// A session as the application's or target's side uses it: with inner TLS, or in the clear where both sides switched that off.
pub enum Session {
    /// Bytes go as they are; the server could read them.
    Clear(Carried),
    /// Bytes go through inner TLS.
    Inner(Box<Inner>),
}

/// A session with inner TLS.
pub struct Inner {
    tls: TlsStream<Carried>,
    handshake: Handshake,
    welcome: Welcome,
    /// `close_notify` was read; the end still needs `Fin`.
    closed_inside: bool,
}

/// How much of the agent's first message the client has read.
enum Welcome {
    Done,
    Reading(Vec<u8>),
}

/// Why an inner session did not come about: a refusal with [`Cause::PeerNotVerified`], unless the session under it was lost.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// The handshake failed: the other end is not who it must be, or the carrier broke (peer).
    #[error("inner TLS failed")]
    Handshake(#[source] io::Error),
    /// The handshake is done, but the certificates of the other end are not those of who it must be (peer).
    #[error("the other end of inner TLS is not who it must be")]
    Peer(#[source] rustls::Error),
    /// The other end is who it says it is, and its owner does not want it (peer).
    #[error("the other end of inner TLS is not permitted: {0}")]
    NotPermitted(Cause),
    /// The first message is malformed, or says something else than the server did (peer).
    #[error("the first message inside does not fit: {0}")]
    Hello(&'static str),
}

impl InnerError {
    /// How the session under the handshake was lost, if that is why. It says nothing about who the other end is.
    pub fn lost(&self) -> Option<Refusal> {
        match self {
            Self::Handshake(error) => said(error),
            Self::Peer(_) | Self::NotPermitted(_) | Self::Hello(_) => None,
        }
    }
}

/// The client's side: verifies the agent, then repeats the target inside.
///
/// # Errors
/// [`InnerError`]; the session is reset then.
pub async fn initiate(carried: Carried, initiating: Initiating, hello: &InnerHello) -> Result<Session, InnerError> {
    let connector = TlsConnector::from(initiating.config());
    let mut tls = connector.connect(inner_server_name(), carried).into_fallible().await.map_err(unverified)?;
    let Verified { handshake, .. } = match initiating.finish(tls.get_ref().1) {
        Ok(verified) => verified,
        Err(error) => {
            tls.get_mut().0.abort(Cause::PeerNotVerified);
            return Err(InnerError::Peer(error));
        }
    };
    let mut tls = TlsStream::Client(tls);
    tls.write_all(&hello.encode()).await.map_err(InnerError::Handshake)?;
    tls.flush().await.map_err(InnerError::Handshake)?;
    let welcome = Welcome::Reading(Vec::new());
    Ok(Session::Inner(Box::new(Inner { tls, handshake, welcome, closed_inside: false })))
}

/// The agent's side: verifies the client, and that the target inside is the one that the server named. `permits` has a word about a
/// certificate that was verified.
///
/// # Errors
/// [`InnerError`]; the session is reset then.
pub async fn respond(
    mut carried: Carried,
    responding: Responding,
    dial: &Dial,
    permits: impl FnOnce(&Leaf) -> Result<(), Cause>,
) -> Result<Session, InnerError> {
    let acceptor = TlsAcceptor::from(responding.config());
    // A client may have spoken, ended and reset before the last words of the handshake are written: it hears no more, and what it said counts.
    carried.secure(true);
    let tls = acceptor.accept(carried).into_fallible().await.map_err(unverified)?;
    let verified = responding.finish(tls.get_ref().1).map_err(InnerError::Peer);
    let verified =
        verified.and_then(|verified| permits(&verified.leaf).map_err(InnerError::NotPermitted).map(|()| verified));
    let mut tls = TlsStream::Server(tls);
    let greeted = match verified {
        Ok(verified) => greet(&mut tls, &verified, dial).await.map(|()| verified.handshake),
        Err(error) => Err(error),
    };
    match greeted {
        Ok(handshake) => {
            tls.get_mut().0.secure(false);
            Ok(Session::Inner(Box::new(Inner { tls, handshake, welcome: Welcome::Done, closed_inside: false })))
        }
        Err(error) => {
            let cause = match &error {
                InnerError::NotPermitted(cause) => *cause,
                InnerError::Handshake(_) | InnerError::Peer(_) | InnerError::Hello(_) => Cause::PeerNotVerified,
            };
            tls.get_mut().0.abort(cause);
            Err(error)
        }
    }
}

/// Hears the client's first message, compares it with what the server said, and answers.
async fn greet(tls: &mut TlsStream<Carried>, client: &Verified, dial: &Dial) -> Result<(), InnerError> {
    let hello = read_hello(tls).await?;
    let said_outside = (&dial.request, &dial.target, &dial.client);
    if (&hello.request, &hello.target, &client.leaf.principal) != said_outside {
        return Err(InnerError::Hello("request, target or client differ from what the server said"));
    }
    tls.write_all(&encode_welcome()).await.map_err(InnerError::Handshake)?;
    tls.flush().await.map_err(InnerError::Handshake)
}

/// Tells the other end why there will be no session: a handshake that failed has verified nobody.
fn unverified((error, mut carried): (io::Error, Carried)) -> InnerError {
    carried.abort(Cause::PeerNotVerified);
    InnerError::Handshake(error)
}

async fn read_hello(tls: &mut TlsStream<Carried>) -> Result<InnerHello, InnerError> {
    let length = usize::from(tls.read_u16().await.map_err(InnerError::Handshake)?);
    if length > MESSAGE_MAX {
        return Err(InnerError::Hello("too long"));
    }
    let mut message = vec![0; length];
    tls.read_exact(&mut message).await.map_err(InnerError::Handshake)?;
    InnerHello::decode(&message).map_err(|_| InnerError::Hello("malformed"))
}

impl Session {
    /// How the inner handshake was done; `None` in the clear.
    pub fn handshake(&self) -> Option<Handshake> {
        match self {
            Self::Clear(_) => None,
            Self::Inner(inner) => Some(inner.handshake),
        }
    }
}

/// Counts inner handshakes that succeeded, since the start of the process.
#[derive(Debug, Default)]
pub struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

impl Handshakes {
    /// Counts the one of this session, if it had one.
    pub fn count(&self, session: &Session) {
        let counter = match session.handshake() {
            Some(Handshake::Full) => &self.full,
            Some(Handshake::Resumed) => &self.resumed,
            None => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes the counts into a status.
    pub fn fill(&self, status: &mut Status) {
        let (full, resumed) = (self.full.load(Ordering::Relaxed), self.resumed.load(Ordering::Relaxed));
        status.inner_handshakes = Some(InnerHandshakes { full, resumed });
    }
}

impl Inner {
    /// Reads the agent's first message, which precedes the target's bytes.
    fn poll_welcome(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Welcome::Reading(message) = &mut self.welcome {
            let wanted = match message.get(..2) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => 2,
            };
            if message.len() >= 2 && message.len() == wanted {
                decode_welcome(&message[2..]).map_err(|_| protocol_error())?;
                self.welcome = Welcome::Done;
                break;
            }
            if wanted > MESSAGE_MAX {
                return Poll::Ready(Err(protocol_error()));
            }
            let mut piece = vec![0; wanted - message.len()];
            let mut buf = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.tls).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(protocol_error()));
            }
            message.extend_from_slice(buf.filled());
        }
        Poll::Ready(Ok(()))
    }

    /// The bytes that come next, where they were decrypted to; none at a clean end.
    fn poll_fill_buf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_welcome(cx))?;
        if !self.closed_inside {
            self.closed_inside = ready!(Pin::new(&mut self.tls).poll_fill_buf(cx))?.is_empty();
        }
        if !self.closed_inside {
            return Pin::new(&mut self.tls).poll_fill_buf(cx);
        }
        let rest = ready!(Pin::new(self.carrier()).poll_fill_buf(cx))?;
        // Bytes after close_notify are nobody's.
        Poll::Ready(if rest.is_empty() { Ok(rest) } else { Err(protocol_error()) })
    }

    fn consume(&mut self, count: usize) {
        if !self.closed_inside {
            Pin::new(&mut self.tls).consume(count);
        }
    }

    fn carrier(&mut self) -> &mut Carried {
        self.tls.get_mut().0
    }
}

fn protocol_error() -> io::Error {
    broken(Refusal::new(Hop::Agent, Cause::ProtocolError))
}

impl AsyncRead for Session {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(carried) => Pin::new(carried).poll_read(cx, buf),
            Self::Inner(inner) => {
                let bytes = ready!(inner.poll_fill_buf(cx))?;
                let count = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..count]);
                inner.consume(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncBufRead for Session {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self.get_mut() {
            Self::Clear(carried) => Pin::new(carried).poll_fill_buf(cx),
            Self::Inner(inner) => inner.poll_fill_buf(cx),
        }
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        match self.get_mut() {
            Self::Clear(carried) => Pin::new(carried).consume(count),
            Self::Inner(inner) => inner.consume(count),
        }
    }
}

impl AsyncWrite for Session {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(carried) => Pin::new(carried).poll_write(cx, bytes),
            Self::Inner(inner) => Pin::new(&mut inner.tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(carried) => Pin::new(carried).poll_flush(cx),
            Self::Inner(inner) => Pin::new(&mut inner.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(carried) => Pin::new(carried).poll_shutdown(cx),
            Self::Inner(inner) => Pin::new(&mut inner.tls).poll_shutdown(cx),
        }
    }
}

impl Tunnel for Session {
    fn abort(&mut self, cause: Cause) {
        match self {
            Self::Clear(carried) => carried.abort(cause),
            Self::Inner(inner) => inner.carrier().abort(cause),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        match self {
            Self::Clear(carried) => carried.poll_broken(cx),
            Self::Inner(inner) => inner.carrier().poll_broken(cx),
        }
    }

    fn tend(&mut self) {
        match self {
            Self::Clear(carried) => carried.tend(),
            Self::Inner(inner) => inner.carrier().tend(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_lost_has_shown_nothing_about_the_other_end() {
        let lost = Refusal::new(Hop::Client, Cause::ServerLost);
        let cases = [
            (InnerError::Handshake(broken(lost)), Some(lost)),
            (InnerError::Handshake(io::Error::other(rustls::Error::DecryptError)), None),
            (InnerError::Handshake(io::ErrorKind::UnexpectedEof.into()), None),
            (InnerError::Peer(rustls::Error::DecryptError), None),
            (InnerError::Hello("malformed"), None),
        ];
        for (error, expected) in cases {
            assert_eq!(error.lost(), expected, "{error:?}");
        }
    }
}
