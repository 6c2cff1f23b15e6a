//! Carrying bytes between a TCP connection and a session, and every way in which that ends.
//!
//! How one side ends reaches the other as what it was: an end of file as an end of file of that direction only, after all bytes before it; a
//! reset, a lost session and an abandoned task as a reset, never as an end of file.

mod pump;
mod socket;

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::traffic::Traffic;
use tokio::net::TcpStream;

pub use self::socket::Socket;
use crate::tunnel::{Tunnel, reason};

use self::pump::{Broken, Pump};

/// How a session ended, seen from one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Bytes that went from the TCP connection into the session.
    pub up: u64,
    /// Bytes that went from the session into the TCP connection.
    pub down: u64,
    /// [`Cause::Finished`] if both directions ended in an end of file.
    pub cause: Cause,
    /// Who ended it. A session that finished was ended by nobody and names the application, at either end and as the server does.
    pub hop: Hop,
}

/// Carries between the connection of an application and a session until both directions have ended or one side broke.
///
/// `first` are bytes that were read from `app` before. There is no idle timeout: a direction may be silent, or ended, for as long as
/// the other one lasts. A reset by the application is passed on within milliseconds, even while nothing is read from it. Dropping the future
/// resets both sides.
pub async fn splice<T: Tunnel>(app: TcpStream, first: Bytes, tunnel: T) -> Ended {
    splice_as(Hop::Application, Socket::new(app), first, tunnel, &Traffic::default(), pending()).await
}

/// Does the same at the agent's end, between the connection to a target and a session.
///
/// The counters of `traffic` follow the bytes: what comes from the target goes towards the application.
/// When `stop` resolves, both sides are reset for its reason.
pub async fn splice_target<T: Tunnel>(
    target: TcpStream,
    tunnel: T,
    traffic: &Traffic,
    stop: impl Future<Output = Refusal>,
) -> Ended {
    splice_as(Hop::Target, Socket::new(target), Bytes::new(), tunnel, traffic, stop).await
}

/// Does the same for a [`Socket`] whose peer is called `near` in the answer. It is closed only when its last clone is dropped.
pub async fn splice_as<T: Tunnel>(
    near: Hop,
    socket: Socket,
    first: Bytes,
    tunnel: T,
    traffic: &Traffic,
    stop: impl Future<Output = Refusal>,
) -> Ended {
    let mut stop = pin!(stop);
    let watched = socket.clone();
    let mut failed = pin!(watched.failed());
    let mut session = Session { up: Pump::with(first), down: Pump::with(Bytes::new()), socket, tunnel, over: false };
    let polled = poll_fn(|cx| {
        if let Poll::Ready(refusal) = stop.as_mut().poll(cx) {
            return Poll::Ready(Outcome::Far(refusal));
        }
        let polled = session.poll(cx, failed.as_mut());
        let (out, back) = (session.up.moved(), session.down.moved());
        if near == Hop::Target {
            traffic.set(back, out)
        } else {
            traffic.set(out, back)
        }
        polled
    });
    let (cause, hop) = match polled.await {
        Outcome::Finished => {
            session.socket.end_on_close();
            (Cause::Finished, Hop::Application)
        }
        Outcome::Near => {
            session.tunnel.abort(Cause::Reset);
            (Cause::Reset, near)
        }
        Outcome::Far(refusal) => {
            session.tunnel.abort(refusal.cause);
            (refusal.cause, refusal.hop)
        }
    };
    session.over = true;
    Ended { up: session.up.moved(), down: session.down.moved(), cause, hop }
}

enum Outcome {
    Finished,
    /// The TCP connection broke.
    Near,
    /// The session broke.
    Far(Refusal),
}

struct Session<T: Tunnel> {
    up: Pump,
    down: Pump,
    socket: Socket,
    tunnel: T,
    over: bool,
}

impl<T: Tunnel> Session<T> {
    fn poll(&mut self, cx: &mut Context<'_>, failed: Pin<&mut impl Future>) -> Poll<Outcome> {
        let up = match self.up.poll(cx, &mut self.socket, &mut self.tunnel) {
            Poll::Ready(Err(Broken::Source(_))) => return Poll::Ready(Outcome::Near),
            Poll::Ready(Err(Broken::Sink(error))) => return Poll::Ready(Outcome::Far(reason(&error))),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let down = match self.down.poll(cx, &mut self.tunnel, &mut self.socket) {
            Poll::Ready(Err(Broken::Source(error))) => return Poll::Ready(Outcome::Far(reason(&error))),
            Poll::Ready(Err(Broken::Sink(_))) => return Poll::Ready(Outcome::Near),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if up && down {
            return Poll::Ready(Outcome::Finished);
        }
        if failed.poll(cx).is_ready() {
            return Poll::Ready(Outcome::Near);
        }
        self.tunnel.poll_broken(cx).map(Outcome::Far)
    }
}

impl<T: Tunnel> Drop for Session<T> {
    fn drop(&mut self) {
        if !self.over {
            self.tunnel.abort(Cause::Aborted);
        }
    }
}

#[cfg(test)]
mod tests;
