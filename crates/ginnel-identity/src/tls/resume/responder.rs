//! The agent's end.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ginnel_core::principal::Principal;
use rustls::server::StoresServerSessions;
use rustls::{Error, ServerConfig, ServerConnection};
use zeroize::Zeroizing;

use super::tickets::{Id, Secret, Tickets};
use super::{GIVEN_MAX, Handshake, Life, Verified, handshake, no_ticket, remaining, shown, wall_clock};
use crate::certificate::Identity;
use crate::tls::verify::{InnerClients, Mismatch, refused};
use crate::tls::{TlsError, inner_server_parts};
use crate::trust::CurrentRoots;

/// Answers the inner handshakes of clients with one certificate of the agent's.
#[derive(Debug)]
pub struct Responder {
    /// The setting for a handshake that neither takes nor gives a ticket.
    config: Arc<ServerConfig>,
    verifier: Arc<InnerClients>,
    tickets: Arc<Tickets>,
    sha256: [u8; 32],
}

/// One handshake that is to be answered. Drop it when the handshake fails: nothing of it is kept then.
#[derive(Debug)]
pub struct Responding {
    config: Arc<ServerConfig>,
    verifier: Arc<InnerClients>,
    kept: Arc<Kept>,
}

/// What rustls takes and leaves during one handshake.
struct Kept {
    tickets: Arc<Tickets>,
    client: Principal,
    epoch: Option<u64>,
    now: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: Option<Life>,
    made: Vec<(Id, Secret)>,
}

crate::never_implements!(State: fmt::Debug, serde::Serialize, Clone);

impl Responder {
    /// Sets it up for the clients of the agent's own trust domain. Roots that change count from the next handshake on, resumed or not.
    ///
    /// # Errors
    /// [`TlsError::Role`] unless `identity` is an agent.
    pub fn new(clients: impl Into<CurrentRoots>, identity: &Identity) -> Result<Self, TlsError> {
        let (mut config, verifier) = inner_server_parts(clients.into(), identity)?;
        config.max_tls13_tickets = usize::from(GIVEN_MAX);
        let sha256 = identity.leaf().sha256;
        Ok(Self { config: Arc::new(config), verifier, tickets: Arc::default(), sha256 })
    }

    /// Whether it answers with this very certificate.
    pub fn is_of(&self, identity: &Identity) -> bool {
        self.sha256 == identity.leaf().sha256
    }

    /// Sets one handshake up, which succeeds with `client` only.
    pub fn respond(&self, client: &Principal, now: Instant) -> Responding {
        let kept = Arc::new(Kept {
            tickets: Arc::clone(&self.tickets),
            client: client.clone(),
            epoch: self.tickets.epoch(),
            now,
            state: Mutex::default(),
        });
        let mut config = (*self.config).clone();
        config.session_storage = Arc::clone(&kept) as Arc<dyn StoresServerSessions>;
        Responding { config: Arc::new(config), verifier: Arc::clone(&self.verifier), kept }
    }

    /// Drops all tickets: the next handshake of every client is a full one.
    pub fn forget(&self) {
        self.tickets.forget();
    }

    /// Drops all tickets of one client.
    pub fn forget_client(&self, client: &Principal) {
        self.tickets.forget_client(client);
    }

    /// Drops all tickets for good. It answers on, with full handshakes.
    pub fn close(&self) {
        self.tickets.close();
    }

    /// How many tickets there are.
    #[cfg(test)]
    pub(in crate::tls) fn count(&self) -> usize {
        self.tickets.count()
    }
}

impl Responding {
    /// What to give to rustls.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Verifies the client of a finished handshake in full, whether its certificates were shown in this handshake or in an earlier one, and
    /// keeps the tickets that it was given. Before this, no byte of the connection may be believed.
    ///
    /// # Errors
    /// Why it is not the client that was named; then none of this client's tickets are kept.
    pub fn finish(self, connection: &ServerConnection) -> Result<Verified, Error> {
        let verified = self.verify(connection);
        if verified.is_err() {
            self.kept.tickets.forget_client(&self.kept.client);
        }
        verified
    }

    /// Lets a test change the setting.
    #[cfg(test)]
    pub(in crate::tls) fn config_mut(&mut self) -> &mut ServerConfig {
        Arc::make_mut(&mut self.config)
    }

    /// Lets a test change what is believed.
    #[cfg(test)]
    pub(in crate::tls) fn believe(&mut self, verifier: InnerClients) {
        self.verifier = Arc::new(verifier);
    }

    fn verify(&self, connection: &ServerConnection) -> Result<Verified, Error> {
        let handshake = handshake(connection)?;
        let (end_entity, intermediates) = shown(connection)?;
        let clock = wall_clock(&*self.config.time_provider)?;
        let leaf = self.verifier.verify(end_entity, intermediates, clock)?;
        if leaf.principal != self.kept.client {
            return Err(refused(Mismatch::Principal));
        }
        let State { taken, made } = std::mem::take(&mut *self.kept.state());
        let began = match handshake {
            Handshake::Full => self.kept.now,
            Handshake::Resumed => taken.ok_or_else(no_ticket)?.began,
        };
        if let Some(epoch) = self.kept.epoch {
            let life = Life::new(began, self.kept.now, remaining(&leaf, clock));
            self.kept.tickets.put(&self.kept.client, made, life, epoch, self.kept.now);
        }
        Ok(Verified { handshake, leaf })
    }
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for Kept {
    fn put(&self, id: Vec<u8>, secret: Vec<u8>) -> bool {
        let secret = Zeroizing::new(secret);
        let mut state = self.state();
        // A ticket that would not be kept is not given.
        let is_kept = self.epoch.is_some() && state.made.len() < usize::from(GIVEN_MAX);
        if is_kept {
            state.made.push((id, secret));
        }
        is_kept
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        // TLS 1.2's way, which would leave the ticket where it is.
        None
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let (mut secret, life) = self.tickets.take(&self.client, id, self.now)?;
        self.state().taken = Some(life);
        Some(std::mem::take(&mut *secret))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("client", &self.client).finish_non_exhaustive()
    }
}
