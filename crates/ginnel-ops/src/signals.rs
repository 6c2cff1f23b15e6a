//! The signals that tell a process to stop or to read its configuration again.

use std::future::{pending, poll_fn};
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// Resolves when the process is told to stop, by SIGTERM or SIGINT.
///
/// From the first poll on, neither signal ends the process on its own: whoever awaits this ends it in order. Must run on a tokio
/// runtime with I/O enabled. A signal that cannot be listened to keeps its usual effect, which ends the process at once.
pub async fn terminated() {
    Terminations::listen().next().await;
}

/// The signals to stop, one after the other.
#[derive(Debug)]
pub struct Terminations([(&'static str, Option<Signal>); 2]);

impl Terminations {
    /// Listens from now on, as [`terminated`] does.
    pub fn listen() -> Self {
        Self(
            [("SIGTERM", SignalKind::terminate()), ("SIGINT", SignalKind::interrupt())]
                .map(|(name, kind)| (name, listen(name, kind))),
        )
    }

    /// Resolves at the next of them. Cancel safe.
    pub async fn next(&mut self) {
        let Self(signals) = self;
        if signals.iter().all(|(_, signal)| signal.is_none()) {
            return pending().await;
        }
        let name = poll_fn(|cx| {
            let heard = |(name, signal): &mut (&'static str, Option<Signal>)| {
                signal.as_mut()?.poll_recv(cx).is_ready().then_some(*name)
            };
            signals.iter_mut().find_map(heard).map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        info!(signal = name, "told to stop");
    }
}

/// SIGHUP, which asks for the configuration to be read again. From [`Self::listen`] on it does not end the process.
#[derive(Debug)]
pub struct Hangups(Option<Signal>);

impl Hangups {
    /// Listens from now on. Must run on a tokio runtime with I/O enabled.
    pub fn listen() -> Self {
        Self(listen("SIGHUP", SignalKind::hangup()))
    }

    /// Resolves at the next signal. Cancel safe.
    pub async fn next(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await.is_some(),
            None => false,
        };
        if !heard {
            pending().await
        }
    }
}

fn listen(name: &str, kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| warn!(signal = name, %error, "cannot listen to a signal")).ok()
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::process::Command;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn hears_either_signal() {
        for name in ["-TERM", "-INT"] {
            let mut told = pin!(terminated());
            let listening = told.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(listening.is_pending(), "{name}");
            let status =
                Command::new("kill").args([name, &std::process::id().to_string()]).status().expect("kill runs");
            assert!(status.success());
            told.await;
        }
    }
}
