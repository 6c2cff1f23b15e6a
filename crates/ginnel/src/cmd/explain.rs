//! `ginnel explain`: what happened to one request, hop by hop, from what processes remember and what logs hold.

use std::net::SocketAddr;

use ginnel_core::id::RequestId;
use ginnel_core::status::Request;
use ginnel_ops::admin::client::{AskError, Door, Reply, ask};
use http::{Method, StatusCode};

use super::{Failure, Outcome, print};
use crate::args::operate::Explain;

mod logs;
mod story;

use self::story::Story;

/// Who is asked if nobody is named: the server's usual address.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 50051);

pub(super) async fn run(args: Explain) -> Result<Outcome, Failure> {
    let mut story = Story::new(args.request);
    let nobody_named = args.admin.is_empty() && args.files.is_empty();
    let addresses = if nobody_named { vec![USUAL] } else { args.admin };
    let mut looked = Vec::new();
    for address in addresses {
        let door = Door::Address(address);
        looked.push(match remembered(&door, args.request).await {
            Ok(Some(request)) => {
                story.remember(&door, request);
                continue;
            }
            Ok(None) => format!("{door}: does not know it, or no longer"),
            // The others may know; and this one is named at the end.
            Err(error) => format!("{door}: {error}"),
        });
    }
    for file in &args.files {
        let found = logs::search(file, args.request, &mut story).map_err(Failure::input)?;
        if !found {
            looked.push(format!("{}: has no line about it", file.display()));
        }
    }
    let text = if args.json { story.json().map_err(Failure::failed)? } else { story.text(&looked) };
    print(&text)?;
    Ok(if story.is_empty() { Outcome::No } else { Outcome::Yes })
}

async fn remembered(door: &Door, id: RequestId) -> Result<Option<Request>, String> {
    match ask(door, Method::GET, &format!("/requests/{id}")).await {
        Ok(Reply { status: StatusCode::OK, text }) => match serde_json::from_str(&text) {
            Ok(request) => Ok(Some(request)),
            Err(error) => Err(format!("gave an answer that this version does not understand: {error}")),
        },
        Ok(Reply { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
        Ok(Reply { status, .. }) => Err(format!("answered with status {}", status.as_u16())),
        Err(AskError::Connect { source, .. }) => Err(format!("cannot connect: {source}")),
        Err(error) => Err(error.to_string()),
    }
}
