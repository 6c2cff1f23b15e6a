//! The target: what a connection's first byte asks for.

use std::net::IpAddr;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::announce;

/// Asks for every byte back.
pub(crate) const ECHO: u8 = b'E';

/// Asks for bytes without end.
pub(crate) const SEND: u8 = b'S';

/// Offers bytes without end; each [`ACKNOWLEDGED`] of them are answered with one byte, so that the driver knows what has arrived.
pub(crate) const TAKE: u8 = b'T';

/// Begins a request of [`REQUEST`] bytes, answered by [`REPLY`] bytes.
pub(crate) const ASK: u8 = b'A';

/// Bytes that are read or written at once.
pub(crate) const PIECE: usize = 64 * 1024;

/// Bytes that one byte of answer stands for.
pub(crate) const ACKNOWLEDGED: u64 = 1 << 20;

/// Bytes of a request, its first byte included.
pub(crate) const REQUEST: usize = 100;

/// Bytes of the reply to a request.
pub(crate) const REPLY: usize = 1024;

/// Connections that may wait to be accepted: more than the driver opens at once.
const BACKLOG: u32 = 4096;

/// Serves until it is killed.
pub(crate) async fn serve(ip: IpAddr) -> Result<()> {
    let socket = if ip.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.bind((ip, 0).into())?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    announce(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection ends with whoever asked; the process ends with the bench.
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    match stream.read_u8().await? {
        ECHO => {
            // An idle connection has a buffer of its own here, and the target's memory is not measured.
            let mut buffer = [0; 512];
            loop {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(stream.shutdown().await?);
                }
                stream.write_all(&buffer[..read]).await?;
            }
        }
        SEND => {
            let buffer = vec![7; PIECE];
            loop {
                stream.write_all(&buffer).await?;
            }
        }
        TAKE => take(&mut stream).await,
        ASK => {
            let mut request = [0; REQUEST - 1];
            stream.read_exact(&mut request).await?;
            stream.write_all(&[7; REPLY]).await?;
            // Whoever asked ends the connection, so that its end waits at the same place on every way.
            let _: usize = stream.read(&mut request).await?;
            Ok(())
        }
        other => bail!("asked for {other}"),
    }
}

async fn take(stream: &mut TcpStream) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut owed = 0;
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(stream.shutdown().await?);
        }
        owed += read as u64;
        while owed >= ACKNOWLEDGED {
            stream.write_u8(0).await?;
            owed -= ACKNOWLEDGED;
        }
    }
}
