//! Ranges of addresses that connections may come from.
//!
//! An IPv4 address inside an IPv6 one is the IPv4 address, on both sides of the question: a listener on `[::]` sees every IPv4 peer that way, and
//! `0.0.0.0/0` has to mean them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::pattern::{InvalidPattern, parse_network, split_prefix};
use crate::target::Host;

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// It is neither an address nor an address with a prefix.
    #[error("a range is an address or a network, as in 203.0.113.7, 203.0.113.0/24 or fd00::/8")]
    Form,
    /// The prefix or the bits beyond it are wrong.
    #[error(transparent)]
    Network(InvalidPattern),
}

/// A network: `203.0.113.0/24`, `fd00::/8`, or one address, which is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        // Brackets are for what has a port.
        if text.starts_with('[') {
            return Err(InvalidNetwork::Form);
        }
        let Some((address, prefix)) = split_prefix(text) else {
            return match text.parse() {
                Ok(Host::Address(address)) => Ok(Self(address.into())),
                Ok(Host::Name(_)) | Err(_) => Err(InvalidNetwork::Form),
            };
        };
        parse_network(address, prefix).map(Self).map_err(|error| match error {
            InvalidPattern::HostBits { .. } | InvalidPattern::Prefix { .. } => InvalidNetwork::Network(error),
            InvalidPattern::Ports | InvalidPattern::Range | InvalidPattern::Target(_) | InvalidPattern::Wildcard => {
                InvalidNetwork::Form
            }
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_network(self.0, f)
    }
}

impl From<IpNet> for Network {
    /// The network without bits beyond its prefix.
    fn from(network: IpNet) -> Self {
        Self(network.trunc())
    }
}

/// A set of addresses. An empty one has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Disjoint, none of them beside another that it could be joined with, in order: equal sets are equal.
    networks: Vec<IpNet>,
}

impl Ranges {
    /// The addresses of all these networks.
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let mut networks = IpNet::aggregate(&networks.into_iter().map(|Network(network)| network).collect());
        networks.sort_unstable();
        Self { networks }
    }

    /// Whether an address is one of them. It takes as many steps as there are digits in the number of networks, whatever they are.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let after = self.networks.partition_point(|network| network.addr() <= address);
        after.checked_sub(1).is_some_and(|at| self.networks[at].contains(&address))
    }

    /// The fewest networks that have these addresses and no others, in order.
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// The addresses of all of these.
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::new(all.into_iter().flat_map(|ranges| &ranges.networks).copied().map(Network))
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.networks.is_empty() {
            return f.write_str("nowhere");
        }
        for (place, network) in self.networks.iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            write_network(*network, f)?;
        }
        Ok(())
    }
}

fn write_network(network: IpNet, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if network.prefix_len() == network.max_prefix_len() {
        write!(f, "{}", network.addr())
    } else {
        write!(f, "{network}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Ranges {
        Ranges::new(texts.iter().map(|text| text.parse::<Network>().unwrap()))
    }

    #[test]
    fn means_exactly_the_addresses_of_its_networks() {
        let some = ranges(&["203.0.113.0/24", "10.0.0.7", "fd00::/8", "10.0.0.8/31", "2001:db8::1"]);
        let cases = [
            ("203.0.113.0", true),
            ("203.0.113.255", true),
            ("203.0.112.255", false),
            ("203.0.114.0", false),
            ("10.0.0.6", false),
            ("10.0.0.7", true),
            ("10.0.0.9", true),
            ("10.0.0.10", false),
            ("::ffff:203.0.113.9", true),
            ("::ffff:203.0.114.9", false),
            ("::203.0.113.9", false),
            ("fd00::1", true),
            ("fdff:ffff::", true),
            ("fe00::", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("0.0.0.0", false),
            ("::", false),
        ];
        for (address, is_in) in cases {
            assert_eq!(some.contains(address.parse().unwrap()), is_in, "{address}");
        }
        let everywhere = ranges(&["0.0.0.0/0"]);
        for (address, is_in) in [("198.51.100.1", true), ("::ffff:198.51.100.1", true), ("fd00::1", false)] {
            assert_eq!(everywhere.contains(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!Ranges::default().contains("10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn equal_sets_are_equal_and_have_one_spelling() {
        let cases: [(&[&str], &str); 5] = [
            (&["10.0.0.128/25", "10.0.0.0/25"], "10.0.0.0/24"),
            (&["10.0.0.0/8", "10.1.2.3", "::ffff:10.9.0.0/112"], "10.0.0.0/8"),
            (&["fd00::1", "10.0.0.7"], "10.0.0.7, fd00::1"),
            (&["10.0.0.7", "10.0.0.7"], "10.0.0.7"),
            (&[], "nowhere"),
        ];
        for (texts, spelling) in cases {
            assert_eq!(ranges(texts).to_string(), spelling);
        }
        let (one, other) = (ranges(&["10.0.0.0/25"]), ranges(&["10.0.0.128/25", "fd00::1"]));
        assert_eq!(Ranges::union([&one, &other]), ranges(&["fd00::1", "10.0.0.0/24"]));
    }

    #[test]
    fn refuses_what_is_no_network_and_says_what_is_wrong() {
        for text in ["", "gitlab.acme.internal", "gitlab/8", "[fd00::]/8", "10.0.0.0:443", "*", "fe80::1%eth0"] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork::Form), "{text}");
        }
        for text in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/8:443",
            "10.0.0.0/-1",
            "10.0.0.0/08",
            "10.0.0.0/",
            "fd00::/129",
            "::ffff:10.0.0.0/95",
        ] {
            assert!(matches!(text.parse::<Network>(), Err(InvalidNetwork::Network(_))), "{text}");
        }
        let hint = "10.0.0.1/8".parse::<Network>().unwrap_err().to_string();
        assert!(hint.contains("10.0.0.0/8"), "{hint}");
    }
}
