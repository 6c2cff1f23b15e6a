//! Where to: a host and a port in the customer's network, in one canonical spelling.
//!
//! Two texts that mean the same target parse to equal values, and a text that a resolver might take for an address in
//! one of its forgotten spellings (`0x7f.1`, `2130706433`) is no target at all. Everything that compares targets
//! relies on both.

use std::borrow::Borrow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Most characters of a name, dots included, without the root's dot (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

/// Most characters of one label (RFC 1035, 2.3.4).
const LABEL_MAX: usize = 63;

/// Why a text is no target, host or port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Brackets are missing, not closed, or stand around something else than an IPv6 address.
    #[error("brackets stand around an IPv6 address and nothing else, as in [fd00::1]:443")]
    Brackets,
    /// The name has a character that no host name has.
    #[error("a host name consists of letters, digits, '-', '_' and '.', and has no {0:?}")]
    Character(char),
    /// There is no host.
    #[error("the host is missing")]
    Empty,
    /// A label begins or ends with a hyphen.
    #[error("no part of a host name begins or ends with '-'")]
    Hyphen,
    /// A number where a name or address should be, or an IPv4 address in an unusual form.
    #[error("an IPv4 address is written as four decimal numbers from 0 to 255 without leading zeros")]
    Ipv4,
    /// The text looks like an IPv6 address, but is none.
    #[error("not an IPv6 address")]
    Ipv6,
    /// A label is empty or too long.
    #[error("each part of a host name has 1 to 63 characters")]
    Label,
    /// The name is too long.
    #[error("a host name has at most 253 characters")]
    Length,
    /// The name is written with characters beyond ASCII.
    #[error("a host name with characters beyond ASCII is written in its xn-- form")]
    NonAscii,
    /// The port is no number from 1 to 65535 in its plain decimal form.
    #[error("a port is a decimal number from 1 to 65535 without sign or leading zeros")]
    Port,
    /// There is a host and no port.
    #[error("the port is missing, as in gitlab.acme.internal:443")]
    PortMissing,
    /// A label in the xn-- form has an underscore, which that form never has.
    #[error("a part of a host name in xn-- form consists of letters, digits and '-'")]
    Punycode,
    /// The text is a URL, or part of one.
    #[error("a host and a port are all there is to a target: no scheme, no path")]
    Url,
    /// The address names a zone, which means something on one machine only.
    #[error("an IPv6 address with a zone is no target")]
    Zone,
}

/// Implements serde as a string, by way of `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($($name:ident),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

pub(crate) use serde_as_text;

serde_as_text!(Host, Port, Target);

/// A port that a connection can be made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Port {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        // The standard parser takes a sign and leading zeros; proxies and resolvers do not agree on either.
        if !text.bytes().all(|b| b.is_ascii_digit()) || text.starts_with('0') {
            return Err(InvalidTarget::Port);
        }
        text.parse().map(Self).map_err(|_| InvalidTarget::Port)
    }
}

impl TryFrom<u16> for Port {
    type Error = InvalidTarget;

    fn try_from(number: u16) -> Result<Self, InvalidTarget> {
        NonZeroU16::new(number).map(Self).ok_or(InvalidTarget::Port)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        port.get()
    }
}

/// A DNS name in its canonical form.
///
/// Lower case, at most 253 characters, labels of 1 to 63 letters, digits, hyphens (neither first nor last) and
/// underscores, without the root's dot. The last label is no number, decimal or hexadecimal, so no spelling of an
/// address is a name. Labels in `xn--` form are taken as they are; names beyond ASCII are refused, because parsers
/// disagree on how to map them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names are found by their text.
impl Borrow<str> for DnsName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DnsName {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if text.is_empty() {
            return Err(InvalidTarget::Empty);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > NAME_MAX {
            return Err(InvalidTarget::Length);
        }
        let name = name.to_ascii_lowercase();
        for label in name.split('.') {
            check_label(label)?;
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(InvalidTarget::Ipv4);
        }
        Ok(Self(name.into()))
    }
}

impl TryFrom<String> for DnsName {
    type Error = InvalidTarget;

    fn try_from(text: String) -> Result<Self, InvalidTarget> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.as_str().to_owned()
    }
}

fn check_label(label: &str) -> Result<(), InvalidTarget> {
    if !label.is_ascii() {
        return Err(InvalidTarget::NonAscii);
    }
    if let Some(other) = label.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_')) {
        return Err(InvalidTarget::Character(other));
    }
    if !(1..=LABEL_MAX).contains(&label.len()) {
        return Err(InvalidTarget::Label);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(InvalidTarget::Hyphen);
    }
    if label.starts_with("xn--") && label.contains('_') {
        return Err(InvalidTarget::Punycode);
    }
    Ok(())
}

/// Whether `inet_aton` or a URL parser reads this last label as a number, and with it the whole name as an IPv4
/// address.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || label.bytes().all(|b| b.is_ascii_digit())
}

/// A name or an address.
///
/// An IPv4-mapped IPv6 address is the IPv4 address; [`From<IpAddr>`] and the parsers see to that. The text of
/// `Display` has no brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name that the agent resolves.
    Name(DnsName),
    /// An address literal.
    Address(IpAddr),
}

impl Host {
    /// Reads the host of an authority, as in a URL or a CONNECT request: an IPv6 address stands in brackets, nothing
    /// else does.
    ///
    /// # Errors
    /// [`InvalidTarget`] says what is wrong.
    pub fn from_authority(text: &str) -> Result<Self, InvalidTarget> {
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(InvalidTarget::Brackets)?;
            if inner.parse::<Ipv4Addr>().is_ok() {
                return Err(InvalidTarget::Brackets);
            }
            return parse_ipv6(inner).map(Self::from);
        }
        if text.contains([':', ']']) {
            return Err(InvalidTarget::Brackets);
        }
        text.parse()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => fmt::Display::fmt(name, f),
            Self::Address(address) => fmt::Display::fmt(address, f),
        }
    }
}

/// Reads a host that stands alone, without brackets; [`Host::from_authority`] reads the form with brackets.
impl FromStr for Host {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if text.contains(['[', ']']) {
            return Err(InvalidTarget::Brackets);
        }
        if text.contains(':') {
            return parse_ipv6(text).map(Self::from);
        }
        match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Self::Address(address.into())),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

fn parse_ipv6(text: &str) -> Result<IpAddr, InvalidTarget> {
    if text.contains('%') {
        return Err(InvalidTarget::Zone);
    }
    text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| InvalidTarget::Ipv6)
}

/// A host and a port, written `gitlab.acme.internal:443`, `10.0.0.7:22` or `[fd00::1]:443`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Port,
}

impl Target {
    /// A target of these two parts.
    pub fn new(host: Host, port: Port) -> Self {
        Self { host, port }
    }

    /// Whether a connection to this target may have led to `address`: it has the target's port and, unless the target is a name, its address.
    pub fn may_be_at(&self, address: SocketAddr) -> bool {
        let is_host = match &self.host {
            Host::Name(_) => true,
            Host::Address(literal) => literal.to_canonical() == address.ip().to_canonical(),
        };
        is_host && address.port() == self.port.get()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            Host::Address(IpAddr::V4(_)) | Host::Name(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let (host, port) = split_port(text)?;
        Ok(Self { host: Host::from_authority(host)?, port: port.parse()? })
    }
}

/// Splits `host:port`, where only a host in brackets has colons of its own.
pub(crate) fn split_port(text: &str) -> Result<(&str, &str), InvalidTarget> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(InvalidTarget::Brackets)?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Err(InvalidTarget::PortMissing),
            None => Err(InvalidTarget::Brackets),
        };
    }
    let Some((host, port)) = text.split_once(':') else {
        return Err(if text.is_empty() { InvalidTarget::Empty } else { InvalidTarget::PortMissing });
    };
    if port.contains(':') && is_bare_ipv6(text) {
        Err(InvalidTarget::Brackets)
    } else if port.contains('/') {
        Err(InvalidTarget::Url)
    } else if port.contains(':') {
        Err(InvalidTarget::Port)
    } else {
        Ok((host, port))
    }
}

/// Whether this was meant as an IPv6 address or network, with or without a port.
fn is_bare_ipv6(text: &str) -> bool {
    let without_port = text.rsplit_once(':').map_or(text, |(host, _)| host);
    [text, without_port]
        .into_iter()
        .filter_map(|text| text.split('/').next())
        .any(|address| address.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests;
