//! `ginnel reload`.

use ginnel_core::audit::Text;
use ginnel_ops::admin::client::Door;
use http::StatusCode;

use super::ask::{order, refused};
use super::{Failure, Outcome, print};
use crate::args::operate;

pub(super) async fn run(args: operate::Reload) -> Result<Outcome, Failure> {
    let door = Door::Socket(args.socket);
    let reply = order(&door, "/reload").await?;
    let lines: String = reply.text.lines().map(|line| format!("{}\n", Text::new(line))).collect();
    match reply.status {
        StatusCode::OK => {
            print(&lines)?;
            Ok(Outcome::Yes)
        }
        StatusCode::CONFLICT => {
            print(&format!("not reloaded; what was in force before still is\n{lines}"))?;
            Ok(Outcome::No)
        }
        status => Err(refused(&door, status, &reply.text)),
    }
}
