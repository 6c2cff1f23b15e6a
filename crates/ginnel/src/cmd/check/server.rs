//! `ginnel check server` and `ginnel check enrolment`.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use ginnel_config::{
    EnrolmentConfig, Identity, IssuerKind, IssuerSection, RemoteIssuer, ServerConfig, ServerIssuer, Upstream,
};
use ginnel_core::audit::Timestamp;
use ginnel_core::principal::{Role, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_enrol::PublicKey;
use ginnel_enrol::embedded::rotation::standing;
use ginnel_identity::file::read_private;
use ginnel_identity::tls::Facts;
use ginnel_identity::trust::Roots;

use super::report::Report;
use super::way::Way;
use super::{audit, denials};
use crate::cmd::table::moment;

/// An authority's key has some hundred bytes.
const KEY_BYTES_MAX: usize = 16 << 10;

/// Seconds since 1970 of 2025-01-01: before that no clock is right that runs this program.
const EARLIEST_SECONDS: u64 = 1_735_689_600;

pub(super) async fn check(config: &ServerConfig, report: &mut Report) {
    match &config.issuer {
        ServerIssuer::Here(section) => {
            let roots = issuer(&config.trust_domain, section, report).await;
            audit::check(&config.audit.directory, report);
            kept_denials(&config.denials_file(), &config.audit.directory, report);
            sink(crate::sink::try_server(config).await, report);
            keys(&config.identities, report);
            listen(config.server.listen, report);
            clock(&roots, SystemTime::now(), report);
        }
        ServerIssuer::Elsewhere(remote) => {
            elsewhere(remote, config, report).await;
            audit::check(&config.audit.directory, report);
            kept_denials(&config.denials_file(), &config.audit.directory, report);
            sink(crate::sink::try_server(config).await, report);
            listen(config.server.listen, report);
        }
    }
}

/// The same for the process that only enrols.
pub(super) async fn check_enrolment(config: &EnrolmentConfig, report: &mut Report) {
    let roots = issuer(&config.trust_domain, &config.issuer, report).await;
    audit::check(&config.audit.directory, report);
    kept_denials(&config.denials_file(), &config.audit.directory, report);
    sink(crate::sink::try_enrolment(config).await, report);
    keys(&config.identities, report);
    listen(config.server.listen, report);
    clock(&roots, SystemTime::now(), report);
}

/// Goes to the process that enrols as an agent goes to a server.
async fn elsewhere(remote: &RemoteIssuer, config: &ServerConfig, report: &mut Report) {
    let RemoteIssuer { address, name, trust, credential } = remote;
    let server =
        Upstream { address: address.clone(), name: name.clone(), configured_proxy: None, congestion_control: None };
    let way = Way {
        role: Role::Server,
        server: &server,
        server_roots: &trust.server,
        peer_roots: &trust.agent,
        credential,
        audience: &config.enrolment_audience,
    };
    let _ = way.check(report).await;
    match Roots::read(&trust.client) {
        Ok(_) => report.pass("trust", "the root of clients can be read as well"),
        Err(error) => report.fail("trust", Chain(&error).to_string(), "get it from the process that enrols"),
    }
}

async fn issuer(trust_domain: &TrustDomain, section: &IssuerSection, report: &mut Report) -> Vec<Facts> {
    match &section.kind {
        IssuerKind::Embedded { directory } => embedded(directory, report),
        IssuerKind::Cas(_) => opened(trust_domain, section, report).await,
    }
}

/// Opens an issuer that leaves nothing behind when it is opened. Gives its roots.
async fn opened(trust_domain: &TrustDomain, section: &IssuerSection, report: &mut Report) -> Vec<Facts> {
    match crate::issuer::open(trust_domain, section).await {
        Ok(issuer) => {
            let roots = [Role::Server, Role::Agent, Role::Client].map(|role| issuer.roots(role));
            report.pass("issuer", "it answers, and has roots for server, agent and client");
            roots.iter().flat_map(Roots::certificates).filter_map(Facts::read).collect()
        }
        Err(error) => {
            report.fail("issuer", Chain(&error).to_string(), "mend what it says; nothing starts without it");
            Vec::new()
        }
    }
}

/// Looks without creating anything. Gives the roots that are there.
fn embedded(directory: &Path, report: &mut Report) -> Vec<Facts> {
    let shown = directory.display();
    let mode = match fs::metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            report.skip("issuer", format!("{shown} is made at first start"));
            return Vec::new();
        }
        Err(error) => {
            report.fail("issuer", format!("{shown}: {error}"), "let the user that runs the server into it");
            return Vec::new();
        }
        Ok(metadata) if !metadata.is_dir() => {
            report.fail("issuer", format!("{shown} is no directory"), "name another path in issuer.embedded.directory");
            return Vec::new();
        }
        Ok(metadata) => metadata.permissions().mode() & 0o7777,
    };
    if mode & 0o077 != 0 {
        report.fail(
            "issuer",
            format!("{shown} has mode {mode:04o}, which lets others in"),
            format!("chmod 700 {shown}"),
        );
        return Vec::new();
    }
    let (mut facts, mut wrong) = (Vec::new(), Vec::new());
    for role in [Role::Server, Role::Agent, Role::Client] {
        let keys = match standing(directory, role) {
            Ok(standing) => standing.roots.into_iter().map(|root| root.key).collect(),
            // What is wrong with its roots is told below.
            Err(_) => vec![directory.join(format!("{role}-ca.key.pem"))],
        };
        for key in keys {
            if let Err(error) = read_private(&key, KEY_BYTES_MAX) {
                wrong.push(Chain(&error).to_string());
            }
        }
        match Roots::read(&directory.join(format!("{role}-root.pem"))) {
            Ok(roots) => facts.extend(roots.certificates().iter().filter_map(Facts::read)),
            Err(error) => wrong.push(Chain(&error).to_string()),
        }
    }
    if wrong.is_empty() {
        report.pass("issuer", format!("{shown} has the keys and roots of server, agent and client"));
    } else if facts.is_empty() {
        report.skip("issuer", format!("{shown} has no root yet; it is finished at the next start"));
    } else {
        let advice = "mend what it says, as the user that runs the server; restore what is lost or damaged from a backup, because a \
             new key would lock out everybody";
        report.fail("issuer", wrong.join("; "), advice);
    }
    facts
}

/// The file of denials, which may be in a directory that is made at first start.
fn kept_denials(file: &Path, audit_directory: &Path, report: &mut Report) {
    if file.parent() == Some(audit_directory) && !audit_directory.exists() {
        report.skip("denials", format!("{} is made at first start", audit_directory.display()));
    } else {
        denials::check(file, report);
    }
}

/// What a sink said, if there is one. Without it the process works all the same.
fn sink(tried: Option<Result<String, Box<dyn Error>>>, report: &mut Report) {
    match tried {
        None => {}
        Some(Ok(place)) => report.pass("sink", format!("{place} takes records")),
        Some(Err(error)) => {
            let advice = "mend what it says; the account needs roles/logging.logWriter on the project. Until then records wait in the files, and \
                 sessions do not";
            report.fail("sink", Chain(&*error).to_string(), advice);
        }
    }
}

fn keys(identities: &[Identity], report: &mut Report) {
    let (mut read, mut wrong) = (0, Vec::new());
    for identity in identities {
        for path in identity.key_files() {
            match PublicKey::read(path) {
                Ok(_) => read += 1,
                Err(error) => wrong.push(format!("{} {}: {}", identity.role, identity.name, Chain(&error))),
            }
        }
    }
    if wrong.is_empty() {
        report.pass("keys", format!("{read} public keys of {} identities", identities.len()));
    } else {
        let advice =
            "put the public half there that `ginnel credentials create` printed, readable by the server's user";
        report.fail("keys", wrong.join("; "), advice);
    }
}

fn listen(address: SocketAddr, report: &mut Report) {
    match TcpListener::bind(address) {
        Ok(_) => report.pass("listen", format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            report.skip("listen", format!("somebody listens on {address} already; fine if it is the running server"));
        }
        Err(error) => {
            let advice = "choose an address of this machine; ports below 1024 need CAP_NET_BIND_SERVICE";
            report.fail("listen", format!("{address}: {error}"), advice);
        }
    }
}

fn clock(roots: &[Facts], now: SystemTime, report: &mut Report) {
    let here = format!("this machine says {}", moment(Timestamp::from(now)));
    let earliest = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(EARLIEST_SECONDS);
    let wrong = roots.iter().find(|root| now < root.not_before || now > root.not_after);
    if let Some(root) = wrong {
        let (from, until) = (moment(root.not_before.into()), moment(root.not_after.into()));
        let evidence = format!("{here}; the root \"{}\" is valid from {from} to {until}", root.subject);
        report.fail("clock", evidence, "set the clock (timedatectl) and keep it with NTP; certificates are made by it");
    } else if now < earliest {
        report.fail("clock", here, "set the clock (timedatectl) and keep it with NTP; certificates are made by it");
    } else {
        report.pass("clock", here);
    }
}
