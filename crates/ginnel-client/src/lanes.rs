//! The connections beside the first, and which of all of them takes the next session.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_core::lanes::least_busy;
use ginnel_net::connect::Connection;
use ginnel_net::upstream::{Lane, Place};

use crate::link::Live;

/// The lanes beside the first that are up. Clones are of the same ones; there are never more than a process may have.
#[derive(Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<Vec<Up>>>);

struct Up {
    lane: Lane,
    connection: Connection,
    /// The server at its other end.
    server: Vec<u8>,
}

impl Lanes {
    /// Puts a lane to use.
    pub(crate) fn join(&self, lane: Lane, connection: Connection, server: Vec<u8>) {
        self.up().push(Up { lane, connection, server });
    }

    /// Takes it out of use; its sessions have the connection themselves.
    pub(crate) fn leave(&self, lane: &Lane) {
        self.up().retain(|up| !up.lane.is(lane));
    }

    /// The connection for the next session of a client whose first connection is `live`, and a place on it.
    ///
    /// A lane to another process of the server than the one that sent the roster does not count: it may know of other agents, and a server
    /// that is told to stop is followed by another one while its connections are still there.
    pub(crate) fn place(&self, live: &Live) -> (Connection, Place) {
        let lanes = self.up();
        let usable = |up: &&Up| up.server == live.server && !up.lane.is_retired() && up.connection.takes_sessions();
        let further = lanes.iter().filter(usable).map(|up| (&up.lane, &up.connection));
        let first = (&live.lane, &live.connection);
        let all = std::iter::once(first).filter(|(_, connection)| connection.takes_sessions()).chain(further);
        let (lane, connection) = least_busy(all, |(lane, _)| (lane.number(), lane.sessions())).unwrap_or(first);
        (connection.clone(), lane.enter())
    }

    fn up(&self) -> MutexGuard<'_, Vec<Up>> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
