//! A small private host: one page over HTTP/1.1, for the demonstration that was given no target.

use std::io;

use ginnel_core::target::{Host, Port, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PAGE: &str = "This page lives in a private network. If you read it, the tunnel works.\n";

/// Most bytes of a request's head.
const HEAD_MAX: u64 = 16 * 1024;

/// Starts the host on loopback; it ends with the process.
pub(super) async fn start() -> io::Result<Target> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Whoever leaves early has seen enough.
                let _ = answer(stream).await;
            });
        }
    });
    let port = Port::try_from(address.port()).map_err(io::Error::other)?;
    Ok(Target::new(Host::from(address.ip()), port))
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = reader.take(HEAD_MAX);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(reader.read_u8().await?);
    }
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    );
    writer.write_all(response.as_bytes()).await?;
    writer.shutdown().await
}
