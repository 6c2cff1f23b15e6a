use ginnel_core::proxy::ProxyCredentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;

const TARGET: &str = "tunnel.acme.example:443";

fn settings(port: u16, credentials: Option<ProxyCredentials>) -> ProxySettings {
    let location = ProxyLocation { tls: false, host: "127.0.0.1".to_owned(), port };
    ProxySettings { location, trust: None, credentials, bypass: Vec::new() }
}

/// Asks a proxy that answers with these bytes and closes; gives its verdict and what it was asked.
async fn asked(proxy: &Proxy, answer: &[u8]) -> (Result<Answer, ProxyError>, String) {
    let (mut near, mut far) = tokio::io::duplex(64 << 10);
    let peer = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(far.read_u8().await.unwrap());
        }
        far.write_all(answer).await.unwrap();
        drop(far);
        String::from_utf8(request).unwrap()
    };
    tokio::join!(proxy.ask(&mut near, TARGET), peer)
}

#[tokio::test]
async fn asks_with_the_credentials_and_shows_them_to_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let password_file = directory.path().join("password");
    file::create_private(&password_file, b"open sesame\n").unwrap();
    let credentials = ProxyCredentials { username: "Aladdin".to_owned(), password_file };
    let proxy = Proxy::read(&settings(1, Some(credentials))).unwrap();
    let (answer, request) = asked(&proxy, b"HTTP/1.1 200 fine\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n").await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (200, "fine"));
    assert_eq!(answer.date(), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
    assert!(request.starts_with("CONNECT tunnel.acme.example:443 HTTP/1.1\r\nHost: tunnel.acme.example:443\r\n"));
    // The example of RFC 7617.
    assert!(request.contains("\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{request}");
    assert!(!format!("{proxy:?}").contains("Basic"));
}

#[tokio::test]
async fn says_what_the_proxy_has_against_it() {
    let proxy = Proxy::read(&settings(3128, None)).unwrap();
    let endless = [b"HTTP/1.1 200 fine\r\nX: ".to_vec(), vec![b'x'; 20 << 10]].concat();
    let cases: [(&[u8], &str); 9] = [
        (
            b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic realm=\"x\"\r\nproxy-authenticate: Negotiate\r\n\r\nbody",
            "it offers Basic, Negotiate",
        ),
        (b"HTTP/1.0 403 Forbidden by \x1b[2Jpolicy\r\n\r\n<html>", "answered 403 Forbidden by [2Jpolicy"),
        (b"HTTP/1.1 502\r\n\r\n", "answered 502"),
        (b"SSH-2.0-OpenSSH\r\n", "does not begin with HTTP/1"),
        (b"HTTP/1.1 2 fine\r\n\r\n", "no status"),
        (b"HTTP/1.1 200 fine\r\nX: y\r\n", "ends within the head"),
        (b"HTTP/1.1 200 fine\r\n\r\nmore", "bytes came after the head"),
        (&endless, "its head does not end"),
        (b"", "broke before it answered"),
    ];
    for (bytes, expected) in cases {
        let (answer, request) = asked(&proxy, bytes).await;
        let error = answer.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("127.0.0.1:3128"), "{error}");
        assert!(!request.contains("Authorization"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_named_before_the_whole_attempt_is_over() {
    let proxy = Proxy::read(&settings(3128, None)).unwrap();
    let (mut near, _far) = tokio::io::duplex(64 << 10);
    let start = Instant::now();
    let error = proxy.ask(&mut near, TARGET).await.unwrap_err();
    assert!(matches!(error, ProxyError::Silent { .. }), "{error}");
    assert_eq!(start.elapsed(), ANSWER_WAIT);
}

#[tokio::test]
async fn nobody_at_the_proxys_port_is_said_of_the_proxy() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = Proxy::read(&settings(port, None)).unwrap().reach().await.unwrap_err();
    assert!(matches!(error, ProxyError::Unreachable { .. }), "{error}");
}

#[test]
fn a_password_is_one_line_in_a_file_of_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    for (number, content) in [&b""[..], b"\n", b"a\nb", b"\xff"].into_iter().enumerate() {
        let password_file = directory.path().join(number.to_string());
        file::create_private(&password_file, content).unwrap();
        let credentials = ProxyCredentials { username: "me".to_owned(), password_file };
        let error = Proxy::read(&settings(1, Some(credentials))).unwrap_err();
        assert!(matches!(error, ProxyFileError::Password(_)), "{error}");
    }
    let password_file = directory.path().join("open");
    file::create(&password_file, b"word", 0o644).unwrap();
    let credentials = ProxyCredentials { username: "me".to_owned(), password_file };
    assert!(matches!(Proxy::read(&settings(1, Some(credentials))).unwrap_err(), ProxyFileError::File(_)));
}
