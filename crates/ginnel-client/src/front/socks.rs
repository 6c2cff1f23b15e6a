//! SOCKS 5 from applications (RFC 1928): no authentication, CONNECT only.

pub(super) mod message;

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::target::Target;
use ginnel_net::splice::{Ended, Socket};
use ginnel_net::tunnel::Tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{Instrument, debug};

use self::message::{Invalid, NO_ACCEPTABLE_METHOD, NO_AUTHENTICATION, greeting, outcome, request};
use super::closing::linger;
use super::request::Request;
use super::{HEAD_DEADLINE, answer};
use crate::open::Opener;

/// Bytes that are read at once. The two messages have at most 257 and 262; the rest is what the application said in advance.
const READ_MAX: usize = 4 * 1024;

/// Serves one connection of an application.
pub(super) async fn serve<O: Opener>(mut socket: Socket, from: SocketAddr, opener: O) {
    let mut read = BytesMut::new();
    let asked = match timeout(HEAD_DEADLINE, negotiate(&mut socket, &mut read)).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => return debug!(%error, "the application left"),
        Err(_) => {
            debug!("the application did not finish its request");
            return linger(socket).await;
        }
    };
    let request = Request::new("socks", from, opener.ledger());
    let span = request.span();
    carry(socket, request, asked, read.freeze(), &opener).instrument(span).await;
}

/// Reads the greeting, answers it, and reads the request.
async fn negotiate(socket: &mut Socket, read: &mut BytesMut) -> io::Result<Result<Target, Invalid>> {
    if let Err(invalid) = message(socket, read, greeting).await? {
        return Ok(Err(invalid));
    }
    socket.write_all(&NO_AUTHENTICATION).await?;
    message(socket, read, request).await
}

/// Reads until `parse` finds a message or finds that there is none.
async fn message<T>(
    socket: &mut Socket,
    read: &mut BytesMut,
    parse: impl Fn(&[u8]) -> Result<Option<(usize, T)>, Invalid>,
) -> io::Result<Result<T, Invalid>> {
    loop {
        match parse(read) {
            Ok(Some((length, found))) => {
                let _ = read.split_to(length);
                return Ok(Ok(found));
            }
            Ok(None) => {}
            Err(invalid) => return Ok(Err(invalid)),
        }
        read.reserve(READ_MAX);
        if socket.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn carry<O: Opener>(
    mut socket: Socket,
    request: Request,
    asked: Result<Target, Invalid>,
    first: Bytes,
    opener: &O,
) {
    let target = match asked {
        Ok(target) => target,
        Err(invalid) => {
            debug!(error = %invalid, "not understood");
            request.refused(Refusal::new(Hop::Client, Cause::Malformed));
            let answer = match invalid {
                // A greeting of another protocol would take an answer for something else.
                Invalid::Version => return linger(socket).await,
                Invalid::Methods => NO_ACCEPTABLE_METHOD.to_vec(),
                Invalid::Command | Invalid::AddressType | Invalid::Reserved | Invalid::Target(_) => {
                    outcome(invalid.reply()).to_vec()
                }
            };
            let _ = socket.write_all(&answer).await;
            return linger(socket).await;
        }
    };
    match request.open_while(&socket, target, opener).await {
        Ok(mut tunnel) => {
            if socket.write_all(&outcome(message::SUCCEEDED)).await.is_ok() {
                request.carry(socket, first, tunnel).await;
            } else {
                tunnel.abort(Cause::Reset);
                request.ended(Ended { up: 0, down: 0, cause: Cause::Reset, hop: Hop::Application });
            }
        }
        Err(refusal) => {
            let _ = socket.write_all(&outcome(answer::reply(refusal.cause))).await;
            linger(socket).await;
        }
    }
}
