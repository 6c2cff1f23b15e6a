//! A host that goes on for ever with what the first byte of a connection asks for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::hosts::TcpHost;
use crate::stream::write_for_ever;
use crate::within;

/// Asks for every byte back.
pub const ECHO: u8 = b'E';

/// Asks the host to send.
pub const SEND: u8 = b'S';

/// Asks the host to read.
pub const TAKE: u8 = b'T';

/// The longest that an echo may take; beyond, something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Counts bulk content that arrived, at whichever end it was due. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Arrived(Arc<AtomicU64>);

impl Arrived {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts what comes on a connection that is to go on for ever.
    ///
    /// # Errors
    /// How it ended all the same.
    pub async fn count(&self, mut stream: TcpStream) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = stream.read(&mut buffer).await?;
            ensure!(read > 0, "a session that goes on for ever has ended");
            self.0.fetch_add(read as u64, Ordering::Relaxed);
        }
    }
}

/// The host, until it is dropped.
pub struct Asked {
    host: TcpHost,
    arrived: Arrived,
}

impl Asked {
    /// Serves a listener.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn on(listener: std::net::TcpListener) -> Result<Self> {
        let arrived = Arrived::default();
        let counted = arrived.clone();
        let serve = move |stream| answer(stream, counted.clone());
        Ok(Self { host: TcpHost::on(TcpListener::from_std(listener)?, serve)?, arrived })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.host.address()
    }

    /// What it counts; an application counts into it what it is sent.
    pub fn arrived(&self) -> &Arrived {
        &self.arrived
    }
}

/// The time that one byte takes there and back.
///
/// # Errors
/// If it does not come back.
pub async fn ping(stream: &mut TcpStream) -> Result<Duration> {
    let started = Instant::now();
    stream.write_u8(1).await?;
    within("an echo", DEADLINE, stream.read_u8()).await??;
    Ok(started.elapsed())
}

async fn answer(mut stream: TcpStream, arrived: Arrived) -> Result<()> {
    match stream.read_u8().await? {
        ECHO => loop {
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
        },
        SEND => {
            write_for_ever(stream).await;
            Ok(())
        }
        TAKE => arrived.count(stream).await,
        other => bail!("asked for {other}"),
    }
}
