//! Whether an audit log can be written, without creating anything.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use super::report::Report;

/// Looks at the log in `directory`.
pub(super) fn check(directory: &Path, report: &mut Report) {
    let file = directory.join("audit.jsonl");
    if !directory.exists() {
        report.skip("audit", format!("{} is made at first start", directory.display()));
        return;
    }
    if !directory.is_dir() {
        report.fail(
            "audit",
            format!("{} is no directory", directory.display()),
            "name another path in audit.file.directory",
        );
        return;
    }
    match OpenOptions::new().append(true).open(&file) {
        Ok(_) => report.pass("audit", format!("{} can be written", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            report.skip("audit", format!("{} is made at first start", file.display()));
        }
        Err(error) => {
            let advice = "let the user that runs it write it: without the log no session is opened";
            report.fail("audit", format!("{}: {error}", file.display()), advice);
        }
    }
}
