//! Accepting applications.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use ginnel_core::limits::{ACCEPT_REST, DESCRIPTORS_RESERVED};
use ginnel_net::accept::Stops;
use ginnel_net::splice::Socket;
use ginnel_ops::host;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tracing::{debug, error};

/// Applications on one listener at once, if the process may have as many descriptors. Each costs two at most and some 20 KiB; more wait in the
/// kernel's queue.
const APPLICATIONS_MAX: usize = 10_000;

/// The same for a process that may have so many descriptors.
fn applications_max(descriptors: u64) -> usize {
    let rest = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2).unwrap_or(usize::MAX);
    APPLICATIONS_MAX.min(rest).max(1)
}

/// Accepts until the first of the `stops` and handles every connection in a task of its own; resets what is left at the second.
pub(super) async fn serve<H, F>(listener: TcpListener, stops: Stops, handle: H)
where
    H: Fn(Socket, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut failing = false;
    let most = applications_max(host::descriptors());
    loop {
        tokio::select! {
            biased;
            () = stops.accepting.cancelled() => break,
            Some(ended) = tasks.join_next() => report(ended),
            accepted = listener.accept(), if tasks.len() < most => match accepted {
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
                        () = stops.accepting.cancelled() => break,
                        () = sleep(ACCEPT_REST) => {}
                    }
                }
            },
        }
    }
    // Closed at once: whoever comes now is refused by the system instead of waiting for nothing.
    drop(listener);
    loop {
        tokio::select! {
            biased;
            () = stops.connections.cancelled() => break,
            ended = tasks.join_next() => match ended {
                Some(ended) => report(ended),
                None => return,
            },
        }
    }
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
