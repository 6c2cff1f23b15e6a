//! What belongs to networks, found by an address within them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Something for each of some networks.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks<T> {
    of: HashMap<IpNet, T>,
    /// The lengths that prefixes have, by family: there are at most 33 and 129, however many networks there are.
    lengths_v4: BTreeSet<u8>,
    lengths_v6: BTreeSet<u8>,
}

impl<T: Default> Networks<T> {
    /// What belongs to this network, which has no bits beyond its prefix.
    pub(super) fn entry(&mut self, network: IpNet) -> &mut T {
        let lengths = match network {
            IpNet::V4(_) => &mut self.lengths_v4,
            IpNet::V6(_) => &mut self.lengths_v6,
        };
        lengths.insert(network.prefix_len());
        self.of.entry(network).or_default()
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut T> {
        self.of.values_mut()
    }

    /// What belongs to the networks that an address is in.
    pub(super) fn containing(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        let address = address.to_canonical();
        let lengths = match address {
            IpAddr::V4(_) => &self.lengths_v4,
            IpAddr::V6(_) => &self.lengths_v6,
        };
        lengths.iter().filter_map(move |length| self.of.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}
