//! A private Python package index: static files, as PEP 503 lays them out.

use std::path::Path;

use anyhow::Result;

use crate::command::{command, succeed};

/// What the only module of the package says when it is imported.
pub const GREETING: &str = "carried through a ginnel";

/// Name of the package on the index.
pub const PACKAGE: &str = "acme-greeting";

/// A wheel is a zip archive with a list of what is in it; Python brings what it takes to write one.
const MAKE_WHEEL: &str = r#"
import sys, zipfile
path, greeting = sys.argv[1:]
info = "acme_greeting-1.0.dist-info"
files = {
    "acme_greeting.py": f"GREETING = {greeting!r}\n",
    f"{info}/METADATA": "Metadata-Version: 2.1\nName: acme-greeting\nVersion: 1.0\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: acme\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
with zipfile.ZipFile(path, "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
"#;

/// Lays out an index with one package under `files/simple`.
///
/// # Errors
/// If Python is missing or a file cannot be written.
pub async fn create(files: &Path) -> Result<()> {
    let wheel = "acme_greeting-1.0-py3-none-any.whl";
    let package = files.join("simple").join(PACKAGE);
    std::fs::create_dir_all(&package)?;
    let mut python = command("python3", files);
    python.args(["-c", MAKE_WHEEL]).arg(package.join(wheel)).arg(GREETING);
    succeed(python).await?;
    let page = format!("<!DOCTYPE html><html><body><a href=\"{wheel}\">{wheel}</a></body></html>\n");
    std::fs::write(package.join("index.html"), page)?;
    let page = format!("<!DOCTYPE html><html><body><a href=\"{PACKAGE}/\">{PACKAGE}</a></body></html>\n");
    std::fs::write(files.join("simple/index.html"), page)?;
    Ok(())
}
