//! One hop of the plain relay: every connection is copied to the next address, both ways, and nothing else is done.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use crate::host::PIECE;
use crate::process::announce;

/// Serves until it is killed.
pub(crate) async fn serve(ip: IpAddr, to: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind((ip, 0)).await?;
    announce(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        // A connection ends with its two ends; the process ends with the bench.
        tokio::spawn(carry(stream, to));
    }
}

async fn carry(mut from: TcpStream, to: SocketAddr) -> Result<()> {
    let mut onward = TcpStream::connect(to).await?;
    from.set_nodelay(true)?;
    onward.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut from, &mut onward, PIECE, PIECE).await?;
    Ok(())
}
