//! `ginnel connect`.

use ginnel_client::connect::connect;
use ginnel_core::target::{Host, Target};

use super::{Failure, Outcome};
use crate::args::Connect;

pub(super) async fn run(args: Connect) -> Result<Outcome, Failure> {
    let host: Host = args.host.parse().map_err(|error| Failure::input(format!("{:?}: {error}", args.host)))?;
    let port = args.port.parse().map_err(|error| Failure::input(format!("{:?}: {error}", args.port)))?;
    let target = Target::new(host, port);
    connect(&args.proxy, &target, tokio::io::stdin(), tokio::io::stdout()).await.map_err(Failure::failed)?;
    Ok(Outcome::Yes)
}
