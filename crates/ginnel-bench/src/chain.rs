//! One TLS connection per session over the tunnel's hops, client → server → agent: what the tunnel would cost if it multiplexed nothing.
//!
//! The agent dials out as the tunnel's does. It keeps [`POOL`] connections to the server open, with their handshakes done; the server takes one for
//! each session and says so with one byte, at which the agent dials the target and opens another connection. So a session waits for one
//! handshake, the client's, as long as the pool is not empty. Mutual TLS 1.3 on both legs, AES-256-GCM, X25519, no resumption; bytes are
//! copied with buffers as large as the plain relay's.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use crate::host::PIECE;
use crate::pki::NAME;
use crate::process::{announce, announce_as};

/// Connections that the agent keeps ready: as many as the driver opens sessions at once.
const POOL: usize = 64;

/// What the server says on a connection that it takes from the pool.
const TAKEN: u8 = b'G';

/// What the server announces for its agents; the address for clients is announced as any other.
pub(crate) const FOR_AGENTS: &str = "listening for agents";

type Accepted = server::TlsStream<TcpStream>;

/// The client: plain connections in, TLS connections to the server out.
pub(crate) async fn client(ip: IpAddr, server: SocketAddr, pki: &Path) -> Result<()> {
    let connector = connector(pki)?;
    let listener = TcpListener::bind((ip, 0)).await?;
    announce(listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        let connector = connector.clone();
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            let mut onward = dial(&connector, server).await?;
            copy_bidirectional_with_sizes(&mut stream, &mut onward, PIECE, PIECE).await?;
            anyhow::Ok(())
        });
    }
}

/// The server: sessions from clients are joined to connections from the agent.
pub(crate) async fn serve(ip: IpAddr, pki: &Path) -> Result<()> {
    let acceptor = acceptor(pki)?;
    let for_agents = TcpListener::bind((ip, 0)).await?;
    let for_clients = TcpListener::bind((ip, 0)).await?;
    let (put, pool) = mpsc::channel(POOL);
    let (join, joined) = mpsc::channel(POOL);
    tokio::spawn(pair(joined, pool));
    announce_as(FOR_AGENTS, for_agents.local_addr()?);
    announce(for_clients.local_addr()?);
    loop {
        tokio::select! {
            accepted = for_agents.accept() => {
                let (acceptor, put) = (acceptor.clone(), put.clone());
                let (stream, _) = accepted?;
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    put.send(acceptor.accept(stream).await?).await.context("nobody takes from the pool")
                });
            }
            accepted = for_clients.accept() => {
                let (acceptor, join) = (acceptor.clone(), join.clone());
                let (stream, _) = accepted?;
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    join.send(acceptor.accept(stream).await?).await.context("nobody joins sessions")
                });
            }
        }
    }
}

/// Gives each session the next connection of the pool.
async fn pair(mut sessions: mpsc::Receiver<Accepted>, mut pool: mpsc::Receiver<Accepted>) {
    while let Some(mut session) = sessions.recv().await {
        let Some(mut onward) = pool.recv().await else { return };
        tokio::spawn(async move {
            onward.write_u8(TAKEN).await?;
            copy_bidirectional_with_sizes(&mut session, &mut onward, PIECE, PIECE).await?;
            anyhow::Ok(())
        });
    }
}

/// The agent: TLS connections to the server out, plain connections to the target out.
pub(crate) async fn agent(server: SocketAddr, target: SocketAddr, pki: &Path) -> Result<()> {
    let connector = connector(pki)?;
    let mut keepers = tokio::task::JoinSet::new();
    let (ready, mut readies) = mpsc::channel(POOL);
    for _ in 0..POOL {
        let (connector, ready) = (connector.clone(), ready.clone());
        keepers.spawn(async move {
            loop {
                let mut stream = dial(&connector, server).await?;
                // Only the first of each is waited for.
                ready.try_send(()).ok();
                ensure!(stream.read_u8().await? == TAKEN, "the server said something else");
                tokio::spawn(async move {
                    let mut onward = TcpStream::connect(target).await?;
                    onward.set_nodelay(true)?;
                    copy_bidirectional_with_sizes(&mut stream, &mut onward, PIECE, PIECE).await?;
                    anyhow::Ok(())
                });
            }
            #[expect(unreachable_code, reason = "says what the block's errors are")]
            anyhow::Ok(())
        });
    }
    for _ in 0..POOL {
        readies.recv().await.context("no connection to the server")?;
    }
    announce(server);
    // A keeper that ends has failed: without it the figures would be those of a smaller pool.
    keepers.join_next().await.context("no keeper")??
}

async fn dial(connector: &TlsConnector, server: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(connector.connect(ServerName::try_from(NAME)?, stream).await?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

fn connector(pki: &Path) -> Result<TlsConnector> {
    let (certificates, key) = identity(pki, "client")?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots(pki)?)
        .with_client_auth_cert(certificates, key)?;
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn acceptor(pki: &Path) -> Result<TlsAcceptor> {
    let (certificates, key) = identity(pki, "server")?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pki)?), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn roots(pki: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.pem")).context("reading the authority")?)?;
    Ok(roots)
}

fn identity(pki: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate =
        CertificateDer::from_pem_file(pki.join(format!("{name}.pem"))).context("reading a certificate")?;
    let key = PrivateKeyDer::from_pem_file(pki.join(format!("{name}.key"))).context("reading a key")?;
    Ok((vec![certificate], key))
}
