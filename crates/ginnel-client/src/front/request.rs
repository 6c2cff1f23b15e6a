//! One request of an application, and what is logged of it.

use std::net::SocketAddr;

use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::RequestId;
use ginnel_core::target::Target;
use ginnel_identity::SystemRandom;
use ginnel_net::splice::{Ended, Socket};
use tracing::{Span, info, info_span};

use crate::open::Opener;

/// One request, judged on its own. Every log line about it stands in its span, which names it.
#[derive(Clone)]
pub(super) struct Request {
    id: RequestId,
    from: SocketAddr,
    span: Span,
}

impl Request {
    /// A new request of the application at `from`, that came in by `front`.
    pub(super) fn new(front: &'static str, from: SocketAddr) -> Self {
        let id = RequestId::random(&mut SystemRandom);
        Self { id, from, span: info_span!("request", request = %id, front) }
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Opens a session.
    pub(super) async fn open<O: Opener>(&self, target: Target, opener: &O) -> Result<O::Tunnel, Refusal> {
        opener.open(self.id, target, self.from).await.map_err(|refusal| self.refused(refusal))
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

    /// Logs a refusal and gives it back.
    pub(super) fn refused(&self, refusal: Refusal) -> Refusal {
        self.span.in_scope(|| info!(cause = %refusal.cause, hop = %refusal.hop, "refused"));
        refusal
    }

    /// Logs how a carried connection ended.
    pub(super) fn ended(&self, ended: Ended) {
        let Ended { up, down, cause, hop } = ended;
        self.span.in_scope(|| info!(%cause, %hop, up, down, "ended"));
    }

    /// Logs how an exchange of one HTTP request and its answer ended.
    pub(super) fn exchanged(&self, hop: Hop, cause: Cause) {
        self.span.in_scope(|| info!(%cause, %hop, "ended"));
    }
}
