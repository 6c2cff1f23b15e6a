//! Bytes of sessions that wait in this process because whoever is to take them does not.
//!
//! Credit that was granted cannot be taken back, so that a crowd of sessions can make a process hold more than it has. A session that would
//! have it hold more is ended then: never a stall, never the whole process. Each principal has a shelf, and what waits for it lies there. As
//! with a [quota](crate::quota), nobody's shelf may have more on it than is left for the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::principal::Principal;
use crate::quota::Usage;

/// Everything that waits. Clones are of the same one.
#[derive(Clone, Debug)]
pub struct Store(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    most: u64,
    all: AtomicU64,
    refused: AtomicU64,
    shelves: Mutex<BTreeMap<Principal, Weak<Part>>>,
}

/// What waits for one principal. Clones are of the same one.
#[derive(Clone, Debug)]
pub struct Shelf(Arc<Part>);

#[derive(Debug)]
struct Part {
    whole: Arc<Whole>,
    own: AtomicU64,
}

/// Bytes that wait together; gone from the shelf when this is dropped.
#[derive(Debug)]
pub struct Load {
    shelf: Shelf,
    bytes: u64,
}

impl Store {
    /// Room for so many bytes.
    pub fn new(most: u64) -> Self {
        let (all, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Whole { most, all, refused, shelves: Mutex::default() }))
    }

    /// The shelf of a principal.
    pub fn shelf(&self, principal: &Principal) -> Shelf {
        // A map without half-done states: a panic elsewhere cannot have left one.
        let mut shelves = self.0.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shelf) = shelves.get(principal).and_then(Weak::upgrade) {
            return Shelf(shelf);
        }
        // As many are left as have connections or sessions.
        shelves.retain(|_, shelf| shelf.strong_count() > 0);
        let shelf = Arc::new(Part { whole: Arc::clone(&self.0), own: AtomicU64::new(0) });
        shelves.insert(principal.clone(), Arc::downgrade(&shelf));
        Shelf(shelf)
    }

    /// How far it is used up.
    pub fn usage(&self) -> Usage {
        let Whole { most, all, refused, .. } = &*self.0;
        Usage { taken: all.load(Ordering::Relaxed), most: *most, refused: refused.load(Ordering::Relaxed) }
    }
}

impl Shelf {
    /// A load on this shelf, empty yet.
    pub fn load(&self) -> Load {
        Load { shelf: self.clone(), bytes: 0 }
    }
}

impl Load {
    /// The shelf that it is on.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Says how many bytes wait. `false` if they are more than before and too many: what they belong to must not go on.
    #[must_use]
    pub fn set(&mut self, bytes: u64) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes == before {
            return true;
        }
        let Shelf(part) = &self.shelf;
        // Only the numbers count; nothing else is ordered by them, and a sum that is a moment old does no harm.
        if bytes < before {
            part.own.fetch_sub(before - bytes, Ordering::Relaxed);
            part.whole.all.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let more = bytes - before;
        let own = part.own.fetch_add(more, Ordering::Relaxed) + more;
        let all = part.whole.all.fetch_add(more, Ordering::Relaxed) + more;
        // No more than what is left.
        let fits = own.saturating_add(all) <= part.whole.most;
        if !fits {
            part.whole.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Less always fits.
        let _ = self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1000;

    fn principal(name: &str) -> Principal {
        format!("spiffe://acme.example/client/{name}").parse().unwrap()
    }

    /// Loads a shelf piece by piece until one does not fit, which is taken off again.
    fn fill(shelf: &Shelf) -> Vec<Load> {
        let mut loads = Vec::new();
        loop {
            let mut load = shelf.load();
            if !load.set(PIECE) {
                return loads;
            }
            loads.push(load);
        }
    }

    #[test]
    fn a_principal_that_lets_everything_wait_leaves_as_much_for_the_others() {
        let store = Store::new(100 * PIECE);
        let (one, other) = (store.shelf(&principal("one")), store.shelf(&principal("other")));
        let held = fill(&one);
        assert_eq!((held.len(), fill(&other).len()), (50, 25));
        assert_eq!(store.usage().taken, 50 * PIECE);
        drop(held);
        assert_eq!((store.usage().taken, store.usage().refused), (0, 2));
    }

    #[test]
    fn connections_of_one_principal_share_a_shelf_that_goes_with_the_last() {
        let store = Store::new(8 * PIECE);
        let (one, again) = (store.shelf(&principal("one")), store.shelf(&principal("one")));
        let held = fill(&one);
        assert!(!again.load().set(PIECE), "another connection has no shelf of its own");
        drop((held, one, again));
        let _other = store.shelf(&principal("other"));
        assert_eq!(store.0.shelves.lock().unwrap().len(), 1);
    }

    #[test]
    fn less_always_fits() {
        let store = Store::new(4 * PIECE);
        let mut load = store.shelf(&principal("one")).load();
        assert!(!load.set(10 * PIECE));
        assert!(load.set(9 * PIECE) && load.set(9 * PIECE), "what shrinks is on its way back");
        drop(load);
        assert_eq!(store.usage().taken, 0);
    }
}
