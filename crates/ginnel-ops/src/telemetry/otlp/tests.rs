use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};

use tracing::{info_span, trace_span};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use opentelemetry_sdk::error::OTelSdkError;

const ID: &str = "0123456789abcdef0123456789abcdef";

/// What a collector was sent.
struct Received {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Received {
    fn has(&self, wanted: &[u8]) -> bool {
        self.body.windows(wanted.len()).any(|window| window == wanted)
    }
}

/// A collector that takes one request.
fn collector() -> (SocketAddr, JoinHandle<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let taking = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        Received { head, body }
    });
    (address, taking)
}

fn export(address: SocketAddr) -> Export {
    Export::start(&format!("http://{address}").parse().unwrap(), "ginnel-test").unwrap()
}

fn talk(export: &Export) {
    let subscriber = tracing_subscriber::registry().with(export.layer());
    tracing::subscriber::with_default(subscriber, || {
        info_span!("session", request = ID, client = "spiffe://a.example/client/c").in_scope(|| {
            info!(cause = "reset", "ended");
            tracing::debug!(target = "git.acme.internal:22", "opening");
            trace_span!("detail").in_scope(|| ());
            info_span!(target: "hyper", "foreign").in_scope(|| ());
        });
    });
}

#[test]
fn a_collector_gets_our_spans_in_the_trace_of_their_request() {
    let (address, taking) = collector();
    let export = export(address);
    talk(&export);
    export.finish(Duration::from_secs(10)).unwrap();
    let received = taking.join().unwrap();
    assert_eq!(received.head[0], "post /v1/traces http/1.1");
    assert!(received.head.contains(&format!("host: {address}")), "{:?}", received.head);
    assert!(received.head.contains(&"content-type: application/x-protobuf".to_owned()), "{:?}", received.head);
    let trace_id = TraceId::from_hex(ID).unwrap().to_bytes();
    for wanted in ["session", "spiffe://a.example/client/c", "ended", "ginnel-test"] {
        assert!(received.has(wanted.as_bytes()), "{wanted} is missing");
    }
    assert!(received.has(&trace_id), "the request's id is not the trace's");
    for unwanted in ["git.acme.internal", "detail", "foreign"] {
        assert!(!received.has(unwanted.as_bytes()), "{unwanted} was sent");
    }
}

#[test]
fn a_collector_that_is_silent_does_not_hold_the_exit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let export = export(listener.local_addr().unwrap());
    talk(&export);
    let finished = export.finish(Duration::from_millis(1));
    assert!(matches!(finished, Err(OTelSdkError::Timeout(_) | OTelSdkError::InternalFailure(_))), "{finished:?}");
}
