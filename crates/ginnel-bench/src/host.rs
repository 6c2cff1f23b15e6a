//! The target: what a connection's first byte asks for.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::announce;

/// Asks for every byte back.
pub(crate) const ECHO: u8 = b'E';

/// Asks for as many bytes as the next eight bytes say.
pub(crate) const SEND: u8 = b'S';

/// Offers as many bytes as the next eight bytes say; they are answered with one byte.
pub(crate) const TAKE: u8 = b'T';

/// Bytes that are read or written at once.
pub(crate) const PIECE: usize = 64 * 1024;

/// Serves until it is killed.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection ends with whoever asked; the process ends with the bench.
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    match stream.read_u8().await? {
        ECHO => loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(stream.shutdown().await?);
            }
            stream.write_all(&buffer[..read]).await?;
        },
        SEND => {
            let length = stream.read_u64().await?;
            send(&mut stream, length).await?;
            Ok(stream.shutdown().await?)
        }
        TAKE => {
            let length = stream.read_u64().await?;
            take(&mut stream, length).await?;
            stream.write_all(&[0]).await?;
            Ok(stream.shutdown().await?)
        }
        other => bail!("asked for {other}"),
    }
}

/// Writes so many bytes.
pub(crate) async fn send(stream: &mut TcpStream, length: u64) -> Result<()> {
    let buffer = vec![7; PIECE];
    let mut left = length;
    while left > 0 {
        let piece = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        stream.write_all(&buffer[..piece]).await?;
        left -= piece as u64;
    }
    Ok(())
}

/// Reads so many bytes.
pub(crate) async fn take(stream: &mut TcpStream, length: u64) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            bail!("ended {left} bytes too early");
        }
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}
