mod enrolment;
mod findings;
mod limits;
mod overrides;
mod schema;
mod sink;

use std::path::Path;

use crate::{AgentConfig, ClientConfig, Daemon, EnrolmentConfig, Overrides, ServerConfig};

const SERVER: &str = "\
trustDomain: acme.example
server: {name: tunnel.acme.example, listen: 127.0.0.1:0}
identities:
  - {name: acme, role: agent, email: agent@p.example, publicKeys: [agent.pub.pem]}
  - {name: frontend, role: client, email: frontend@p.example, publicKeys: [/keys/frontend.pub.pem]}
rules:
  - {name: gitlab, clients: [frontend], agents: [acme], targets: [\"gitlab.acme.internal:443\"]}
issuer: {embedded: {directory: ca}}
audit: {file: {directory: audit}}
";

const AGENT: &str = "\
server: {address: 203.0.113.7:50050, name: tunnel.acme.example}
trust: {server: server-root.pem, client: client-root.pem}
credential: {serviceAccountKeyFile: key.json}
allow: [gitlab.acme.internal:443]
";

const CLIENT: &str = "\
server: {address: \"[fd00::5]:443\", name: tunnel.acme.example}
trust: {server: server-root.pem, agent: agent-root.pem}
credential: {serviceAccountKeyFile: key.json}
listen: {proxy: 127.0.0.1:3128}
";

/// A server that passes enrolments on.
const RELAY: &str = "\
trustDomain: acme.example
server: {name: tunnel.acme.example, listen: 127.0.0.1:0}
identities:
  - {name: acme, role: agent, email: agent@p.example}
  - {name: frontend, role: client, email: frontend@p.example}
rules:
  - {name: gitlab, clients: [frontend], agents: [acme], targets: [\"gitlab.acme.internal:443\"]}
issuer:
  enrolment:
    address: 10.0.0.6:50060
    name: enrol.acme.example
    trust: {server: server-root.pem, agent: agent-root.pem, client: client-root.pem}
    credential: {serviceAccountKeyFile: key.json}
audit: {file: {directory: audit}}
";

const ENROLMENT: &str = "\
trustDomain: acme.example
server: {name: enrol.acme.example, listen: 127.0.0.1:0}
identities:
  - {name: tunnel, role: server, email: tunnel@p.example, publicKeys: [tunnel.pub.pem], serverNames: [tunnel.acme.example]}
  - {name: acme, role: agent, email: agent@p.example, publicKeys: [agent.pub.pem]}
issuer: {embedded: {directory: ca}}
enrolment: {audience: \"https://tunnel.acme.example/enrol\"}
audit: {file: {directory: audit}}
";

const ROLES: [Daemon; 4] = Daemon::ALL;

fn good(role: impl Into<Daemon>) -> &'static str {
    match role.into() {
        Daemon::Server => SERVER,
        Daemon::Agent => AGENT,
        Daemon::Client => CLIENT,
        Daemon::Enrolment => ENROLMENT,
    }
}

/// Everything that is wrong with a text, as people see it; empty if nothing is.
fn findings(role: impl Into<Daemon>, text: &str, overrides: &Overrides) -> String {
    let base_dir = Path::new("/etc/ginnel");
    let result = match role.into() {
        Daemon::Server => ServerConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
        Daemon::Agent => AgentConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
        Daemon::Client => ClientConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
        Daemon::Enrolment => EnrolmentConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
    };
    result.err().map(|findings| findings.to_string()).unwrap_or_default()
}
