//! Carries one session: takes it up, dials while the inner handshake runs, and copies bytes once both are done.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::INNER_DEADLINE;
use ginnel_core::report::Chain;
use ginnel_identity::certificate::Leaf;
use ginnel_identity::tls::Responder;
use ginnel_net::carried::Carried;
use ginnel_net::connect::Connection;
use ginnel_net::inner::{InnerError, Session, respond};
use ginnel_net::splice::splice_target;
use ginnel_ops::ledger::Tracked;
use ginnel_wire::frame::SessionFrame;
use ginnel_wire::hello::Dial;
use ginnel_wire::path;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::Instrument;

use crate::app::Owner;
use crate::dial::{Connected, dial};

/// The connection on which a dial came, and what the agent needs to answer it.
pub(crate) struct Caller {
    pub(crate) owner: Arc<Owner>,
    pub(crate) connection: Connection,
    pub(crate) responder: Arc<Responder>,
}

/// Answers one dial, from `Take` to the end of the session.
///
/// Whoever stops the session through the ledger, before or after it was opened, resets it on both sides.
pub(crate) fn run(caller: Caller, order: Dial, has_slot: bool, tracked: Tracked) -> impl Future<Output = ()> + Send {
    let span = tracing::info_span!("session", request = %order.request, client = %order.client.name);
    // Boxed, so that what opening needs is given back while the session lasts: it is most of a session's memory.
    let opening = Box::pin(begin(caller, order, has_slot, tracked));
    let carrying = async move {
        let (tracked, opened) = opening.await;
        match opened {
            Ok((stream, session)) => {
                let ended = splice_target(stream, session, tracked.traffic(), tracked.stopped()).await;
                let (up, down) = (ended.down, ended.up);
                tracing::info!(bytes_up = up, bytes_down = down, hop = %ended.hop, cause = %ended.cause, "ended");
                tracked.ended(ended.hop, ended.cause);
            }
            Err(refusal) => {
                tracing::info!(hop = %refusal.hop, cause = %refusal.cause, "refused");
                tracked.refused(refusal);
            }
        }
    };
    carrying.instrument(span)
}

/// Takes the session up and opens it, unless it is told to stop.
async fn begin(
    caller: Caller,
    mut order: Dial,
    has_slot: bool,
    tracked: Tracked,
) -> (Tracked, Result<(TcpStream, Session), Refusal>) {
    let (reader, writer) = caller.connection.call(path::CARRY);
    let carried = Carried::taking(
        SessionFrame::Take(order.session),
        reader,
        writer,
        caller.connection.budget(),
        // Kept any longer they would keep the buffer that they came in.
        std::mem::take(&mut order.early),
    );
    let answers = carried.answers();
    // Said before the session is dropped, which says no more than that somebody gave it up.
    let stopped = async {
        let refusal = tracked.stopped().await;
        answers.refuse(refusal);
        refusal
    };
    let opened = tokio::select! {
        biased;
        refusal = stopped => Err(refusal),
        opened = open(&caller, &order, carried, has_slot, &tracked) => opened,
    };
    (tracked, opened)
}

/// Judges the dial, connects, and verifies the client.
async fn open(
    caller: &Caller,
    order: &Dial,
    carried: Carried,
    has_slot: bool,
    tracked: &Tracked,
) -> Result<(TcpStream, Session), Refusal> {
    let answers = carried.answers();
    if let Err(refusal) = acceptable(&caller.owner, order, has_slot) {
        answers.say(SessionFrame::Refused(refusal));
        return Err(refusal);
    }
    let handshake = async {
        if order.inner_tls { secure(caller, carried, order, tracked).await } else { Ok(Session::Clear(carried)) }
    };
    let connect = async {
        match connect(&caller.owner, order, tracked).await {
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
    // A client that leaves meanwhile ends both.
    let both = async { tokio::try_join!(handshake, connect) };
    let (session, Connected { stream, address }) = tokio::select! {
        biased;
        both = both => both?,
        refusal = answers.broken() => return Err(refusal),
    };
    tracing::debug!(target = %order.target, %address, "connected");
    tracked.carried(Some(address));
    Ok((stream, session))
}

/// Connects to the target. The list in force when the connection stands has the last word: the address then is in the ledger, where a list
/// that comes later finds it.
async fn connect(owner: &Owner, order: &Dial, tracked: &Tracked) -> Result<Connected, Refusal> {
    let allow = owner.allow();
    let connected = dial(&order.target, &allow, &owner.own_listeners).await?;
    let lists = owner.judging();
    lists
        .allow
        .dialable(&order.target, &[connected.address], &owner.own_listeners)
        .map_err(|cause| Refusal::new(Hop::Agent, cause))?;
    tracked.dialled(connected.address);
    Ok(connected)
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
    let lists = owner.judging();
    // By the name that the server gives; the certificate is judged when it is there.
    if lists.denials.denies_principal(&order.client) {
        return Err(Refusal::new(Hop::Agent, Cause::NotOnAllowList));
    }
    lists.allow.permits_target(&order.target).map_err(|cause| Refusal::new(Hop::Agent, cause))
}

async fn secure(caller: &Caller, carried: Carried, order: &Dial, tracked: &Tracked) -> Result<Session, Refusal> {
    let refusal = Refusal::new(Hop::Agent, Cause::PeerNotVerified);
    let answers = carried.answers();
    let responding = caller.responder.respond(&order.client, Instant::now());
    let permits = |leaf: &Leaf| caller.owner.permits_client(leaf, tracked);
    let mut responding = pin!(respond(carried, responding, order, permits));
    match timeout(INNER_DEADLINE, &mut responding).await {
        Ok(Ok(session)) => {
            caller.owner.handshakes.count(&session);
            Ok(session)
        }
        Ok(Err(InnerError::NotPermitted(cause))) => {
            // What the handshake left is of no use to anybody.
            caller.responder.forget_client(&order.client);
            Err(Refusal::new(Hop::Agent, cause))
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %Chain(&error), "no inner session");
            Err(error.lost().unwrap_or(refusal))
        }
        Err(_) => {
            answers.abort(Cause::TimedOut);
            Err(Refusal::new(Hop::Client, Cause::TimedOut))
        }
    }
}
