use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::tunnel::broken;

mod last_words;

/// Far more than the buffers of pumps and loopback sockets together hold.
const MUCH: usize = 24 * 1024 * 1024;

const LOST: Refusal = Refusal { hop: Hop::Agent, cause: Cause::AgentLost };

/// A session that is a TCP connection.
struct Fake {
    stream: BufReader<TcpStream>,
    aborted: Arc<Mutex<Option<Cause>>>,
    broken: oneshot::Receiver<Refusal>,
}

impl Tunnel for Fake {
    fn abort(&mut self, cause: Cause) {
        *self.aborted.lock().unwrap() = Some(cause);
        self.stream.get_ref().set_zero_linger().unwrap();
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        match Pin::new(&mut self.broken).poll(cx) {
            Poll::Ready(Ok(refusal)) => Poll::Ready(refusal),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

fn lost(_: io::Error) -> io::Error {
    broken(LOST)
}

impl AsyncRead for Fake {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer).map_err(lost)
    }
}

impl AsyncBufRead for Fake {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().stream).poll_fill_buf(cx).map_err(lost)
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        Pin::new(&mut self.stream).consume(count);
    }
}

impl AsyncWrite for Fake {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes).map_err(lost)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx).map_err(lost)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map_err(lost)
    }
}

/// An application, a session and what carries between them.
struct World {
    app: TcpStream,
    far: TcpStream,
    carrying: JoinHandle<Ended>,
    aborted: Arc<Mutex<Option<Cause>>>,
    break_off: Option<oneshot::Sender<Refusal>>,
}

impl World {
    async fn new() -> Self {
        Self::with(Bytes::new()).await
    }

    async fn with(first: Bytes) -> Self {
        let (app, near) = pair().await;
        let (stream, far) = pair().await;
        let aborted = Arc::new(Mutex::new(None));
        let (break_off, broken) = oneshot::channel();
        let tunnel = Fake { stream: BufReader::new(stream), aborted: Arc::clone(&aborted), broken };
        let carrying = tokio::spawn(splice(near, first, tunnel));
        Self { app, far, carrying, aborted, break_off: Some(break_off) }
    }

    async fn ended(&mut self) -> Ended {
        soon(&mut self.carrying).await.unwrap()
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("this happens soon")
}

/// Reads to the end, whichever it is.
async fn end_of(stream: &mut TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = soon(stream.read_to_end(&mut bytes)).await.map(|_| ()).map_err(|error| error.kind());
    (bytes, end)
}

/// Writes until nobody takes any more.
async fn fill(stream: &mut TcpStream) -> usize {
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    while let Ok(length) = timeout(Duration::from_millis(200), stream.write(&chunk)).await {
        written += length.unwrap();
        assert!(written < MUCH, "somebody takes all of it");
    }
    written
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

const RESET: Result<(), io::ErrorKind> = Err(io::ErrorKind::ConnectionReset);

#[tokio::test]
async fn one_direction_may_end_while_the_other_goes_on() {
    for app_first in [true, false] {
        let mut world = World::new().await;
        let (early, late) = if app_first { (&mut world.app, &mut world.far) } else { (&mut world.far, &mut world.app) };
        early.write_all(b"last words").await.unwrap();
        early.shutdown().await.unwrap();
        assert_eq!(end_of(late).await, (b"last words".to_vec(), Ok(())));
        for round in 0..3u8 {
            late.write_all(&[round; 1000]).await.unwrap();
            let mut heard = [0; 1000];
            soon(early.read_exact(&mut heard)).await.unwrap();
            assert_eq!(heard, [round; 1000]);
        }
        late.shutdown().await.unwrap();
        assert_eq!(end_of(early).await, (vec![], Ok(())));
        let (up, down) = if app_first { (10, 3000) } else { (3000, 10) };
        assert_eq!(world.ended().await, Ended { up, down, cause: Cause::Finished, hop: Hop::Application });
        assert_eq!(*world.aborted.lock().unwrap(), None);
    }
}

#[tokio::test]
async fn everything_arrives_before_the_end() {
    let mut world = World::with(Bytes::from_static(b"read before ")).await;
    let sent: Vec<u8> = (0..=250).cycle().take(MUCH).collect();
    let expected = [b"read before ".as_slice(), &sent].concat();
    let (mut app, far) = (world.app, &mut world.far);
    let writing = tokio::spawn(async move {
        app.write_all(&sent).await.unwrap();
        app.shutdown().await.unwrap();
        app
    });
    let (heard, end) = end_of(far).await;
    assert_eq!(end, Ok(()));
    assert!(heard == expected, "bytes differ");
    drop(writing.await.unwrap());
    far.shutdown().await.unwrap();
    assert_eq!(soon(world.carrying).await.unwrap().up, expected.len() as u64);
}

#[tokio::test]
async fn a_reset_by_the_application_becomes_a_reset_of_the_session() {
    for (case, stalled, half_closed) in [("idle", false, false), ("stalled", true, false), ("half closed", false, true)]
    {
        let mut world = World::new().await;
        if half_closed {
            world.app.shutdown().await.unwrap();
            assert_eq!(end_of(&mut world.far).await, (vec![], Ok(())));
        }
        if stalled {
            fill(&mut world.app).await;
        }
        reset(world.app);
        let ended = soon(world.carrying).await.unwrap();
        assert_eq!((ended.cause, ended.hop), (Cause::Reset, Hop::Application), "{case}");
        assert_eq!(*world.aborted.lock().unwrap(), Some(Cause::Reset), "{case}");
        if half_closed {
            // This direction had ended before; the other one tells.
            let end = soon(async {
                loop {
                    if let Err(error) = world.far.write_all(&[0; 1000]).await {
                        return error.kind();
                    }
                }
            });
            assert!(matches!(end.await, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{case}");
        } else {
            assert_eq!(end_of(&mut world.far).await.1, RESET, "{case}");
        }
    }
}

#[tokio::test]
async fn a_session_that_breaks_off_resets_the_application() {
    for (case, said, half_closed) in
        [("silent", 0, false), ("in mid answer", 3, false), ("after the request's end", 3, true)]
    {
        let mut world = World::new().await;
        if half_closed {
            world.app.shutdown().await.unwrap();
            assert_eq!(end_of(&mut world.far).await, (vec![], Ok(())));
        }
        world.far.write_all(&vec![1; said]).await.unwrap();
        let mut heard = vec![0; said];
        soon(world.app.read_exact(&mut heard)).await.unwrap();
        reset(world.far);
        assert_eq!(end_of(&mut world.app).await, (vec![], RESET), "{case}");
        let ended = soon(world.carrying).await.unwrap();
        assert_eq!((ended.cause, ended.hop, ended.down), (LOST.cause, LOST.hop, said as u64), "{case}");
    }
}

#[tokio::test]
async fn a_broken_session_ends_an_application_that_is_stalled() {
    let mut world = World::new().await;
    fill(&mut world.far).await;
    let refusal = Refusal::new(Hop::Server, Cause::CertificateExpired);
    world.break_off.take().unwrap().send(refusal).unwrap();
    let ended = world.ended().await;
    assert_eq!((ended.cause, ended.hop), (refusal.cause, refusal.hop));
    assert_eq!(end_of(&mut world.app).await.1, RESET);
}

#[tokio::test]
async fn abandoning_the_task_resets_both_sides() {
    let mut world = World::new().await;
    world.app.write_all(b"x").await.unwrap();
    soon(world.far.read_exact(&mut [0])).await.unwrap();
    world.carrying.abort();
    assert_eq!(end_of(&mut world.app).await, (vec![], RESET));
    assert_eq!(end_of(&mut world.far).await, (vec![], RESET));
    assert_eq!(*world.aborted.lock().unwrap(), Some(Cause::Aborted));
}

#[tokio::test]
async fn the_agents_end_calls_its_peer_the_target() {
    let (target, near) = pair().await;
    let (stream, _far) = pair().await;
    let tunnel = Fake { stream: BufReader::new(stream), aborted: Arc::default(), broken: oneshot::channel().1 };
    let carrying = tokio::spawn(async move { splice_target(near, tunnel, &Traffic::default(), pending()).await });
    reset(target);
    let ended = soon(carrying).await.unwrap();
    assert_eq!((ended.cause, ended.hop), (Cause::Reset, Hop::Target));
}

#[tokio::test]
async fn a_clean_end_names_the_same_hop_at_either_end() {
    let (mut target, near) = pair().await;
    let (stream, mut far) = pair().await;
    let tunnel = Fake { stream: BufReader::new(stream), aborted: Arc::default(), broken: oneshot::channel().1 };
    let carrying = tokio::spawn(async move { splice_target(near, tunnel, &Traffic::default(), pending()).await });
    target.shutdown().await.unwrap();
    far.shutdown().await.unwrap();
    let ended = soon(carrying).await.unwrap();
    assert_eq!((ended.cause, ended.hop), (Cause::Finished, Hop::Application));
}
