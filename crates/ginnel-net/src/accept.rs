//! The server's accept loop.
//!
//! TCP, then TLS within a deadline and a bound on handshakes under way, then HTTP/2. Where a connection comes from is judged first of all; for one from
//! a listed load balancer that is what its header says. A connection that says nothing waits for its first byte
//! outside of that bound. Who has shown no certificate is counted apart from who has: strangers may crowd each other out, never those who are
//! known. A connection without a client certificate may live only as long as one enrolment takes, and make few
//! calls. When accepting fails for want of
//! descriptors the loop rests instead of spinning.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use ginnel_core::balancer::Origin;
use ginnel_core::limits::{
    ACCEPT_REST, ENROL_DEADLINE, HANDSHAKE_DEADLINE, HANDSHAKES_MAX, ISSUE_ANSWER_WAIT, ISSUE_WAIT, SILENCE_MAX,
};
use ginnel_core::ranges::Ranges;
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Leaf;
use ginnel_identity::tls::peer_leaf;
use ginnel_wire::piece::Piece;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::accept::announced::NotAnnounced;
use crate::accept::announced::origin;
use crate::accept::certified::Certified;
use crate::accept::complaint::Complaint;
use crate::accept::pending::{Pending, Place};
use crate::call::Call;
use crate::connect::tune;
use crate::crowd::Crowd;
use crate::http2::{self, keep_asking};
use crate::live::Live;

mod announced;
mod certified;
mod complaint;
mod pending;

/// A connection whose TLS handshake is done.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from: as the socket says, or the header of a listed balancer.
    pub address: SocketAddr,
    /// The verified client certificate, if there was one.
    pub leaf: Option<Leaf>,
    /// Cancelled once the connection is gone; cancelling it closes the connection.
    pub closed: CancellationToken,
    /// To be cancelled when an enrolment of a peer without certificate is admitted: its connection then stays until an issuer has answered.
    pub admitted: CancellationToken,
}

/// Decides what a connection may do.
pub trait Admit: Clone + Send + Sync + 'static {
    /// Answers the calls of one connection.
    type Calls: Answer;

    /// Whether a connection may begin, as far as its address tells. One that may not is closed without a word.
    fn might_come_from(&self, address: IpAddr) -> bool;

    /// Hears of a connection that was closed because it may not come from there.
    fn turned_away(&self, from: SocketAddr);

    /// Hears of a balancer's connection that was closed because it does not say where it comes from.
    fn not_announced(&self, balancer: SocketAddr, why: &NotAnnounced);

    /// Who answers this peer; `None` closes the connection.
    fn admit(&self, peer: Peer) -> Option<Self::Calls>;
}

/// Answers the calls of one connection.
pub trait Answer: Send + Sync + 'static {
    /// Answers one call; must not wait.
    fn answer(&self, call: Call);
}

/// When a server stops: first it accepts no more, later it closes what is open.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// Nothing is accepted any more.
    pub accepting: CancellationToken,
    /// Every connection is closed.
    pub connections: CancellationToken,
}

/// What connections meet first.
#[derive(Clone, Debug)]
pub struct Door {
    /// The server's side of TLS.
    pub tls: Arc<ServerConfig>,
    /// The load balancers that say where their connections come from, and have to.
    pub balancers: Option<Ranges>,
}

/// Accepts connections until the first of the `stops`, and is done when the last connection is gone.
pub async fn serve<A: Admit>(listener: TcpListener, door: Door, admit: A, stops: Stops) {
    let gate = Arc::new(Gate::new(door));
    let tasks = TaskTracker::new();
    while let Some((tcp, address)) = next_connection(&listener, &stops.accepting).await {
        let is_balancer = gate.balancers.as_ref().is_some_and(|balancers| balancers.contains(address.ip()));
        if !is_balancer && !admit.might_come_from(address.ip()) {
            admit.turned_away(address);
            continue;
        }
        let place = if is_balancer { gate.pending.announce() } else { gate.pending.enter(address.ip()) };
        let Some(place) = place else {
            gate.turn_stranger_away();
            continue;
        };
        tune(&tcp);
        let (gate, admit) = (Arc::clone(&gate), admit.clone());
        let closed = stops.connections.child_token();
        tasks.spawn(async move {
            if is_balancer {
                gate.take_announced(tcp, address, place, admit, closed).await;
            } else {
                gate.take(tcp, address, place, admit, closed).await;
            }
        });
    }
    // Closed at once: whoever comes now is refused by the system instead of waiting for nothing.
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn next_connection(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    let next = async {
        loop {
            match listener.accept().await {
                Ok((tcp, address)) => return (tcp, SocketAddr::new(address.ip().to_canonical(), address.port())),
                // Its peer left before it was its turn.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) =>
                {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "cannot accept connections");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        next = next => Some(next),
    }
}

/// What all connections have to pass.
struct Gate {
    acceptor: TlsAcceptor,
    balancers: Option<Ranges>,
    handshakes: Semaphore,
    pending: Pending,
    certified: Certified,
    strangers_turned_away: Complaint,
    certified_turned_away: Complaint,
}

impl Gate {
    fn new(Door { tls, balancers }: Door) -> Self {
        Self {
            acceptor: TlsAcceptor::from(tls),
            balancers,
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            pending: Pending::default(),
            certified: Certified::default(),
            strangers_turned_away: Complaint::default(),
            certified_turned_away: Complaint::default(),
        }
    }

    fn turn_stranger_away(&self) {
        if let Some(count) = self.strangers_turned_away.count(Instant::now()) {
            tracing::warn!(count, "turned connections away: too many have shown no certificate");
        }
    }

    /// Takes a connection that comes from `address`.
    async fn take<A: Admit>(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        place: Place,
        admit: A,
        closed: CancellationToken,
    ) {
        let handshake = self.handshake(tcp, address, &place);
        let stream = tokio::select! {
            biased;
            () = closed.cancelled() => None,
            () = place.gave_way() => {
                self.turn_stranger_away();
                None
            }
            stream = handshake => stream,
        };
        if let Some(stream) = stream {
            converse(stream, address, place, self, admit, closed).await;
        }
    }

    /// Takes a connection from a balancer, which says where it comes from before anything else.
    async fn take_announced<A: Admit>(
        &self,
        mut tcp: TcpStream,
        balancer: SocketAddr,
        place: Place,
        admit: A,
        closed: CancellationToken,
    ) {
        let announced = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            () = place.gave_way() => return self.turn_stranger_away(),
            announced = timeout(HANDSHAKE_DEADLINE, origin(&mut tcp)) => announced,
        };
        let (address, is_its_own) = match announced.unwrap_or(Err(NotAnnounced::TooSlow)) {
            Ok(Some(Origin::Peer(address))) => (address, false),
            Ok(Some(Origin::Balancer)) => (balancer, true),
            Ok(None) => return,
            Err(why) => return admit.not_announced(balancer, &why),
        };
        if !admit.might_come_from(address.ip()) {
            // A balancer that looks whether the server is there wants nothing else, and comes every few seconds: no attempt of anybody.
            if !is_its_own {
                admit.turned_away(address);
            }
            return;
        }
        // Only now it is known whose place it is.
        drop(place);
        match self.pending.enter(address.ip()) {
            Some(place) => self.take(tcp, address, place, admit, closed).await,
            None => self.turn_stranger_away(),
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        place: &Place,
    ) -> Option<TlsStream<Live<TcpStream>>> {
        let attempt = async {
            // A slot is for those who have begun: whoever only connects must not hold one. The end of the input counts as nothing said.
            if tcp.peek(&mut [0]).await? == 0 || !place.speaks() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let _slot = self.handshakes.acquire().await.map_err(io::Error::other)?;
            self.acceptor.accept(Live::new(tcp, SILENCE_MAX)).await
        };
        match timeout(HANDSHAKE_DEADLINE, attempt).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Some(stream),
            Ok(Ok(_)) => {
                tracing::debug!(peer = %address, "connection without HTTP/2");
                None
            }
            Ok(Err(error)) => {
                if let Some(wrong) = wrong_certificate(&error) {
                    tracing::warn!(error = %wrong, "a client certificate was refused");
                }
                tracing::debug!(peer = %address, error = %Chain(&error), "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(peer = %address, "TLS handshake took too long");
                None
            }
        }
    }
}

/// What is wrong with the certificate that was shown, if that is why a handshake failed.
fn wrong_certificate(error: &io::Error) -> Option<&rustls::Error> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(error, rustls::Error::InvalidCertificate(_)).then_some(error)
}

async fn converse<A: Admit>(
    stream: TlsStream<Live<TcpStream>>,
    address: SocketAddr,
    place: Place,
    gate: &Gate,
    admit: A,
    closed: CancellationToken,
) {
    let leaf = match peer_leaf(stream.get_ref().1.peer_certificates()) {
        Ok(leaf) => leaf,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "unreadable client certificate");
            tracing::debug!(peer = %address, "an unreadable client certificate came from here");
            return;
        }
    };
    // A stranger keeps its place among the strangers; who is known leaves it and takes a seat.
    let (_place, _seat) = match &leaf {
        None => (Some(place), None),
        Some(leaf) => {
            let Some(seat) = gate.certified.seat(&leaf.principal) else {
                if let Some(count) = gate.certified_turned_away.count(Instant::now()) {
                    let principal = &leaf.principal;
                    tracing::warn!(count, %principal, "turned certified connections away: too many are open");
                }
                return;
            };
            drop(place);
            (None, Some(seat))
        }
    };
    let anonymous = leaf.is_none();
    let admitted = CancellationToken::new();
    let peer = Peer { address, leaf, closed: closed.clone(), admitted: admitted.clone() };
    let _on_close = closed.clone().drop_guard();
    let Some(calls) = admit.admit(peer) else { return };
    let connection = async {
        let builder = if anonymous { http2::server_for_strangers() } else { http2::server() };
        let mut connection = builder.handshake::<_, Piece>(stream).await?;
        let mut asking = pin!(keep_asking(connection.ping_pong()));
        let crowd = Crowd::default();
        loop {
            tokio::select! {
                call = connection.accept() => match call {
                    Some(call) => {
                        let (request, respond) = call?;
                        calls.answer(Call::new(request, respond, crowd.clone()));
                    }
                    None => return Ok::<(), h2::Error>(()),
                },
                () = &mut asking => {}
            }
        }
    };
    let enrolled = async {
        if anonymous {
            // Whoever proved itself within the deadline may wait for what an issuer has to do.
            if timeout(ENROL_DEADLINE, admitted.cancelled()).await.is_ok() {
                tokio::time::sleep(ISSUE_WAIT + ISSUE_ANSWER_WAIT).await;
            }
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = closed.cancelled() => {}
        outcome = connection => if let Err(error) = outcome {
            tracing::debug!(peer = %address, error = %Chain(&error), "connection ended");
        },
        () = enrolled => tracing::debug!(peer = %address, "enrolment took too long"),
    }
}

#[cfg(test)]
mod tests;
