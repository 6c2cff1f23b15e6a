//! Carries one session: takes it up, dials while the inner handshake runs, and copies bytes once both are done.

use std::pin::pin;
use std::sync::Arc;

use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::INNER_DEADLINE;
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Identity;
use ginnel_identity::tls::inner_server;
use ginnel_net::carried::Carried;
use ginnel_net::connect::Connection;
use ginnel_net::inner::{Session, respond};
use ginnel_net::splice::splice_target;
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::hello::Dial;
use ginnel_wire::path;
use tokio::time::timeout;

use crate::app::Owner;
use crate::dial::{Connected, dial};

/// The connection on which a dial came, and what the agent needs to answer it.
pub(crate) struct Caller {
    pub(crate) owner: Arc<Owner>,
    pub(crate) connection: Connection,
    pub(crate) identity: Identity,
}

/// Answers one dial, from `Take` to the end of the session.
pub(crate) async fn run(caller: Caller, order: Dial, has_slot: bool) {
    let request = order.request;
    let (reader, writer) = caller.connection.call(path::CARRY);
    let carried = Carried::taking(SessionFrame::Take(order.session), reader, writer);
    let answers = carried.answers();
    if let Err(refusal) = acceptable(&caller.owner, &order, has_slot) {
        return refuse(&order, carried, refusal);
    }
    let handshake =
        async { if order.inner_tls { secure(&caller, carried, &order).await } else { Ok(Session::Clear(carried)) } };
    let connect = async {
        match dial(&order.target, &caller.owner.allow).await {
            Ok(connected) => {
                answers.say(SessionFrame::Opened(connected.address));
                Ok(connected)
            }
            Err(refusal) => {
                answers.say(SessionFrame::Refused(refusal));
                Err(refusal)
            }
        }
    };
    // Both at once: the first round trip of the handshake hides the dial. The target hears nothing before both are done.
    let (session, connected) = match tokio::try_join!(handshake, connect) {
        Ok(both) => both,
        Err(refusal) => return log_refusal(&order, refusal),
    };
    let Connected { stream, .. } = connected;
    tracing::debug!(%request, target = %order.target, "connected");
    let ended = splice_target(stream, session).await;
    tracing::info!(
        %request, client = %order.client, bytes_up = ended.up, bytes_down = ended.down, hop = %ended.hop,
        cause = %ended.cause, "ended"
    );
}

/// What can be judged before anything is dialled.
fn acceptable(owner: &Owner, order: &Dial, has_slot: bool) -> Result<(), Refusal> {
    if !has_slot {
        return Err(Refusal::new(Hop::Agent, Cause::Overloaded));
    }
    // Inner TLS that is off on one side only is somebody in the middle, or a mistake: never a reason to go on in the clear.
    if order.inner_tls == owner.inner_tls_disabled {
        return Err(Refusal::new(Hop::Agent, Cause::PeerNotVerified));
    }
    owner.allow.permits_target(&order.target).map_err(|cause| Refusal::new(Hop::Agent, cause))
}

async fn secure(caller: &Caller, carried: Carried, order: &Dial) -> Result<Session, Refusal> {
    let refusal = Refusal::new(Hop::Agent, Cause::PeerNotVerified);
    let tls = inner_server(&caller.owner.client_roots, &caller.identity).map_err(|error| {
        tracing::error!(error = %Chain(&error), "could not set inner TLS up");
        Refusal::new(Hop::Agent, Cause::Internal)
    })?;
    let answers = carried.answers();
    let mut responding = pin!(respond(carried, tls, order));
    match timeout(INNER_DEADLINE, &mut responding).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => {
            tracing::debug!(request = %order.request, error = %Chain(&error), "no inner session");
            Err(refusal)
        }
        Err(_) => {
            answers.abort(Cause::TimedOut);
            Err(Refusal::new(Hop::Client, Cause::TimedOut))
        }
    }
}

fn refuse(order: &Dial, carried: Carried, refusal: Refusal) {
    carried.answers().say(SessionFrame::Refused(refusal));
    log_refusal(order, refusal);
}

fn log_refusal(order: &Dial, refusal: Refusal) {
    tracing::info!(request = %order.request, client = %order.client, hop = %refusal.hop, cause = %refusal.cause, "refused");
}
