//! Connections with a certificate: bounded in all and per principal, so that one certified peer cannot take every place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_core::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_PRINCIPAL_MAX};
use ginnel_core::principal::Principal;

/// Seats for connections with a certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Certified(Arc<Mutex<Table>>);

/// The seat of one connection, which it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    certified: Certified,
    principal: Principal,
}

#[derive(Debug, Default)]
struct Table {
    principals: HashMap<Principal, usize>,
    taken: usize,
}

impl Certified {
    /// A seat for a connection of this principal; `None` if there is none left for it.
    pub(super) fn seat(&self, principal: &Principal) -> Option<Seat> {
        let mut table = self.table();
        let its_own = table.principals.get(principal).copied().unwrap_or(0);
        if table.taken >= CONNECTIONS_MAX || its_own >= CONNECTIONS_PER_PRINCIPAL_MAX {
            return None;
        }
        table.taken += 1;
        table.principals.insert(principal.clone(), its_own + 1);
        Some(Seat { certified: self.clone(), principal: principal.clone() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.certified.table();
        table.taken -= 1;
        if let Some(its_own) = table.principals.get_mut(&self.principal) {
            *its_own -= 1;
            if *its_own == 0 {
                table.principals.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(number: usize) -> Principal {
        format!("spiffe://acme.example/agent/a{number}").parse().unwrap()
    }

    #[test]
    fn one_principal_cannot_take_what_another_needs() {
        let certified = Certified::default();
        let mut seats: Vec<_> =
            (0..CONNECTIONS_PER_PRINCIPAL_MAX).map(|_| certified.seat(&principal(1)).unwrap()).collect();
        assert!(certified.seat(&principal(1)).is_none());
        assert!(certified.seat(&principal(2)).is_some());
        seats.pop();
        assert!(certified.seat(&principal(1)).is_some());
    }

    #[test]
    fn all_principals_together_are_bounded_and_leave_nothing_behind() {
        let certified = Certified::default();
        let seats: Vec<_> = (0..CONNECTIONS_MAX).map(|number| certified.seat(&principal(number)).unwrap()).collect();
        assert!(certified.seat(&principal(CONNECTIONS_MAX)).is_none());
        drop(seats);
        let table = certified.table();
        assert_eq!((table.taken, table.principals.len()), (0, 0));
    }
}
