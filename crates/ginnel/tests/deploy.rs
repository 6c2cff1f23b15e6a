//! Keeps what is in `deploy/systemd` and `deploy/container` in step with the program: the forms in which it is run.
#![cfg(test)]
#![cfg(all(feature = "server", feature = "agent", feature = "client"))]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ginnel_config::{
    AgentConfig, ClientConfig, Credential, Daemon, EnrolmentConfig, IssuerKind, Overrides, ServerConfig, ServerIssuer,
};
use ginnel_core::principal::Role;

const ROLES: [&str; 4] = ["server", "agent", "client", "enrolment"];

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
        fs::write(&config, ginnel_config::example(role.parse::<Daemon>().unwrap())).unwrap();
        let overrides = overrides(&arguments);
        let runtime = format!("/run/ginnel-{role}/admin.sock");
        let (socket, kept) = match role {
            "server" => {
                let config = ServerConfig::load(&config, &overrides).unwrap();
                let state = Path::new("/var/lib/ginnel-server");
                assert!(config.audit.directory.starts_with(state));
                let ServerIssuer::Here(issuer) = config.issuer else { panic!("{:?}", config.issuer) };
                let IssuerKind::Embedded { directory } = issuer.kind else { panic!("{issuer:?}") };
                assert!(directory.starts_with(state));
                (config.server.admin.socket, None)
            }
            "agent" => {
                let config = AgentConfig::load(&config, &overrides).unwrap();
                (config.admin.socket, Some(config.credential))
            }
            "enrolment" => {
                let config = EnrolmentConfig::load(&config, &overrides).unwrap();
                let state = Path::new("/var/lib/ginnel-enrolment");
                assert!(config.audit.directory.starts_with(state));
                let IssuerKind::Embedded { directory } = config.issuer.kind else { panic!("{:?}", config.issuer) };
                assert!(directory.starts_with(state));
                (config.server.admin.socket, None)
            }
            _ => {
                let config = ClientConfig::load(&config, &overrides).unwrap();
                (config.admin.socket, Some(config.credential))
            }
        };
        assert_eq!(socket.as_deref(), Some(Path::new(&runtime)));
        assert_eq!(settings(&unit(role), "RuntimeDirectory"), [format!("ginnel-{role}")]);
        if let Some(key) = kept {
            assert_eq!(key, Credential::ServiceAccountKeyFile("/run/credentials/unit/key.json".into()));
            assert_eq!(settings(&unit(role), "LoadCredential"), [format!("key.json:/etc/ginnel/{role}-key.json")]);
        }
    }
}

#[test]
fn the_drop_in_starts_a_server_that_passes_enrolments_on() {
    let drop_in = read("deploy/systemd/ginnel-server.service.d/enrolment.conf");
    let starts = settings(&drop_in, "ExecStart");
    assert_eq!(starts[0], "", "the unit's own start is taken away first");
    let (unit, arguments) = (unit("server"), arguments(&drop_in.replacen("ExecStart=\n", "", 1)));
    assert_eq!(arguments[..4], ["/usr/bin/ginnel", "server", "--config", "/etc/ginnel/server.yaml"]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("server.yaml");
    // The example of the documentation, which is to work with what the unit says.
    let document = read("docs/operate/enrolment.md");
    let example = document.split("```yaml\n").find(|text| text.contains("# server.yaml")).unwrap();
    fs::write(&config, example.split("```").next().unwrap()).unwrap();
    let config = ServerConfig::load(&config, &overrides(&arguments)).unwrap();
    let ServerIssuer::Elsewhere(remote) = config.issuer else { panic!("{:?}", config.issuer) };
    assert_eq!(remote.credential, Credential::ServiceAccountKeyFile("/run/credentials/unit/key.json".into()));
    assert_eq!(settings(&drop_in, "LoadCredential"), ["key.json:/etc/ginnel/server-key.json"]);
    assert!(settings(&unit, "StateDirectory").contains(&"ginnel-server"));
    assert!(config.audit.directory.starts_with("/var/lib/ginnel-server"));
}

#[test]
fn the_documented_process_that_enrols_is_a_right_one() {
    let document = read("docs/operate/enrolment.md");
    let examples: Vec<_> = document.split("```yaml\n").filter(|text| text.starts_with("# enrolment.yaml")).collect();
    assert_eq!(examples.len(), 1);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("enrolment.yaml");
    fs::write(&config, examples[0].split("```").next().unwrap()).unwrap();
    EnrolmentConfig::load(&config, &Overrides::none()).unwrap();
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
    for role in ["agent", "client", "enrolment"] {
        assert_eq!(common(role), common("server"), "{role}");
    }
}

/// An instruction of the Dockerfile, with its continued lines joined: the word, and what follows.
fn instructions() -> Vec<(String, String)> {
    let text = read("deploy/container/Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').map(|(word, rest)| (word.to_owned(), rest.to_owned())).unwrap()).collect()
}

/// The stages by name, each with where it begins from and its instructions.
fn stages() -> BTreeMap<String, (String, Vec<(String, String)>)> {
    let mut stages = BTreeMap::new();
    let mut current = String::new();
    for (word, rest) in instructions() {
        if word == "FROM" {
            let (from, name) = rest.split_once(" AS ").unwrap();
            current = name.to_owned();
            assert!(stages.insert(current.clone(), (from.to_owned(), Vec::new())).is_none(), "{name} is there twice");
        } else {
            stages.get_mut(&current).unwrap_or_else(|| panic!("{word} before FROM")).1.push((word, rest));
        }
    }
    stages
}

fn only<'a>(stage: &'a [(String, String)], word: &str) -> &'a str {
    let found: Vec<_> = stage.iter().filter(|(found, _)| found == word).collect();
    assert_eq!(found.len(), 1, "{word}: {found:?}");
    &found[0].1
}

#[test]
fn each_image_is_bare_and_runs_as_a_number() {
    let stages = stages();
    assert_eq!(instructions().iter().rfind(|(word, _)| word == "FROM").unwrap().1, "scratch AS full", "the default");
    for name in ["agent", "full"] {
        let (from, stage) = &stages[name];
        assert_eq!(from, "scratch", "{name}");
        let known = ["COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"];
        assert!(stage.iter().all(|(word, _)| known.contains(&word.as_str())), "{name}: {stage:?}");
        let (user, group) = only(stage, "USER").split_once(':').unwrap();
        assert!([user, group].iter().all(|id| id.parse::<u32>().is_ok_and(|id| id >= 1000)), "{name}");
        assert_eq!(only(stage, "STOPSIGNAL"), "SIGTERM", "{name}");
        let check = only(stage, "HEALTHCHECK");
        assert!(check.ends_with("CMD [\"/usr/bin/ginnel\", \"status\", \"--ready\"]"), "{name}: {check}");
        // Without a shell only the JSON form can be started.
        for word in ["ENTRYPOINT", "CMD"] {
            assert!(serde_json::from_str::<Vec<String>>(only(stage, word)).is_ok(), "{name}: {word}");
        }
        // The health check and the listener meet at one address.
        let environment = only(stage, "ENV");
        // What the image sets for commands is no setting of a configuration, which every role would refuse or take.
        let variables = environment.split_whitespace().filter_map(|pair| pair.split_once('='));
        assert_eq!(Overrides::from_env(variables), Overrides::none(), "{name}: {environment}");
        if let Some(admin) = only(stage, "CMD").split("admin=").nth(1).and_then(|rest| rest.split('"').next()) {
            assert!(environment.contains(&format!("GINNEL_ASK={admin} ")), "{name}: {environment}");
        }
    }
    let agent: Vec<String> = serde_json::from_str(only(&stages["agent"].1, "CMD")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.yaml");
    fs::write(&config, ginnel_config::example(Role::Agent)).unwrap();
    assert_eq!(agent[..3], ["agent", "--config", "/etc/ginnel/agent.yaml"]);
    let listen = AgentConfig::load(&config, &overrides(&agent)).unwrap().admin.listen.unwrap();
    assert!(environment_of(&stages["agent"].1, "GINNEL_ASK").parse::<std::net::SocketAddr>().unwrap() == listen);
}

fn environment_of<'a>(stage: &'a [(String, String)], name: &str) -> &'a str {
    only(stage, "ENV").split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap()
}

#[test]
fn images_are_built_from_what_is_in_the_repository() {
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    let manifest = read("crates/ginnel/Cargo.toml");
    let known: Vec<&str> = manifest
        .split("[features]")
        .nth(1)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect();
    let ignored = read(".dockerignore");
    let sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let stages = stages();
    let mut features_seen = 0;
    for (name, (from, stage)) in &stages {
        let is_stage = stages.contains_key(from);
        let is_known = is_stage || from == "scratch" || *from == format!("rust:{version}-slim-bookworm");
        assert!(is_known, "{name} begins from {from}; the toolchain is {version}");
        for (_, copied) in stage.iter().filter(|(word, _)| word == "COPY") {
            if let Some(other) = copied.strip_prefix("--from=") {
                assert!(stages.contains_key(other.split(' ').next().unwrap()), "{name}: {copied}");
                continue;
            }
            let paths: Vec<&str> = copied.split(' ').collect();
            for source in &paths[..paths.len() - 1] {
                assert!(root().join(source).exists(), "{name}: there is no {source}");
                assert!(sent.contains(source), "{name}: .dockerignore keeps {source} back");
            }
        }
        let texts = stage.iter().filter(|(word, _)| word == "RUN" || word == "ARG").map(|(_, rest)| rest);
        for text in texts {
            let list = text.strip_prefix("FEATURES=").or_else(|| text.split("--features ").nth(1)).unwrap_or_default();
            for feature in list.split(',').filter(|feature| !feature.is_empty() && !feature.contains('$')) {
                assert!(known.contains(&feature), "{name}: there is no feature {feature}");
                features_seen += 1;
            }
        }
    }
    assert_eq!(features_seen, 4, "one for the agent alone, three for the full image");
}

#[test]
fn an_image_holds_every_library_that_the_program_needs() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let assemble = root().join("deploy/container/assemble");
    let made =
        Command::new(assemble).args([env!("CARGO_BIN_EXE_ginnel").as_ref(), image.as_os_str()]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let files = files(&image);
    let loader = files.iter().find(|path| name(path).starts_with("ld-linux")).unwrap();
    let libraries = files.iter().find(|path| name(path).starts_with("libc.so")).and_then(|path| path.parent()).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(libraries).args(arguments).arg(image.join("usr/bin/ginnel"));
        command.output().unwrap()
    };
    let listed = String::from_utf8(run(&["--list"]).stdout).unwrap();
    let found: Vec<&str> = listed.lines().filter_map(|line| line.split(" => ").nth(1)).collect();
    assert!(found.len() >= 2, "{listed}");
    assert!(found.iter().all(|path| Path::new(path).starts_with(dir.path())), "{listed}");
    let foreign: Vec<_> = files.iter().filter(|path| ["sh", "bash", "busybox", "apt"].contains(&name(path))).collect();
    assert!(foreign.is_empty() && files.len() < 12, "{files:?}");
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
