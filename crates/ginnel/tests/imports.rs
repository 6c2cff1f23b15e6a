//! Who imports whom: the manifests obey the table of ARCHITECTURE.md, and what must stay apart stays apart.

// Clippy takes only #[test] functions for tests; this makes the functions that they use count as well.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that do I/O, start threads, draw randomness or talk to a logger: nothing that a decision may reach.
const OUTSIDE_CORE: &[&str] = &[
    "async-std",
    "aws-lc-rs",
    "getrandom",
    "h2",
    "hyper",
    "hyper-util",
    "log",
    "mio",
    "rustls",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-rustls",
    "tonic",
    "tracing",
];

/// What a customer who runs only an agent must not have to trust or install.
const OUTSIDE_AGENT: &[&str] = &["ginnel-client", "ginnel-enrol", "ginnel-server", "ginnel-testkit"];

const HEADING: &str = "## Who may import whom";

#[test]
fn the_table_has_a_row_for_every_crate_and_for_nothing_else() {
    let table = import_table();
    let members: BTreeSet<String> = members().into_iter().map(|member| member.name).collect();
    let rows: BTreeSet<String> = table.keys().cloned().collect();
    assert_eq!(rows, members, "rows of the table (left) and crates of the workspace (right) differ");
    for (row, allowed) in &table {
        let unknown: Vec<_> = allowed.difference(&members).collect();
        assert!(unknown.is_empty(), "the row of {row} names {unknown:?}, which are no crates here");
    }
}

#[test]
fn every_crate_imports_only_what_the_table_allows() {
    let table = import_table();
    let members = members();
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut broken = Vec::new();
    for member in &members {
        let allowed = table.get(&member.name).cloned().unwrap_or_default();
        // What only a crate's own tests use reaches no program.
        for dependency in member.dependencies.iter().filter(|dependency| dependency.kind != Kind::Development) {
            if names.contains(dependency.name.as_str()) && !allowed.contains(&dependency.name) {
                broken.push(format!("{} imports {}", member.name, dependency.name));
            }
        }
    }
    assert!(broken.is_empty(), "not in the table under \"{HEADING}\" of ARCHITECTURE.md: {broken:#?}");
}

#[test]
fn the_testkit_is_imported_by_tests_and_the_bench_only() {
    for member in members().into_iter().filter(|member| member.name != "ginnel-bench") {
        for dependency in member.dependencies.iter().filter(|dependency| dependency.name == "ginnel-testkit") {
            assert_eq!(dependency.kind, Kind::Development, "{} ships ginnel-testkit", member.name);
        }
    }
}

#[test]
fn core_reaches_no_io_crate() {
    let tree = dependency_tree(&["-p", "ginnel-core"]);
    assert!(tree.contains("ginnel-core"), "the tree was not read: {tree:?}");
    let found: Vec<_> = OUTSIDE_CORE.iter().filter(|name| tree.contains(**name)).collect();
    assert!(found.is_empty(), "ginnel-core depends on {found:?}");
}

#[test]
fn only_ginnel_gcp_names_google_cloud() {
    for member in members().iter().filter(|member| member.name != "ginnel-gcp") {
        let google = member.dependencies.iter().find(|dependency| dependency.name.starts_with("google-cloud"));
        assert!(google.is_none(), "{} names {google:?}", member.name);
    }
}

#[test]
fn every_crate_inherits_the_lints_of_the_workspace() {
    for member in members() {
        let manifest = std::fs::read_to_string(&member.manifest).unwrap();
        let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
        assert_eq!(lines.next(), Some("workspace = true"), "{} has no [lints] with workspace = true", member.name);
    }
}

#[test]
fn an_agent_alone_brings_neither_issuer_nor_server_nor_client() {
    let tree = dependency_tree(&["-p", "ginnel", "--no-default-features", "--features", "agent"]);
    assert!(tree.contains("ginnel-agent"), "the tree was not read: {tree:?}");
    let found: Vec<_> = OUTSIDE_AGENT.iter().filter(|name| tree.contains(**name)).collect();
    assert!(found.is_empty(), "an agent-only build depends on {found:?}");
}

#[test]
fn each_role_brings_no_more_of_google_than_it_needs() {
    const CAS: &str = "google-cloud-security-privateca-v1";
    const IAM: &str = "google-cloud-iam-credentials-v1";
    const LOGGING: &str = "google-cloud-logging-v2";
    /// What nobody who runs an agent or client has to trust or install.
    const OUTSIDE_EDGE: &[&str] = &[CAS, LOGGING, "ginnel-enrol", "ginnel-server"];
    for role in ["agent", "client"] {
        let tree = dependency_tree(&["-p", "ginnel", "--no-default-features", "--features", &format!("{role},gcp")]);
        assert!(tree.contains("ginnel-gcp") && tree.contains(IAM), "the tree was not read: {tree:?}");
        let found: Vec<_> = OUTSIDE_EDGE.iter().filter(|name| tree.contains(**name)).collect();
        assert!(found.is_empty(), "a {role} with Google depends on {found:?}");
    }
    let tree = dependency_tree(&["-p", "ginnel", "--no-default-features", "--features", "server,gcp"]);
    assert!(tree.contains(CAS) && tree.contains(LOGGING) && !tree.contains(IAM), "{tree:?}");
}

#[test]
fn without_the_feature_there_is_no_google() {
    for roles in ["agent", "client", "server", "server,agent,client"] {
        let tree = dependency_tree(&["-p", "ginnel", "--no-default-features", "--features", roles]);
        assert!(tree.contains("ginnel-core"), "the tree was not read: {tree:?}");
        let found: Vec<_> =
            tree.iter().filter(|name| name.starts_with("google-cloud") || *name == "ginnel-gcp").collect();
        assert!(found.is_empty(), "{roles} without gcp depends on {found:?}");
    }
}

#[test]
fn a_table_is_read_row_by_row_and_ends_at_the_next_heading() {
    let text = format!(
        "| `ginnel-before` | none |\n{HEADING}\n\nWords with a `name` in them.\n\n| crate | may import |\n|---|---|\n\
         | `ginnel-a` | none |\n| `ginnel-b` | `ginnel-a`, `ginnel-c` |\n## Next\n| `ginnel-after` | none |\n"
    );
    let table = read_table(&text);
    let expected = BTreeMap::from([
        ("ginnel-a".to_owned(), BTreeSet::new()),
        ("ginnel-b".to_owned(), BTreeSet::from(["ginnel-a".to_owned(), "ginnel-c".to_owned()])),
    ]);
    assert_eq!(table, expected);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Build,
    Development,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
struct Member {
    name: String,
    manifest: PathBuf,
    dependencies: Vec<Dependency>,
}

fn members() -> Vec<Member> {
    let output = cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&output).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(member).collect()
}

fn member(package: &Value) -> Member {
    let dependencies = package["dependencies"].as_array().unwrap().iter().map(|dependency| Dependency {
        name: text(&dependency["name"]),
        kind: match dependency["kind"].as_str() {
            None => Kind::Normal,
            Some("build") => Kind::Build,
            Some("dev") => Kind::Development,
            Some(other) => panic!("cargo knows a new kind of dependency: {other}"),
        },
    });
    Member {
        name: text(&package["name"]),
        manifest: PathBuf::from(text(&package["manifest_path"])),
        dependencies: dependencies.collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Returns the names of all crates that the selected packages ship, themselves included.
fn dependency_tree(selection: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    arguments.extend(selection);
    cargo(&arguments).lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let table = read_table(&std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap());
    assert!(!table.is_empty(), "ARCHITECTURE.md has no table under \"{HEADING}\"");
    table
}

/// Reads `| crate | crates it may import |` rows: a row counts when its first cell is a name in backticks.
fn read_table(document: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = document.lines().skip_while(|line| line.trim_end() != HEADING).skip(1);
    section
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, allowed) = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split_once('|')?;
            Some((names_in_backticks(name).pop_first()?, names_in_backticks(allowed)))
        })
        .collect()
}

fn names_in_backticks(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
