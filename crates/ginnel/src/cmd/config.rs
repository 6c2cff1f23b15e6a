//! `ginnel config`.

use super::{Failure, Outcome, print};
use crate::args::Config;

pub(super) fn run(config: Config) -> Result<Outcome, Failure> {
    match config {
        Config::Example { role } => print(&ginnel_config::example(role))?,
        Config::Schema { role } => {
            let schema = serde_json::to_string_pretty(&ginnel_config::schema(role)).map_err(Failure::failed)?;
            print(&format!("{schema}\n"))?;
        }
        Config::Check { role, file } => {
            ginnel_config::check(role, &file)?;
            print(&format!("{}: a valid configuration of ginnel {role}\n", file.display()))?;
        }
    }
    Ok(Outcome::Yes)
}
