//! What developers run by hand: `cargo xtask` writes the wire types, `cargo xtask bench` measures.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "usage: cargo xtask [wire | bench [--wan] [--quick]]";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // No protoc: the compiler is a library. This is a crate of its own so that it builds whatever state the types are in.
        [] | ["wire"] => xtask::generate(&xtask::generated_dir()),
        ["bench"] => bench(&[], "docs/performance.md", false),
        ["bench", "--quick"] => bench(&[], "docs/performance.md", true),
        ["bench", "--wan"] => bench(&["wan"], "docs/long-path.md", false),
        ["bench", "--wan", "--quick"] => bench(&["wan"], "docs/long-path.md", true),
        _ => Err(USAGE.into()),
    }
}

/// Builds the program as it is released, alone, so that no other crate's features are in it; then measures it with the bench that `words` name.
fn bench(words: &[&str], out: &str, quick: bool) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    run(cargo(&root).args(["build", "--release", "--package", "ginnel"]))?;
    let mut bench = cargo(&root);
    bench
        .args(["run", "--release", "--package", "ginnel-bench", "--"])
        .args(words)
        .arg("--ginnel")
        .arg(target.join("release/ginnel"));
    if quick {
        bench.arg("--quick");
    } else {
        bench.arg("--out").arg(root.join(out));
    }
    run(&mut bench)
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
