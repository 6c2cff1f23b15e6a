//! What a side said before a clean end arrives, whatever becomes of that side afterwards. Here the session is a real one.

use std::net::Shutdown;

use ginnel_core::limits::CREDIT_INITIAL;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, Interest};
use tokio::time::sleep;

use super::*;
use crate::body::tests::pair as http2;
use crate::carried::Carried;
use crate::carried::tests::{noise, rest, session};

/// What the session does not take while nobody reads it: less than a receive buffer has room for.
const BEYOND_CREDIT: usize = 40_000;

/// More than the kernel of an application that does not read has room for at first, less than the session's first credit.
const MUCH_LESS: usize = 240_000;

/// An application, the far end of its session, and what keeps the session's connection up.
struct Carrying {
    app: TcpStream,
    near: Socket,
    far: Carried,
    splicing: JoinHandle<Ended>,
    _connection: (http2::Caller, http2::Callee, http2::Cable),
}

impl Carrying {
    async fn new() -> Self {
        let (caller, mut callee, cable) = http2::pair().await;
        let (tunnel, far) = session(&caller, &mut callee).await;
        let (app, near) = pair().await;
        let near = Socket::new(near);
        let socket = near.clone();
        let splicing = tokio::spawn(async move {
            splice_as(Hop::Application, socket, Bytes::new(), tunnel, &Traffic::default(), pending()).await
        });
        Self { app, near, far, splicing, _connection: (caller, callee, cable) }
    }

    /// Waits until everything that the application said, and its end of file, are in the kernel of this end or were read.
    async fn arrived(&self) {
        soon(async {
            while !self.near.stream().ready(Interest::READABLE).await.unwrap().is_read_closed() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_application_that_ended_and_reset_while_it_was_to_be_told_of_an_end_is_heard_to_its_own() {
    let (caller, mut callee, _cable) = http2::pair().await;
    let (mut tunnel, mut far) = session(&caller, &mut callee).await;
    soon(far.shutdown()).await.unwrap();
    assert_eq!(soon(tunnel.fill_buf()).await.unwrap(), b"");
    let (app, near) = pair().await;
    let near = Socket::new(near);
    let nothing_yet = near.stream().try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing_yet.kind(), io::ErrorKind::WouldBlock);
    // From here to the first poll nobody asks the kernel: the first that is heard of the reset is that the end cannot be passed on.
    SockRef::from(&app).shutdown(Shutdown::Write).unwrap();
    reset(app);
    let traffic = Traffic::default();
    let splicing = splice_as(Hop::Application, near, Bytes::new(), tunnel, &traffic, pending());
    let (ended, heard) = soon(async { tokio::join!(splicing, rest(&mut far)) }).await;
    assert_eq!(heard, Ok(vec![]), "the reset took the end back");
    assert_eq!((ended.cause, ended.hop), (Cause::Reset, Hop::Application));
}

/// Waits for a reset of a connection that nobody reads or writes.
async fn is_reset(app: &TcpStream) {
    soon(app.ready(Interest::ERROR)).await.unwrap();
}

#[tokio::test]
async fn what_an_application_ended_before_its_reset_arrives_from_behind_a_stalled_session() {
    let mut carrying = Carrying::new().await;
    let said = noise(usize::try_from(CREDIT_INITIAL).unwrap() + BEYOND_CREDIT);
    carrying.app.write_all(&said).await.unwrap();
    carrying.app.shutdown().await.unwrap();
    carrying.arrived().await;
    let Carrying { app, near, mut far, splicing, _connection } = carrying;
    // Whoever waits for the failure already hears of it together with the task that splices, which then runs first.
    soon(async { tokio::join!(near.failed(), async { reset(app) }) }).await;
    tokio::task::yield_now().await;
    assert!(rest(&mut far).await == Ok(said), "the reset took the last words back");
    assert_eq!(soon(poll_fn(|cx| far.poll_broken(cx))).await.cause, Cause::Reset);
    assert_eq!(soon(splicing).await.unwrap().hop, Hop::Application);
}

#[tokio::test]
async fn an_application_that_writes_on_still_hears_a_far_end_that_ended_and_then_reset() {
    let Carrying { mut app, near, mut far, splicing, _connection } = Carrying::new().await;
    drop(near);
    let said = noise(MUCH_LESS);
    far.write_all(&said).await.unwrap();
    far.shutdown().await.unwrap();
    far.abort(Cause::Reset);
    let (mut read, mut write) = app.split();
    let mut heard = Vec::new();
    let listening = async {
        let mut piece = [0; 10_000];
        loop {
            match soon(read.read(&mut piece)).await.expect("no reset before the end") {
                0 => return heard,
                length => heard.extend_from_slice(&piece[..length]),
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    let talking = async {
        while write.write_all(b"and another thing").await.is_ok() {
            tokio::task::yield_now().await;
        }
        pending::<()>().await;
    };
    let heard = tokio::select! {
        heard = listening => heard,
        () = talking => unreachable!("it goes on for ever"),
    };
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    is_reset(&app).await;
    assert_eq!(soon(splicing).await.unwrap().cause, Cause::Reset);
}

#[tokio::test]
async fn an_application_that_keeps_quiet_hears_of_a_reset_after_the_far_ends_end() {
    let Carrying { mut app, near, mut far, splicing, _connection } = Carrying::new().await;
    drop(near);
    far.write_all(b"last words").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(end_of(&mut app).await, (b"last words".to_vec(), Ok(())));
    far.abort(Cause::Reset);
    is_reset(&app).await;
    assert_eq!(soon(splicing).await.unwrap().cause, Cause::Reset);
}
