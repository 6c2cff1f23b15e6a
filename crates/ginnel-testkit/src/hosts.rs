//! What customers keep in private networks: code hosts, package indexes, databases, and TCP services with every kind of
//! manners.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::daemon::Daemon;

pub mod asked;
pub mod authority;
pub mod gitd;
pub mod index;
pub mod netcat;
pub mod nginx;
pub mod postgres;
pub mod redis;
pub mod repository;
pub mod rsyncd;
pub mod script;
pub mod sshd;
pub mod store;
pub mod tcp;

pub use asked::Asked;
pub use authority::Authority;
pub use gitd::GitDaemon;
pub use netcat::Netcat;
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use redis::Redis;
pub use repository::Repository;
pub use rsyncd::Rsyncd;
pub use script::{Foreign, Script};
pub use sshd::Sshd;
pub use store::Store;
pub use tcp::TcpHost;

/// How often a host is started anew because somebody else took its port.
const ATTEMPTS: usize = 5;

/// How long a host may take to listen.
const UP: Duration = Duration::from_secs(10);

/// Starts a program that cannot choose its port itself, with free ports, until it listens on the first of them.
async fn on_free_ports<const N: usize>(
    what: &str,
    start: impl AsyncFn([SocketAddr; N]) -> Result<Daemon>,
) -> Result<(Daemon, [SocketAddr; N])> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let addresses = free_ports().await?;
        let mut daemon = start(addresses).await?;
        let listens = crate::eventually(what, UP, async || {
            if !daemon.running() {
                return Ok(Some(false));
            }
            Ok(TcpStream::connect(addresses[0]).await.is_ok().then_some(true))
        });
        if listens.await? {
            return Ok((daemon, addresses));
        }
        last = daemon.lines().last().cloned();
    }
    bail!("{what} did not come up: {last:?}")
}

async fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    let mut held = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).await?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

/// A loopback address where nothing listens for as long as the socket is held.
///
/// # Errors
/// If no port can be bound.
pub fn nobody() -> Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}
