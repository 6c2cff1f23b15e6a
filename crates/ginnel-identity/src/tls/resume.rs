//! Inner handshakes that resume an earlier one, so that not every session pays for two certificates.
//!
//! | end | one for each certificate of one's own | what it keeps |
//! |---|---|---|
//! | agent | [`Responder`] | `tickets`: the secrets of tickets that it gave out, by client |
//! | client | [`Initiators`] | `stock`: tickets, by agent process |
//!
//! What holds at both ends, whatever the other end does:
//!
//! - A ticket is good once, for a bounded time since the full handshake that it goes back to, and never longer than the certificate that was
//!   shown in that handshake.
//! - Every handshake, full or resumed, ends in [`Initiating::finish`] or [`Responding::finish`], which verify the other end's certificates in
//!   full. Nothing that a handshake left is kept before that, and nothing after it failed.
//! - A certificate of one's own that is replaced takes everything with it that was kept under it.
//! - A ticket that is not known, or no longer, makes a full handshake of the same flight. Nothing is ever less than that.
//!
//! rustls resumes with a fresh key exchange only, and early data is off. It does not run a verifier on a resumed handshake and does not bound
//! the life of a ticket at the agent: both are done here. Decision 7 in `docs/decisions` has the reasons.

use std::time::{Duration, Instant};

use rustls::time_provider::TimeProvider;
use rustls::{CommonState, Error, HandshakeKind};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::certificate::Leaf;

mod initiator;
mod responder;
mod stock;
mod tickets;

pub use initiator::{Initiating, Initiators};
pub use responder::{Responder, Responding};

/// From a full handshake to the last one that goes back to it. Who steals what is kept at one moment can use it against its owner for at most
/// this long; a full handshake an hour costs nothing.
pub(super) const LIFE_MAX: Duration = Duration::from_secs(3600);

/// Tickets that one handshake gives. A resumed one uses one up, so that a stock fills within a few sessions; each costs both ends some
/// microseconds and the wire about 80 bytes.
pub(super) const GIVEN_MAX: u8 = 8;

/// Tickets that a client keeps of one agent process: 64 sessions at once, while the tickets of as many others are on their way.
pub(super) const STOCK_MAX: usize = 96;

/// Agent processes that a client keeps tickets of, about 100 KiB each. Beyond these the one that was used least recently makes room.
pub(super) const AGENTS_MAX: usize = 128;

/// Tickets that an agent keeps for one client principal: the stocks of ten processes. A ticket takes about 1 KiB, most of it the client's
/// certificate.
pub(super) const TICKETS_PER_CLIENT_MAX: usize = 1024;

/// Tickets that an agent keeps in all. Beyond these whoever has most makes room.
pub(super) const TICKETS_MAX: usize = 8192;

/// How often an agent looks for expired tickets of clients that do not come back.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How a handshake was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With the certificates of both ends.
    Full,
    /// With a ticket of an earlier one, and a fresh key exchange.
    Resumed,
}

/// Whom a finished handshake verified.
#[derive(Clone, Debug)]
pub struct Verified {
    /// How it was done.
    pub handshake: Handshake,
    /// What the other end's certificate says.
    pub leaf: Leaf,
}

/// From when to when what a handshake leaves is good.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// The full handshake that it goes back to.
    began: Instant,
    ends: Instant,
}

impl Life {
    /// The life of what a handshake leaves that goes back to `began` and showed a certificate that expires in `remaining`.
    fn new(began: Instant, now: Instant, remaining: Duration) -> Self {
        let ends = began.checked_add(LIFE_MAX).unwrap_or(now);
        Self { began, ends: now.checked_add(remaining).map_or(ends, |expiry| ends.min(expiry)) }
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.ends
    }
}

/// How the handshake of a connection was done, once it is.
fn handshake(connection: &CommonState) -> Result<Handshake, Error> {
    match connection.handshake_kind() {
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => Ok(Handshake::Full),
        Some(HandshakeKind::Resumed) => Ok(Handshake::Resumed),
        None => Err(Error::HandshakeNotComplete),
    }
}

/// The certificates that the connection names its peer by, be they shown in this handshake or in an earlier one.
fn shown<'a>(connection: &'a CommonState) -> Result<(&'a CertificateDer<'a>, &'a [CertificateDer<'a>]), Error> {
    connection.peer_certificates().and_then(<[_]>::split_first).ok_or(Error::NoCertificatesPresented)
}

fn wall_clock(provider: &dyn TimeProvider) -> Result<UnixTime, Error> {
    provider.current_time().ok_or(Error::FailedToGetCurrentTime)
}

/// What is left of a certificate's life.
fn remaining(leaf: &Leaf, now: UnixTime) -> Duration {
    let end = leaf.not_after.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    end.saturating_sub(Duration::from_secs(now.as_secs()))
}

/// Nothing but us could cause it: rustls says that it resumed, but took no ticket.
fn no_ticket() -> Error {
    Error::General("a handshake was resumed without a ticket".to_owned())
}
