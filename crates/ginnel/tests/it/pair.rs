//! A session with both of its ends in the hands of the test.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::{World, proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Both ends of one session.
pub(crate) struct Pair {
    pub(crate) app: TcpStream,
    pub(crate) target: TcpStream,
    pub(crate) request_id: String,
}

impl Pair {
    /// Opens a session to `host` through the client's proxy.
    pub(crate) async fn open(world: &World, host: &TcpListener) -> Result<Self> {
        let target = host.local_addr()?.to_string();
        let accepted = async { Ok(host.accept().await?.0) };
        // A refusal is said at once; nobody comes to the host then.
        let opened = async { proxy::connect(world.proxy_addr(), &target).await?.opened() };
        let both = async { tokio::try_join!(opened, accepted) };
        let (opened, target) = within("a session to open", Duration::from_secs(30), both).await??;
        target.set_nodelay(true)?;
        Ok(Self { app: opened.stream, target, request_id: opened.request_id })
    }

    /// Sends a few bytes in each direction and checks that they arrive.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        let exchange = async {
            relay(&mut self.app, &mut self.target, b"question").await?;
            relay(&mut self.target, &mut self.app, b"answer").await
        };
        within("an exchange", Duration::from_secs(10), exchange).await?
    }
}

async fn relay(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Result<()> {
    from.write_all(text).await.context("sending")?;
    let mut seen = vec![0; text.len()];
    to.read_exact(&mut seen).await.context("receiving")?;
    ensure!(seen == text, "{:?} arrived", String::from_utf8_lossy(&seen));
    Ok(())
}
