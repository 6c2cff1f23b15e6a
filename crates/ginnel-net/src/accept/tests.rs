use std::time::Duration;

use ginnel_core::limits::{HANDSHAKES_MAX, PENDING_PER_SOURCE_MAX};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ResolvesServerCertUsingSni;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Well below the deadline of a handshake, so that nobody was waited for.
const AT_ONCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Nobody;

impl Admit for Nobody {
    type Calls = Self;

    fn admit(&self, _: Peer) -> Option<Self> {
        None
    }
}

impl Answer for Nobody {
    fn answer(&self, _: Call) {}
}

/// A server without a certificate: it answers whoever speaks, if only to say what is wrong.
async fn server() -> (SocketAddr, Stops, tokio::task::JoinHandle<()>) {
    let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stops = Stops::default();
    let gate = Arc::new(Gate::new(Arc::new(tls), &Limits::default()));
    (address, stops.clone(), tokio::spawn(serve(listener, gate, Nobody, stops)))
}

#[tokio::test]
async fn connections_that_say_nothing_delay_nobody() {
    let (address, stops, serving) = server().await;
    let mut silent = Vec::new();
    for _ in 0..HANDSHAKES_MAX + PENDING_PER_SOURCE_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let speaking = async {
        let mut speaking = TcpStream::connect(address).await.unwrap();
        speaking.write_all(b"this is no ClientHello").await.unwrap();
        let mut answer = Vec::new();
        speaking.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(AT_ONCE, speaking).await.expect("an answer at once");
    assert_eq!(answer.first(), Some(&21), "a TLS alert: {answer:?}");
    // The first of the silent ones had to give way, and hears of it; the last one still has its place.
    assert_eq!(timeout(AT_ONCE, silent[0].read(&mut [0])).await.expect("an end at once").unwrap(), 0);
    let last = silent.last().unwrap();
    assert_eq!(last.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    stops.accepting.cancel();
    stops.connections.cancel();
    timeout(AT_ONCE, serving).await.expect("silent connections do not delay the end").unwrap();
}
