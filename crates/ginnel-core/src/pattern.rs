//! Which targets a rule or an allow-list means.
//!
//! A pattern is about names or about addresses, never both: an address literal cannot slip in under a pattern for
//! names, and a name cannot claim an address that its owner never wrote down.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::target::{DnsName, Host, InvalidTarget, Port, Target, serde_as_text, split_port};

/// Fewest labels after a star: `*.internal` would be everybody's machines.
const WILDCARD_LABELS_MIN: usize = 2;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// The address of a network has bits beyond its prefix.
    #[error("the address has bits beyond its prefix; the network is \"{network}\"")]
    HostBits {
        /// What was probably meant.
        network: IpNet,
    },
    /// The ports are neither a port nor a range of ports.
    #[error("ports are one number from 1 to 65535 or a range, as in 8000-8100")]
    Ports,
    /// The length of the prefix is no number, or too large for the address.
    #[error("a prefix is a number from 0 to {bits}")]
    Prefix {
        /// Bits of an address of this family.
        bits: u8,
    },
    /// The range of ports ends before it begins.
    #[error("the range of ports ends before it begins")]
    Range,
    /// What is true of targets is not true here.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// A star somewhere else than in place of the first of three or more labels.
    #[error("a star stands for one whole label at the left, with two or more labels after it, as in *.acme.internal")]
    Wildcard,
}

/// Hosts and ports: `gitlab.acme.internal:443`, `*.acme.internal:443`, `10.20.0.0/16:8000-8100`, `10.0.0.7:22`,
/// `[fd00::/8]:443`.
///
/// A star stands for exactly one whole label at the left of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPattern {
    hosts: Hosts,
    ports: Ports,
}

serde_as_text!(TargetPattern);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Hosts {
    Name(DnsName),
    /// Any one label before this name.
    Below(DnsName),
    Network(IpNet),
}

/// Both ends belong to it, and the first is not the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ports {
    first: Port,
    last: Port,
}

impl TargetPattern {
    /// Whether it means this target: an address literal by its network, a name by its name.
    pub fn matches(&self, target: &Target) -> bool {
        self.matches_host(&target.host) && self.ports.contain(target.port.get())
    }

    /// Whether it means this host, on whatever ports.
    pub fn matches_host(&self, host: &Host) -> bool {
        match (&self.hosts, host) {
            (Hosts::Name(name), Host::Name(host)) => name == host,
            (Hosts::Below(parent), Host::Name(host)) => is_child(host, parent),
            (Hosts::Network(network), Host::Address(address)) => network.contains(&address.to_canonical()),
            (Hosts::Name(_) | Hosts::Below(_), Host::Address(_)) | (Hosts::Network(_), Host::Name(_)) => false,
        }
    }

    /// The name of a pattern for one name.
    pub fn name(&self) -> Option<&DnsName> {
        match &self.hosts {
            Hosts::Name(name) => Some(name),
            Hosts::Below(_) | Hosts::Network(_) => None,
        }
    }

    /// The name below which a pattern with a star means one label.
    pub fn parent(&self) -> Option<&DnsName> {
        match &self.hosts {
            Hosts::Below(parent) => Some(parent),
            Hosts::Name(_) | Hosts::Network(_) => None,
        }
    }

    /// The ports that it means, the first and the last.
    pub fn ports(&self) -> (u16, u16) {
        (self.ports.first.get(), self.ports.last.get())
    }

    /// Whether it is a pattern for addresses and means this one.
    pub fn matches_address(&self, address: SocketAddr) -> bool {
        self.network().is_some_and(|network| network.contains(&address.ip().to_canonical()))
            && self.ports.contain(address.port())
    }

    /// The network of a pattern for addresses; a single address is a network of one.
    pub fn network(&self) -> Option<IpNet> {
        match &self.hosts {
            Hosts::Network(network) => Some(*network),
            Hosts::Name(_) | Hosts::Below(_) => None,
        }
    }
}

impl fmt::Display for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Name(name) => write!(f, "{name}")?,
            Hosts::Below(parent) => write!(f, "*.{parent}")?,
            Hosts::Network(network) => {
                let (open, close) = if network.addr().is_ipv6() { ("[", "]") } else { ("", "") };
                if network.prefix_len() == network.max_prefix_len() {
                    write!(f, "{open}{}{close}", network.addr())?;
                } else {
                    write!(f, "{open}{network}{close}")?;
                }
            }
        }
        write!(f, ":{}", self.ports.first)?;
        if self.ports.last > self.ports.first { write!(f, "-{}", self.ports.last) } else { Ok(()) }
    }
}

impl FromStr for TargetPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (hosts, ports) = split_port(text).map_err(|error| {
            if error == InvalidTarget::Port { InvalidPattern::Ports } else { InvalidPattern::Target(error) }
        })?;
        Ok(Self { hosts: hosts.parse()?, ports: ports.parse()? })
    }
}

impl FromStr for Hosts {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.contains('*') {
            return match text.strip_prefix("*.") {
                Some(parent) => parse_parent(parent).map(Self::Below),
                None => Err(InvalidPattern::Wildcard),
            };
        }
        if let Some((address, prefix)) = split_prefix(text) {
            return parse_network(address, prefix).map(Self::Network);
        }
        Ok(match Host::from_authority(text)? {
            Host::Name(name) => Self::Name(name),
            Host::Address(address) => Self::Network(address.into()),
        })
    }
}

impl Ports {
    fn contain(self, port: u16) -> bool {
        (self.first.get()..=self.last.get()).contains(&port)
    }
}

impl FromStr for Ports {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let port = |text: &str| text.parse::<Port>().map_err(|_| InvalidPattern::Ports);
        let Some((first, last)) = text.split_once('-') else {
            let port = port(text)?;
            return Ok(Self { first: port, last: port });
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last { Err(InvalidPattern::Range) } else { Ok(Self { first, last }) }
    }
}

fn is_child(name: &DnsName, parent: &DnsName) -> bool {
    name.as_str().split_once('.').is_some_and(|(_, rest)| rest == parent.as_str())
}

fn parse_parent(text: &str) -> Result<DnsName, InvalidPattern> {
    if text.contains('*') {
        return Err(InvalidPattern::Wildcard);
    }
    let parent: DnsName = text.parse()?;
    if parent.as_str().split('.').count() < WILDCARD_LABELS_MIN {
        return Err(InvalidPattern::Wildcard);
    }
    Ok(parent)
}

/// Splits `10.20.0.0/16` and `[fd00::/8]` into a host as it stands alone and a prefix.
pub(crate) fn split_prefix(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.split_once('/').filter(|(address, _)| address.contains(':')),
        None => text.split_once('/'),
    }
}

pub(crate) fn parse_network(address: &str, prefix: &str) -> Result<IpNet, InvalidPattern> {
    let mapped = address.contains(':');
    let host = address.parse::<Host>()?;
    let Host::Address(address) = host else {
        return Err(InvalidTarget::Character('/').into());
    };
    // The prefix of an IPv4-mapped network counts the 96 bits before the IPv4 address.
    let (bits, outside) = match address {
        IpAddr::V4(_) if mapped => (128, 96),
        IpAddr::V4(_) => (32, 0),
        IpAddr::V6(_) => (128, 0),
    };
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (prefix == "0" || !prefix.starts_with('0'));
    let length = prefix.parse::<u8>().ok().filter(|length| plain && (outside..=bits).contains(length));
    let length = length.ok_or(InvalidPattern::Prefix { bits })? - outside;
    let network = IpNet::new(address, length).map_err(|_| InvalidPattern::Prefix { bits })?;
    if network.trunc() != network {
        return Err(InvalidPattern::HostBits { network: network.trunc() });
    }
    Ok(network)
}

#[cfg(test)]
mod tests;
