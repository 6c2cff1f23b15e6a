//! Other people's programs, run in an environment that has nothing of the caller's but `PATH`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::wait::within;

/// How long one program may take: a clone of a large repository through debug builds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// A command with a clean environment whose home directory is `home`.
///
/// Proxy settings, certificate bundles and git configuration of the person who runs the tests must not decide them.
pub fn command(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", home).env("LANG", "C.UTF-8").kill_on_drop(true);
    command
}

/// A git command that reads no configuration outside the repository and never asks anybody.
pub fn git(home: &Path) -> Command {
    let mut git = command("git", home);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    for (name, value) in [("AUTHOR", "A U Thor"), ("COMMITTER", "C O Mitter")] {
        git.env(format!("GIT_{name}_NAME"), value).env(format!("GIT_{name}_EMAIL"), "someone@acme.example");
    }
    git
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// If it cannot be started or does not end in time.
pub async fn output(mut command: Command) -> Result<Output> {
    let what = format!("{:?}", command.as_std());
    Ok(within(&what, DEADLINE, command.output()).await??)
}

/// Runs a command that has to succeed, and returns its standard output without the last line end.
///
/// # Errors
/// Both of its outputs, if it fails.
pub async fn succeed(command: Command) -> Result<String> {
    let what = format!("{:?}", command.as_std());
    let output = output(command).await?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    ensure!(
        output.status.success(),
        "{what} failed with {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}
