//! What every command does first, so that keys in memory stay there.

use std::ffi::OsStr;
use std::io;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};

/// The variable that makes other programs write the keys of their TLS connections to a file.
const KEY_LOG: &str = "SSLKEYLOGFILE";

/// Why a command does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShieldError {
    /// The environment: the operating system refused.
    #[error("could not {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Configuration: somebody expects the keys of connections in a file.
    #[error(
        "{KEY_LOG} is set, and this program writes the keys of its connections nowhere; take the variable away to start it"
    )]
    KeyLog,
}

/// Closes the process: no core file, whatever happens to it; its memory and environment are not to be read by others, not even of the same user;
/// files that it makes are for its user alone.
///
/// # Errors
/// [`ShieldError::System`]; what was not closed is named.
pub(crate) fn close() -> Result<(), ShieldError> {
    let doing = |doing| move |source: rustix::io::Errno| ShieldError::System { doing, source: source.into() };
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(doing("switch core files off"))?;
    // Where core files go to a program, the kernel asks this and not the limit.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(doing("close the process's memory"))?;
    umask(Mode::from_raw_mode(0o077));
    Ok(())
}

/// Takes as many descriptors as the system lets the process have: the lower limit of many systems is for programs that cannot have more than 1,024.
/// Where that is refused, what it has is what counts.
pub(crate) fn take_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Refuses to speak TLS for somebody who wants its keys in a file.
///
/// # Errors
/// [`ShieldError::KeyLog`]
pub(crate) fn refuse_key_log() -> Result<(), ShieldError> {
    judge_key_log(std::env::var_os(KEY_LOG).as_deref())
}

/// An empty value is how a variable is switched off where it cannot be taken away.
fn judge_key_log(value: Option<&OsStr>) -> Result<(), ShieldError> {
    match value {
        Some(path) if !path.is_empty() => Err(ShieldError::KeyLog),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_key_log_and_does_not_say_where_it_would_be() {
        for value in ["/tmp/keys", " ", "-"] {
            let error = judge_key_log(Some(OsStr::new(value))).expect_err(value).to_string();
            assert!(error.starts_with("SSLKEYLOGFILE is set") && !error.contains("/tmp"), "{error}");
        }
        assert!(judge_key_log(None).is_ok() && judge_key_log(Some(OsStr::new(""))).is_ok());
    }
}
