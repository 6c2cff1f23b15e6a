//! The steps that agent and client have in common: files, the way to the server, who answers there, the clock, the certificate.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use ginnel_config::{Credential as Setting, Upstream as Server};
use ginnel_core::budget::Budget;
use ginnel_core::lanes::Bounds;
use ginnel_core::principal::Role;
use ginnel_core::renewal::Renewal;
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Identity;
use ginnel_identity::key::KeyPair;
use ginnel_identity::proof::{Credential, TokenError};
use ginnel_identity::trust::Roots;
use ginnel_net::connect::{ConnectError, Endpoint};
use ginnel_net::probe::{self, Presented};
use ginnel_net::proxy::{Proxy, ProxyError};
use ginnel_net::upstream::{EnrolError, Progress, Upstream};

use super::clock;
use super::report::Report;
use crate::cmd::table::span;

/// What a configuration says of the way to the server.
pub(super) struct Way<'a> {
    pub(super) role: Role,
    pub(super) server: &'a Server,
    pub(super) server_roots: &'a Path,
    pub(super) peer_roots: &'a Path,
    pub(super) credential: &'a Setting,
    pub(super) audience: &'a str,
}

/// What could be read of the files that the configuration names.
struct Files {
    roots: Option<Roots>,
    credential: Option<Credential>,
    /// Absent if what the proxy needs could not be read.
    endpoint: Option<Endpoint>,
}

/// A certificate, and the means to use it.
#[cfg_attr(not(feature = "client"), expect(dead_code, reason = "an agent has nothing to ask with it"))]
pub(super) struct Admitted {
    pub(super) upstream: Upstream,
    pub(super) identity: Identity,
}

impl Way<'_> {
    /// Goes as far as it leads; `None` unless there is a certificate of the right role at the end.
    pub(super) async fn check(self, report: &mut Report) -> Option<Admitted> {
        let Files { roots, credential, endpoint } = self.files(report);
        let answer = self.answer(endpoint.as_ref(), roots.as_ref(), report).await;
        let is_proof = match &credential {
            Some(credential) => self.token(credential, report).await,
            None => {
                report.skip_after("the key's file", &["credential"]);
                Err("the key's file")
            }
        };
        let missing = answer.err().or(is_proof.err()).unwrap_or("the roots' files");
        let (Some(credential), Some(server_roots), Some(endpoint), Ok(()), Ok(())) =
            (credential, roots, endpoint, answer, is_proof)
        else {
            report.skip_after(missing, &["enrolment", "certificate"]);
            return None;
        };
        let upstream = Upstream {
            endpoint,
            server_roots: server_roots.into(),
            credential,
            audience: self.audience.to_owned(),
            renewal: Renewal::DEFAULT,
            progress: Progress::default(),
            connections: Bounds::ONE,
        };
        let identity = enrol(&upstream, report).await?;
        certificate(self.role, &identity, report).then_some(Admitted { upstream, identity })
    }

    fn files(&self, report: &mut Report) -> Files {
        let mut wrong = Vec::new();
        let roots = read(Roots::read(self.server_roots), &mut wrong);
        // What only sessions need is looked at all the same.
        let _ = read(Roots::read(self.peer_roots), &mut wrong);
        let credential = read(crate::credential::open(self.credential), &mut wrong);
        let proxy = read(self.server.proxy().map(Proxy::read).transpose(), &mut wrong);
        if wrong.is_empty() {
            report.pass("files", "roots and secrets can be read, and nobody else can read the secrets");
        } else {
            let advice = "put the file where the configuration says, readable by the user that runs ginnel; nobody but root may read a \
                 key or password besides. Roots come from the server's owner, keys from `ginnel credentials create`";
            report.fail("files", wrong.join("; "), advice);
        }
        let address = &self.server.address;
        let endpoint = proxy.map(|proxy| Endpoint {
            host: address.host().to_owned(),
            port: address.port(),
            server_name: self.server.name.to_string(),
            proxy,
            congestion: self.server.congestion_control.clone(),
            budget: Budget::default(),
        });
        Files { roots, credential, endpoint }
    }

    /// Whether the credential gives a token, and which way it took. The token is thrown away; the enrolment asks for its own.
    async fn token(&self, credential: &Credential, report: &mut Report) -> Result<(), &'static str> {
        let spki = KeyPair::generate().map(|key| key.spki_sha256()).unwrap_or_default();
        match credential.token(self.audience, spki, SystemTime::now()).await {
            Ok(_) => {
                report.pass("credential", shown_credential(credential));
                Ok(())
            }
            Err(error) => {
                let (evidence, advice) = token_advice(&error, credential);
                report.fail("credential", evidence, advice);
                Err("a token")
            }
        }
    }

    /// Who answers at the server's address, and whether the clock is right; the error names what is missing for more.
    async fn answer(
        &self,
        endpoint: Option<&Endpoint>,
        roots: Option<&Roots>,
        report: &mut Report,
    ) -> Result<(), &'static str> {
        let Some(endpoint) = endpoint else {
            report.skip_after("the proxy's files", &["dns", "tcp", "proxy", "tls", "clock"]);
            return Err("the proxy's files");
        };
        let Ok(proxy_date) = self.reach(endpoint, report).await else {
            report.skip_after("a way to the server", &["tls", "clock"]);
            return Err("a way to the server");
        };
        let Some(roots) = roots else {
            report.skip_after("the file of trust.server", &["tls", "clock"]);
            return Err("the file of trust.server");
        };
        let (presented, is_right) = tls(endpoint, roots, report).await;
        let clock_is_right = clock::check(presented.as_ref(), proxy_date, SystemTime::now(), report);
        match (is_right, clock_is_right) {
            (false, _) => Err("TLS with the server"),
            (true, false) => Err("a right clock"),
            (true, true) => Ok(()),
        }
    }

    /// DNS, TCP and proxy; gives the proxy's date if it has one.
    async fn reach(&self, endpoint: &Endpoint, report: &mut Report) -> Result<Option<SystemTime>, ()> {
        let (what, setting, host, port) = match &endpoint.proxy {
            Some(proxy) => ("the proxy", "server.proxy.url", proxy.location().host.as_str(), proxy.location().port),
            None => ("the server", "server.address", endpoint.host.as_str(), endpoint.port),
        };
        // Only one who asks for the server itself can be helped by a proxy.
        let by_proxy = |advice| if endpoint.proxy.is_none() { advice } else { "" };
        if host.parse::<IpAddr>().is_ok() {
            report.pass("dns", format!("{what} is given as the address {host}"));
        } else {
            let why = match probe::resolve(host, port).await {
                Ok(found) if found.is_empty() => Some("it has no address".to_owned()),
                Ok(found) => {
                    let found: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
                    report.pass("dns", format!("{what}, {host}, is {}", found.join(", ")));
                    None
                }
                Err(error) => Some(Chain(&error).to_string()),
            };
            if let Some(why) = why {
                let proxy = by_proxy(". Where only a proxy can resolve names, set server.proxy");
                let advice =
                    format!("check the spelling in {setting} and this machine's resolver (getent hosts {host}){proxy}");
                report.fail("dns", format!("{what}, {host}: {why}"), advice);
                report.skip_after("DNS", &["tcp", "proxy"]);
                return Err(());
            }
        }
        match probe::reach(host, port).await {
            Ok(address) => report.pass("tcp", format!("{what} answers at {address}")),
            Err(error) => {
                let proxy = by_proxy(", or set server.proxy if only a proxy leads out");
                let advice = format!(
                    "is {what} running, and is the port in {setting} right? If yes, ask for outgoing TCP from this machine to {host} \
                     port {port}{proxy}"
                );
                report.fail("tcp", format!("{what} at {host} port {port}: {}", Chain(&error)), advice);
                report.skip_after("TCP", &["proxy"]);
                return Err(());
            }
        }
        self.proxy(endpoint, report).await
    }

    async fn proxy(&self, endpoint: &Endpoint, report: &mut Report) -> Result<Option<SystemTime>, ()> {
        let Some(proxy) = &endpoint.proxy else {
            let reason = match &self.server.configured_proxy {
                Some(_) => "noProxy names the server's address, so that it is reached directly",
                None => "server.proxy is not set; variables such as HTTPS_PROXY do not count",
            };
            report.skip("proxy", reason);
            return Ok(None);
        };
        match probe::through(proxy, endpoint).await {
            Ok(answer) => {
                report.pass(
                    "proxy",
                    format!("{} opens the way to {} ({})", proxy.location(), endpoint.address(), answer.status),
                );
                Ok(answer.date())
            }
            Err(error) => {
                report.fail("proxy", Chain(&error).to_string(), proxy_advice(&error, &endpoint.address()));
                Err(())
            }
        }
    }
}

/// A token in a file is used up by the enrolment that follows.
fn shown_credential(credential: &Credential) -> String {
    match credential {
        Credential::Key(_) | Credential::Workload(_) => credential.shown(),
        Credential::File(_) => format!("{}, which this check uses up", credential.shown()),
    }
}

/// What is wrong with a credential, and what to do.
fn token_advice(error: &TokenError, credential: &Credential) -> (String, String) {
    match error {
        TokenError::Workload { advice, why } => {
            (format!("{} gave no token: {}", credential.shown(), Chain(&**why)), advice.clone())
        }
        TokenError::File(_) | TokenError::NoToken { .. } | TokenError::Used { .. } => (
            Chain(error).to_string(),
            "check credential.tokenFile and how the platform puts the token there: its audience is the enrolment audience, and nobody else \
             may change the file"
                .to_owned(),
        ),
        TokenError::Key(_) => (Chain(error).to_string(), "set this machine's clock".to_owned()),
    }
}

/// What was read; what is wrong with it goes to the others.
fn read<T, E: std::error::Error + 'static>(result: Result<T, E>, wrong: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| wrong.push(Chain(&error).to_string())).ok()
}

fn proxy_advice(error: &ProxyError, address: &str) -> String {
    match error {
        ProxyError::Credentials { given: true, .. } => {
            "check server.proxy.username and what is in passwordFile. Only HTTP Basic is spoken".to_owned()
        }
        ProxyError::Credentials { given: false, .. } => {
            "set server.proxy.username and passwordFile. Only HTTP Basic is spoken".to_owned()
        }
        ProxyError::Refused { .. } => format!(
            "ask the proxy's owner to allow CONNECT to {address}; a 502 or 504 means that the proxy cannot reach or resolve it"
        ),
        ProxyError::Malformed { .. } => {
            "what listens there is no HTTP proxy, or wants https://: check server.proxy.url".to_owned()
        }
        ProxyError::Tls { .. } => {
            "check that the proxy speaks TLS on this port and that server.proxy.trust has the root of its certificate"
                .to_owned()
        }
        ProxyError::Broken { .. } | ProxyError::Silent { .. } | ProxyError::Unreachable { .. } => {
            "check server.proxy.url; an https proxy that is asked in plain HTTP also breaks off or keeps silent"
                .to_owned()
        }
    }
}

/// Says who answers. True if that is the server.
async fn tls(endpoint: &Endpoint, roots: &Roots, report: &mut Report) -> (Option<Presented>, bool) {
    let (presented, verdict) = match probe::tls(endpoint, roots).await {
        Ok(seen) => seen,
        Err(error) => {
            report.fail("tls", Chain(&error).to_string(), "check server.name and trust.server");
            return (None, false);
        }
    };
    let Some(presented) = presented else {
        let evidence = match verdict {
            Err(error) => Chain(&error).to_string(),
            Ok(()) => "nobody showed a certificate".to_owned(),
        };
        let advice =
            "whoever answers there does not speak TLS 1.3 as the server does: check host and port of server.address";
        report.fail("tls", evidence, advice);
        return (None, false);
    };
    let who = shown(&presented);
    let is_right = match verdict {
        Ok(()) => {
            report.pass("tls", format!("the server answers {who}"));
            true
        }
        Err(error) => {
            report.fail("tls", format!("{} {who}", Chain(&error)), tls_advice(&presented, &error, endpoint));
            false
        }
    };
    (Some(presented), is_right)
}

fn tls_advice(presented: &Presented, error: &ConnectError, endpoint: &Endpoint) -> String {
    let issuer = presented.chain.first().map_or("nobody that can be read", |leaf| leaf.issuer.as_str());
    match (presented.is_trusted, presented.is_named) {
        (false, _) => format!(
            "somebody in the middle may be answering, such as a TLS-inspecting proxy: the certificate was issued by \"{issuer}\", \
             which is not in trust.server. If that is your own company's, ask for an exception for {} (the tunnel cannot work \
             through inspection); if it is your server's, get its new root from the server's owner",
            endpoint.address()
        ),
        (true, false) => format!(
            "this is another server of the same owner, or server.name is wrong: it must be the name that the server has in its own \
             configuration, not {}",
            endpoint.server_name
        ),
        (true, true) => match error {
            ConnectError::WrongTime { .. } => "see the step clock".to_owned(),
            ConnectError::Tls { .. }
            | ConnectError::Name(_)
            | ConnectError::Proxy { .. }
            | ConnectError::Tcp { .. }
            | ConnectError::WrongName { .. }
            | ConnectError::UnknownIssuer { .. }
            | ConnectError::Http { .. }
            | ConnectError::TimedOut { .. } => "try again; look into the server's log".to_owned(),
        },
    }
}

/// The conclusion first: what somebody unknown has sent may be cut off.
fn shown(presented: &Presented) -> String {
    let chain: Vec<_> = presented
        .chain
        .iter()
        .map(|one| {
            let fingerprint: String = one.sha256.chars().take(16).collect();
            let names = if one.names.is_empty() { String::new() } else { format!(" for {}", one.names.join(", ")) };
            // Certificates of the tunnel have names and no subject.
            let subject =
                if one.subject.is_empty() { "a certificate".to_owned() } else { format!("\"{}\"", one.subject) };
            format!("{subject}{names}, issued by \"{}\", SHA-256 {fingerprint}…", one.issuer)
        })
        .collect();
    let signed = if presented.is_trusted { "signed by trust.server" } else { "NOT signed by trust.server" };
    let named = if presented.is_named { "the name fits" } else { "the name does NOT fit" };
    format!("({signed}; {named}): {}", chain.join("; then "))
}

async fn enrol(upstream: &Upstream, report: &mut Report) -> Option<Identity> {
    match upstream.enrol().await {
        Ok(identity) => {
            report.pass(
                "enrolment",
                "the server gave a certificate, which is thrown away; its audit log has an `enrolled` for it",
            );
            Some(identity)
        }
        Err(error) => {
            let advice = match &error {
                EnrolError::Refused(_) => {
                    "ask the server's owner what its audit log says (ginnel audit show --event enrolmentRefused DIRECTORY): an e-mail that is not \
                     among the identities, another public key, another enrolment audience, or clocks that differ"
                }
                EnrolError::Token(_) => "see the step credential; it worked a moment ago",
                EnrolError::Prepare(_) | EnrolError::Certificate(_) => "bring both sides to the same version",
                EnrolError::Connect(_) | EnrolError::TimedOut => "try again; look into the server's log",
            };
            report.fail("enrolment", Chain(&error).to_string(), advice);
            report.skip_after("enrolment", &["certificate"]);
            None
        }
    }
}

fn certificate(role: Role, identity: &Identity, report: &mut Report) -> bool {
    let leaf = identity.leaf();
    let left = leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let found = leaf.principal.role;
    let evidence =
        format!("{}, role {found}, serial {}, valid for another {}", leaf.principal, leaf.serial, span(left));
    if found == role {
        report.pass("certificate", evidence);
        return true;
    }
    let advice = format!(
        "the key is that of the {found} {}: use the key of a service account that the server has as {role}",
        leaf.principal.name
    );
    report.fail("certificate", evidence, advice);
    false
}
