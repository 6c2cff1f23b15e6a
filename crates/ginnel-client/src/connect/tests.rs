use tokio::io::{duplex, simplex};
use tokio::net::TcpListener;

use super::*;
use crate::front::tests::{World, end_of, hear, reset, say, soon};

fn target(world: &World) -> Target {
    format!("host.internal:{}", world.port()).parse().unwrap()
}

#[tokio::test]
async fn carries_standard_input_and_output() {
    let world = World::new().await;
    let (mut person, stdin) = duplex(1024);
    let (mut heard, stdout) = simplex(1024);
    let (proxy, target) = (world.proxy.to_string(), target(&world));
    let running = tokio::spawn(async move { connect(&proxy, &target, stdin, stdout).await });
    let mut host = world.accept().await;
    say(&mut host, "SSH-2.0").await;
    let mut banner = [0; 7];
    soon(heard.read_exact(&mut banner)).await.unwrap();
    person.write_all(b"typed").await.unwrap();
    person.shutdown().await.unwrap();
    assert_eq!(end_of(&mut host).await, ("typed".to_owned(), Ok(())));
    say(&mut host, "after the end").await;
    host.shutdown().await.unwrap();
    let mut rest = String::new();
    soon(heard.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "after the end");
    soon(running).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_the_session_ends_the_call_although_somebody_may_type() {
    let world = World::new().await;
    let (_person, stdin) = duplex(1024);
    let proxy = world.proxy.to_string();
    let target = target(&world);
    let running = tokio::spawn(async move { connect(&proxy, &target, stdin, tokio::io::sink()).await });
    let mut host = world.accept().await;
    host.shutdown().await.unwrap();
    soon(running).await.unwrap().unwrap();
    assert_eq!(end_of(&mut host).await, (String::new(), Ok(())));
}

#[tokio::test]
async fn a_session_that_breaks_off_is_an_error() {
    let world = World::new().await;
    let (mut person, stdin) = duplex(1024);
    let proxy = world.proxy.to_string();
    let target = target(&world);
    let running = tokio::spawn(async move { connect(&proxy, &target, stdin, tokio::io::sink()).await });
    let mut host = world.accept().await;
    person.write_all(b"x").await.unwrap();
    assert_eq!(hear(&mut host, 1).await, "x");
    reset(host);
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::Broken(_)), "{error}");
}

#[tokio::test]
async fn a_refusal_says_who_and_why_and_which() {
    let world = World::new().await;
    let target = "notOnAllowList.example:22".parse().unwrap();
    let error =
        soon(connect(&world.proxy.to_string(), &target, tokio::io::empty(), tokio::io::sink())).await.unwrap_err();
    let id = world.opened()[0].0;
    let expected = format!("refused by the agent: notOnAllowList (request {id}). ");
    assert_eq!(error.to_string(), format!("{expected}{}", Cause::NotOnAllowList.sentence()));
}

#[tokio::test]
async fn other_proxies_and_none_are_told_apart() {
    let cases = [
        ("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "it answered with status 407"),
        ("SSH-2.0\r\n", "gave no answer"),
        ("", "gave no answer"),
    ];
    for (said, expected) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            let mut stream = listener.accept().await.unwrap().0;
            say(&mut stream, said).await;
            stream.shutdown().await.unwrap();
            end_of(&mut stream).await
        });
        let target = "host.internal:22".parse().unwrap();
        let error = soon(connect(&proxy, &target, tokio::io::empty(), tokio::io::sink())).await.unwrap_err();
        assert!(error.to_string().contains(expected) && error.to_string().contains(&proxy), "{error}");
        let _ = serving.await.unwrap();
        let error = soon(connect(&proxy, &target, tokio::io::empty(), tokio::io::sink())).await.unwrap_err();
        assert!(error.to_string().contains("is the client running?"), "{error}");
    }
}
