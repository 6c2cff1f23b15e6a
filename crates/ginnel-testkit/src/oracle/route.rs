//! Ways from an application to a target.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::proxy;
use crate::stream::read_to_ending;
use crate::wait::{SOON, within};

/// Both ends of a fresh connection.
pub struct Opened {
    /// The end that connected.
    pub app: TcpStream,
    /// The end that was connected to.
    pub target: TcpStream,
}

/// A way from an application to a target.
pub trait Route {
    /// Opens a connection.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn open(&mut self) -> impl Future<Output = Result<Opened>> + Send;
}

/// TCP and nothing else.
pub struct Direct {
    listener: TcpListener,
    address: SocketAddr,
}

impl Direct {
    /// A target of its own on loopback.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    async fn with(&self, connecting: impl Future<Output = Result<TcpStream>>) -> Result<Opened> {
        let accepting = async { Ok(self.listener.accept().await?.0) };
        let both = async { tokio::try_join!(connecting, accepting) };
        let (app, target) = within("a connection", SOON, both).await??;
        app.set_nodelay(true)?;
        target.set_nodelay(true)?;
        Ok(Opened { app, target })
    }
}

impl Route for Direct {
    async fn open(&mut self) -> Result<Opened> {
        self.with(async { Ok(TcpStream::connect(self.address).await?) }).await
    }
}

/// Through a client's proxy port.
pub struct Proxied {
    direct: Direct,
    proxy: SocketAddr,
}

impl Proxied {
    /// A target of its own behind `proxy`, which must permit every port of `127.0.0.1`.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn new(proxy: SocketAddr) -> Result<Self> {
        Ok(Self { direct: Direct::new().await?, proxy })
    }
}

impl Route for Proxied {
    async fn open(&mut self) -> Result<Opened> {
        let target = self.direct.address.to_string();
        self.direct.with(async { Ok(proxy::connect(self.proxy, &target).await?.opened()?.stream) }).await
    }
}

/// Through a relay that knows only one way to end: whatever ends one side becomes a FIN on the other. Most relays are like that.
pub struct Forgetful {
    direct: Direct,
    address: SocketAddr,
    /// The proxy on the way to the relay, if there is one.
    proxy: Option<SocketAddr>,
    task: JoinHandle<()>,
}

impl Forgetful {
    /// A relay before a target of its own, reached through `proxy` if there is one.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn new(proxy: Option<SocketAddr>) -> Result<Self> {
        let direct = Direct::new().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let upstream = direct.address;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((near, _)) = accepted else { continue };
                        connections.spawn(async move {
                            if let Ok(far) = TcpStream::connect(upstream).await {
                                forget(near, far).await;
                            }
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { direct, address, proxy, task })
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Route for Forgetful {
    async fn open(&mut self) -> Result<Opened> {
        let connecting = async {
            Ok(match self.proxy {
                None => TcpStream::connect(self.address).await?,
                Some(proxy) => proxy::connect(proxy, &self.address.to_string()).await?.opened()?.stream,
            })
        };
        self.direct.with(connecting).await
    }
}

async fn forget(near: TcpStream, far: TcpStream) {
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(copy(near_read, far_write), copy(far_read, near_write));
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            // Nothing stays unread: the kernel would make a reset of that.
            read_to_ending(&mut from).await;
        }
    }
    to.shutdown().await.ok();
}
