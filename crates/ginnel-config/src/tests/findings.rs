use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ginnel_core::audit::LogFiles;
use ginnel_core::lanes::Bounds;
use ginnel_core::principal::Role;
use ginnel_core::ranges::Ranges;

use super::{AGENT, CLIENT, ROLES, SERVER, findings, good};
use crate::tree::{FILE_BYTES_MAX, NODES_MAX};
use crate::{
    AgentConfig, AllowedSources, ClientConfig, Credential, Daemon, Dial, IssuerKind, LoadError, Overrides, Place,
    PublicKeys, ServerConfig, ServerIssuer, TokenBinding,
};

/// A file with one part replaced, and everything that must be found in it.
type Case = (&'static str, &'static str, &'static str);

fn assert_findings(role: Role, cases: &[Case]) {
    let file = good(role);
    for (from, to, expected) in cases {
        assert!(file.contains(from), "{from}");
        let text = file.replacen(from, to, 1);
        assert_eq!(findings(role, &text, &Overrides::none()), *expected, "in\n{text}");
    }
}

#[test]
fn reads_good_files() {
    let base_dir = Path::new("/etc/ginnel");
    let overrides = Overrides::none();

    let server = ServerConfig::parse(SERVER, "f.yaml", base_dir, &overrides).expect("a server");
    assert_eq!(server.trust_domain.as_str(), "acme.example");
    assert_eq!(server.identities[1].role, Role::Client);
    assert_eq!(server.identities[0].key_files(), [base_dir.join("agent.pub.pem")]);
    assert_eq!(server.identities[1].key_files(), [Path::new("/keys/frontend.pub.pem")]);
    assert_eq!(server.rules[0].targets[0].to_string(), "gitlab.acme.internal:443");
    let ServerIssuer::Here(issuer) = server.issuer else { panic!("{:?}", server.issuer) };
    assert_eq!(issuer.kind, IssuerKind::Embedded { directory: base_dir.join("ca") });
    assert_eq!(issuer.certificate_lifetime, Duration::from_secs(24 * 3600));
    assert_eq!(server.audit, LogFiles::from(base_dir.join("audit")));
    let text = SERVER.replace(
        "{directory: audit}",
        "{directory: audit, rotateSize: 1MiB, rotateAge: 1m, keepSize: 2GiB, keepFor: 400d}",
    );
    let kept = ServerConfig::parse(&text, "f.yaml", base_dir, &overrides).expect("a server").audit;
    let day = Duration::from_secs(86_400);
    assert_eq!((kept.rotate_size, kept.rotate_age), (1 << 20, Duration::from_secs(60)));
    assert_eq!((kept.keep_size, kept.keep_for), (Some(2 << 30), Some(400 * day)));

    let agent = AgentConfig::parse(AGENT, "f.yaml", base_dir, &overrides).expect("an agent");
    assert_eq!(agent.enrolment_audience, "https://tunnel.acme.example/enrol");
    assert_eq!(agent.enrolment_audience, server.enrolment_audience);
    assert!(!agent.danger_disable_inner_tls);
    assert_eq!((agent.dial, agent.observed, agent.audit), (Dial::Early, None, None));
    assert_eq!(agent.connections, Bounds { least: 1, most: 16 });
    assert_eq!(agent.server.congestion_control, None);

    let client = ClientConfig::parse(CLIENT, "f.yaml", base_dir, &overrides).expect("a client");
    assert_eq!((client.server.address.host(), client.server.address.port()), ("fd00::5", 443));
    assert_eq!(client.listen.proxy, Some(SocketAddr::from(([127, 0, 0, 1], 3128))));
    assert_eq!((client.listen.forwards.len(), client.listen.allow_non_loopback), (0, false));
}

#[test]
fn reads_keys_at_google_and_issuers() {
    let text = SERVER.replacen("publicKeys: [agent.pub.pem]", "publicKeys: google, uniqueId: \"123\"", 1).replacen(
        "publicKeys: [/keys/frontend.pub.pem]",
        "oidc: {issuer: cluster, subject: \"system:serviceaccount:a:b\"}",
        1,
    );
    let issuers = "google: {keysFreshFor: 1s, serviceAccountKeys: \"http://127.0.0.1:1/\"}\n\
                   oidcIssuers:\n  - {name: cluster, issuer: \"https://k.example\", binding: bearer, caFile: ca.pem}\n";
    let text = format!("{text}\n{issuers}");
    let server = ServerConfig::parse(&text, "f.yaml", Path::new("/etc"), &Overrides::none()).expect("a server");
    assert_eq!(server.identities[0].public_keys, Some(PublicKeys::Google));
    assert_eq!(server.identities[0].unique_id.as_deref(), Some("123"));
    assert_eq!((&server.identities[1].public_keys, server.identities[1].key_files().len()), (&None, 0));
    assert_eq!(server.identities[1].oidc.as_ref().map(|oidc| oidc.check_email), Some(false));
    assert_eq!((server.google.keys_fresh_for, server.google.ca_file), (Duration::from_secs(1), None));
    assert_eq!(server.oidc_issuers[0].binding, TokenBinding::Bearer);
    assert_eq!(server.oidc_issuers[0].ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
}

#[test]
fn finds_what_is_wrong_with_keys_and_issuers() {
    let with = |issuer: &str| format!("oidcIssuers:\n  - {issuer}\nissuer:");
    let good = r#"{name: a, issuer: "https://k.example", binding: cnf}"#;
    let cases = [
        (
            "publicKeys: [agent.pub.pem]".to_owned(),
            "uniqueId: \"1\"".to_owned(),
            "f.yaml:4:5: identities[0]: has no publicKeys\n  hint: say how it proves who it is: with publicKeys or oidc\n\
             f.yaml:4:65: identities[0].uniqueId: means nothing without publicKeys: google\n  hint: only Google's ID tokens name \
             it; remove it, or have publicKeys: google",
        ),
        (
            "publicKeys: [agent.pub.pem]".to_owned(),
            "publicKeys: [agent.pub.pem], uniqueId: \"1\"".to_owned(),
            "f.yaml:4:94: identities[0].uniqueId: means nothing without publicKeys: google\n  hint: only Google's ID tokens name \
             it; remove it, or have publicKeys: google",
        ),
        (
            "publicKeys: [agent.pub.pem]".to_owned(),
            "publicKeys: gogle, uniqueId: \"1\"".to_owned(),
            "f.yaml:4:67: identities[0].publicKeys: expected a list or the word google, found text",
        ),
        (
            "publicKeys: [agent.pub.pem]".to_owned(),
            "oidc: {issuer: b, subject: s}".to_owned(),
            "f.yaml:4:70: identities[0].oidc.issuer: none of oidcIssuers is named b",
        ),
        (
            "issuer:".to_owned(),
            with(&good.replace("https://k.example", "http://k.example")),
            "f.yaml:9:23: oidcIssuers[0].issuer: \"http://k.example\": a URL begins with https://, or with http:// and a loopback \
             address",
        ),
        (
            "issuer:".to_owned(),
            with(&good.replace("https://k.example", "https://accounts.google.com")),
            "f.yaml:9:23: oidcIssuers[0].issuer: Google is known already\n  hint: identities with publicKeys: google may come with \
             Google's ID tokens",
        ),
        (
            "issuer:".to_owned(),
            with(&format!("{good}\n  - {good}")),
            "f.yaml:10:12: oidcIssuers[1].name: an issuer named a is already at line 9, column 12\n\
             f.yaml:10:23: oidcIssuers[1].issuer: this issuer is already at line 9, column 23",
        ),
    ];
    for (from, to, expected) in &cases {
        assert_findings(Role::Server, &[(leaked(from), leaked(to), expected)]);
    }
}

fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[test]
fn finds_all_that_is_wrong_with_a_server() {
    assert_findings(
        Role::Server,
        &[
            (
                "trustDomain: acme.example",
                "trust_domain: acme.example",
                "f.yaml:1:1: trustDomain: is required\n\
                 f.yaml:1:1: unknown setting \"trust_domain\"\n  hint: did you mean trustDomain?",
            ),
            (
                "{name: tunnel.acme.example, listen: 127.0.0.1:0}",
                "{admin: 0.0.0.0:50051, p: 1, name: 127.1.1, listen: localhost:1}",
                "f.yaml:2:17: server.admin: 0.0.0.0:50051 is not a loopback address: whoever reaches it sees who reaches what\n  \
                 hint: listen on 127.0.0.1 or [::1]; if this is meant, write adminAllowNonLoopback: true beside it\n\
                 f.yaml:2:32: server: unknown setting \"p\"\n  hint: the settings here are name, listen, congestionControl, \
                 allowedSourceRanges, proxyProtocol, admin, adminSocket, adminAllowNonLoopback, shutdownGrace\n\
                 f.yaml:2:44: server.name: \"127.1.1\": an IPv4 address is written as four decimal numbers from 0 to 255 without leading zeros\n\
                 f.yaml:2:61: server.listen: \"localhost:1\": an address to listen on is written 127.0.0.1:3128 or [::1]:3128",
            ),
            (
                "rules:\n",
                concat!(
                    "  - {name: acme, role: agent, email: frontend@p.example, publicKeys: googel}\n",
                    "  - {name: acme, role: client, email: c@p.example, publicKeys: []}\n",
                    "  - {name: Eve, role: clint, email: Eve, publicKeys: ['{\"private_key\": 1}', ~/a.pem]}\n",
                    "rules:\n",
                ),
                "f.yaml:6:12: identities[2].name: an identity named acme with the role agent is already at line 4, column 12\n\
                 f.yaml:6:38: identities[2].email: frontend@p.example is already used at line 5, column 43\n  \
                   hint: every identity needs a service account of its own\n\
                 f.yaml:6:70: identities[2].publicKeys: expected a list or the word google, found text\n\
                 f.yaml:7:64: identities[3].publicKeys: needs at least one item\n\
                 f.yaml:8:12: identities[4].name: \"Eve\": a name has 1 to 63 characters from a-z, 0-9 and -, and does not begin or end with -\n\
                 f.yaml:8:23: identities[4].role: \"clint\" is none of agent, client\n  hint: did you mean client?\n\
                 f.yaml:8:37: identities[4].email: \"Eve\": an e-mail is written name@domain in lower case\n\
                 f.yaml:8:55: identities[4].publicKeys[0]: names a file; what the file holds does not belong here\n\
                 f.yaml:8:77: identities[4].publicKeys[1]: ~ does not stand for a home directory here\n  hint: write the whole path",
            ),
            (
                "clients: [frontend], agents: [acme], targets: [\"gitlab.acme.internal:443\"]}\n",
                concat!(
                    "clients: [fronted, acme], agents: [acme, acme], targets: ['*.x:1']}\n",
                    "  - {name: gitlab, clients: [], agents: [x y], target: []}\n",
                ),
                "f.yaml:7:30: rules[0].clients[0]: no identity with the role client is named fronted\n  hint: did you mean frontend?\n\
                 f.yaml:7:39: rules[0].clients[1]: no identity with the role client is named acme\n\
                 f.yaml:7:61: rules[0].agents[1]: acme is already listed at line 7, column 55\n\
                 f.yaml:7:78: rules[0].targets[0]: \"*.x:1\": a star stands for one whole label at the left, with two or more labels after it, as in *.acme.internal\n\
                 f.yaml:8:5: rules[1].targets: is required\n\
                 f.yaml:8:12: rules[1].name: a rule named gitlab is already at line 7, column 12\n\
                 f.yaml:8:29: rules[1].clients: needs at least one item\n\
                 f.yaml:8:42: rules[1].agents[0]: \"x y\": a name has 1 to 63 characters from a-z, 0-9 and -, and does not begin or end with -\n\
                 f.yaml:8:48: rules[1]: unknown setting \"target\"\n  hint: did you mean targets?",
            ),
        ],
    );
}

#[test]
fn finds_all_that_is_wrong_with_an_issuer() {
    assert_findings(
        Role::Server,
        &[
            (
                "issuer: {embedded: {directory: ca}}\naudit: {file: {directory: audit}}\n",
                "issuer: {certificateLifetime: 1s}\nenrolment: {audience: ''}\n",
                "f.yaml:1:1: audit.file.directory: is required\n\
                 f.yaml:8:1: issuer: one of embedded, cas, enrolment is required\n\
                 f.yaml:8:31: issuer.certificateLifetime: \"1s\" is not between 2s and 7d\n\
                 f.yaml:9:23: enrolment.audience: \"\": a text is not empty",
            ),
            (
                "{file: {directory: audit}}",
                "{file: {directory: audit, rotateSize: 64MB, rotateAge: 1s, keepSize: 64, keepFor: 9999d}}",
                "f.yaml:9:46: audit.file.rotateSize: \"64MB\" is not a size\n\
                 \x20 hint: a size is a number and one of KiB, MiB, GiB, TiB, as in 64MiB\n\
                 f.yaml:9:63: audit.file.rotateAge: \"1s\" is not between 1m and 366d\n\
                 f.yaml:9:77: audit.file.keepSize: \"64\" is not a size\n\
                 \x20 hint: a size is a number and one of KiB, MiB, GiB, TiB, as in 64MiB\n\
                 f.yaml:9:90: audit.file.keepFor: \"9999d\" is not between 1h and 7320d",
            ),
            (
                "issuer: {",
                "issuer: {cas: {}, ",
                "f.yaml:8:1: issuer: has embedded and cas, of which only one can be\n\
                 f.yaml:8:10: issuer.cas.pools.server: is required\n\
                 f.yaml:8:10: issuer.cas.pools.agent: is required\n\
                 f.yaml:8:10: issuer.cas.pools.client: is required\n\
                 f.yaml:8:10: issuer.cas.tier: is required",
            ),
            (
                "issuer: {embedded: {directory: ca}}",
                concat!(
                    "issuer: {cas: {tier: gold, endpoint: 'http://cas.example', pools: {server: projects/p/locations/l/caPools/x, ",
                    "agent: projects/p/locations/l/caPools/x, client: x}}}",
                ),
                "f.yaml:8:22: issuer.cas.tier: \"gold\" is none of devops, enterprise\n\
                 f.yaml:8:38: issuer.cas.endpoint: \"http://cas.example\": an endpoint is written https://HOST or https://HOST:PORT; \
                   http:// only with an address of loopback\n\
                 f.yaml:8:117: issuer.cas.pools.agent: projects/p/locations/l/caPools/x is already used at line 8, column 76\n  \
                   hint: make a pool for each role: a certificate's pool is what tells its role\n\
                 f.yaml:8:159: issuer.cas.pools.client: \"x\": the name of a CA pool is written \
                   projects/PROJECT/locations/LOCATION/caPools/POOL",
            ),
            (
                "issuer: {",
                "issuer: {certificateLifetime: 3600, ",
                "f.yaml:8:31: issuer.certificateLifetime: \"3600\" is not a duration\n  \
                   hint: a duration is a number and one of s, m, h, d, as in 24h",
            ),
        ],
    );
}

#[test]
fn does_not_blame_a_rule_for_an_identity_that_could_not_be_read() {
    assert_findings(
        Role::Server,
        &[(
            "{name: acme, role: agent",
            "{name: Acme, role: agent",
            "f.yaml:4:12: identities[0].name: \"Acme\": a name has 1 to 63 characters from a-z, 0-9 and -, and does not begin or end with -",
        )],
    );
}

#[test]
fn finds_all_that_is_wrong_with_an_agent() {
    assert_findings(
        Role::Agent,
        &[
            (
                AGENT,
                "# nothing\n",
                "f.yaml:1:1: server.address: is required\n\
                 f.yaml:1:1: server.name: is required\n\
                 f.yaml:1:1: trust.server: is required\n\
                 f.yaml:1:1: trust.client: is required\n\
                 f.yaml:1:1: credential: one of serviceAccountKeyFile, workloadIdentity, tokenFile is required\n\
                 f.yaml:1:1: allow: is required",
            ),
            (AGENT, "- a\n", "f.yaml:1:1: expected a section, found a list"),
            (
                AGENT,
                "server:\ntrust: ~\ncredential: {key: {}}\nallow: x\ndangerDisableInnerTls: yes\n",
                "f.yaml:1:7: server: has no value\n  hint: give it a section, or remove it\n\
                 f.yaml:2:8: trust: has no value\n  hint: give it a section, or remove it\n\
                 f.yaml:3:1: credential: one of serviceAccountKeyFile, workloadIdentity, tokenFile is required\n\
                 f.yaml:3:14: credential: unknown setting \"key\"\n  hint: the settings here are serviceAccountKeyFile, workloadIdentity, tokenFile\n\
                 f.yaml:4:8: allow: expected a list, found text\n\
                 f.yaml:5:24: dangerDisableInnerTls: \"yes\" is not true or false\n  hint: write true or false, without quotes",
            ),
            (
                "[gitlab.acme.internal:443]",
                "\n  - gitlab\n  - 12\n  - [a]\n  -\n  - 10.0.0.1/8:443\n  - \"\\e[0m\"",
                "f.yaml:5:5: allow[0]: \"gitlab\": the port is missing, as in gitlab.acme.internal:443\n\
                 f.yaml:6:5: allow[1]: expected text, found a number\n  hint: put it in quotes: \"12\"\n\
                 f.yaml:7:5: allow[2]: expected text or a section, found a list\n\
                 f.yaml:8:4: allow[3]: has no value\n  hint: give it text, or remove it\n\
                 f.yaml:9:5: allow[4]: \"10.0.0.1/8:443\": the address has bits beyond its prefix; the network is \"10.0.0.0/8\"\n\
                 f.yaml:10:5: allow[5]: \"\\u{1b}[0m\": the port is missing, as in gitlab.acme.internal:443",
            ),
        ],
    );
}

/// An agent with these lines in place of its list.
fn owner(lines: &str) -> String {
    AGENT.replacen("allow: [gitlab.acme.internal:443]\n", lines, 1)
}

#[test]
fn reads_an_owners_word_about_clients() {
    let text = owner(
        "allow:\n  - a.b:1\n  - {target: a.b:2}\n  - target: a.b:3\n    clients: [frontend, spiffe://acme.example/client/indexer]\n\
         observe: {allow: [a.b:1]}\ndial: afterHandshake\naudit: {file: {directory: audit}}\n",
    );
    let agent = AgentConfig::parse(&text, "f.yaml", Path::new("/etc/ginnel"), &Overrides::none()).expect("an agent");
    let entries: Vec<_> = agent.allow.iter().map(ToString::to_string).collect();
    assert_eq!(entries, ["a.b:1", "a.b:2", "a.b:3 for frontend spiffe://acme.example/client/indexer"]);
    assert_eq!(agent.observed.expect("a list").len(), 1);
    assert_eq!(agent.dial, Dial::AfterHandshake);
    assert_eq!(agent.audit, Some(LogFiles::from(Path::new("/etc/ginnel/audit"))));
}

#[test]
fn finds_all_that_is_wrong_with_an_owners_word_about_clients() {
    let nobody = "hint: without inner TLS there is only the server's word for who a client is: take this out, or dangerDisableInnerTls";
    let cases = [
        (
            "allow:\n  - {target: a.b, clients: []}\n  - {clients: [a]}\n  - {target: a.b:9, client: [a]}\n  - {target: a.b:1, clients: [A, client/a, spiffe://x.y/agent/a, a, a]}\n",
            "f.yaml:5:14: allow[0].target: \"a.b\": the port is missing, as in gitlab.acme.internal:443\n\
             f.yaml:5:28: allow[0].clients: needs at least one item\n\
             f.yaml:6:5: allow[1].target: is required\n\
             f.yaml:7:21: allow[2]: unknown setting \"client\"\n  hint: did you mean clients?\n\
             f.yaml:8:31: allow[3].clients[0]: \"A\": a client is written as its name, frontend, or as its principal, spiffe://acme.example/client/frontend: a name has 1 to 63 characters from a-z, 0-9 and -, and does not begin or end with -\n\
             f.yaml:8:34: allow[3].clients[1]: \"client/a\": a client is written as its name, frontend, or as its principal, spiffe://acme.example/client/frontend: a principal is spelled spiffe://<trust-domain>/<role>/<name>\n\
             f.yaml:8:44: allow[3].clients[2]: \"spiffe://x.y/agent/a\": this is the principal of no client: its role is agent\n\
             f.yaml:8:69: allow[3].clients[4]: a is already listed at line 8, column 66"
                .to_owned(),
        ),
        (
            "allow:\n  - a.b:1\n  - {target: a.b:1, clients: [a]}\nobserve: {allow: [{target: c.d:1, clients: [a]}, c.d:1]}\n",
            "f.yaml:6:5: allow[1]: a.b:1 is open to every client at line 5, column 5\n  hint: take one of them out: an item is for every client unless it lists some\n\
             f.yaml:7:19: observe.allow[0]: c.d:1 is open to every client at line 7, column 50\n  hint: take one of them out: an item is for every client unless it lists some"
                .to_owned(),
        ),
        (
            "allow: [{target: a.b:1, clients: [a]}]\nobserve: {allow: [{target: a.b:1, clients: [b]}]}\ndial: afterHandshake\naudit: {file: {directory: audit}}\ndangerDisableInnerTls: true\n",
            format!(
                "f.yaml:4:9: allow[0]: lists clients, and dangerDisableInnerTls is set\n  {nobody}\n\
                 f.yaml:5:19: observe.allow[0]: lists clients, and dangerDisableInnerTls is set\n  {nobody}\n\
                 f.yaml:6:7: dial: waits for a handshake, and dangerDisableInnerTls is set\n  {nobody}\n\
                 f.yaml:7:8: audit: says who reached what, and dangerDisableInnerTls is set\n  {nobody}"
            ),
        ),
        (
            "allow: [a.b:2, {target: a.b:1, clients: [a]}]\ndial: early\n",
            "f.yaml:5:7: dial: cannot be early: allow[1] lists clients\n  hint: take it out: such an agent dials once the client has proved who it is".to_owned(),
        ),
        (
            "allow: [a.b:2]\ndial: early\naudit: {file: {directory: audit}}\n",
            "f.yaml:5:7: dial: cannot be early: there is an audit log\n  hint: take it out: such an agent dials once the client has proved who it is".to_owned(),
        ),
        (
            "allow: []\ndial: late\nobserve: {}\naudit: {file: {}}\n",
            "f.yaml:5:7: dial: \"late\" is none of early, afterHandshake\n\
             f.yaml:6:1: observe.allow: is required\n\
             f.yaml:7:9: audit.file.directory: is required"
                .to_owned(),
        ),
        ("allow: [a.b:2]\ndial: early\ndangerDisableInnerTls: true\n", String::new()),
    ];
    for (lines, expected) in cases {
        let text = owner(lines);
        assert_eq!(findings(Role::Agent, &text, &Overrides::none()), expected, "in\n{text}");
    }
}

#[test]
fn finds_all_that_is_wrong_with_a_client() {
    assert_findings(
        Role::Client,
        &[
            (
                "listen: {proxy: 127.0.0.1:3128}\n",
                "",
                "f.yaml:1:1: listen: needs proxy, forwards or both\n  hint: for example proxy: 127.0.0.1:3128",
            ),
            (
                "{proxy: 127.0.0.1:3128}",
                "{forwards: []}",
                "f.yaml:4:1: listen: needs proxy, forwards or both\n  hint: for example proxy: 127.0.0.1:3128",
            ),
            (
                "{proxy: 127.0.0.1:3128}",
                concat!(
                    "\n  proxy: 0.0.0.0:3128\n  forwards:\n",
                    "    - {listen: 127.0.0.1:2222, target: 'gitlab:0'}\n",
                    "    - {listen: 127.0.0.1:2222, target: 'gitlab:22'}\n",
                    "    - {listen: '127.0.0.1:0', target: 'gitlab:22'}\n",
                    "    - {listen: '127.0.0.1:0', target: 'gitlab:22', port: 1}\n",
                ),
                "f.yaml:5:10: listen.proxy: 0.0.0.0:3128 is not a loopback address: whoever reaches it uses the tunnel as this client\n  \
                   hint: listen on 127.0.0.1 or [::1]; if this is meant, write allowNonLoopback: true in the section listen\n\
                 f.yaml:7:40: listen.forwards[0].target: \"gitlab:0\": a port is a decimal number from 1 to 65535 without sign or leading zeros\n\
                 f.yaml:8:16: listen.forwards[1].listen: 127.0.0.1:2222 is already used at line 7, column 16\n\
                 f.yaml:10:52: listen.forwards[3]: unknown setting \"port\"\n  hint: the settings here are listen, target",
            ),
            ("{proxy: 127.0.0.1:3128}", "{proxy: 0.0.0.0:3128, allowNonLoopback: true}", ""),
            ("{proxy: 127.0.0.1:3128}", "{forwards: [{listen: '[::1]:0', target: 'h:1'}]}", ""),
        ],
    );
}

#[test]
fn reads_routes_and_finds_all_that_is_wrong_with_them() {
    let read = |routes: &str| {
        let text = format!("{CLIENT}{routes}\n");
        let client = ClientConfig::parse(&text, "f.yaml", Path::new("/etc"), &Overrides::none()).expect("a client");
        client.routes.entries().map(|routes| routes.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(read(""), None);
    assert_eq!(read("routes: []"), Some(Vec::new()));
    let two = "routes: [{targets: ['gitlab.acme.internal:443', '*.acme.internal:22'], agents: [b, a, b]}, {targets: ['10.0.0.0/8:1-9'], agents: [c]}]";
    let said = ["gitlab.acme.internal:443, *.acme.internal:22 through a, b", "10.0.0.0/8:1-9 through c"];
    assert_eq!(read(two), Some(said.map(str::to_owned).to_vec()));

    let forwards = "\n  forwards:\n    - {listen: '127.0.0.1:0', target: 'git.acme.internal:22'}\n    - {listen: '127.0.0.1:0', target: 'npm.acme.internal:443'}\n";
    let with = |routes: &str| leaked(&format!("{forwards}routes:\n{routes}"));
    assert_findings(
        Role::Client,
        &[
            (
                "{proxy: 127.0.0.1:3128}",
                with("  - {targets: ['git.acme.internal:22'], agents: [acme]}"),
                "f.yaml:7:39: listen.forwards[1].target: no route names npm.acme.internal:443, so that every connection would be \
                 refused\n  hint: add it to the targets of a route",
            ),
            (
                "{proxy: 127.0.0.1:3128}",
                with(
                    "  - {targets: ['git.acme.internal:x', 'a.b.c'], agents: [Acme, acme/x], target: d}\n  - {targets: []}\n  - {agents: []}",
                ),
                "f.yaml:9:16: routes[0].targets[0]: \"git.acme.internal:x\": ports are one number from 1 to 65535 or a range, as in \
                 8000-8100\n\
                 f.yaml:9:39: routes[0].targets[1]: \"a.b.c\": the port is missing, as in gitlab.acme.internal:443\n\
                 f.yaml:9:58: routes[0].agents[0]: \"Acme\": a name has 1 to 63 characters from a-z, 0-9 and -, and does not begin \
                 or end with -\n\
                 f.yaml:9:64: routes[0].agents[1]: \"acme/x\": a name has 1 to 63 characters from a-z, 0-9 and -, and does not \
                 begin or end with -\n\
                 f.yaml:9:73: routes[0]: unknown setting \"target\"\n  hint: did you mean targets?\n\
                 f.yaml:10:5: routes[1].agents: is required\n\
                 f.yaml:10:15: routes[1].targets: needs at least one item\n\
                 f.yaml:11:5: routes[2].targets: is required\n\
                 f.yaml:11:14: routes[2].agents: needs at least one item",
            ),
            (
                "listen: {proxy: 127.0.0.1:3128}\n",
                "listen: {proxy: 127.0.0.1:3128}\nroutes: [{targets: ['a.b.c:1'], agents: [acme]}]\ndangerDisableInnerTls: true\n",
                "f.yaml:5:9: routes: mean nothing without inner TLS: it proves which agent serves\n  hint: remove \
                 dangerDisableInnerTls, or the routes",
            ),
            ("listen:", "routes: acme\nlisten:", "f.yaml:4:9: routes: expected a list, found text"),
            (
                "{proxy: 127.0.0.1:3128}",
                leaked(&format!("{{proxy: 127.0.0.1:3128}}\nroutes: {}", many(10_000))),
                "f.yaml:5:9: routes: name 10001 targets and agents in all, and 10000 is the most\n  hint: name networks, ranges of ports \
                 or *.name in place of single targets",
            ),
        ],
    );
    assert_eq!(read(&format!("routes: {}", many(9_999))).map(|routes| routes.len()), Some(1));
}

/// One route of so many targets through one agent.
fn many(targets: usize) -> String {
    let targets: Vec<_> = (0..targets).map(|number| format!("'h{number}.acme.internal:443'")).collect();
    format!("[{{targets: [{}], agents: [acme]}}]", targets.join(", "))
}

#[test]
fn refuses_what_is_not_plain_data() {
    assert_findings(
        Role::Agent,
        &[
            (
                AGENT,
                concat!(
                    "server: {address: !!str x:1, name: tunnel.acme.example}\n",
                    "trust: {server: *b, &a client: client-root.pem}\n",
                    "credential: {serviceAccountKeyFile: key.json}\n",
                    "allow: [gitlab.acme.internal:443]\n",
                    "allow: []\n",
                    "? [a, b]\n: c\n",
                    "<<: {a: b}\n",
                ),
                "f.yaml:1:25: server.address: tags are not supported: write the value without one\n\
                 f.yaml:2:17: trust.server: aliases are not supported: write the value out\n\
                 f.yaml:2:24: trust: anchors are not supported: write the value out where it is needed\n\
                 f.yaml:5:1: \"allow\" is already given at line 4, column 1\n\
                 f.yaml:6:3: a key is one word\n\
                 f.yaml:8:1: merge keys are not supported: write the settings out",
            ),
            ("allow:", "---\nallow:", "f.yaml:4:1: a file holds one document; a second one begins here"),
            ("allow:", "\tallow:", "f.yaml:4:2: is not YAML: while parsing a block mapping, did not find expected key"),
        ],
    );
}

#[test]
fn bounds_depth_nodes_and_size() {
    let cases = [
        (format!("x: {}{}\n", "[".repeat(64), "]".repeat(64)), "f.yaml:1:67: is nested more than 64 levels deep"),
        ("? ".repeat(1000), "f.yaml:1:129: is nested more than 64 levels deep"),
        (
            format!("x: [{}]\n", "a,".repeat(NODES_MAX)),
            "f.yaml:1:7999999: the file has more than 4000000 keys and values",
        ),
        ("#".repeat(FILE_BYTES_MAX + 1), "f.yaml: is larger than 64 MiB"),
    ];
    for (text, expected) in cases {
        assert_eq!(findings(Role::Agent, &text, &Overrides::none()), expected);
    }
}

#[test]
fn takes_windows_line_ends_a_byte_order_mark_and_directives() {
    for role in ROLES {
        let text = format!("\u{feff}%YAML 1.2\r\n---\r\n{}", good(role).replace('\n', "\r\n"));
        assert_eq!(findings(role, &text, &Overrides::none()), "", "{role}");
    }
}

#[test]
fn survives_every_cut_and_every_replaced_character() {
    for role in ROLES {
        let text = good(role);
        for (index, _) in text.char_indices() {
            findings(role, &text[..index], &Overrides::none());
            let with = ["[", "]", "{", "}", ":", "- ", "#", "\"", "*", "&", "!", "|", "\n", "\0", "ä", "%"][index % 16];
            findings(role, &format!("{}{with}{}", &text[..index], &text[index + 1..]), &Overrides::none());
        }
    }
}

#[test]
fn says_which_file_it_cannot_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.yaml");

    let missing = AgentConfig::load(&path, &Overrides::none());
    assert!(matches!(missing, Err(LoadError::Read { path: of, .. }) if of == path));

    std::fs::write(&path, b"server: {}\n# \xff").expect("a file");
    let Err(LoadError::Invalid(findings)) = AgentConfig::load(&path, &Overrides::none()) else { panic!("no findings") };
    let places: Vec<_> = findings.iter().map(|finding| (&finding.place, finding.message.as_str())).collect();
    assert_eq!(places, [(&Place::File { line: 2, column: 3 }, "is not UTF-8")]);

    std::fs::write(&path, AGENT).expect("a file");
    let config = AgentConfig::load(&path, &Overrides::none()).expect("a configuration");
    assert_eq!(config.credential, Credential::ServiceAccountKeyFile(dir.path().join("key.json")));
}

#[test]
fn a_proxy_is_whole_and_no_finding_repeats_a_password() {
    let from = "name: tunnel.acme.example}";
    let with = |proxy: &str| AGENT.replacen(from, &format!("name: tunnel.acme.example, proxy: {{{proxy}}}}}"), 1);
    let good = with(
        "url: https://p.example:3128, trust: p.pem, username: me, passwordFile: word, noProxy: [.a.example, 203.0.112.0/22]",
    );
    let agent = AgentConfig::parse(&good, "f.yaml", Path::new("/etc/ginnel"), &Overrides::none()).expect("an agent");
    assert_eq!(agent.server.proxy(), None, "203.0.113.7 is in noProxy");
    let proxy = agent.server.configured_proxy.expect("a proxy");
    assert_eq!(proxy.location.to_string(), "https://p.example:3128");
    assert_eq!(proxy.credentials.expect("credentials").password_file, Path::new("/etc/ginnel/word"));
    let cases = [
        ("url: https://p.example:3128", "an https proxy needs trust"),
        ("url: http://p.example:3128, trust: p.pem", "would mean nothing"),
        ("url: http://p.example:3128, username: me", "needs passwordFile as well"),
        ("url: http://p.example:3128, passwordFile: word", "needs username as well"),
        ("url: http://p.example:3128, username: \"m:e\", passwordFile: word", "no colon"),
        ("url: http://me:hunter2@p.example:3128", "use username and passwordFile"),
        ("url: p.example:3128", "is written http://host:port"),
        ("noProxy: [a.example]", "server.proxy.url: is required"),
        ("url: http://p.example:3128, noProxy: [\"*\"]", "server.proxy.noProxy[0]"),
        ("url: http://p.example:3128, password: hunter2", "unknown setting \"password\""),
    ];
    for (proxy, expected) in cases {
        let found = findings(Role::Agent, &with(proxy), &Overrides::none());
        assert!(found.contains(expected) && !found.contains("hunter2"), "{proxy}: {found}");
    }
}

#[test]
fn finds_what_is_wrong_with_connections() {
    let cases = [
        ("0", "f.yaml:5:20: connections.max: \"0\" is not a whole number from 1 to 16"),
        ("17", "f.yaml:5:20: connections.max: \"17\" is not a whole number from 1 to 16"),
        ("-1", "f.yaml:5:20: connections.max: \"-1\" is not a whole number from 1 to 16"),
        (
            "'4'",
            "f.yaml:5:20: connections.max: \"4\" is not a whole number from 1 to 16\n  hint: write it without quotes",
        ),
        ("[4]", "f.yaml:5:20: connections.max: expected a number, found a list"),
    ];
    for (value, expected) in cases {
        let text = format!("{AGENT}connections: {{max: {value}}}\n");
        assert_eq!(findings(Role::Agent, &text, &Overrides::none()), expected);
    }
    for role in ROLES.into_iter().filter(|role| *role != Daemon::Enrolment) {
        let set = |name: &str| good(role).replacen("server: {", &format!("server: {{congestionControl: {name}, "), 1);
        assert_eq!(findings(role, &set("bbr"), &Overrides::none()), "");
        let found = findings(role, &set("Bbr/1"), &Overrides::none());
        assert!(found.contains("server.congestionControl: \"Bbr/1\": a congestion control has a name of"), "{found}");
    }
    let renewals = [
        ("{at: 50%, jitter: 0%}", ""),
        (
            "{at: 9%, jitter: 26%}",
            "f.yaml:LINE:15: renewal.at: 9% is not between 10% and 60%\nf.yaml:LINE:27: renewal.jitter: 26% is not between 0% and 25%",
        ),
        ("{at: 61%}", "f.yaml:LINE:15: renewal.at: 61% is not between 10% and 60%"),
        ("{at: 33}", "f.yaml:LINE:15: renewal.at: expected text, found a number\n  hint: put it in quotes: \"33\""),
        (
            "{at: 1/3}",
            "f.yaml:LINE:15: renewal.at: \"1/3\": a part is written as a whole number of percent, such as 33%",
        ),
    ];
    for role in ROLES {
        for (value, expected) in renewals {
            let text = format!("{}renewal: {value}\n", good(role));
            let line = text.lines().count().to_string();
            assert_eq!(findings(role, &text, &Overrides::none()), expected.replace("LINE", &line));
        }
    }
    let text = format!("{CLIENT}connections: {{min: 4, max: 4}}\n");
    let client = ClientConfig::parse(&text, "f.yaml", Path::new("/"), &Overrides::none()).expect("a client");
    assert_eq!(client.connections, Bounds { least: 4, most: 4 });
    let text = format!("{CLIENT}connections: {{max: 4, min: 5}}\n");
    let found = findings(Role::Client, &text, &Overrides::none());
    assert_eq!(found, "f.yaml:5:28: connections.min: 5 is more than max, which is 4");
}

#[test]
fn a_credential_is_one_of_three() {
    let key = "{serviceAccountKeyFile: key.json}";
    let cases = [
        ("{tokenFile: /var/run/secrets/ginnel/token}", String::new()),
        ("{workloadIdentity: {}}", String::new()),
        ("{workloadIdentity: {method: idToken, serviceAccount: a@b.iam.gserviceaccount.com}}", String::new()),
        ("{workloadIdentity: {method: signJwt, endpoint: 'https://iam.example'}}", String::new()),
        ("{workloadIdentity: {endpoint: 'http://127.0.0.1:8080'}}", String::new()),
        ("{serviceAccountKeyFile: key.json, tokenFile: token}", "f.yaml:3:1: credential: has serviceAccountKeyFile and tokenFile, of which only one can be".to_owned()),
        ("{workloadIdentity: {}, tokenFile: token}", "f.yaml:3:1: credential: has workloadIdentity and tokenFile, of which only one can be".to_owned()),
        (
            "{workloadIdentity: {method: magic}}",
            "f.yaml:3:41: credential.workloadIdentity.method: \"magic\" is none of signJwt, idToken".to_owned(),
        ),
        (
            "{workloadIdentity: {endpoint: 'http://iam.example'}}",
            "f.yaml:3:43: credential.workloadIdentity.endpoint: \"http://iam.example\": an endpoint is written https://HOST or https://HOST:PORT; \
             http:// only with an address of loopback"
                .to_owned(),
        ),
        (
            "{workloadIdentity: {endpoint: 'http://127.0.0.1.evil.example'}}",
            "f.yaml:3:43: credential.workloadIdentity.endpoint: \"http://127.0.0.1.evil.example\": an endpoint is written \
             https://HOST or https://HOST:PORT; http:// only with an address of loopback"
                .to_owned(),
        ),
    ];
    for (credential, expected) in &cases {
        let text = AGENT.replacen(key, credential, 1);
        assert_eq!(findings(Role::Agent, &text, &Overrides::none()), *expected, "{credential}");
    }
}

#[test]
fn reads_where_connections_may_come_from_and_when_rules_end() {
    let text = SERVER
        .replacen(
            "listen: 127.0.0.1:0}",
            "listen: 127.0.0.1:0, proxyProtocol: {from: [10.0.0.0/28]},\n  allowedSourceRanges: {agent: [203.0.113.0/24, \"fd00::/8\"]}}",
            1,
        )
        .replacen("[agent.pub.pem]}", "[agent.pub.pem], sourceRanges: [203.0.113.7]}", 1)
        .replacen("internal:443\"]}", "internal:443\"], expires: 2030-01-31T18:00:00+01:00, sources: [10.0.0.0/8]}", 1);
    let server = ServerConfig::parse(&text, "f.yaml", Path::new("/etc"), &Overrides::none()).expect("a server");
    let shown = |ranges: &Option<Ranges>| ranges.as_ref().map(ToString::to_string);
    assert_eq!(shown(&server.server.allowed_sources.agent).as_deref(), Some("203.0.113.0/24, fd00::/8"));
    assert_eq!(
        (server.server.allowed_sources.client, shown(&server.server.balancers).as_deref()),
        (None, Some("10.0.0.0/28"))
    );
    let [agent, client] = &server.identities[..] else { panic!("two identities") };
    assert_eq!((shown(&agent.source_ranges).as_deref(), shown(&client.source_ranges)), (Some("203.0.113.7"), None));
    let rule = &server.rules[0];
    let expires = rule.expires.map(|expires| expires.to_string());
    assert_eq!(
        (expires.as_deref(), shown(&rule.sources).as_deref()),
        (Some("2030-01-31T17:00:00.000000Z"), Some("10.0.0.0/8"))
    );
    let plain = ServerConfig::parse(SERVER, "f.yaml", Path::new("/etc"), &Overrides::none()).expect("a server");
    assert_eq!((&plain.rules[0].expires, &plain.rules[0].sources), (&None, &None));
    assert_eq!((plain.server.allowed_sources, plain.server.balancers), (AllowedSources::default(), None));
}

#[test]
fn finds_what_is_wrong_with_sources_and_ends() {
    let listen = "listen: 127.0.0.1:0}";
    let rule = "internal:443\"]}";
    let cases: [Case; 8] = [
        (
            listen,
            "listen: 127.0.0.1:0, allowedSourceRanges: {agents: [10.0.0.0/8]}}",
            "f.yaml:2:80: server.allowedSourceRanges: unknown setting \"agents\"\n  hint: did you mean agent?",
        ),
        (
            listen,
            "listen: 127.0.0.1:0, allowedSourceRanges: {agent: [10.0.0.1/8]}}",
            "f.yaml:2:88: server.allowedSourceRanges.agent[0]: \"10.0.0.1/8\": the address has bits beyond its prefix; the network is \
             \"10.0.0.0/8\"",
        ),
        (
            listen,
            "listen: 127.0.0.1:0, allowedSourceRanges: {agent: []}}",
            "f.yaml:2:87: server.allowedSourceRanges.agent: needs at least one item",
        ),
        (
            listen,
            "listen: 127.0.0.1:0, proxyProtocol: {from: [balancer.acme.internal]}}",
            "f.yaml:2:81: server.proxyProtocol.from[0]: \"balancer.acme.internal\": a range is an address or a network, as in \
             203.0.113.7, 203.0.113.0/24 or fd00::/8",
        ),
        (
            listen,
            "listen: 127.0.0.1:0, proxyProtocol: true}",
            "f.yaml:2:73: server.proxyProtocol: expected a section, found a boolean",
        ),
        (
            rule,
            "internal:443\"], expires: tomorrow}",
            "f.yaml:7:105: rules[0].expires: \"tomorrow\": a time is written 2026-01-31T13:45:00Z, or 2026-01-31 for that day's midnight \
             in UTC, and is not before 1970",
        ),
        (rule, "internal:443\"], sources: 10.0.0.0/8}", "f.yaml:7:105: rules[0].sources: expected a list, found text"),
        (
            "[agent.pub.pem]}",
            "[agent.pub.pem], sourceRanges: [fd00::/129]}",
            "f.yaml:4:99: identities[0].sourceRanges[0]: \"fd00::/129\": a prefix is a number from 0 to 128",
        ),
    ];
    assert_findings(Role::Server, &cases);
}
