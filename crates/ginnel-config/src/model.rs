//! The configuration of server, agent and client.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ginnel_core::congestion::CongestionControl;
use ginnel_core::lanes::Bounds;
use ginnel_core::limits::LANES_MAX;
use ginnel_core::proxy::ProxySettings;
use ginnel_core::renewal::{Percent, Renewal};
use ginnel_core::target::{DnsName, InvalidTarget, Target};

use crate::Daemon;
use crate::shape::{self, Fields, Text, located, object};

pub(crate) mod agent;
mod audit;
pub(crate) mod client;
mod credential;
pub(crate) mod enrolment;
pub(crate) mod issuer;
mod limits;
pub(crate) mod proof;
pub(crate) mod proxy;
pub(crate) mod server;
mod sink;
mod sources;

pub use agent::{AgentConfig, AgentTrust, Dial};
pub use client::{ClientConfig, ClientTrust, Forward, Listen};
pub use credential::{Credential, WorkloadIdentity, WorkloadMethod};
pub use enrolment::{EnrolmentConfig, EnrolmentSection};
pub use issuer::{
    CaPool, CasIssuer, CasTier, InvalidCaPool, IssuerKind, IssuerSection, PerRole, RemoteIssuer, ServerIssuer,
};
pub use proof::{GoogleSection, OidcIssuer, OidcSubject, PublicKeys, TokenBinding};
pub use server::{Identity, ServerConfig, ServerSection};
pub use sink::CloudLogging;
pub use sources::AllowedSources;

/// Gives a configuration its two ways in.
macro_rules! loadable {
    ($config:ident) => {
        impl $config {
            /// Reads a file and what overrides it.
            ///
            /// Relative paths in the file start at its directory, those in overrides at the working directory.
            ///
            /// # Errors
            /// [`LoadError`](crate::LoadError) if the file cannot be read, or with everything that is wrong.
            pub fn load(path: &std::path::Path, overrides: &crate::Overrides) -> Result<Self, crate::LoadError> {
                crate::load::load(declaration, path, overrides)
            }

            /// The file and what overrides it, to be read now and again later.
            pub fn source(path: std::path::PathBuf, overrides: crate::Overrides) -> crate::Source<Self> {
                crate::Source::new(path, overrides, Self::load)
            }

            /// Reads a text and what overrides it. `file_name` is what findings call it; relative paths start at
            /// `base_dir`.
            ///
            /// # Errors
            /// [`Findings`](crate::Findings) with everything that is wrong.
            pub fn parse(
                text: &str,
                file_name: &str,
                base_dir: &std::path::Path,
                overrides: &crate::Overrides,
            ) -> Result<Self, crate::Findings> {
                crate::load::parse(declaration, text, file_name, base_dir, overrides)
            }
        }
    };
}

use loadable;

/// Shortest and longest time that sessions may have to finish. More than an hour is no shutdown.
const SHUTDOWN_GRACE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3600));

/// Where an agent or client finds the server, and who that must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What is dialled.
    pub address: Address,
    /// The name that the server's certificate must have, whatever address is dialled.
    pub name: DnsName,
    /// The HTTP proxy through which it is reached, as configured; what counts is [`Self::proxy`].
    pub configured_proxy: Option<ProxySettings>,
    /// The congestion control of connections, if not the system's own.
    pub congestion_control: Option<CongestionControl>,
}

impl Upstream {
    /// The proxy that this server is reached through.
    pub fn proxy(&self) -> Option<&ProxySettings> {
        self.configured_proxy.as_ref().filter(|proxy| !proxy.is_bypassed(self.address.host()))
    }
}

/// A host, as name or address, and a port to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host: a DNS name, or an IP address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let target: Target = text.parse()?;
        Ok(Self { host: target.host.to_string(), port: target.port.get() })
    }
}

/// How a process is seen and controlled while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it is read over HTTP.
    pub listen: Option<SocketAddr>,
    /// The Unix socket over which it is controlled.
    pub socket: Option<PathBuf>,
}

/// The head of an example.
pub(crate) fn heading(daemon: Daemon) -> String {
    format!(
        "Configuration of ginnel {daemon}.\n\nA line that begins with # and a setting shows what holds without it; remove the # to \
         change it. Lines with ## show another choice: it replaces the one before it. Relative paths start at the directory of this file. Any single value can also be set by a variable \
         (GINNEL_SERVER__NAME is server.name) or by --set server.name=..., which beats the variable."
    )
}

/// `server` of agents and clients.
fn upstream(fields: &mut Fields<'_, '_>) -> Option<Upstream> {
    let address = fields
        .field("address", "Host and port of the server: a name or an address.")
        .example("203.0.113.7:50050")
        .required(shape::parsed());
    let name = fields
        .field("name", "The name that the server's certificate must have, whatever address is dialled.")
        .example("tunnel.acme.example")
        .required(shape::parsed());
    let proxy = fields
        .field(
            "proxy",
            "The HTTP proxy through which the server is reached. Variables such as HTTPS_PROXY do not count.",
        )
        .optional(object(proxy::declaration));
    let congestion_control = congestion_control(fields);
    Some(Upstream { address: address?, name: name?, configured_proxy: proxy, congestion_control })
}

/// `congestionControl` of all roles.
fn congestion_control(fields: &mut Fields<'_, '_>) -> Option<CongestionControl> {
    fields
        .field(
            "congestionControl",
            "TCP congestion control of these connections, such as cubic or bbr, for what this side sends. Without it: the system's \
             own. The kernel must have it, and allow it in net.ipv4.tcp_allowed_congestion_control.",
        )
        .example_off("bbr")
        .optional(shape::parsed())
}

/// `connections` of agents and clients: how many there may be.
fn connections(fields: &mut Fields<'_, '_>) -> Option<Bounds> {
    let least = fields
        .field(
            "min",
            "Connections to the server that are there without any session, from 1 to 16. A session stays where it was opened, so \
             that a burst of sessions is spread over no more connections than there are when it comes.",
        )
        .default("1", located(shape::number(1..=LANES_MAX)));
    let most = fields
        .field(
            "max",
            "Connections at once that take new sessions, from 1 to 16. More than min are opened as sessions ask for them, one for \
             each, and closed after 10 minutes without any. On a long or lossy path 16 sessions on 16 connections move as much as \
             connections of their own would; more connections cost some CPU.",
        )
        .default("16", shape::number(1..=LANES_MAX));
    let (least, most) = (least?, most?);
    fields.check(|findings| {
        if least.value > most {
            least.report(findings, format!("{} is more than max, which is {most}", least.value), None);
        }
    });
    Some(Bounds { least: least.value, most })
}

/// `renewal` of all roles: when a certificate is renewed.
fn renewal(fields: &mut Fields<'_, '_>) -> Option<Renewal> {
    let at = fields
        .field(
            "at",
            "After which part of its lifetime a certificate is renewed, from 10% to 60%; the rest is for a server or an issuer that is \
             away. The first renewal after a start comes earlier, at random, so that those who started together part.",
        )
        .default("33%", located(shape::parsed::<Percent>()));
    let jitter = fields
        .field("jitter", "How much of that time a renewal may come earlier or later, at random, from 0% to 25%.")
        .default("10%", located(shape::parsed::<Percent>()));
    fields.check(|findings| {
        for (part, (least, most)) in [(&at, Renewal::AT), (&jitter, Renewal::JITTER)] {
            if let Some(part) = part.as_ref().filter(|part| !(least..=most).contains(&part.value)) {
                part.report(findings, format!("{} is not between {least} and {most}", part.value), None);
            }
        }
    });
    Renewal::new(at?.value, jitter?.value)
}

/// An address and port to listen on; port 0 asks the system for a free one.
fn socket_address() -> Text<SocketAddr> {
    shape::text_with(|text| {
        text.parse().map_err(|_| "an address to listen on is written 127.0.0.1:3128 or [::1]:3128".to_owned())
    })
}

/// `admin`, `adminSocket` and `adminAllowNonLoopback` of all roles, which stand where the role's own settings stand.
fn admin(fields: &mut Fields<'_, '_>, example: &'static str) -> Option<Admin> {
    let listen = fields
        .field(
            "admin",
            "Address for reading over HTTP: status page, /status, /metrics, /healthz, /readyz, gRPC health. Nothing can be \
             changed there.",
        )
        .example(example)
        .optional(located(socket_address()));
    let socket = fields
        .field(
            "adminSocket",
            "Unix socket, mode 0600, for what changes something: `ginnel sessions end`, `ginnel revoke` and reload. Its directory must exist.",
        )
        .example_off("/run/ginnel/admin.sock")
        .optional(shape::file());
    let allow_non_loopback = fields
        .field(
            "adminAllowNonLoopback",
            "Whether the address for reading may be other than loopback. Whoever reaches it sees who reaches what.",
        )
        .default("false", shape::flag());
    fields.check(|findings| {
        if let (Some(address), Some(false)) = (&listen, allow_non_loopback)
            && !address.value.ip().to_canonical().is_loopback()
        {
            let message =
                format!("{} is not a loopback address: whoever reaches it sees who reaches what", address.value);
            let hint = "listen on 127.0.0.1 or [::1]; if this is meant, write adminAllowNonLoopback: true beside it";
            address.report(findings, message, hint.to_owned());
        }
    });
    allow_non_loopback?;
    Some(Admin { listen: listen.map(|address| address.value), socket })
}

/// `shutdownGrace` of all roles.
fn shutdown_grace(fields: &mut Fields<'_, '_>) -> Option<Duration> {
    fields
        .field(
            "shutdownGrace",
            "How long sessions may go on after the first signal to stop, from 0s to 1h; what is left then is reset. A second \
             signal does not wait.",
        )
        .default("20s", shape::duration(SHUTDOWN_GRACE.0, SHUTDOWN_GRACE.1))
}

/// `enrolment` of all roles; none if it holds nothing.
fn enrolment(fields: &mut Fields<'_, '_>) -> Option<Option<String>> {
    let audience = fields
        .field(
            "audience",
            "The audience of enrolment tokens, the same text at server, agents and clients. Without it: https://, the \
             server's name, /enrol.",
        )
        .example_off("https://tunnel.acme.example/enrol")
        .optional(shape::line());
    Some(audience)
}

/// The enrolment audience that holds for a server of this name.
fn audience_or_default(given: Option<String>, server: &DnsName) -> String {
    given.unwrap_or_else(|| format!("https://{server}/enrol"))
}

/// What `dangerDisableInnerTls` means; the same words for agent and client.
const DANGER_DISABLE_INNER_TLS: &str = "DANGER: carries sessions between client and agent without encryption and without proof of \
     the other side, so that the server can read and change all of them. Only for measurements and for showing the difference; \
     agent and client must agree.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_write() {
        let cases = [
            ("tunnel.acme.example:443", "tunnel.acme.example"),
            ("203.0.113.7:1", "203.0.113.7"),
            ("[fd00::1]:50050", "fd00::1"),
        ];
        for (text, host) in cases {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.to_string().as_str(), address.host()), (text, host));
        }
        for text in ["", "host", "host:0", "fd00::1:443", "https://host:443", "host:443/"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
