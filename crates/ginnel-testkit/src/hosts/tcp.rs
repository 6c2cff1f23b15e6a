//! TCP services inside the test process.

use std::future::Future;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A listener that treats every connection in the same way, until it is dropped.
pub struct TcpHost {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TcpHost {
    /// Serves every connection with `serve`, on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self::on(TcpListener::bind("127.0.0.1:0").await?, serve)
    }

    /// Serves every connection of `listener` with `serve`.
    ///
    /// # Errors
    /// If it has no address.
    pub fn on<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        stream.set_nodelay(true).ok();
                        connections.spawn(serve(stream));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { address, task })
    }

    /// Gives back every byte, and ends when the peer does.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn echo() -> Result<Self> {
        Self::start(async |mut stream: TcpStream| {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(stream.shutdown().await?);
                }
                stream.write_all(&buffer[..n]).await?;
            }
        })
        .await
    }

    /// Reads to the peer's end, and only then answers with the number of bytes, in decimal.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn sink() -> Result<Self> {
        Self::start(async |mut stream: TcpStream| {
            let (total, _) = crate::stream::read_to_ending(&mut stream).await;
            stream.write_all(total.to_string().as_bytes()).await?;
            Ok(stream.shutdown().await?)
        })
        .await
    }

    /// Resets the connection at its first byte.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn reset() -> Result<Self> {
        Self::start(async |mut stream: TcpStream| {
            stream.read_u8().await?;
            Ok(stream.set_zero_linger()?)
        })
        .await
    }

    /// Ends its own half at once, and goes on to give back nothing while it reads for ever.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn half_close() -> Result<Self> {
        Self::start(async |mut stream: TcpStream| {
            stream.shutdown().await?;
            crate::stream::read_to_ending(&mut stream).await;
            Ok(())
        })
        .await
    }

    /// Accepts and never reads, writes or ends.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn black_hole() -> Result<Self> {
        Self::start(async |stream: TcpStream| {
            std::future::pending::<()>().await;
            drop(stream);
            Ok(())
        })
        .await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}
