use super::*;

const GREETING: &[u8] = &[5, 1, 0];

fn named(name: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, u8::try_from(name.len()).unwrap()], name.as_bytes(), &port.to_be_bytes()].concat()
}

async fn bytes(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    soon(stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test]
async fn connects_to_names_and_addresses() {
    let world = World::new().await;
    let port = world.port().to_be_bytes();
    let v4 = [&[5, 1, 0, 1, 10, 0, 0, 7][..], &port].concat();
    let v6 = [&[5, 1, 0, 4, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &port].concat();
    let cases = [
        (v4, "10.0.0.7"),
        (v6, "[fd00::1]"),
        (named("Host.Internal", world.port()), "host.internal"),
        (named("10.0.0.7", world.port()), "10.0.0.7"),
    ];
    for (request, host) in cases {
        for bytewise in [false, true] {
            let mut app = world.dial().await;
            app.set_nodelay(true).unwrap();
            let said = [GREETING, &request, b"early"].concat();
            for chunk in said.chunks(if bytewise { 1 } else { said.len() }) {
                app.write_all(chunk).await.unwrap();
            }
            let mut target = world.accept().await;
            assert_eq!(bytes(&mut app, 12).await, [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            assert_eq!(hear(&mut target, 5).await, "early");
            say(&mut target, "late").await;
            target.shutdown().await.unwrap();
            assert_eq!(end_of(&mut app).await, ("late".to_owned(), Ok(())));
            app.shutdown().await.unwrap();
            assert_eq!(end_of(&mut target).await, (String::new(), Ok(())));
            assert_eq!(world.opened().last().unwrap().1.to_string(), format!("{host}:{}", world.port()));
        }
    }
}

#[tokio::test]
async fn refusals_have_the_reply_of_their_cause() {
    let world = World::new().await;
    let cases = [
        (named("notAllowed.example", 443), 2),
        (named("noLiveAgent.example", 443), 3),
        (named("nameNotResolved.example", 443), 4),
        (named("connectionRefused.example", 443), 5),
        (named("timedOut.example", 443), 6),
        (named("internal.example", 443), 1),
        (named("127.1", 443), 1),
        (named("", 443), 1),
        (named("host.internal", 0), 1),
        (vec![5, 2, 0, 1, 10, 0, 0, 7, 0, 22], 7),
        (vec![5, 3, 0, 1, 10, 0, 0, 7, 0, 22], 7),
        (vec![5, 1, 0, 9], 8),
    ];
    for (request, reply) in cases {
        let mut app = world.dial().await;
        app.write_all(&[GREETING, &request].concat()).await.unwrap();
        let mut heard = Vec::new();
        soon(app.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, [5, 0, 5, reply, 0, 1, 0, 0, 0, 0, 0, 0], "{request:?}");
    }
    assert_eq!(world.opened().len(), 6);
}

#[tokio::test]
async fn bad_greetings_are_refused_and_closed() {
    let world = World::new().await;
    let cases: [(&[u8], &[u8]); 3] =
        [(&[5, 1, 2], &[5, 0xff]), (&[5, 0], &[5, 0xff]), (&[5, 1, 0, 4, 1, 0, 22], &[5, 0])];
    for (said, expected) in cases {
        let mut app = world.dial().await;
        app.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        soon(app.read_to_end(&mut heard)).await.unwrap();
        assert_eq!(heard, expected, "{said:?}");
    }
    assert_eq!(world.opened(), vec![]);
}

#[tokio::test]
async fn a_reset_by_the_target_is_a_reset() {
    let world = World::new().await;
    let mut app = world.dial().await;
    app.write_all(&[GREETING, &named("host.internal", world.port())].concat()).await.unwrap();
    let host = world.accept().await;
    bytes(&mut app, 12).await;
    reset(host);
    assert_eq!(end_of(&mut app).await, (String::new(), RESET));
}
