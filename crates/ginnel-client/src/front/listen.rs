//! Accepting applications.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use ginnel_core::limits::ACCEPT_REST;
use ginnel_net::splice::Socket;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tracing::{debug, error};

/// Applications on one listener at once. Each costs two descriptors at most and some 20 KiB; more wait in the kernel's queue.
const APPLICATIONS_MAX: usize = 10_000;

/// Accepts until `shutdown` and handles every connection in a task of its own; then resets the connections that are left.
pub(super) async fn serve<H, F>(listener: TcpListener, shutdown: impl Future, handle: H)
where
    H: Fn(Socket, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut tasks = JoinSet::new();
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            _ = &mut shutdown => break,
            Some(ended) = tasks.join_next() => report(ended),
            accepted = listener.accept(), if tasks.len() < APPLICATIONS_MAX => match accepted {
                Ok((stream, from)) => {
                    failing = false;
                    tasks.spawn(handle(Socket::new(stream), from));
                }
                Err(error) if is_about_one_connection(&error) => debug!(%error, "a connection was gone before it was accepted"),
                Err(error) => {
                    // The same error returns until a descriptor is free: it is said once, and waited out.
                    if !failing {
                        error!(%error, "cannot accept connections");
                    }
                    failing = true;
                    tokio::select! {
                        _ = &mut shutdown => break,
                        () = sleep(ACCEPT_REST) => {}
                    }
                }
            },
        }
    }
    drop(listener);
    tasks.shutdown().await;
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!("a connection's task panicked");
    }
}
