use super::*;

/// Says `text` and reads the whole answer, which ends in an end of file.
async fn told(world: &World, text: &str) -> String {
    let mut app = world.say(text).await;
    let (answer, end) = end_of(&mut app).await;
    assert_eq!(end, Ok(()), "{text}");
    answer
}

#[tokio::test]
async fn requests_that_are_not_for_a_proxy_are_told_what_this_port_is() {
    let world = World::new().await;
    let cases = [
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "POST /hook HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 4\r\n\r\na=b&",
        "OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET https://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\n\r\n",
        "GET ftp://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\n\r\n",
        "GET host.internal:PORT HTTP/1.1\r\nHost: host.internal:PORT\r\n\r\n",
        "GET http://user:secret@host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\n\r\n",
        "GET http://host.internal:PORT/ HTTP/1.1\r\nHost: other.internal:PORT\r\n\r\n",
        "GET http://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal\r\n\r\n",
        "GET http://host.internal:PORT/ HTTP/1.1\r\n\r\n",
        "GET http://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\nHost: host.internal:PORT\r\n\r\n",
        "GET http://127.1:PORT/ HTTP/1.1\r\nHost: 127.1:PORT\r\n\r\n",
        "GET http://0x7f000001:PORT/ HTTP/1.1\r\nHost: 0x7f000001:PORT\r\n\r\n",
        "GET http://host.internal:/ HTTP/1.1\r\nHost: host.internal:\r\n\r\n",
        "CONNECT host.internal HTTP/1.1\r\nHost: host.internal\r\n\r\n",
        "CONNECT user@host.internal:PORT HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT http://host.internal:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT /path HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT * HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT host.internal:0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT host.internal:65536 HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT host.internal:007 HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT 2130706433:PORT HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT .host.internal:PORT HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT host.internal:PORT HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    ];
    for text in cases {
        let answer = told(&world, text).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text}{answer}");
        assert!(answer.contains("This is the proxy port of a Ginnel client."), "{text}{answer}");
        assert_eq!(header(&answer, "ginnel-cause"), Some("malformed"), "{text}");
        assert_eq!(header(&answer, "ginnel-hop"), Some("client"), "{text}");
        assert!(header(&answer, "ginnel-request-id").is_some(), "{text}");
        assert!(!answer.to_lowercase().contains("access-control"), "{text}");
    }
    assert_eq!(world.opened(), vec![]);
}

#[tokio::test]
async fn what_is_no_http_1_is_refused() {
    let world = World::new().await;
    let many = format!("GET http://x/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let long = format!("GET http://x/ HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(65_536));
    let cases = [
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("GET http://host.internal/\r\n\r\n", 400),
        ("CONNECT host.internal:PORT/path HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("CONNECT host.internal:PORT HTTP/1.1\r\nHo st: x\r\n\r\n", 400),
        ("CONNECT host\u{0}.internal:PORT HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\u{0}\u{0}\u{0}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}", 400),
        (many.as_str(), 431),
        (long.as_str(), 431),
    ];
    for (text, status) in cases {
        let answer = told(&world, text).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{:?}: {answer}", &text[..text.len().min(60)]);
    }
    let preface = told(&world, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(preface.contains("proxy port"), "{preface}");
    assert_eq!(world.opened(), vec![]);
}

#[tokio::test]
async fn garbage_after_a_good_request_reaches_nobody() {
    let world = World::new().await;
    let mut app = world.say("CONNECT notAllowed.example:443 HTTP/1.1\r\nHost: x\r\n\r\n\u{1}\u{2}\r\n\r\n").await;
    assert!(answer(&mut app).await.0.starts_with("HTTP/1.1 403 "));
    let (rest, end) = end_of(&mut app).await;
    assert!(rest.starts_with("HTTP/1.1 400 "), "{rest}");
    assert_eq!(end, Ok(()));
    assert_eq!(world.opened().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_application_has_ten_seconds_for_a_head() {
    let world = World::new().await;
    let cases = [
        ("", ""),
        ("CONNECT host.internal:443 HTTP/1.1\r\nHost", "HTTP/1.1 408 "),
        ("\u{5}", ""),
        ("\u{5}\u{1}\u{0}\u{5}\u{1}", "\u{5}\u{0}"),
    ];
    for (text, expected) in cases {
        let mut app = world.say(text).await;
        let started = tokio::time::Instant::now();
        let mut heard = String::new();
        app.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with(expected) && heard.is_empty() == expected.is_empty(), "{text:?}: {heard:?}");
        assert_eq!(started.elapsed().as_secs(), 10, "{text:?}");
    }
}
