//! The open connections with a certificate, so that those whose identity is taken away can be closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_core::principal::Principal;
use ginnel_identity::certificate::Leaf;
use tokio_util::sync::CancellationToken;

/// Every connection with a certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Connected>,
}

#[derive(Debug)]
struct Connected {
    principal: Principal,
    email: String,
    closed: CancellationToken,
}

/// A connection's place in the table, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    connections: Connections,
    number: u64,
}

impl Connections {
    /// Puts a connection down. To be called before its identity is looked up: a change of identities that comes in between then finds it.
    pub(crate) fn register(&self, leaf: &Leaf, closed: CancellationToken) -> Registered {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        let connected = Connected { principal: leaf.principal.clone(), email: leaf.email.clone(), closed };
        table.open.insert(number, connected);
        Registered { connections: self.clone(), number }
    }

    /// The connections that may not stay; cancelling a token closes one.
    pub(crate) fn unless(&self, may_stay: impl Fn(&Principal, &str) -> bool) -> Vec<CancellationToken> {
        let table = self.table();
        let gone = table.open.values().filter(|connected| !may_stay(&connected.principal, &connected.email));
        // One that is closed already may be here until its last session has let go of it.
        gone.map(|connected| connected.closed.clone()).filter(|closed| !closed.is_cancelled()).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A map without half-done states: a panic elsewhere cannot have left one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.table().open.remove(&self.number);
    }
}
