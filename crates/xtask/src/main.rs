//! What developers run by hand: `cargo xtask` writes the wire types, `cargo xtask limits` the page of bounds, `cargo xtask bench` measures,
//! `cargo xtask callgrind` counts instructions.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xtask::{callgrind, limits};

const USAGE: &str = "usage: cargo xtask [wire | limits | callgrind [--record] | bench --audit [DIRECTORY] | bench [--wan | --enrol] [--quick] [--rounds N] [--way NAME]... [--only WORKLOAD]... [--out FILE]]";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // No protoc: the compiler is a library. This is a crate of its own so that it builds whatever state the types are in.
        [] | ["wire"] => xtask::generate(&xtask::generated_dir()),
        ["limits"] => write_limits(),
        ["bench", "--audit", options @ ..] => bench_audit(options),
        ["bench", "--wan", options @ ..] => bench(&["wan"], "docs/long-path.md", options),
        ["bench", "--enrol", options @ ..] => bench(&["enrol"], "docs/identity-performance.md", options),
        ["bench", options @ ..] => bench(&[], "docs/performance.md", options),
        ["callgrind"] => callgrind(false),
        ["callgrind", "--record"] => callgrind(true),
        _ => Err(USAGE.into()),
    }
}

/// Builds the program as it is released, alone, so that no other crate's features are in it; then measures it beside what can be installed,
/// with the bench that `words` name.
///
/// Only a whole run writes the project's document: part of one, or a quick one, is printed.
fn bench(words: &[&str], out: &str, options: &[&str]) -> Result<(), Box<dyn Error>> {
    let root = root();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    if let Err(error) = run(Command::new(root.join("scripts/setup-bench")).current_dir(&root)) {
        writeln!(std::io::stderr(), "{error}; a peer that is not there is named as missing")?;
    }
    run(cargo(&root).args(["build", "--release", "--package", "ginnel"]))?;
    let mut bench = cargo(&root);
    bench.args(["run", "--release", "--package", "ginnel-bench", "--"]).args(words);
    bench.arg("--ginnel").arg(target.join("release/ginnel"));
    if words.is_empty() {
        bench.arg("--tools").arg(target.join("tools"));
    }
    bench.args(options);
    if options.is_empty() {
        bench.arg("--out").arg(root.join(out));
    }
    run(&mut bench)
}

fn write_limits() -> Result<(), Box<dyn Error>> {
    let (page, source) = (limits::page_file(), limits::source_file());
    let written = limits::page(&std::fs::read_to_string(&page)?, &std::fs::read_to_string(source)?)?;
    Ok(std::fs::write(page, written)?)
}

/// Times how long an audit record takes until it is on disk: that of the target directory, or the one of a directory that is named.
fn bench_audit(options: &[&str]) -> Result<(), Box<dyn Error>> {
    run(cargo(&root()).args(["bench", "--quiet", "--package", "ginnel-ops", "--bench", "commit", "--"]).args(options))
}

/// Counts the instructions of the hot paths, and compares them with the checked-in ones or writes these.
fn callgrind(record: bool) -> Result<(), Box<dyn Error>> {
    let root = root();
    let mut build = cargo(&root);
    build.args([
        "bench",
        "--quiet",
        "--package",
        "ginnel-wire",
        "--bench",
        "hot",
        "--no-run",
        "--message-format",
        "json",
    ]);
    let output = build.stderr(Stdio::inherit()).output()?;
    let bench = callgrind::executable(&String::from_utf8_lossy(&output.stdout)).ok_or("cargo has built no bench")?;
    let counted = callgrind::count(&bench)?;
    if record {
        return Ok(std::fs::write(callgrind::recorded_file(), callgrind::text(&counted))?);
    }
    let recorded = callgrind::parse(&std::fs::read_to_string(callgrind::recorded_file())?)?;
    let (text, worse) = callgrind::compare(&recorded, &counted);
    std::io::stdout().write_all(text.as_bytes())?;
    if worse { Err("a path is dearer than recorded".into()) } else { Ok(()) }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}
