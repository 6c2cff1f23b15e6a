use std::path::{Path, PathBuf};

use ginnel_core::principal::Role;

use super::{AGENT, findings};
use crate::{AgentConfig, Overrides};

fn agent(overrides: &Overrides) -> AgentConfig {
    AgentConfig::parse(AGENT, "f.yaml", Path::new("/etc/ginnel"), overrides).expect("a good configuration")
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let variables = [
        ("HOME", "/root"),
        ("GINNEL_PROXY", "127.0.0.1:1"),
        ("GINNEL_SERVER__ADDRESS", "[fd00::1]:1"),
        ("GINNEL_SERVER__NAME", "variable.example"),
        ("GINNEL_dangerdisableinnertls", "true"),
        ("GINNEL_ENROLMENT__AUDIENCE", "12"),
    ];
    let flags = ["server.name=first.example", "server.name=flag.example"];

    let config = agent(&Overrides::from_env(variables).with_flags(flags));

    assert_eq!(config.server.address.to_string(), "[fd00::1]:1");
    assert_eq!(config.server.name.as_str(), "flag.example");
    assert_eq!(config.enrolment_audience, "12");
    assert!(config.danger_disable_inner_tls);
}

#[test]
fn relative_paths_start_at_the_file_or_at_the_working_directory() {
    let overrides = Overrides::none().with_flags(["trust.client=here/client-root.pem"]);

    let config = agent(&overrides);

    assert_eq!(config.trust.server, PathBuf::from("/etc/ginnel/server-root.pem"));
    assert_eq!(config.trust.client, PathBuf::from("here/client-root.pem"));
}

#[test]
fn every_wrong_override_is_named_beside_what_is_wrong_in_the_file() {
    let variables = [
        ("GINNEL_ALLOW", "gitlab.acme.internal:443"),
        ("GINNEL_CREDENTIAL__SERVICE_ACCOUNT_KEY", "key.json"),
        ("GINNEL_DANGER_DISABLE_INNER_TLS", "yes"),
        ("GINNEL_SERVER_ADDRESS", "203.0.113.7:50050"),
        ("GINNEL_SERVER__ADDRESS", "203.0.113.7"),
        ("GINNEL_TRUST", "root.pem"),
        ("GINNEL_dangerDisableInnerTls", "true"),
    ];
    let flags = ["server.nam=x", "trust.client", "server.address.port=1"];
    let overrides = Overrides::from_env(variables).with_flags(flags);

    let found = findings(Role::Agent, &AGENT.replace("name: tunnel.acme.example", "nam: a.example"), &overrides);

    assert_eq!(
        found,
        "\
f.yaml:1:1: server.name: is required
f.yaml:1:38: server: unknown setting \"nam\"
  hint: did you mean name?
--set server.address.port: names no setting: server.address is a single value
  hint: did you mean server.address?
--set server.nam: names no setting
  hint: did you mean server.name?
--set trust.client: is not of the form path=value
GINNEL_ALLOW: allow is a list, which only the file can set
GINNEL_CREDENTIAL__SERVICE_ACCOUNT_KEY: names no setting
  hint: did you mean GINNEL_CREDENTIAL__SERVICE_ACCOUNT_KEY_FILE?
GINNEL_SERVER_ADDRESS: names no setting
  hint: did you mean GINNEL_SERVER__ADDRESS?
GINNEL_SERVER__ADDRESS: server.address: \"203.0.113.7\": the port is missing, as in gitlab.acme.internal:443
GINNEL_TRUST: trust is a section, not a single value
  hint: its settings are GINNEL_TRUST__SERVER, GINNEL_TRUST__CLIENT
GINNEL_dangerDisableInnerTls: dangerDisableInnerTls: is already set by GINNEL_DANGER_DISABLE_INNER_TLS"
    );
}

#[test]
fn overrides_alone_can_make_a_section() {
    let file = AGENT.lines().skip(1).collect::<Vec<_>>().join("\n");
    let address = Overrides::none().with_flags(["server.address=a.example:443"]);
    let both = address.clone().with_flags(["server.name=a.example"]);

    assert_eq!(findings(Role::Agent, &file, &address), "f.yaml:1:1: server.name: is required");
    assert_eq!(findings(Role::Agent, &file, &both), "");
}

#[cfg(unix)]
#[test]
fn variables_that_are_not_text_are_refused_if_they_are_ours() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let bytes = || OsString::from_vec(vec![0xff]);
    let variables =
        [(OsString::from("OTHER"), bytes()), (OsString::from("GINNEL_SERVER__NAME"), bytes()), (bytes(), bytes())];

    let found = findings(Role::Agent, AGENT, &Overrides::from_env(variables));

    assert_eq!(found, "GINNEL_SERVER__NAME: server.name: is not UTF-8");
}
