//! Connections that have shown no certificate yet: bounded in all and per source.
//!
//! A load balancer's connection counts among all until it has said where it comes from, and then for that source.
//! At a bound it is the longest silent connection that gives way to the newcomer. Whoever wants to speak speaks at once, so that silence in any
//! number costs others nothing; only where everybody speaks is the newcomer turned away.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_core::limits::{PENDING_MAX, PENDING_PER_SOURCE_MAX};
use ginnel_core::network::Network;
use tokio_util::sync::CancellationToken;

/// Places for connections that have shown no certificate yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<Mutex<Table>>);

/// The place of one connection, which it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pending: Pending,
    source: Source,
    number: u64,
    gave_way: CancellationToken,
}

/// Where connections come from that count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The network of an address.
    Network(Network),
    /// Balancers that have not said yet on whose behalf they come.
    Unannounced,
}

#[derive(Debug)]
enum Standing {
    Silent(CancellationToken),
    Speaking,
}

#[derive(Debug, Default)]
struct Table {
    /// Places by the order in which they were taken.
    sources: HashMap<Source, BTreeMap<u64, Standing>>,
    taken: usize,
    next: u64,
}

impl Pending {
    /// A place for a connection from `address`; `None` if every place is taken by somebody who speaks.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        let source = Source::Network(Network::of(address));
        let gave_way = CancellationToken::new();
        let number = self.table().enter(source, gave_way.clone())?;
        Some(Place { pending: self.clone(), source, number, gave_way })
    }

    /// A place for a balancer's connection until it has said where it comes from; `None` if every place is taken by somebody who speaks.
    pub(super) fn announce(&self) -> Option<Place> {
        let gave_way = CancellationToken::new();
        let number = self.table().enter(Source::Unannounced, gave_way.clone())?;
        Some(Place { pending: self.clone(), source: Source::Unannounced, number, gave_way })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves once somebody else has this place, because nothing was heard on it.
    pub(super) async fn gave_way(&self) {
        self.gave_way.cancelled().await;
    }

    /// Keeps the place although others come. False if it is gone already.
    pub(super) fn speaks(&self) -> bool {
        self.pending.table().speaks(self.source, self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.table().leave(self.source, self.number);
    }
}

impl Source {
    /// How many of all places it may have.
    fn most(self) -> usize {
        match self {
            Self::Network(_) => PENDING_PER_SOURCE_MAX,
            // All of a server's peers may come through one balancer, in the time that a header takes.
            Self::Unannounced => PENDING_MAX,
        }
    }
}

impl Table {
    fn enter(&mut self, source: Source, gave_way: CancellationToken) -> Option<u64> {
        if self.sources.get(&source).is_some_and(|places| places.len() >= source.most()) {
            self.make_room(source)?;
        } else if self.taken >= PENDING_MAX {
            // The source with the most has the least to complain about.
            let somebody_silent = |places: &BTreeMap<_, _>| places.values().any(Standing::is_silent);
            let silent = self.sources.iter().filter(|(_, places)| somebody_silent(places));
            let (&crowd, _) = silent.max_by_key(|(_, places)| places.len())?;
            self.make_room(crowd)?;
        }
        let number = self.next;
        self.next += 1;
        self.taken += 1;
        self.sources.entry(source).or_default().insert(number, Standing::Silent(gave_way));
        Some(number)
    }

    /// Takes the place of the longest silent connection from this source.
    fn make_room(&mut self, source: Source) -> Option<()> {
        let places = self.sources.get(&source)?;
        let (&number, _) = places.iter().find(|(_, standing)| standing.is_silent())?;
        if let Some(Standing::Silent(gave_way)) = self.leave(source, number) {
            gave_way.cancel();
        }
        Some(())
    }

    fn speaks(&mut self, source: Source, number: u64) -> bool {
        let standing = self.sources.get_mut(&source).and_then(|places| places.get_mut(&number));
        let Some(standing) = standing else { return false };
        *standing = Standing::Speaking;
        true
    }

    fn leave(&mut self, source: Source, number: u64) -> Option<Standing> {
        let places = self.sources.get_mut(&source)?;
        let standing = places.remove(&number)?;
        self.taken -= 1;
        if places.is_empty() {
            self.sources.remove(&source);
        }
        Some(standing)
    }
}

impl Standing {
    fn is_silent(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Speaking => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(pending: &Pending, address: &str, count: usize) -> Vec<Place> {
        (0..count).map(|_| pending.enter(ip(address)).unwrap()).collect()
    }

    fn gone(places: &[Place]) -> usize {
        places.iter().filter(|place| place.gave_way.is_cancelled()).count()
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let cases = [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("192.0.2.1", "::ffff:192.0.2.9", true),
            ("2001:db8:0:100::1", "2001:db8:0:1ff::1", true),
            ("2001:db8:0:100::1", "2001:db8:0:200::1", false),
        ];
        for (one, other, same) in cases {
            assert_eq!(Network::of(ip(one)) == Network::of(ip(other)), same, "{one} and {other}");
        }
    }

    #[test]
    fn the_longest_silent_of_a_full_source_gives_way() {
        let pending = Pending::default();
        let places = enter(&pending, "192.0.2.1", PENDING_PER_SOURCE_MAX);
        let elsewhere = enter(&pending, "198.51.100.1", 1);
        assert!(places[0].speaks());
        let _newcomers = enter(&pending, "192.0.2.2", 2);
        assert_eq!((gone(&places[1..3]), gone(&places), gone(&elsewhere)), (2, 2, 0));
        assert!(!places[1].speaks(), "a place that was given away can be kept");
        assert_eq!(pending.table().taken, PENDING_PER_SOURCE_MAX + 1);
    }

    #[test]
    fn a_source_that_speaks_in_every_place_turns_only_itself_away() {
        let pending = Pending::default();
        let mut places = enter(&pending, "192.0.2.1", PENDING_PER_SOURCE_MAX);
        assert!(places.iter().all(Place::speaks));
        assert!(pending.enter(ip("192.0.2.1")).is_none());
        assert!(pending.enter(ip("198.51.100.1")).is_some());
        places.pop();
        assert!(pending.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn at_the_bound_of_all_the_largest_source_with_somebody_silent_gives_way() {
        let pending = Pending::default();
        let speaking = enter(&pending, "192.0.2.1", PENDING_PER_SOURCE_MAX);
        assert!(speaking.iter().all(Place::speaks));
        let crowd = enter(&pending, "198.51.100.1", PENDING_PER_SOURCE_MAX - 1);
        let left = PENDING_MAX - speaking.len() - crowd.len();
        let lone: Vec<_> =
            (0..left).flat_map(|n| enter(&pending, &format!("10.{}.{}.1", n / 256, n % 256), 1)).collect();
        assert_eq!((pending.table().taken, gone(&crowd)), (PENDING_MAX, 0));
        let _newcomer = pending.enter(ip("203.0.113.1")).unwrap();
        assert_eq!((gone(&crowd[..1]), gone(&crowd), gone(&lone), gone(&speaking)), (1, 1, 0, 0));
    }

    #[test]
    fn balancers_may_fill_the_room_of_all_and_then_the_longest_unannounced_gives_way() {
        let pending = Pending::default();
        let unannounced: Vec<_> = (0..PENDING_MAX).map(|_| pending.announce().unwrap()).collect();
        assert_eq!(gone(&unannounced), 0);
        let known = pending.enter(ip("192.0.2.1")).unwrap();
        assert_eq!((gone(&unannounced[..1]), gone(&unannounced), gone(&[known])), (1, 1, 0));
    }

    #[test]
    fn nothing_is_left_of_connections_that_are_gone() {
        let pending = Pending::default();
        drop(enter(&pending, "192.0.2.1", PENDING_PER_SOURCE_MAX + 3));
        let table = pending.table();
        assert_eq!((table.taken, table.sources.len()), (0, 0));
    }
}
