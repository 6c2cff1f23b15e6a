//! The open connections with a certificate, so that those whose identity is taken away can be closed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_core::denial::Shown;
use ginnel_core::limits::LANES_SHARE_DIVISOR;
use ginnel_core::principal::Principal;
use ginnel_core::quota::Quota;
use ginnel_identity::certificate::Leaf;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Every connection with a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    table: Arc<Mutex<Table>>,
    /// The places of all of them.
    places: Quota<Principal>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Connected>,
}

#[derive(Debug)]
struct Connected {
    certificate: Arc<Shown>,
    closed: CancellationToken,
}

/// A connection's place in the table, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    connections: Connections,
    number: u64,
}

impl Connections {
    /// None yet, of those that have `places`.
    pub(crate) fn new(places: Quota<Principal>) -> Self {
        Self { table: Arc::default(), places }
    }

    /// Puts a connection down. To be called before its identity is looked up: a change of identities that comes in between then finds it.
    pub(crate) fn register(&self, certificate: Arc<Shown>, closed: CancellationToken) -> Registered {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Connected { certificate, closed });
        Registered { connections: self.clone(), number }
    }

    /// The connections that may not stay; cancelling a token closes one.
    pub(crate) fn unless(&self, may_stay: impl Fn(&Shown) -> bool) -> Vec<CancellationToken> {
        let table = self.table();
        let gone = table.open.values().filter(|connected| !may_stay(&connected.certificate));
        // One that is closed already may be here until its last session has let go of it.
        gone.map(|connected| connected.closed.clone()).filter(|closed| !closed.is_cancelled()).collect()
    }

    /// Whether a connection with this certificate may be a further one of a process, whose first connection has the certificate with the serial
    /// number `first`, if it is there.
    ///
    /// A further connection has no record of its own. Because it must show the certificate of the first, which has one, nobody comes in by
    /// it unseen; and it is taken only while there is room for the first connections of others.
    pub(crate) fn may_be_further(&self, leaf: &Leaf, first: Option<&str>) -> Result<(), Status> {
        if first != Some(&leaf.serial) {
            return Err(Status::failed_precondition(
                "there is no first connection of this process with this certificate",
            ));
        }
        if self.places.is_crowded(&leaf.principal, LANES_SHARE_DIVISOR) {
            return Err(Status::resource_exhausted("there is no room for further connections of one process"));
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A map without half-done states: a panic elsewhere cannot have left one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.table().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tonic::Code;

    use super::*;

    fn leaf(principal: &str, serial: &str) -> Leaf {
        Leaf {
            principal: format!("spiffe://acme.example/agent/{principal}").parse().unwrap(),
            email: "agent@acme.example".to_owned(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            serial: serial.to_owned(),
            sha256: [0; 32],
            spki_sha256: [0; 32],
            evidence: None,
        }
    }

    #[test]
    fn a_further_connection_needs_the_certificate_of_a_first_one() {
        let connections = Connections::new(Quota::new(1, 1));
        let leaf = leaf("acme", "01");
        assert!(connections.may_be_further(&leaf, Some("01")).is_ok());
        for first in [None, Some("02")] {
            let refused = connections.may_be_further(&leaf, first).unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{first:?}");
        }
    }

    #[test]
    fn further_connections_leave_half_of_the_places_to_first_ones() {
        let places = Quota::new(20, 200);
        let connections = Connections::new(places.clone());
        let fill = |principal: &str, count| -> Vec<_> {
            let principal = leaf(principal, "01").principal;
            (0..count).map(|_| places.take(&principal).unwrap()).collect()
        };
        let code =
            |principal: &str| connections.may_be_further(&leaf(principal, "01"), Some("01")).map_err(|e| e.code());
        let own = fill("acme", 10);
        assert_eq!(code("acme"), Ok(()));
        let more = fill("acme", 1);
        assert_eq!((code("acme"), code("other")), (Err(Code::ResourceExhausted), Ok(())));
        let rest: Vec<_> = (0..9).map(|n| fill(&format!("many{n}"), 10)).collect();
        assert_eq!(code("other"), Err(Code::ResourceExhausted));
        drop((own, more, rest));
        assert_eq!((code("acme"), code("other")), (Ok(()), Ok(())));
    }
}
