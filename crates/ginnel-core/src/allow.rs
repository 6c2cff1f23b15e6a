//! The agent owner's word: what this agent may dial and for whom, whatever the server asks for.
//!
//! A name is judged twice: as it was asked for, then by every address that it resolved to. What is dialled is an
//! address that was judged, never a name again, so that a second answer of the DNS cannot replace the first.
//!
//! A client counts as one only once its certificate was verified. Until then the question is whether anybody may have what is asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::address::special;
use crate::cause::Cause;
use crate::pattern::TargetPattern;
use crate::principal::{InvalidPrincipal, Name, Principal, Role};
use crate::target::{Host, Port, Target};

/// Most addresses that are given for one dial. An answer with more of them is somebody's mistake or an attempt to
/// keep the agent busy; no host of a private network needs more to be reached.
pub const ADDRESSES_MAX: usize = 32;

/// The targets that an agent may dial. An empty list permits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: Vec<Entry>,
    /// What is shut out of it.
    denied: Vec<TargetPattern>,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What may be dialled.
    pub target: TargetPattern,
    /// For whom; without it, for every client. With an empty set, for nobody.
    pub clients: Option<BTreeSet<ListedClient>>,
}

/// A client as an owner writes it down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListedClient {
    /// Every client of this name that the trusted root vouches for.
    Name(Name),
    /// This very principal, which is a client.
    Principal(Principal),
}

/// Why a text names no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClient {
    /// It is neither a name nor a principal.
    #[error(
        "a client is written as its name, frontend, or as its principal, spiffe://acme.example/client/frontend: {0}"
    )]
    Spelling(InvalidPrincipal),
    /// It is the principal of a server or an agent.
    #[error("this is the principal of no client: its role is {0}")]
    Role(Role),
}

impl ListedClient {
    fn means(&self, client: &Principal) -> bool {
        match self {
            Self::Name(name) => client.role == Role::Client && client.name == *name,
            Self::Principal(principal) => client == principal,
        }
    }
}

impl fmt::Display for ListedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Principal(principal) => write!(f, "{principal}"),
        }
    }
}

impl FromStr for ListedClient {
    type Err = InvalidClient;

    fn from_str(text: &str) -> Result<Self, InvalidClient> {
        if !text.contains('/') {
            return text.parse().map(Self::Name).map_err(InvalidClient::Spelling);
        }
        let principal: Principal = text.parse().map_err(InvalidClient::Spelling)?;
        if principal.role == Role::Client {
            Ok(Self::Principal(principal))
        } else {
            Err(InvalidClient::Role(principal.role))
        }
    }
}

impl Entry {
    /// Whether it is for this client; for one that has not proved who it is, whether it is for anybody.
    fn is_for(&self, client: Option<&Principal>) -> bool {
        match (&self.clients, client) {
            (None, _) => true,
            (Some(clients), None) => !clients.is_empty(),
            (Some(clients), Some(client)) => clients.iter().any(|listed| listed.means(client)),
        }
    }
}

impl From<TargetPattern> for Entry {
    fn from(target: TargetPattern) -> Self {
        Self { target, clients: None }
    }
}

/// The pattern, and for whom it is: equal texts mean equal entries.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.target)?;
        let Some(clients) = &self.clients else { return Ok(()) };
        let clients: Vec<_> = clients.iter().map(ToString::to_string).collect();
        write!(f, " for {}", if clients.is_empty() { "nobody".to_owned() } else { clients.join(" ") })
    }
}

impl AllowList {
    /// A list of these entries: what they mean together is what any of them means.
    pub fn new(entries: impl IntoIterator<Item = impl Into<Entry>>) -> Self {
        Self { entries: entries.into_iter().map(Into::into).collect(), denied: Vec::new() }
    }

    /// The same list with nothing else shut out of it than what `denied` means, by name or by address.
    #[must_use]
    pub fn without(&self, denied: Vec<TargetPattern>) -> Self {
        Self { entries: self.entries.clone(), denied }
    }

    /// What is shut out of it.
    pub fn denied(&self) -> &[TargetPattern] {
        &self.denied
    }

    /// The entries, in the order in which they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether an entry says for which clients it is, so that nothing may be dialled before a client has proved who it is.
    pub fn names_clients(&self) -> bool {
        self.entries.iter().any(|entry| entry.clients.is_some())
    }

    /// Whether an entry means this target, shut out or not, whoever asks.
    pub fn lists_target(&self, target: &Target) -> bool {
        self.entry_for(None, target).is_some()
    }

    /// The first entry that means this target for this client, shut out or not.
    pub fn entry_for(&self, client: Option<&Principal>, target: &Target) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.target.matches(target) && entry.is_for(client))
    }

    /// Judges a target as it was asked for. No name is special: what a name stands for is judged once it is resolved.
    ///
    /// `client` is who asks, by a certificate that was verified. Without it the verdict is only that somebody may have the target, and nothing
    /// may be dialled for it on a list that [names clients](Self::names_clients).
    ///
    /// # Errors
    /// [`Cause::NotOnAllowList`] unless an entry means this target for this client and it is not shut out.
    pub fn permits_target(&self, client: Option<&Principal>, target: &Target) -> Result<(), Cause> {
        let is_denied = self.denied.iter().any(|pattern| pattern.matches(target));
        let is_listed = self.entry_for(client, target).is_some();
        if is_listed && !is_denied { Ok(()) } else { Err(Cause::NotOnAllowList) }
    }

    /// Judges what a permitted target resolved to, and gives what may be dialled: each address once, in the given
    /// order, with the port of the target, at most [`ADDRESSES_MAX`] of them. The target itself is judged again,
    /// because the list may have been replaced while its name was being resolved.
    ///
    /// Two kinds of addresses are left out unless an entry for this client lists them as addresses. One that is not
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
        client: Option<&Principal>,
        target: &Target,
        resolved: &[SocketAddr],
        own_listeners: &[SocketAddr],
    ) -> Result<Vec<SocketAddr>, Cause> {
        self.permits_target(client, target)?;
        if resolved.is_empty() {
            return Err(Cause::NameNotResolved);
        }
        let mut seen = BTreeSet::new();
        let mut some_are_denied = false;
        let dialable: Vec<_> = resolved
            .iter()
            .map(|&address| canonical(address, target.port))
            .filter(|address| is_answer(&target.host, address.ip()))
            .filter(|&address| self.permits_address(client, address, own_listeners))
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

    fn permits_address(&self, client: Option<&Principal>, address: SocketAddr, own_listeners: &[SocketAddr]) -> bool {
        let own = own_listeners.iter().any(|&listener| is_reached(listener, address));
        if own {
            return self.lists(client, address, IpNet::from(address.ip()));
        }
        special(address.ip()).is_none_or(|(_, range)| self.lists(client, address, range))
    }

    /// Whether an entry for this client, for addresses within `range`, means this address.
    fn lists(&self, client: Option<&Principal>, address: SocketAddr, range: IpNet) -> bool {
        let entries = self.entries.iter().filter(|entry| entry.is_for(client));
        entries.map(|entry| &entry.target).any(|pattern| {
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
