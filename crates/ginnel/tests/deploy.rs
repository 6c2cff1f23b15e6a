//! Keeps what is in `deploy/systemd` and `deploy/container` in step with the program: the forms in which it is run.
#![cfg(test)]
#![cfg(all(feature = "server", feature = "agent", feature = "client"))]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ginnel_config::{AgentConfig, ClientConfig, Overrides, ServerConfig};
use ginnel_core::principal::Role;

const ROLES: [&str; 3] = ["server", "agent", "client"];

/// What `systemd-analyze security` may find, from 0 (nothing is open) to 10.
const EXPOSURE_MAX: f64 = 1.3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn unit(role: &str) -> String {
    read(&format!("deploy/systemd/ginnel-{role}.service"))
}

/// The values of a setting of a unit.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

fn seconds(unit: &str, name: &str) -> u64 {
    settings(unit, name)[0].strip_suffix('s').unwrap().parse().unwrap()
}

/// What the unit passes to the program, with the specifier that it uses expanded.
fn arguments(unit: &str) -> Vec<String> {
    let line = settings(unit, "ExecStart")[0].replace("%d", "/run/credentials/unit");
    line.split(' ').map(str::to_owned).collect()
}

fn overrides(arguments: &[String]) -> Overrides {
    let flags = arguments.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone());
    Overrides::none().with_flags(flags)
}

#[test]
fn each_unit_exposes_little() {
    for role in ROLES {
        let path = root().join(format!("deploy/systemd/ginnel-{role}.service"));
        let analysis = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(&path)
            .env("SYSTEMD_COLORS", "0")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&analysis.stdout);
        let verdict = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| {
            panic!("{role}: {text}{}", String::from_utf8_lossy(&analysis.stderr));
        });
        let level = verdict.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let level: f64 = level.parse().unwrap();
        assert!(level <= EXPOSURE_MAX, "{role}: {text}");
    }
}

#[test]
fn systemd_understands_each_unit() {
    for role in ROLES {
        // Verifying asks for the program at its place: a copy of the unit names the one that was built.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("ginnel-{role}.service"));
        fs::write(&path, unit(role).replace("/usr/bin/ginnel ", &format!("{} ", env!("CARGO_BIN_EXE_ginnel"))))
            .unwrap();
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        // It reads all units of the machine; only what it says of this one counts.
        let about: Vec<&str> = said.lines().filter(|line| line.contains("ginnel-")).collect();
        assert!(about.is_empty(), "{role}: {said}");
    }
}

#[test]
fn each_unit_starts_what_the_program_understands() {
    for role in ROLES {
        let arguments = arguments(&unit(role));
        assert_eq!(arguments[..4], ["/usr/bin/ginnel", role, "--config", &format!("/etc/ginnel/{role}.yaml")]);
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yaml");
        fs::write(&config, ginnel_config::example(role.parse::<Role>().unwrap())).unwrap();
        let overrides = overrides(&arguments);
        let runtime = format!("/run/ginnel-{role}/admin.sock");
        let (socket, kept) = match role {
            "server" => {
                let config = ServerConfig::load(&config, &overrides).unwrap();
                let state = Path::new("/var/lib/ginnel-server");
                assert!(config.audit_directory.starts_with(state) && config.issuer.directory.starts_with(state));
                (config.server.admin.socket, None)
            }
            "agent" => {
                let config = AgentConfig::load(&config, &overrides).unwrap();
                (config.admin.socket, Some(config.credential))
            }
            _ => {
                let config = ClientConfig::load(&config, &overrides).unwrap();
                (config.admin.socket, Some(config.credential))
            }
        };
        assert_eq!(socket.as_deref(), Some(Path::new(&runtime)));
        assert_eq!(settings(&unit(role), "RuntimeDirectory"), [format!("ginnel-{role}")]);
        if let Some(key) = kept {
            assert_eq!(key, Path::new("/run/credentials/unit/key.json"));
            assert_eq!(settings(&unit(role), "LoadCredential"), [format!("key.json:/etc/ginnel/{role}-key.json")]);
        }
    }
}

#[test]
fn a_unit_waits_longer_than_the_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.yaml");
    fs::write(&config, ginnel_config::example(Role::Agent)).unwrap();
    let grace = AgentConfig::load(&config, &Overrides::none()).unwrap().shutdown_grace;
    for role in ROLES {
        let stop = Duration::from_secs(seconds(&unit(role), "TimeoutStopSec"));
        assert!(stop >= grace + Duration::from_secs(10), "{role}");
        assert_eq!(settings(&unit(role), "Type"), ["notify"], "{role}");
        assert!(seconds(&unit(role), "WatchdogSec") > 0, "{role}");
    }
}

#[test]
fn the_units_differ_only_in_what_they_start_and_keep() {
    let common = |role: &str| {
        let unit = unit(role);
        let own = ["ExecStart", "Description", "RuntimeDirectory=", "StateDirectory", "LoadCredential", "#"];
        let lines = unit.lines().filter(|line| !own.iter().any(|own| line.starts_with(own)));
        let lines = lines.filter(|line| !line.is_empty()).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    for role in ["agent", "client"] {
        assert_eq!(common(role), common("server"), "{role}");
    }
}
