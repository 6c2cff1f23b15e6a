//! Enrolment in a process of its own: that process, and the server that passes enrolments on to it.

use std::path::Path;

use super::{ENROLMENT, RELAY, SERVER, findings};
use crate::{Credential, Daemon, EnrolmentConfig, Overrides, ServerConfig, ServerIssuer};

fn assert_cases(daemon: Daemon, good: &str, cases: &[(&str, &str, &str)]) {
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from}");
        assert_eq!(findings(daemon, &good.replacen(from, to, 1), &Overrides::none()), *expected, "{to}");
    }
}

#[test]
fn reads_a_server_that_passes_enrolments_on() {
    let base_dir = Path::new("/etc/ginnel");
    let server = ServerConfig::parse(RELAY, "f.yaml", base_dir, &Overrides::none()).expect("a server");
    assert_eq!(server.enrolment_audience, "https://tunnel.acme.example/enrol");
    assert!(server.identities.iter().all(|identity| identity.public_keys.is_none()));
    let ServerIssuer::Elsewhere(remote) = server.issuer else { panic!("{:?}", server.issuer) };
    assert_eq!((remote.address.to_string().as_str(), remote.name.as_str()), ("10.0.0.6:50060", "enrol.acme.example"));
    assert_eq!(remote.trust.client, base_dir.join("client-root.pem"));
    assert_eq!(remote.credential, Credential::ServiceAccountKeyFile(base_dir.join("key.json")));
}

#[test]
fn a_server_that_passes_enrolments_on_looks_at_keys_at_google_unless_it_is_told_not_to() {
    let parse = |text: &str| ServerConfig::parse(text, "f.yaml", Path::new("/"), &Overrides::none());
    let with = |google: &str| parse(&RELAY.replacen("issuer:\n", &format!("google: {google}\nissuer:\n"), 1));
    assert!(parse(RELAY).expect("a server").watch_keys);
    let told = with("{keysFreshFor: 1m, watchKeys: false}").expect("a server");
    assert_eq!((told.watch_keys, told.google.keys_fresh_for.as_secs()), (false, 60));
    let here = SERVER.to_owned() + "google: {watchKeys: false}\n";
    let said = findings(Daemon::Server, &here, &Overrides::none());
    assert!(said.contains("google.watchKeys: may be false only beside issuer.enrolment"), "{said}");
}

#[test]
fn finds_what_is_wrong_with_a_server_that_passes_enrolments_on() {
    let cases = [
        (
            "email: agent@p.example}",
            "email: agent@p.example, publicKeys: [agent.pub.pem]}",
            "f.yaml:4:5: identities[0].publicKeys: means nothing beside issuer.enrolment\n  \
               hint: remove it here; proofs are in the configuration of the process that enrols",
        ),
        (
            "issuer:\n",
            "google: {idTokenKeys: \"https://keys.example/\"}\nissuer:\n",
            "f.yaml:8:23: google.idTokenKeys: means nothing beside issuer.enrolment\n  \
               hint: remove it here; it belongs into the configuration of the process that enrols",
        ),
        (
            "issuer:\n",
            "oidcIssuers: [{name: cluster, issuer: \"https://kubernetes.example\", binding: bearer}]\nissuer:\n",
            "f.yaml:8:14: oidcIssuers: means nothing beside issuer.enrolment\n  \
               hint: remove it here; it belongs into the configuration of the process that enrols",
        ),
        (
            "name: enrol.acme.example",
            "name: tunnel.acme.example",
            "f.yaml:9:3: issuer.enrolment.name: tunnel.acme.example is this server's own name\n  \
               hint: the process that enrols needs a name of its own, so that neither can stand in for the other",
        ),
        (
            "issuer:\n",
            "issuer:\n  certificateLifetime: 1h\n",
            "f.yaml:9:24: issuer.certificateLifetime: means nothing beside enrolment: the process that enrols says how long \
             certificates hold\n  hint: remove it",
        ),
        (
            "role: agent, email",
            "role: server, email",
            "f.yaml:4:24: identities[0].role: \"server\" is none of agent, client",
        ),
        (
            "issuer:\n",
            "issuer:\n  embedded: {directory: ca}\n",
            "f.yaml:8:1: issuer: has embedded and enrolment, of which only one can be",
        ),
    ];
    assert_cases(Daemon::Server, RELAY, &cases);
}

#[test]
fn reads_the_process_that_enrols() {
    let base_dir = Path::new("/etc/ginnel");
    let process = EnrolmentConfig::parse(ENROLMENT, "f.yaml", base_dir, &Overrides::none()).expect("a process");
    assert_eq!(process.identities[0].server_names, ["tunnel.acme.example"]);
    assert_eq!(process.identities[1].key_files(), [base_dir.join("agent.pub.pem")]);
    assert_eq!(process.enrolment_audience, "https://tunnel.acme.example/enrol");
}

#[test]
fn finds_what_is_wrong_with_the_process_that_enrols() {
    let cases = [
        (
            ", serverNames: [tunnel.acme.example]",
            "",
            "f.yaml:4:5: identities[0]: an identity with the role server needs serverNames\n  \
               hint: name what agents and clients have in server.name",
        ),
        (
            "publicKeys: [agent.pub.pem]",
            "publicKeys: [agent.pub.pem], serverNames: [a.example]",
            "f.yaml:5:5: identities[1]: serverNames are for the role server, not for the role agent",
        ),
        (
            ", publicKeys: [agent.pub.pem]",
            "",
            "f.yaml:5:5: identities[1]: has no publicKeys\n  hint: say how it proves who it is: with publicKeys or oidc",
        ),
        (
            "serverNames: [tunnel.acme.example]",
            "serverNames: [Enrol.acme.example]",
            "f.yaml:4:103: identities[0].serverNames[0]: enrol.acme.example is the name of this process\n  \
               hint: give them different names, so that neither can stand in for the other",
        ),
        (
            "name: tunnel,",
            "name: enrol,",
            "f.yaml:4:12: identities[0].name: enrol is the name that this process has among servers: the first part of server.name",
        ),
        (
            "serverNames: [tunnel.acme.example]",
            "serverNames: ['*.acme.example']",
            "f.yaml:4:103: identities[0].serverNames[0]: \"*.acme.example\": a server's name is a DNS name or an IP address",
        ),
        (
            "enrolment: {audience: \"https://tunnel.acme.example/enrol\"}\n",
            "",
            "f.yaml:1:1: enrolment.audience: is required",
        ),
        (
            "issuer: {embedded: {directory: ca}}",
            "issuer: {enrolment: {}}",
            "f.yaml:6:1: issuer: one of embedded, cas is required\n\
             f.yaml:6:10: issuer: unknown setting \"enrolment\"\n  hint: the settings here are embedded, cas, certificateLifetime",
        ),
    ];
    assert_cases(Daemon::Enrolment, ENROLMENT, &cases);
}

#[test]
fn only_servers_have_source_ranges_where_they_enrol() {
    let cases = [
        ("serverNames: [tunnel.acme.example]}", "serverNames: [tunnel.acme.example], sourceRanges: [10.0.0.5]}", ""),
        (
            "publicKeys: [agent.pub.pem]}",
            "publicKeys: [agent.pub.pem], sourceRanges: [203.0.113.7]}",
            "f.yaml:5:5: identities[1]: sourceRanges are here for the role server, not for the role agent\n  \
               hint: put it into the configuration of the server, which sees where they come from",
        ),
    ];
    assert_cases(Daemon::Enrolment, ENROLMENT, &cases);
    let relay = RELAY.replacen("email: agent@p.example}", "email: agent@p.example, sourceRanges: [203.0.113.7]}", 1);
    assert_eq!(findings(Daemon::Server, &relay, &Overrides::none()), "");
}
