//! Where connections come from: the networks that count, and which of them a principal is known to come from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::principal::Principal;

/// Networks that are remembered of one principal. Whoever comes from more forgets those from which it has not come for longest, and is then
/// reported more often than need be.
pub const NETWORKS_PER_PRINCIPAL_MAX: usize = 64;

/// Networks that are remembered in all: some 100 bytes each. Beyond this the longest unused gives way, whosever it is.
pub const NETWORKS_MAX: usize = 65_536;

/// Where connections come from that count together: an IPv4 /24 or an IPv6 /56, which is about what one site is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpAddr);

/// A text that is not such a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is an IPv4 /24 or an IPv6 /56")]
pub struct InvalidNetwork;

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 72)).into(),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = if self.0.is_ipv4() { 24 } else { 56 };
        write!(f, "{}/{length}", self.0)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let network: IpNet = text.parse().map_err(|_| InvalidNetwork)?;
        let network = Self::of(network.addr());
        if network.to_string() == text { Ok(network) } else { Err(InvalidNetwork) }
    }
}

/// The networks that each principal is known to come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// By principal and network, the last day on which it came from there, counted from 1970.
    known: BTreeMap<Principal, BTreeMap<Network, u32>>,
    count: usize,
}

/// What is known of a principal that comes from somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has come from there today.
    Today,
    /// It has come from there before.
    Before,
    /// It has not, and is known from this many other networks; 0 if it was never seen.
    Never(usize),
}

impl Networks {
    /// Takes note that a principal comes from `network` on `day`, and says what was known of that.
    pub fn see(&mut self, principal: &Principal, network: Network, day: u32) -> Seen {
        if let Some(last) = self.known.get_mut(principal).and_then(|networks| networks.get_mut(&network)) {
            if *last >= day {
                return Seen::Today;
            }
            *last = day;
            return Seen::Before;
        }
        let before = self.known.get(principal).map_or(0, BTreeMap::len);
        self.learn(principal, network, day);
        Seen::Never(before)
    }

    /// Takes in what was known at an earlier time.
    pub fn learn(&mut self, principal: &Principal, network: Network, day: u32) {
        let networks = self.known.entry(principal.clone()).or_default();
        if networks.insert(network, day).is_some() {
            return;
        }
        let longest_unused = (networks.len() > NETWORKS_PER_PRINCIPAL_MAX).then(|| oldest(networks, network));
        self.count += 1;
        if let Some(longest_unused) = longest_unused {
            self.forget(principal, longest_unused);
        } else if self.count > NETWORKS_MAX {
            let others = self.all().filter(|(who, other, _)| (*who, *other) != (principal, network));
            let longest_unused = others.min_by_key(|(_, _, day)| *day).map(|(who, other, _)| (who.clone(), other));
            if let Some((who, other)) = longest_unused {
                self.forget(&who, Some(other));
            }
        }
    }

    fn forget(&mut self, principal: &Principal, network: Option<Network>) {
        let Some(networks) = self.known.get_mut(principal) else { return };
        if network.is_some_and(|network| networks.remove(&network).is_some()) {
            self.count -= 1;
        }
        if networks.is_empty() {
            self.known.remove(principal);
        }
    }

    /// All of them: whose, which, and the last day.
    pub fn all(&self) -> impl Iterator<Item = (&Principal, Network, u32)> {
        self.known.iter().flat_map(|(who, networks)| networks.iter().map(move |(network, day)| (who, *network, *day)))
    }
}

fn oldest(networks: &BTreeMap<Network, u32>, except: Network) -> Option<Network> {
    networks.iter().filter(|(network, _)| **network != except).min_by_key(|(_, day)| **day).map(|(network, _)| *network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> Principal {
        format!("spiffe://acme.example/client/{name}").parse().expect("a principal")
    }

    fn of(text: &str) -> Network {
        Network::of(text.parse().expect("an address"))
    }

    #[test]
    fn addresses_of_one_network_are_one_and_it_is_read_back() {
        let cases = [
            ("203.0.113.7", "203.0.113.0/24"),
            ("203.0.113.255", "203.0.113.0/24"),
            ("::ffff:203.0.113.7", "203.0.113.0/24"),
            ("2001:db8:0:1234:5678::1", "2001:db8:0:1200::/56"),
            ("2001:db8:0:12ff::", "2001:db8:0:1200::/56"),
        ];
        for (address, network) in cases {
            assert_eq!(of(address).to_string(), network, "{address}");
            assert_eq!(network.parse(), Ok(of(address)), "{network}");
        }
        for text in ["", "203.0.113.0", "203.0.113.7/24", "203.0.113.0/25", "2001:db8::/32", "::ffff:1.2.3.0/24"] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
    }

    #[test]
    fn says_what_is_new_for_whom() {
        let mut networks = Networks::default();
        let (one, other) = (principal("one"), principal("other"));
        let cases = [
            (&one, "203.0.113.7", 1, Seen::Never(0)),
            (&one, "203.0.113.8", 1, Seen::Today),
            (&one, "203.0.113.8", 2, Seen::Before),
            // A clock that goes back makes nothing older.
            (&one, "203.0.113.8", 1, Seen::Today),
            (&one, "198.51.100.1", 2, Seen::Never(1)),
            (&other, "203.0.113.7", 2, Seen::Never(0)),
        ];
        for (who, address, day, expected) in cases {
            assert_eq!(networks.see(who, of(address), day), expected, "{address} on {day}");
        }
        let mut restored = Networks::default();
        for (who, network, day) in networks.all() {
            restored.learn(who, network, day);
        }
        assert_eq!(restored, networks);
    }

    #[test]
    fn forgets_what_is_longest_unused_at_either_bound() {
        let mut networks = Networks::default();
        let who = principal("one");
        let nth = |n: u32| Network::of(Ipv4Addr::from_bits(n << 8).into());
        for n in 0..u32::try_from(NETWORKS_PER_PRINCIPAL_MAX).expect("a few") {
            networks.see(&who, nth(n), 10 + n);
        }
        networks.see(&who, nth(0), 1000);
        assert_eq!(networks.see(&who, nth(5000), 1000), Seen::Never(NETWORKS_PER_PRINCIPAL_MAX));
        assert_eq!(networks.see(&who, nth(0), 1000), Seen::Today);
        assert_eq!(
            networks.see(&who, nth(1), 1000),
            Seen::Never(NETWORKS_PER_PRINCIPAL_MAX),
            "the oldest is forgotten"
        );

        let mut networks = Networks::default();
        let many = |n: usize| principal(&format!("p{}", n / NETWORKS_PER_PRINCIPAL_MAX));
        for n in 0..NETWORKS_MAX {
            let day = if n == 7 { 1 } else { 2 };
            networks.learn(&many(n), nth(u32::try_from(n).expect("fits")), day);
        }
        assert_eq!(networks.all().count(), NETWORKS_MAX);
        networks.learn(&who, nth(1), 3);
        assert_eq!(networks.all().count(), NETWORKS_MAX);
        assert!(networks.all().all(|(_, _, day)| day > 1), "the one of the first day gave way");
    }
}
