//! The congestion control of the machine, which decides what loopback costs: bbr without a pacing queue takes twice the CPU of cubic.

use std::fs;

use anyhow::{Context, Result};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// What most machines use.
const WANTED: &str = "cubic";

/// The congestion control of a run. Dropping it puts back what was there before.
pub(crate) struct Congestion {
    /// What the run has, in words.
    pub(crate) words: String,
    before: Option<String>,
}

impl Congestion {
    /// Sets cubic where that is allowed, and says what it is in either case.
    pub(crate) fn set() -> Result<Self> {
        let found = read()?;
        if found == WANTED {
            return Ok(Self { words: found, before: None });
        }
        Ok(match fs::write(SETTING, WANTED) {
            Ok(()) => {
                Self { words: format!("{WANTED}, set for the run; the machine had {found}"), before: Some(found) }
            }
            Err(error) => Self { words: format!("{found}, because {WANTED} could not be set: {error}"), before: None },
        })
    }

    /// Says so if somebody else has changed it during the run.
    pub(crate) fn look_again(&mut self) -> Result<()> {
        let found = read()?;
        if !self.words.starts_with(&found) {
            self.words.push_str(&format!("; somebody set {found} during the run"));
        }
        Ok(())
    }
}

fn read() -> Result<String> {
    Ok(fs::read_to_string(SETTING).context("reading the congestion control")?.trim().to_owned())
}

impl Drop for Congestion {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = fs::write(SETTING, before)
        {
            eprintln!("the congestion control stays {WANTED}; it was {before}: {error}");
        }
    }
}
