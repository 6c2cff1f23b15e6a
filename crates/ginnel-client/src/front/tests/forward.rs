use super::*;

async fn forward_to(target: &str) -> (SocketAddr, Direct) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let opener = Direct::default();
    tokio::spawn(serve_forward(listener, target.parse().unwrap(), opener.clone(), Stops::default()));
    (address, opener)
}

#[tokio::test]
async fn leads_to_its_target() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (forward, opener) = forward_to(&format!("host.internal:{}", listener.local_addr().unwrap().port())).await;
    let mut app = TcpStream::connect(forward).await.unwrap();
    let mut host = soon(listener.accept()).await.unwrap().0;
    // The target may speak first.
    say(&mut host, "SSH-2.0").await;
    assert_eq!(hear(&mut app, 7).await, "SSH-2.0");
    app.shutdown().await.unwrap();
    assert_eq!(end_of(&mut host).await, (String::new(), Ok(())));
    say(&mut host, "bye").await;
    host.shutdown().await.unwrap();
    assert_eq!(end_of(&mut app).await, ("bye".to_owned(), Ok(())));
    assert_eq!(opener.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_a_reset() {
    let (forward, _) = forward_to("notOnAllowList.example:443").await;
    let mut app = TcpStream::connect(forward).await.unwrap();
    assert_eq!(end_of(&mut app).await, (String::new(), RESET));
}
