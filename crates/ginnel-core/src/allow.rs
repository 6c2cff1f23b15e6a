//! The agent owner's word: what this agent may dial, whatever the server asks for.
//!
//! A name is judged twice: as it was asked for, then by every address that it resolved to. What is dialled is an
//! address that was judged, never a name again, so that a second answer of the DNS cannot replace the first.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::address::special;
use crate::cause::Cause;
use crate::pattern::TargetPattern;
use crate::target::{Host, Port, Target};

/// Most addresses that are given for one dial. An answer with more of them is somebody's mistake or an attempt to
/// keep the agent busy; no host of a private network needs more to be reached.
pub const ADDRESSES_MAX: usize = 32;

/// The targets that an agent may dial. An empty list permits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    patterns: Vec<TargetPattern>,
    /// What is shut out of it.
    denied: Vec<TargetPattern>,
}

impl AllowList {
    /// A list of what these patterns mean.
    pub fn new(patterns: Vec<TargetPattern>) -> Self {
        Self { patterns, denied: Vec::new() }
    }

    /// The same list with nothing else shut out of it than what `denied` means, by name or by address.
    #[must_use]
    pub fn without(&self, denied: Vec<TargetPattern>) -> Self {
        Self { patterns: self.patterns.clone(), denied }
    }

    /// What is shut out of it.
    pub fn denied(&self) -> &[TargetPattern] {
        &self.denied
    }

    /// Whether a pattern means this target, shut out or not.
    pub fn lists_target(&self, target: &Target) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(target))
    }

    /// The patterns, in the order in which they were given.
    pub fn patterns(&self) -> &[TargetPattern] {
        &self.patterns
    }

    /// Judges a target as it was asked for. No name is special: what a name stands for is judged once it is resolved.
    ///
    /// # Errors
    /// [`Cause::NotOnAllowList`] unless a pattern means this target and it is not shut out.
    pub fn permits_target(&self, target: &Target) -> Result<(), Cause> {
        let is_denied = self.denied.iter().any(|pattern| pattern.matches(target));
        if self.lists_target(target) && !is_denied { Ok(()) } else { Err(Cause::NotOnAllowList) }
    }

    /// Judges what a permitted target resolved to, and gives what may be dialled: each address once, in the given
    /// order, with the port of the target, at most [`ADDRESSES_MAX`] of them. The target itself is judged again,
    /// because the list may have been replaced while its name was being resolved.
    ///
    /// Two kinds of addresses are left out unless a pattern lists them as addresses. One that is not
    /// [ordinary](crate::address::AddressKind::Ordinary) has to be in a listed network that lies wholly in the range
    /// of its kind: `127.0.0.0/8` lists loopback, `0.0.0.0/0` does not. One where this process itself listens has to
    /// be listed alone: `127.0.0.1:8080`. A listener on the unspecified address is reached through loopback; to have
    /// the machine's other addresses judged too, `own_listeners` must name them with that port.
    ///
    /// # Errors
    /// [`Cause::NotOnAllowList`] as for [`Self::permits_target`], [`Cause::NameNotResolved`] if there are no addresses,
    /// [`Cause::AddressForbidden`] if none of them may be dialled, or [`Cause::NotOnAllowList`] if that is because they are shut out.
    pub fn dialable(
        &self,
        target: &Target,
        resolved: &[SocketAddr],
        own_listeners: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, Cause> {
        self.permits_target(target)?;
        if resolved.is_empty() {
            return Err(Cause::NameNotResolved);
        }
        let mut seen = BTreeSet::new();
        let mut some_are_denied = false;
        let dialable: Vec<_> = resolved
            .iter()
            .map(|&address| canonical(address, target.port))
            .filter(|address| is_answer(&target.host, address.ip()))
            .filter(|&address| self.permits_address(address, own_listeners))
            .filter(|&address| {
                let is_denied = self.denied.iter().any(|pattern| pattern.matches_address(address));
                some_are_denied |= is_denied;
                !is_denied
            })
            .filter(|&address| seen.insert(address))
            .take(ADDRESSES_MAX)
            .collect();
        match dialable.is_empty() {
            false => Ok(dialable),
            true if some_are_denied => Err(Cause::NotOnAllowList),
            true => Err(Cause::AddressForbidden),
        }
    }

    fn permits_address(&self, address: SocketAddr, own_listeners: &[SocketAddr]) -> bool {
        let own = own_listeners.iter().any(|&listener| is_reached(listener, address));
        if own {
            return self.lists(address, IpNet::from(address.ip()));
        }
        special(address.ip()).is_none_or(|(_, range)| self.lists(address, range))
    }

    /// Whether a pattern for addresses within `range` means this address.
    fn lists(&self, address: SocketAddr, range: IpNet) -> bool {
        self.patterns.iter().any(|pattern| {
            pattern.matches_address(address) && pattern.network().is_some_and(|network| range.contains(&network))
        })
    }
}

/// The address with IPv4 out of its IPv6 mapping and with the target's port; the scope of an IPv6 address stays.
fn canonical(address: SocketAddr, port: Port) -> SocketAddr {
    let mut address = match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, port.get()),
        IpAddr::V6(_) => address,
    };
    address.set_port(port.get());
    address
}

/// An address literal resolves to itself and to nothing else.
fn is_answer(host: &Host, address: IpAddr) -> bool {
    match host {
        Host::Name(_) => true,
        Host::Address(literal) => literal.to_canonical() == address,
    }
}

/// Whether a connection to `address` arrives at `listener`.
fn is_reached(listener: SocketAddr, address: SocketAddr) -> bool {
    let (at, to) = (listener.ip().to_canonical(), address.ip());
    // A listener on [::] takes IPv4 too. A dialled unspecified address needs no word here: it has to be listed alone
    // anyhow.
    listener.port() == address.port() && (at == to || (at.is_unspecified() && to.is_loopback()))
}

#[cfg(test)]
mod tests;
