//! The HTTP proxy through which an agent or client reaches its server, and for whom it does not count.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use crate::target::{DnsName, Host, Target};

/// How an owner wants the server to be reached. It names files; what they hold is read by whoever connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Where the proxy is.
    pub location: ProxyLocation,
    /// The PEM file of the roots that may sign the proxy's certificate; there if, and only if, TLS is spoken with it.
    pub trust: Option<PathBuf>,
    /// What the proxy asks for.
    pub credentials: Option<ProxyCredentials>,
    /// For whom the proxy does not count.
    pub bypass: Vec<Bypass>,
}

impl ProxySettings {
    /// Whether this host is reached without the proxy.
    pub fn is_bypassed(&self, host: &str) -> bool {
        self.bypass.iter().any(|entry| entry.matches(host))
    }
}

/// User name and password of HTTP Basic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyCredentials {
    /// The user.
    pub username: String,
    /// The file of the password.
    pub password_file: PathBuf,
}

/// Where a proxy is, written `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLocation {
    /// Whether TLS is spoken with the proxy itself.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl ProxyLocation {
    /// Host and port as they stand in a URL.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Host and port as they stand in a URL or a CONNECT request: an IPv6 address in brackets.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl fmt::Display for ProxyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// Why a text is no place of a proxy. What was written is not repeated, because it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProxy {
    /// Configuration: a user or password inside.
    #[error("a user and password do not belong here: use username and passwordFile")]
    Credentials,
    /// Configuration: not of this form, or without a port.
    #[error("a proxy is written http://host:port or https://host:port")]
    Form,
}

impl FromStr for ProxyLocation {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) if text.contains('@') => return Err(InvalidProxy::Credentials),
            (None, None) => return Err(InvalidProxy::Form),
        };
        if rest.contains('@') {
            return Err(InvalidProxy::Credentials);
        }
        let target: Target = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| InvalidProxy::Form)?;
        Ok(Self { tls, host: target.host.to_string(), port: target.port.get() })
    }
}

/// Hosts that are reached without the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// This name.
    Name(DnsName),
    /// Every name below this one, and not the name itself.
    Below(DnsName),
    /// Addresses in this network. A name is never resolved to find out whether it lies in one.
    Network(IpNet),
}

impl Bypass {
    /// Whether this host, a name or an address without brackets, is meant.
    pub fn matches(&self, host: &str) -> bool {
        match (self, host.parse::<Host>()) {
            (Self::Name(name), Ok(Host::Name(host))) => *name == host,
            (Self::Below(name), Ok(Host::Name(host))) => {
                host.as_str().strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Self::Network(network), Ok(Host::Address(address))) => network.contains(&address),
            (Self::Name(_) | Self::Below(_), Ok(Host::Address(_)))
            | (Self::Network(_), Ok(Host::Name(_)))
            | (Self::Name(_) | Self::Below(_) | Self::Network(_), Err(_)) => false,
        }
    }
}

/// Why a text names nobody for whom the proxy does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a name (a.example), every name below one (.a.example), an address or a network (10.0.0.0/8)")]
pub struct InvalidBypass;

impl FromStr for Bypass {
    type Err = InvalidBypass;

    fn from_str(text: &str) -> Result<Self, InvalidBypass> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.to_canonical().into()));
        }
        match text.strip_prefix('.') {
            Some(name) => name.parse().map(Self::Below).map_err(|_| InvalidBypass),
            None => text.parse().map(Self::Name).map_err(|_| InvalidBypass),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_what_they_write() {
        for text in ["http://proxy.acme.internal:3128", "https://10.0.0.1:443", "http://[fd00::1]:8080"] {
            let location: ProxyLocation = text.parse().expect(text);
            assert_eq!((location.to_string().as_str(), location.tls), (text, text.starts_with("https")));
        }
        let cases = [
            ("", InvalidProxy::Form),
            ("proxy:3128", InvalidProxy::Form),
            ("socks5://proxy:1080", InvalidProxy::Form),
            ("http://proxy", InvalidProxy::Form),
            ("http://proxy:0", InvalidProxy::Form),
            ("http://proxy:1/path", InvalidProxy::Form),
            ("http://user:word@proxy:1", InvalidProxy::Credentials),
            ("user:word@proxy:1", InvalidProxy::Credentials),
        ];
        for (text, expected) in cases {
            let error = text.parse::<ProxyLocation>().expect_err(text);
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("word@"), "{error}");
        }
    }

    #[test]
    fn only_the_hosts_that_are_meant_are_reached_without_the_proxy() {
        let cases = [
            ("a.example", "a.example", true),
            ("a.example", "A.Example", true),
            ("a.example", "b.a.example", false),
            (".a.example", "b.a.example", true),
            (".a.example", "c.b.a.example", true),
            (".a.example", "a.example", false),
            (".a.example", "ba.example", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "ten.example", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("fd00::/8", "fd00::1", true),
            ("::1", "::1", true),
        ];
        for (entry, host, expected) in cases {
            let bypass: Bypass = entry.parse().expect(entry);
            assert_eq!(bypass.matches(host), expected, "{entry} {host}");
        }
        for text in ["", ".", "*", "*.a.example", "a.example:443", "10.0.0.0/33", "http://a.example"] {
            assert_eq!(text.parse::<Bypass>(), Err(InvalidBypass), "{text}");
        }
    }
}
