use super::*;

#[tokio::test]
async fn carries_bytes_and_each_end_of_file_after_success() {
    let world = World::new().await;
    // What was said in advance is not lost.
    let mut app = world.say("CONNECT host.internal:PORT HTTP/1.1\r\nHost: x\r\n\r\nearly").await;
    let mut host = world.accept().await;
    let head = head(&mut app).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (id, target) = world.opened().remove(0);
    assert_eq!(header(&head, "ginnel-request-id"), Some(id.to_string().as_str()));
    assert_eq!(target.to_string(), format!("host.internal:{}", world.port()));
    assert_eq!(hear(&mut host, 5).await, "early");

    say(&mut app, " late").await;
    app.shutdown().await.unwrap();
    assert_eq!(end_of(&mut host).await, (" late".to_owned(), Ok(())));
    say(&mut host, "after the end").await;
    assert_eq!(hear(&mut app, 13).await, "after the end");
    host.shutdown().await.unwrap();
    assert_eq!(end_of(&mut app).await, (String::new(), Ok(())));
}

#[tokio::test]
async fn an_application_that_ends_with_its_request_still_hears_the_target() {
    let world = World::new().await;
    let mut app = world.say("CONNECT host.internal:PORT HTTP/1.1\r\nHost: x\r\n\r\n").await;
    app.shutdown().await.unwrap();
    let mut host = world.accept().await;
    assert_eq!(end_of(&mut host).await, (String::new(), Ok(())));
    say(&mut host, "SSH-2.0").await;
    host.shutdown().await.unwrap();
    assert!(head(&mut app).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(end_of(&mut app).await, ("SSH-2.0".to_owned(), Ok(())));
}

#[tokio::test]
async fn a_refusal_says_who_and_why_and_keeps_the_connection() {
    let world = World::new().await;
    let mut app = world.dial().await;
    for (cause, status) in [("connectionRefused", 502), ("notAllowed", 403), ("timedOut", 504), ("noLiveAgent", 503)] {
        say(&mut app, &format!("CONNECT {cause}.example:443 HTTP/1.1\r\nHost: {cause}.example:443\r\n\r\n")).await;
        let (head, body) = answer(&mut app).await;
        let id = world.opened().last().unwrap().0.to_string();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(header(&head, "ginnel-cause"), Some(cause));
        assert_eq!(header(&head, "ginnel-hop"), Some("agent"));
        assert_eq!(header(&head, "ginnel-request-id"), Some(id.as_str()));
        let expected = format!("refused by: agent\ntarget: {}.example:443\nrequest: {id}\n", cause.to_lowercase());
        assert!(body.ends_with(&expected), "{body}");
    }
    say(&mut app, &format!("CONNECT [::1]:{} HTTP/1.1\r\nHost: x\r\n\r\n", world.port())).await;
    let _host = world.accept().await;
    assert!(head(&mut app).await.starts_with("HTTP/1.1 200 "));
    let opened = world.opened();
    assert_eq!(opened.len(), 5);
    assert!(opened.windows(2).all(|pair| pair[0].0 != pair[1].0), "each request has an id of its own");
}

#[tokio::test]
async fn a_reset_on_either_side_is_a_reset_on_the_other() {
    let world = World::new().await;
    let (mut app, host) = world.connected().await;
    reset(host);
    assert_eq!(end_of(&mut app).await, (String::new(), RESET));

    let (app, mut host) = world.connected().await;
    reset(app);
    assert_eq!(end_of(&mut host).await, (String::new(), RESET));
}

#[tokio::test]
async fn an_application_that_leaves_while_the_session_opens_gives_it_up() {
    let world = World::new().await;
    let app = world.say("CONNECT never.example:443 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    reset(app);
    // One that stays is not disturbed, and the proxy stops without waiting for either.
    let mut other = world.say("CONNECT never.example:443 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (mut app, mut host) = world.connected().await;
    world.stop.accepting.cancel();
    world.stop.connections.cancel();
    soon(world.serving).await.unwrap();
    for stream in [&mut other, &mut app, &mut host] {
        assert_eq!(end_of(stream).await, (String::new(), RESET));
    }
}

#[tokio::test]
async fn dropping_the_front_end_resets_what_it_carries() {
    let world = World::new().await;
    let (mut app, mut host) = world.connected().await;
    let mut idle = world.dial().await;
    world.serving.abort();
    for stream in [&mut app, &mut host, &mut idle] {
        assert_eq!(end_of(stream).await, (String::new(), RESET));
    }
}
