mod findings;
mod overrides;
mod schema;

use std::path::Path;

use ginnel_core::principal::Role;

use crate::{AgentConfig, ClientConfig, Overrides, ServerConfig};

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

const ROLES: [Role; 3] = [Role::Server, Role::Agent, Role::Client];

fn good(role: Role) -> &'static str {
    match role {
        Role::Server => SERVER,
        Role::Agent => AGENT,
        Role::Client => CLIENT,
    }
}

/// Everything that is wrong with a text, as people see it; empty if nothing is.
fn findings(role: Role, text: &str, overrides: &Overrides) -> String {
    let base_dir = Path::new("/etc/ginnel");
    let result = match role {
        Role::Server => ServerConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
        Role::Agent => AgentConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
        Role::Client => ClientConfig::parse(text, "f.yaml", base_dir, overrides).map(drop),
    };
    result.err().map(|findings| findings.to_string()).unwrap_or_default()
}
