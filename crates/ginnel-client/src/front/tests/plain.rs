use super::*;

const GET: &str = "GET http://host.internal:PORT/a?b=c HTTP/1.1\r\nHost: host.internal:PORT\r\n\r\n";

#[tokio::test]
async fn the_target_sees_an_ordinary_request() {
    let world = World::new().await;
    let mut app = world
        .say(
            "GET http://Host.Internal:PORT/a?b=c HTTP/1.1\r\nHOST: host.internal:PORT\r\nAccept: */*\r\nX-oDD: 1\r\n\
             Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nConnection: Upgrade, X-One\r\n\
             Upgrade: websocket\r\nX-One: 1\r\n\r\n",
        )
        .await;
    let mut host = world.accept().await;
    let request = head(&mut host).await;
    let mut lines: Vec<_> = request.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "GET /a?b=c HTTP/1.1");
    lines.sort_unstable();
    let expected_host = format!("HOST: Host.Internal:{}", world.port());
    assert_eq!(lines, ["Accept: */*", "Connection: close", expected_host.as_str(), "X-oDD: 1"]);

    say(&mut host, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nGinnel-Cause: notAllowed\r\nConnection: close\r\n\r\nhi")
        .await;
    let (head, body) = answer(&mut app).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!((body.as_str(), header(&head, "ginnel-cause"), header(&head, "connection")), ("hi", None, None));
    assert_eq!(header(&head, "ginnel-request-id"), Some(world.opened()[0].0.to_string().as_str()));
    // The target is told of a proper end.
    assert_eq!(end_of(&mut host).await, (String::new(), Ok(())));
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_on_its_own() {
    let world = World::new().await;
    let mut app = world.dial().await;
    for round in 0..3 {
        say(&mut app, &GET.replace("PORT", &world.port().to_string())).await;
        let mut host = world.accept().await;
        head(&mut host).await;
        say(&mut host, &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{round}")).await;
        assert_eq!(answer(&mut app).await.1, round.to_string());

        say(&mut app, "GET http://notAllowed.example/ HTTP/1.1\r\nHost: NOTALLOWED.example:80\r\n\r\n").await;
        let (head, body) = answer(&mut app).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(body.contains("target: notallowed.example:80\n"), "{body}");
    }
    let opened = world.opened();
    assert_eq!(opened.len(), 6);
    assert!(opened.windows(2).all(|pair| pair[0].0 != pair[1].0));
}

#[tokio::test]
async fn bodies_are_streamed_in_both_directions() {
    let world = World::new().await;
    let cases = [
        ("Content-Length: 10\r\n", "first", "later", "Content-Length: 10", "first", "later"),
        (
            "Transfer-Encoding: chunked\r\n",
            "5\r\nfirst\r\n",
            "5\r\nlater\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked",
            "5\r\nfirst\r\n",
            "5\r\nlater\r\n0\r\n\r\n",
        ),
    ];
    for (framing, first, later, seen, seen_first, seen_later) in cases {
        let post = "POST http://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\nExpect: 100-continue\r\n";
        let mut app = world.say(&format!("{post}{framing}\r\n")).await;
        let mut host = world.accept().await;
        assert!(head(&mut app).await.starts_with("HTTP/1.1 100 "));
        let request = head(&mut host).await;
        assert!(request.contains(seen) && !request.contains("xpect"), "{request}");
        say(&mut app, first).await;
        assert_eq!(hear(&mut host, seen_first.len()).await, seen_first);
        say(&mut host, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
        assert_eq!(header(&head(&mut app).await, "transfer-encoding"), Some("chunked"));
        assert_eq!(hear(&mut app, 8).await, "3\r\none\r\n");
        say(&mut app, later).await;
        assert_eq!(hear(&mut host, seen_later.len()).await, seen_later);
        say(&mut host, "0\r\n\r\n").await;
        assert_eq!(hear(&mut app, 5).await, "0\r\n\r\n");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete() {
    let get_1_0 = GET.replace("HTTP/1.1", "HTTP/1.0");
    let length = "Content-Length: 10\r\n\r\nhello";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let until_close = "\r\nhello";
    let cases = [
        (GET, length, "hello", false),
        (GET, length, "hello", true),
        (GET, chunked, "5\r\nhello\r\n", false),
        (GET, chunked, "5\r\nhello\r\n", true),
        (GET, until_close, "5\r\nhello\r\n", true),
        (&get_1_0, chunked, "hello", false),
        (&get_1_0, until_close, "hello", true),
    ];
    for (request, said, heard, with_reset) in cases {
        let case = format!("{request}{said}");
        let world = World::new().await;
        let mut app = world.say(request).await;
        let mut host = world.accept().await;
        head(&mut host).await;
        say(&mut host, &format!("HTTP/1.1 200 OK\r\n{said}")).await;
        head(&mut app).await;
        assert_eq!(hear(&mut app, heard.len()).await, heard, "{case}");
        if with_reset {
            reset(host);
        } else {
            drop(host);
        }
        assert_eq!(end_of(&mut app).await, (String::new(), RESET), "{case}");
    }
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_the_targets_end() {
    let world = World::new().await;
    let mut app = world.say(&GET.replace("HTTP/1.1", "HTTP/1.0")).await;
    let mut host = world.accept().await;
    head(&mut host).await;
    say(&mut host, "HTTP/1.0 200 OK\r\n\r\nall of it").await;
    drop(host);
    head(&mut app).await;
    assert_eq!(end_of(&mut app).await, ("all of it".to_owned(), Ok(())));
}

#[tokio::test]
async fn a_large_answer_reaches_a_slow_application_to_the_last_byte() {
    let world = World::new().await;
    let early = "POST http://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\nContent-Length: 10\r\n\
                 Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\nhello";
    for (request, ended) in [(GET, true), (early, false)] {
        let mut app = world.say(request).await;
        if ended {
            app.shutdown().await.unwrap();
        }
        let mut host = world.accept().await;
        head(&mut host).await;
        let size = 16 * 1024 * 1024;
        let sending = tokio::spawn(async move {
            say(&mut host, &format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")).await;
            host.write_all(&vec![b'x'; size]).await.unwrap();
            host
        });
        head(&mut app).await;
        let mut chunk = vec![0; 16 * 1024];
        let mut heard = 0;
        loop {
            // Everybody else gets ahead, so that the buffers are full to the end.
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            match soon(app.read(&mut chunk)).await.unwrap() {
                0 => break,
                length => heard += length,
            }
        }
        assert_eq!(heard, size, "{request}");
        drop(sending.await.unwrap());
    }
}

#[tokio::test]
async fn an_application_that_resets_resets_the_target() {
    let world = World::new().await;
    for answered in [false, true] {
        let mut app = world.say(GET).await;
        let mut host = world.accept().await;
        head(&mut host).await;
        if answered {
            say(&mut host, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
            head(&mut app).await;
        }
        reset(app);
        assert_eq!(end_of(&mut host).await, (String::new(), RESET), "{answered}");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_keeps_its_length() {
    let world = World::new().await;
    let mut app = world.say(&GET.replace("GET", "HEAD")).await;
    let mut host = world.accept().await;
    head(&mut host).await;
    say(&mut host, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await;
    let head = head(&mut app).await;
    assert_eq!(header(&head, "content-length"), Some("1234"), "{head}");
}

#[tokio::test]
async fn a_target_that_does_not_answer_in_http_is_a_bad_gateway() {
    let world = World::new().await;
    let cases = [
        ("SSH-2.0-OpenSSH\r\n\r\n", "protocolError"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "protocolError"),
        ("", "aborted"),
    ];
    for (said, cause) in cases {
        let mut app = world.say(GET).await;
        let mut host = world.accept().await;
        head(&mut host).await;
        say(&mut host, said).await;
        host.shutdown().await.unwrap();
        let (head, _) = answer(&mut app).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        assert_eq!((header(&head, "ginnel-cause"), header(&head, "ginnel-hop")), (Some(cause), Some("target")));
        assert_eq!(end_of(&mut app).await, (String::new(), Ok(())));
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_is_not_taken_for_a_whole_one() {
    let world = World::new().await;
    let post =
        "POST http://host.internal:PORT/ HTTP/1.1\r\nHost: host.internal:PORT\r\nContent-Length: 10\r\n\r\nhello";
    for with_reset in [false, true] {
        let mut app = world.say(post).await;
        let mut host = world.accept().await;
        head(&mut host).await;
        assert_eq!(hear(&mut host, 5).await, "hello");
        if with_reset {
            reset(app);
        } else {
            app.shutdown().await.unwrap();
        }
        assert_eq!(end_of(&mut host).await, (String::new(), RESET), "{with_reset}");
    }
}
