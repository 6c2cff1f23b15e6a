//! The front ends: where applications hand in their connections.
//!
//! An application hears success only after [`Opener::open`] has succeeded, and no end of a session but a proper one looks like an end of
//! file to it.

mod answer;
mod closing;
mod counted;
mod exchange;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod headers;
mod http;
mod listen;
mod request;
mod socks;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ginnel_core::target::Target;
use ginnel_net::accept::Stops;
use ginnel_net::splice::Socket;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug};

pub(crate) use self::answer::{CAUSE, HOP, REQUEST_ID};
pub use self::answer::{reply, status};
use self::request::Request;
use crate::open::Opener;

/// How long an application may take to its first byte, and again from there to the end of a request's head. Nobody types them.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// The first byte of SOCKS 5. No method of HTTP begins with it.
const SOCKS5: u8 = 0x05;

/// Serves HTTP CONNECT, plain HTTP and SOCKS 5 on one port until the first of the `stops`, told apart by the first byte.
///
/// Connections that are open at the first of the `stops` may finish what they are at, those that are open at the second are reset. It returns
/// when all are closed; dropping the future resets them.
pub async fn serve_proxy<O: Opener>(listener: TcpListener, opener: O, stops: Stops) {
    let draining = stops.accepting.clone();
    let serve = move |socket, from| proxy(socket, from, opener.clone(), draining.clone());
    listen::serve(listener, stops, serve).await;
}

/// Leads every connection that `listener` accepts to `target` until the first of the `stops`, and ends as [`serve_proxy`] does.
///
/// A refusal resets the application's connection, because there is no other way to tell it.
pub async fn serve_forward<O: Opener>(listener: TcpListener, target: Target, opener: O, stops: Stops) {
    listen::serve(listener, stops, move |socket, from| forward(socket, from, target.clone(), opener.clone())).await;
}

async fn proxy<O: Opener>(socket: Socket, from: SocketAddr, opener: O, draining: CancellationToken) {
    let mut first = [0];
    match timeout(HEAD_DEADLINE, socket.stream().peek(&mut first)).await {
        Ok(Ok(1)) if first == [SOCKS5] => return socks::serve(socket, from, opener).await,
        Ok(Ok(1)) => return http::serve(socket, from, opener, draining).await,
        Ok(Ok(_)) => debug!("the application left without a word"),
        Ok(Err(error)) => debug!(%error, "the application left"),
        Err(_) => debug!("the application said nothing"),
    }
    socket.end_on_close();
}

async fn forward<O: Opener>(socket: Socket, from: SocketAddr, target: Target, opener: O) {
    let request = Request::new("forward", from, opener.ledger());
    let carried = async {
        if let Ok(tunnel) = request.open_while(&socket, target, &opener).await {
            request.carry(socket, Bytes::new(), tunnel).await;
        }
    };
    carried.instrument(request.span()).await;
}

#[cfg(test)]
pub(crate) mod tests;
