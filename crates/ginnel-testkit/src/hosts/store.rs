//! A service that gives and takes content of any length, and notices an end that came too early.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::content::{Content, Sum};
use crate::hosts::TcpHost;

/// What an application asks of a [`Store`]: 17 bytes at the start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To be sent the content with this seed and length, and then the end.
    Get(u64, u64),
    /// To take so many bytes and the end, and to answer with their SHA-256.
    Put(u64),
}

impl Order {
    /// The order as it is sent.
    pub fn to_bytes(self) -> [u8; 17] {
        let (kind, seed, length) = match self {
            Self::Get(seed, length) => (b'g', seed, length),
            Self::Put(length) => (b'p', 0, length),
        };
        let mut bytes = [kind; 17];
        bytes[1..9].copy_from_slice(&seed.to_be_bytes());
        bytes[9..].copy_from_slice(&length.to_be_bytes());
        bytes
    }
}

/// A store on a loopback port, until it is dropped.
pub struct Store {
    host: TcpHost,
    early: Arc<Mutex<Vec<String>>>,
}

impl Store {
    /// Starts one.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> Result<Self> {
        let early = Arc::new(Mutex::new(Vec::new()));
        let host = TcpHost::start({
            let early = Arc::clone(&early);
            move |stream| serve(stream, Arc::clone(&early))
        });
        Ok(Self { host: host.await?, early })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.host.address()
    }

    /// Fails if any connection has ended cleanly before everything had come, as no connection that was cut may.
    ///
    /// # Errors
    /// What came of each.
    pub fn check(&self) -> Result<()> {
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(early.is_empty(), "the host saw clean ends that came too early: {early:?}");
        Ok(())
    }
}

async fn serve(mut stream: TcpStream, early: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let note = |what: String| early.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    let kind = match stream.read_u8().await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            note("an end before the order".to_owned());
            return Ok(());
        }
        kind => kind?,
    };
    let (seed, length) = (stream.read_u64().await?, stream.read_u64().await?);
    if kind == b'g' {
        for piece in Content::new(seed, length) {
            stream.write_all(piece).await?;
        }
        stream.shutdown().await?;
        // The socket is closed only after the other side is, so that nothing that is under way is lost.
        crate::stream::read_to_ending(&mut stream).await;
        return Ok(());
    }
    let sum = Sum::of(&mut stream).await?;
    if sum.length() != length {
        note(format!("{} of {length} bytes", sum.length()));
    }
    stream.write_all(&sum.finish()).await?;
    Ok(stream.shutdown().await?)
}
