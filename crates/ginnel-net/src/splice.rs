//! Carrying bytes between a TCP connection and a session, and every way in which that ends.
//!
//! How one side ends reaches the other as what it was: an end of file as an end of file of that direction only, after all bytes before it; a
//! reset, a lost session and an abandoned task as a reset, never as an end of file. A side that had ended its half and breaks afterwards
//! takes nothing back: what it said arrives whole, and the reset comes after it.

mod buffered;
mod pump;
mod socket;

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::traffic::Traffic;
use tokio::net::TcpStream;

pub use self::socket::Socket;
use crate::tunnel::{Tunnel, reason};

use self::buffered::Buffered;
use self::pump::{Broken, Pump};

/// How long a connection that was given a clean end may take to read up to it before the reset that follows. Zero linger throws away what
/// the peer's kernel has not taken, and the peer may still be reading.
const LATE_RESET_WAIT: Duration = Duration::from_secs(1);

/// So many bytes are in the peer's kernel at once, whether or not it reads: less than the first window of any system. A reset after no more
/// than that need not wait.
const WINDOW_MIN: u64 = 32 * 1024;

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
pub fn splice_target<T: Tunnel>(
    target: TcpStream,
    tunnel: T,
    traffic: &Traffic,
    stop: impl Future<Output = Refusal>,
) -> impl Future<Output = Ended> {
    splice_as(Hop::Target, Socket::new(target), Bytes::new(), tunnel, traffic, stop)
}

/// Does the same for a [`Socket`] whose peer is called `near` in the answer. It is closed only when its last clone is dropped.
// No async function: those keep what they are given twice, and a process has thousands of these.
pub fn splice_as<T: Tunnel>(
    near: Hop,
    socket: Socket,
    first: Bytes,
    tunnel: T,
    traffic: &Traffic,
    stop: impl Future<Output = Refusal>,
) -> impl Future<Output = Ended> {
    let source = Buffered::new(socket.clone(), first);
    let (up, down) = (Pump::default(), Pump::default());
    let session = Session { up, down, source, socket, tunnel, lost: None, over: false };
    carry(near, session, traffic, stop)
}

async fn carry<T: Tunnel>(
    near: Hop,
    mut session: Session<T>,
    traffic: &Traffic,
    stop: impl Future<Output = Refusal>,
) -> Ended {
    let mut stop = pin!(stop);
    let watched = session.socket.clone();
    let mut failed = pin!(watched.failed());
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
            if session.down.is_closed() && session.down.moved() > WINDOW_MIN {
                // Boxed, because it has a buffer that few sessions ever need.
                Box::pin(session.socket.hear_out(LATE_RESET_WAIT)).await;
            }
            (refusal.cause, refusal.hop)
        }
    };
    session.over = true;
    Ended { up: session.up.moved(), down: session.down.moved(), cause, hop }
}

#[derive(Clone, Copy)]
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
    /// The socket as it is read, and as it is written.
    source: Buffered,
    socket: Socket,
    tunnel: T,
    /// A side is gone, and what it had ended cleanly before is still on its way to the other one.
    lost: Option<Outcome>,
    over: bool,
}

impl<T: Tunnel> Session<T> {
    fn poll(&mut self, cx: &mut Context<'_>, failed: Pin<&mut impl Future>) -> Poll<Outcome> {
        if let Some(outcome) = self.poll_up(cx).or_else(|| self.poll_down(cx)) {
            return Poll::Ready(outcome);
        }
        if self.up.is_closed() && self.down.is_closed() {
            return Poll::Ready(Outcome::Finished);
        }
        match self.lost {
            None => self.poll_losses(cx, failed),
            // The way is gone, and so are those who wait at its end.
            Some(Outcome::Near) => match self.tunnel.poll_broken(cx) {
                Poll::Ready(_) => Poll::Ready(Outcome::Near),
                Poll::Pending => self.over_once(self.up.is_closed(), Outcome::Near),
            },
            Some(far) if failed.poll(cx).is_ready() => Poll::Ready(far),
            Some(far) => self.over_once(self.down.is_closed(), far),
        }
    }

    fn over_once(&self, delivered: bool, outcome: Outcome) -> Poll<Outcome> {
        if delivered { Poll::Ready(outcome) } else { Poll::Pending }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if let Some(Outcome::Far(_)) = self.lost {
            return None;
        }
        match self.up.poll(cx, &mut self.source, &mut self.tunnel) {
            Poll::Pending | Poll::Ready(Ok(())) => None,
            Poll::Ready(Err(Broken::Source(_))) => Some(Outcome::Near),
            // Whether that was said before the session's clean end or after it, reading the session tells.
            Poll::Ready(Err(Broken::Sink(error))) => match self.lost {
                Some(outcome) => Some(outcome),
                None => {
                    self.lost = Some(Outcome::Far(reason(&error)));
                    None
                }
            },
        }
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        if let Some(Outcome::Near) = self.lost {
            return None;
        }
        match self.down.poll(cx, &mut self.tunnel, &mut self.socket) {
            Poll::Ready(Ok(())) => None,
            // A session that broke off without an end is not waited for, however long the connection takes nothing.
            Poll::Pending => self.lost.filter(|_| !self.down.has_ended() && self.tunnel.poll_broken(cx).is_ready()),
            Poll::Ready(Err(Broken::Source(error))) => Some(Outcome::Far(reason(&error))),
            Poll::Ready(Err(Broken::Sink(error))) => {
                let had_ended = self.up.has_ended()
                    || error.kind() == io::ErrorKind::BrokenPipe
                    // There is nothing left to shut down. How it went is still to be asked.
                    || error.kind() == io::ErrorKind::NotConnected && self.had_ended();
                if self.lost.is_none() && had_ended && !self.up.is_closed() {
                    self.lost = Some(Outcome::Near);
                    return None;
                }
                Some(self.lost.unwrap_or(Outcome::Near))
            }
        }
    }

    /// Looks for a side that broke without anybody reading or writing there.
    fn poll_losses(&mut self, cx: &mut Context<'_>, failed: Pin<&mut impl Future>) -> Poll<Outcome> {
        if failed.poll(cx).is_ready() {
            if self.up.is_closed() || !self.had_ended() {
                return Poll::Ready(Outcome::Near);
            }
            self.lost = Some(Outcome::Near);
        } else if let Poll::Ready(refusal) = self.tunnel.poll_broken(cx) {
            if self.down.is_closed() || !self.down.has_ended() {
                return Poll::Ready(Outcome::Far(refusal));
            }
            self.lost = Some(Outcome::Far(refusal));
        }
        Poll::Pending
    }

    /// Whether the connection may have been ended cleanly by the peer before it broke, so that reading it to that end is worth while.
    fn had_ended(&self) -> bool {
        // After both ends of file the kernel has one word for both cases. Reading tells them apart as long as nobody has taken that word.
        self.up.has_ended() || self.down.is_closed() || self.socket.had_ended()
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
