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

    fn might_come_from(&self, address: IpAddr) -> bool {
        address != IpAddr::from([203, 0, 113, 66])
    }

    fn turned_away(&self, _: SocketAddr) {}

    fn not_announced(&self, _: SocketAddr, _: &NotAnnounced) {}

    fn admit(&self, _: Peer) -> Option<Self> {
        None
    }
}

impl Answer for Nobody {
    fn answer(&self, _: Call) {}
}

/// A server without a certificate: it answers whoever speaks, if only to say what is wrong.
async fn server(balancers: Option<&str>) -> (SocketAddr, Stops, tokio::task::JoinHandle<()>) {
    let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stops = Stops::default();
    let balancers = balancers.map(|text| Ranges::new([text.parse().unwrap()]));
    let door = Door { tls: Arc::new(tls), balancers };
    let gate = Arc::new(Gate::new(door, &Limits::default()));
    (address, stops.clone(), tokio::spawn(serve(listener, gate, Nobody, stops)))
}

#[tokio::test]
async fn connections_that_say_nothing_delay_nobody() {
    let (address, stops, serving) = server(None).await;
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

/// What is answered to these bytes, until the end.
async fn answer(server: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end without an answer as well.
    let _ = timeout(AT_ONCE, stream.read_to_end(&mut answer)).await.expect("an end at once");
    answer
}

#[tokio::test]
async fn a_header_counts_from_balancers_and_from_nobody_else() {
    const FROM_203_0_113_9: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x0a\x00\x00\x01\x9c\x40\x01\xbb";
    const NO_HELLO: &[u8] = b"this is no ClientHello";
    let mut from_66 = FROM_203_0_113_9.to_vec();
    from_66[19] = 66;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    let unix = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\x00\x00";
    let v1 = b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 443\r\n";
    // An answer of TLS, be it an alert, shows that the handshake began; without one the connection was closed before.
    let cases: [(&[u8], bool); 6] =
        [(FROM_203_0_113_9, true), (local, true), (&from_66, false), (unix, false), (v1, false), (b"", false)];
    let (balanced, stops, serving) = server(Some("127.0.0.1")).await;
    for (header, begins) in cases {
        let heard = answer(balanced, &[header, NO_HELLO].concat()).await;
        assert_eq!(heard.first(), begins.then_some(&21), "{header:?}: {heard:?}");
    }
    stops.accepting.cancel();
    stops.connections.cancel();
    serving.await.unwrap();

    let (plain, stops, serving) = server(Some("192.0.2.1")).await;
    for (header, _) in cases {
        let heard = answer(plain, &[header, NO_HELLO].concat()).await;
        assert_eq!(heard.first(), Some(&21), "{header:?} is no TLS: {heard:?}");
    }
    stops.accepting.cancel();
    stops.connections.cancel();
    serving.await.unwrap();
}
