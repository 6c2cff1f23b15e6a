//! The configurations of the demonstration: what three people would write on three machines.

use std::fmt::Write;
use std::net::SocketAddr;

use super::Listed;

const SERVER_NAME: &str = "tunnel.demo.example";

/// The service account of a role.
pub(super) fn email(role: &str) -> &'static str {
    if role == "agent" { "agent@demo.example" } else { "client@demo.example" }
}

pub(super) fn server(listed: &[Listed]) -> String {
    let targets: Vec<_> = listed.iter().map(|listed| format!("{:?}", listed.target.to_string())).collect();
    format!(
        "trustDomain: demo.example\n\
         server: {{name: {SERVER_NAME}, listen: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", shutdownGrace: 0s}}\n\
         identities:\n\
         \x20 - {{name: demo, role: agent, email: {}, publicKeys: [agent.pub.pem]}}\n\
         \x20 - {{name: demo, role: client, email: {}, publicKeys: [client.pub.pem]}}\n\
         rules:\n\
         \x20 - name: demo\n\
         \x20   clients: [demo]\n\
         \x20   agents: [demo]\n\
         \x20   targets: [{}]\n\
         issuer: {{embedded: {{directory: ca}}}}\n\
         audit: {{file: {{directory: audit}}}}\n",
        email("agent"),
        email("client"),
        targets.join(", ")
    )
}

pub(super) fn agent(server: SocketAddr, listed: &[Listed]) -> String {
    let mut allow: Vec<_> = listed.iter().map(|listed| listed.target.to_string()).collect();
    allow.extend(listed.iter().flat_map(|listed| listed.addresses.iter().map(ToString::to_string)));
    allow.sort();
    allow.dedup();
    let mut text = upstream(server, "client");
    text.push_str("credential: {serviceAccountKeyFile: agent.json}\nallow:\n");
    for entry in allow {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  - {entry:?}");
    }
    text
}

pub(super) fn client(server: SocketAddr) -> String {
    let mut text = upstream(server, "agent");
    text.push_str("credential: {serviceAccountKeyFile: client.json}\nlisten: {proxy: \"127.0.0.1:0\"}\n");
    text
}

fn upstream(server: SocketAddr, peer: &str) -> String {
    format!(
        "shutdownGrace: 0s\n\
         server: {{address: \"{server}\", name: {SERVER_NAME}}}\n\
         trust: {{server: ca/server-root.pem, {peer}: ca/{peer}-root.pem}}\n"
    )
}
