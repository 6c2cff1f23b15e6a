//! One request of an application, and what is logged and kept of it.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::RequestId;
use ginnel_core::target::Target;
use ginnel_core::traffic::Traffic;
use ginnel_identity::SystemRandom;
use ginnel_net::splice::{Ended, Socket, splice_as};
use ginnel_net::tunnel::Tunnel;
use ginnel_ops::ledger::{Begun, Ledger, Tracked};
use tracing::{Span, info, info_span};

use crate::open::Opener;

/// What the book has as the target of a request that names none.
const NO_TARGET: &str = "-";

/// One request, judged on its own. Every log line about it stands in its span, which names it.
#[derive(Clone)]
pub(super) struct Request {
    id: RequestId,
    front: &'static str,
    from: SocketAddr,
    span: Span,
    ledger: Ledger,
    /// Its entry in the book, from the moment at which its target is known.
    tracked: Arc<OnceLock<Tracked>>,
}

impl Request {
    /// A new request of the application at `from`, that came in by `front`.
    pub(super) fn new(front: &'static str, from: SocketAddr, ledger: &Ledger) -> Self {
        let id = RequestId::random(&mut SystemRandom);
        let span = info_span!("request", request = %id, front);
        Self { id, front, from, span, ledger: ledger.clone(), tracked: Arc::default() }
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    fn tracked(&self, target: impl FnOnce() -> String) -> &Tracked {
        self.tracked.get_or_init(|| {
            self.ledger.begin(Begun {
                request: self.id,
                client: None,
                client_instance: None,
                from: Some(self.from),
                target: target(),
                front: Some(self.front),
            })
        })
    }

    /// Opens a session.
    pub(super) async fn open<O: Opener>(&self, target: Target, opener: &O) -> Result<O::Tunnel, Refusal> {
        let tracked = self.tracked(|| target.to_string());
        let opened = tokio::select! {
            biased;
            refusal = tracked.stopped() => Err(refusal),
            opened = Box::pin(opener.open(self.id, target, self.from, tracked)) => opened,
        };
        match opened {
            Ok(tunnel) => {
                tracked.carried(None);
                Ok(tunnel)
            }
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Opens a session, unless the application breaks its connection first.
    pub(super) async fn open_while<O: Opener>(
        &self,
        socket: &Socket,
        target: Target,
        opener: &O,
    ) -> Result<O::Tunnel, Refusal> {
        tokio::select! {
            biased;
            opened = self.open(target, opener) => opened,
            () = socket.failed() => Err(self.refused(Refusal::new(Hop::Application, Cause::Reset))),
        }
    }

    /// Carries between the application's connection and the session, and puts down how it ended.
    pub(super) async fn carry<T: Tunnel>(&self, socket: Socket, first: Bytes, tunnel: T) {
        let tracked = self.tracked(|| NO_TARGET.to_owned());
        let ended = splice_as(Hop::Application, socket, first, tunnel, tracked.traffic(), tracked.stopped()).await;
        self.ended(ended);
    }

    /// Resolves when somebody tells the request to end; never does before its target is known.
    pub(super) fn stopped(&self) -> impl Future<Output = Refusal> + Send + 'static {
        let stopped = self.tracked.get().map(Tracked::stopped);
        async move {
            match stopped {
                Some(stopped) => stopped.await,
                None => pending().await,
            }
        }
    }

    /// The reason for which somebody told the request to end, if so.
    pub(super) fn told(&self) -> Option<Refusal> {
        self.tracked.get().and_then(Tracked::told)
    }

    /// Counts the bytes of its session.
    pub(super) fn traffic(&self) -> Traffic {
        self.tracked.get().map(|tracked| tracked.traffic().clone()).unwrap_or_default()
    }

    /// Puts a refusal down and gives it back.
    pub(super) fn refused(&self, refusal: Refusal) -> Refusal {
        self.span.in_scope(|| info!(cause = %refusal.cause, hop = %refusal.hop, "refused"));
        self.tracked(|| NO_TARGET.to_owned()).refused(refusal);
        refusal
    }

    /// Puts down how a carried connection ended.
    pub(super) fn ended(&self, ended: Ended) {
        let Ended { up, down, cause, hop } = ended;
        self.span.in_scope(|| info!(%cause, %hop, up, down, "ended"));
        self.tracked(|| NO_TARGET.to_owned()).ended(hop, cause);
    }

    /// Puts down how an exchange of one HTTP request and its answer ended.
    pub(super) fn exchanged(&self, hop: Hop, cause: Cause) {
        let (up, down) = self.traffic().bytes();
        self.ended(Ended { up, down, cause, hop });
    }
}
