//! `ginnel config`.

use std::time::SystemTime;

use ginnel_core::audit::Timestamp;

use super::{Failure, Outcome, print};
use crate::args::Config;
use crate::say;

pub(super) fn run(config: Config) -> Result<Outcome, Failure> {
    match config {
        Config::Example { daemon } => print(&ginnel_config::example(daemon))?,
        Config::Schema { daemon } => {
            let schema = serde_json::to_string_pretty(&ginnel_config::schema(daemon)).map_err(Failure::failed)?;
            print(&format!("{schema}\n"))?;
        }
        Config::Check { daemon, file } => {
            for note in ginnel_config::check(daemon, &file, Timestamp::from(SystemTime::now()))? {
                say(&format!("warning: {note}\n"));
            }
            print(&format!("{}: a valid configuration of ginnel {daemon}\n", file.display()))?;
        }
    }
    Ok(Outcome::Yes)
}
