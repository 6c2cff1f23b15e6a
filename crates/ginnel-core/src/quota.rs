//! Places that many share: each holder may have so many, and never more than it leaves to the others.
//!
//! A bound for all alone would let whoever comes first take everything; a bound for each alone adds up to more than there is. So a holder
//! gets another place only while at least as many are free as it has then: one that takes all it can get leaves half, and whoever comes next
//! finds room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places of one kind. Clones share the same places.
#[derive(Debug)]
pub struct Quota<K: Ord>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    each: u64,
    all: u64,
    table: Mutex<Table<K>>,
}

#[derive(Debug)]
struct Table<K> {
    holders: BTreeMap<K, u64>,
    taken: u64,
    refused: u64,
}

/// One place, which is free again when this is dropped.
#[derive(Debug)]
pub struct Place<K: Ord> {
    quota: Quota<K>,
    holder: K,
}

/// How far a bound is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What is taken now.
    pub taken: u64,
    /// The bound for all together.
    pub most: u64,
    /// How often somebody got nothing, since the start.
    pub refused: u64,
}

impl<K: Ord> Clone for Quota<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord + Clone> Quota<K> {
    /// `all` places, of which each holder may have `each`.
    pub fn new(each: u64, all: u64) -> Self {
        let table = Table { holders: BTreeMap::new(), taken: 0, refused: 0 };
        Self(Arc::new(Shared { each, all, table: Mutex::new(table) }))
    }

    /// A place for `holder`; `None` if there is none left for it.
    pub fn take(&self, holder: &K) -> Option<Place<K>> {
        let mut table = self.table();
        let own = table.holders.get(holder).copied().unwrap_or(0);
        let free = self.0.all.saturating_sub(table.taken);
        if own >= self.0.each || own >= free {
            table.refused += 1;
            return None;
        }
        table.taken += 1;
        table.holders.insert(holder.clone(), own + 1);
        Some(Place { quota: self.clone(), holder: holder.clone() })
    }

    /// Whether `holder` has more than the `divisor`-th part of what it may have, or all together of what there is.
    pub fn is_crowded(&self, holder: &K, divisor: u64) -> bool {
        let table = self.table();
        let own = table.holders.get(holder).copied().unwrap_or(0);
        table.taken > self.0.all / divisor || own > self.0.each / divisor
    }
}

impl<K: Ord> Quota<K> {
    /// How far it is used up.
    pub fn usage(&self) -> Usage {
        let table = self.table();
        Usage { taken: table.taken, most: self.0.all, refused: table.refused }
    }

    fn table(&self) -> MutexGuard<'_, Table<K>> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut table = self.quota.table();
        table.taken -= 1;
        if let Some(own) = table.holders.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                table.holders.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(quota: &Quota<u32>, holder: u32) -> Vec<Place<u32>> {
        std::iter::from_fn(|| quota.take(&holder)).collect()
    }

    #[test]
    fn one_holder_gets_what_each_may_have_and_no_more() {
        let quota = Quota::new(10, 1000);
        let mut places = fill(&quota, 1);
        assert_eq!(places.len(), 10);
        assert!(quota.take(&2).is_some(), "another holder is not refused for it");
        places.pop();
        assert!(quota.take(&1).is_some());
        assert_eq!(quota.usage().refused, 1);
    }

    #[test]
    fn whoever_takes_all_it_can_get_leaves_as_much_as_it_has() {
        let quota = Quota::new(u64::MAX, 1000);
        let first = fill(&quota, 1);
        let second = fill(&quota, 2);
        let third = fill(&quota, 3);
        assert_eq!([first.len(), second.len(), third.len()], [500, 250, 125]);
        assert!(quota.take(&4).is_some(), "a newcomer finds room");
        drop(first);
        assert!(quota.take(&3).is_some(), "what is given back is everybody's");
    }

    #[test]
    fn nothing_is_left_of_places_that_were_given_back() {
        let quota = Quota::new(3, 8);
        let places: Vec<_> = (0..4).flat_map(|holder| fill(&quota, holder)).collect();
        assert_eq!(quota.usage().taken, places.len() as u64);
        drop(places);
        let table = quota.table();
        assert_eq!((table.taken, table.holders.len()), (0, 0));
    }

    #[test]
    fn a_crowd_is_of_one_holder_or_of_all() {
        let quota = Quota::new(4, 100);
        let _own: Vec<_> = (0..3).map(|_| quota.take(&1).unwrap()).collect();
        assert_eq!((quota.is_crowded(&1, 2), quota.is_crowded(&2, 2)), (true, false));
        let _rest: Vec<_> = (2..50).map(|holder| quota.take(&holder).unwrap()).collect();
        assert!(quota.is_crowded(&99, 2));
    }
}
