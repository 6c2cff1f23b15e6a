//! Which kinds of addresses there are, and which of them are never dialled unless they are listed as addresses.
//!
//! A name on an allow-list is a promise about a host in the customer's network. Whoever controls the name's DNS must
//! not be able to turn it into this machine, its metadata service, or an address that hides one of these inside
//! another. Private addresses (RFC 1918, ULA) are the normal case here and ordinary.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// A host in some network, public or private.
    Ordinary,
    /// All hosts of the local network at once.
    Broadcast,
    /// An IPv4 address inside an IPv6 address, in the form that was meant for hosts with both (`::/96`).
    Ipv4Compatible,
    /// A neighbour on the same wire.
    LinkLocal,
    /// This machine.
    Loopback,
    /// The service of a cloud provider that hands out credentials.
    Metadata,
    /// A group of hosts.
    Multicast,
    /// An IPv4 address inside an IPv6 address, for a translator (NAT64, SIIT).
    Nat64,
    /// Reserved for a future that did not come (`240.0.0.0/4`).
    Reserved,
    /// Between a provider and its customers (`100.64.0.0/10`); clouds put services of their own there.
    Shared,
    /// An IPv4 address inside an IPv6 address, for a 6to4 relay.
    SixToFour,
    /// An IPv4 address inside an IPv6 address, for a Teredo relay.
    Teredo,
    /// "This network" (`0.0.0.0/8`).
    ThisNetwork,
    /// No address; dialled, it is this machine.
    Unspecified,
}

/// The kind of an address. An IPv4-mapped IPv6 address is of the kind of the IPv4 address.
pub fn classify(address: IpAddr) -> AddressKind {
    special(address).map_or(AddressKind::Ordinary, |(kind, _)| kind)
}

/// The kind and the range of an address that is not ordinary.
pub(crate) fn special(address: IpAddr) -> Option<(AddressKind, IpNet)> {
    let address = address.to_canonical();
    SPECIAL.iter().copied().find(|(_, range)| range.contains(&address))
}

/// The narrower range comes first.
const SPECIAL: &[(AddressKind, IpNet)] = &[
    (AddressKind::Unspecified, v4([0, 0, 0, 0], 32)),
    (AddressKind::ThisNetwork, v4([0, 0, 0, 0], 8)),
    (AddressKind::Loopback, v4([127, 0, 0, 0], 8)),
    (AddressKind::Metadata, v4([169, 254, 169, 254], 32)),
    // Containers' credentials on AWS: tasks (ECS) and pods (EKS).
    (AddressKind::Metadata, v4([169, 254, 170, 2], 32)),
    (AddressKind::Metadata, v4([169, 254, 170, 23], 32)),
    (AddressKind::LinkLocal, v4([169, 254, 0, 0], 16)),
    // Azure's host answers its guests at a public address.
    (AddressKind::Metadata, v4([168, 63, 129, 16], 32)),
    (AddressKind::Metadata, v4([100, 100, 100, 200], 32)),
    (AddressKind::Shared, v4([100, 64, 0, 0], 10)),
    (AddressKind::Multicast, v4([224, 0, 0, 0], 4)),
    (AddressKind::Broadcast, v4([255, 255, 255, 255], 32)),
    (AddressKind::Reserved, v4([240, 0, 0, 0], 4)),
    (AddressKind::Unspecified, v6([0, 0, 0, 0, 0, 0, 0, 0], 128)),
    (AddressKind::Loopback, v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    (AddressKind::Ipv4Compatible, v6([0, 0, 0, 0, 0, 0, 0, 0], 96)),
    (AddressKind::Nat64, v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96)),
    (AddressKind::Nat64, v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96)),
    (AddressKind::Nat64, v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)),
    (AddressKind::Teredo, v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32)),
    (AddressKind::SixToFour, v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16)),
    (AddressKind::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128)),
    (AddressKind::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128)),
    (AddressKind::Metadata, v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128)),
    (AddressKind::LinkLocal, v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    (AddressKind::Multicast, v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
];

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_both_ends_of_every_range() {
        use AddressKind as K;
        let cases = [
            ("0.0.0.0", K::Unspecified),
            ("0.0.0.1", K::ThisNetwork),
            ("0.255.255.255", K::ThisNetwork),
            ("1.0.0.0", K::Ordinary),
            ("10.0.0.7", K::Ordinary),
            ("172.16.0.1", K::Ordinary),
            ("192.168.1.1", K::Ordinary),
            ("8.8.8.8", K::Ordinary),
            ("100.63.255.255", K::Ordinary),
            ("100.64.0.0", K::Shared),
            ("100.100.100.200", K::Metadata),
            ("100.127.255.255", K::Shared),
            ("100.128.0.0", K::Ordinary),
            ("126.255.255.255", K::Ordinary),
            ("127.0.0.0", K::Loopback),
            ("127.255.255.255", K::Loopback),
            ("128.0.0.0", K::Ordinary),
            ("168.63.129.16", K::Metadata),
            ("169.253.255.255", K::Ordinary),
            ("169.254.0.0", K::LinkLocal),
            ("169.254.169.254", K::Metadata),
            ("169.254.170.2", K::Metadata),
            ("169.254.255.255", K::LinkLocal),
            ("169.255.0.0", K::Ordinary),
            ("223.255.255.255", K::Ordinary),
            ("224.0.0.1", K::Multicast),
            ("239.255.255.255", K::Multicast),
            ("240.0.0.0", K::Reserved),
            ("255.255.255.254", K::Reserved),
            ("255.255.255.255", K::Broadcast),
            ("::", K::Unspecified),
            ("::1", K::Loopback),
            ("::7f00:1", K::Ipv4Compatible),
            ("::ffff:ffff", K::Ipv4Compatible),
            ("::1:0:0", K::Ordinary),
            ("::ffff:127.0.0.1", K::Loopback),
            ("::ffff:169.254.169.254", K::Metadata),
            ("::ffff:10.0.0.7", K::Ordinary),
            ("::ffff:0:127.0.0.1", K::Nat64),
            ("64:ff9b::7f00:1", K::Nat64),
            ("64:ff9b::1:0:0", K::Ordinary),
            ("64:ff9b:1::a9fe:a9fe", K::Nat64),
            ("64:ff9b:1:ffff::", K::Nat64),
            ("64:ff9b:2::", K::Ordinary),
            ("2001::1", K::Teredo),
            ("2001:0:ffff::", K::Teredo),
            ("2001:1::", K::Ordinary),
            ("2001:db8::1", K::Ordinary),
            ("2002:7f00:1::", K::SixToFour),
            ("2003::", K::Ordinary),
            ("fd00::1", K::Ordinary),
            ("fd00:ec2::254", K::Metadata),
            ("fd00:ec2::253", K::Ordinary),
            ("fe7f::", K::Ordinary),
            ("fe80::1", K::LinkLocal),
            ("febf:ffff::", K::LinkLocal),
            ("fec0::", K::Ordinary),
            ("ff02::1", K::Multicast),
        ];
        for (text, kind) in cases {
            assert_eq!(classify(text.parse().unwrap()), kind, "{text}");
        }
    }

    #[test]
    fn no_range_is_hidden_by_a_wider_one_before_it() {
        for (at, (kind, range)) in SPECIAL.iter().enumerate() {
            assert_eq!(range.trunc(), *range, "{range}");
            let earlier = SPECIAL[..at].iter().find(|(_, earlier)| earlier.contains(range));
            assert_eq!(earlier, None, "{kind:?} {range}");
        }
    }
}
