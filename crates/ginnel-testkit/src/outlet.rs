//! The way out of a company's network: a CONNECT proxy with a password.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::version::TLS13;

use crate::hosts::Authority;

/// Longest head of a request that is read.
const HEAD_MAX: usize = 16 << 10;

/// A proxy on a loopback port that opens a way to wherever it is asked to.
pub struct Outlet {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Outlet {
    /// Starts a proxy that wants this user and password, over TLS if it has a certificate.
    ///
    /// # Errors
    /// If no port can be bound or the certificate cannot be read.
    pub async fn start(user: &str, password: &str, tls: Option<&Authority>) -> Result<Self> {
        let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        let acceptor = tls.map(acceptor).transpose()?;
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let (address, task) = listen(move |tcp| {
            let (expected, acceptor, count) = (expected.clone(), acceptor.clone(), Arc::clone(&count));
            async move {
                match acceptor {
                    None => carry(tcp, &expected, &count).await,
                    Some(acceptor) => carry(acceptor.accept(tcp).await?, &expected, &count).await,
                }
            }
        })
        .await?;
        Ok(Self { address, opened, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many ways it has opened.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(authority: &Authority) -> Result<TlsAcceptor> {
    let chain = vec![CertificateDer::from_pem_file(&authority.certificate)?];
    let key = PrivateKeyDer::from_pem_file(&authority.key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Result<(SocketAddr, JoinHandle<()>)>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((tcp, _)) = accepted else { continue };
                    connections.spawn(serve(tcp));
                }
                // How a connection ended is for its other side to notice.
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok((address, task))
}

async fn carry<S: AsyncRead + AsyncWrite + Unpin>(mut near: S, expected: &str, opened: &AtomicUsize) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_MAX, "an endless head");
        head.push(near.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).context("no CONNECT")?;
    let given = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    if given != Some(expected) {
        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"acme\"\r\nContent-Length: 0\r\n\r\n";
        near.write_all(answer.as_bytes()).await?;
        return Ok(near.shutdown().await?);
    }
    let Ok(mut far) = TcpStream::connect(target).await else {
        near.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(near.shutdown().await?);
    };
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    near.flush().await?;
    opened.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
