//! The target: what a connection's first byte asks for.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::announce;

/// Asks for every byte back.
pub(crate) const ECHO: u8 = b'E';

/// Asks for bytes without end.
pub(crate) const SEND: u8 = b'S';

/// Offers bytes without end.
pub(crate) const TAKE: u8 = b'T';

/// Asks, with this byte and as often again as wanted, how many bytes were taken in all, which eight bytes answer. The driver asks beside the way: an
/// answer on the session itself would be more work for the way, and some relays do not get round to it while bytes go the other way.
pub(crate) const COUNT: u8 = b'C';

/// Begins a request of [`REQUEST`] bytes, answered by [`REPLY`] bytes.
pub(crate) const ASK: u8 = b'A';

/// Bytes that are read or written at once.
pub(crate) const PIECE: usize = 64 * 1024;

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
    let taken = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection ends with whoever asked; the process ends with the bench.
        tokio::spawn(answer(stream, Arc::clone(&taken)));
    }
}

async fn answer(mut stream: TcpStream, taken: Arc<AtomicU64>) -> Result<()> {
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
        TAKE => {
            let mut buffer = vec![0; PIECE];
            loop {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(stream.shutdown().await?);
                }
                taken.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
        COUNT => loop {
            stream.write_u64(taken.load(Ordering::Relaxed)).await?;
            stream.read_u8().await?;
        },
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
