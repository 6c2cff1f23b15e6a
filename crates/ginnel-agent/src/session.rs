//! Carries one session: takes it up, dials while the inner handshake runs or after it, and copies bytes once both are done.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ginnel_core::allow::AllowList;
use ginnel_core::audit;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::denial::Shown;
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

use crate::account::Account;
use crate::app::Owner;
use crate::dial::{Connected, dial};

/// The connection on which a dial came, and what the agent needs to answer it.
pub(crate) struct Caller {
    pub(crate) owner: Arc<Owner>,
    pub(crate) connection: Connection,
    pub(crate) responder: Arc<Responder>,
    /// Who this agent is, for its records.
    pub(crate) agent: Arc<audit::Agent>,
}

/// A session on its way, and where it is put down.
struct Begun {
    tracked: Tracked,
    account: Option<Box<Account>>,
}

/// The session's end towards the client, and who that is; nobody has proved anything where inner TLS is switched off.
struct Secured {
    session: Session,
    client: Option<Arc<Shown>>,
}

/// Answers one dial, from `Take` to the end of the session.
///
/// Whoever stops the session through the ledger, before or after it was opened, resets it on both sides.
pub(crate) fn run(caller: Caller, order: Dial, has_slot: bool, tracked: Tracked) -> impl Future<Output = ()> + Send {
    let span = tracing::info_span!("session", request = %order.request, client = %order.client.name);
    // Boxed, so that what opening needs is given back while the session lasts: it is most of a session's memory.
    let opening = Box::pin(begin(caller, order, has_slot, tracked));
    let carrying = async move {
        let (Begun { tracked, mut account }, opened) = opening.await;
        match opened {
            Ok((stream, session)) => {
                let ended = splice_target(stream, session, tracked.traffic(), tracked.stopped()).await;
                let (up, down) = (ended.down, ended.up);
                tracing::info!(bytes_up = up, bytes_down = down, hop = %ended.hop, cause = %ended.cause, "ended");
                if let Some(account) = &mut account {
                    account.ended(ended.hop, ended.cause);
                }
                tracked.ended(ended.hop, ended.cause);
            }
            Err(refusal) => {
                tracing::info!(hop = %refusal.hop, cause = %refusal.cause, "refused");
                if let Some(account) = &mut account {
                    account.refused(refusal);
                }
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
) -> (Begun, Result<(TcpStream, Session), Refusal>) {
    let account = caller.owner.audit.as_ref().map(|audit| {
        let version = caller.owner.lists().version;
        Account::new(audit, &caller.agent, &order, tracked.traffic(), &version)
    });
    let mut begun = Begun { tracked, account };
    let (reader, writer) = caller.connection.call(path::CARRY);
    let carried = Carried::taking(
        SessionFrame::Take(order.session),
        reader,
        writer,
        caller.connection.budget(),
        // Kept any longer they would keep the buffer that they came in.
        std::mem::take(&mut order.early),
    );
    if let Some(account) = &mut begun.account {
        account.counts(carried.answers());
    }
    let answers = carried.answers();
    let told = begun.tracked.stopped();
    // Said before the session is dropped, which says no more than that somebody gave it up.
    let stopped = async {
        let refusal = told.await;
        answers.refuse(refusal);
        refusal
    };
    let opened = tokio::select! {
        biased;
        refusal = stopped => Err(refusal),
        opened = open(&caller, &order, carried, has_slot, &mut begun) => opened,
    };
    (begun, opened)
}

/// Judges the dial, connects, and verifies the client.
async fn open(
    caller: &Caller,
    order: &Dial,
    carried: Carried,
    has_slot: bool,
    begun: &mut Begun,
) -> Result<(TcpStream, Session), Refusal> {
    let answers = carried.answers();
    if let Err(refusal) = acceptable(&caller.owner, order, has_slot) {
        answers.say(SessionFrame::Refused(refusal));
        return Err(refusal);
    }
    // Of one moment: a list that comes later must not be dialled by before its clients are known.
    let lists = caller.owner.lists();
    // A client that leaves meanwhile ends everything.
    let opening = async {
        if lists.waits || caller.owner.audit.is_some() {
            one_after_the_other(caller, order, carried, begun).await
        } else {
            both_at_once(caller, order, carried, &lists.allow, begun).await
        }
    };
    let (session, Connected { stream, address }) = tokio::select! {
        biased;
        opened = opening => opened?,
        refusal = answers.broken() => return Err(refusal),
    };
    tracing::debug!(target = %order.target, %address, "connected");
    begun.tracked.carried(Some(address));
    Ok((stream, session))
}

/// Connects while the handshake runs: its first round trip hides the dial. The target hears nothing before both are done.
async fn both_at_once(
    caller: &Caller,
    order: &Dial,
    carried: Carried,
    allow: &AllowList,
    begun: &mut Begun,
) -> Result<(Session, Connected), Refusal> {
    let answers = carried.answers();
    let tracked = &begun.tracked;
    let handshake = async {
        if order.inner_tls {
            secure(caller, carried, order, tracked).await
        } else {
            Ok(Secured { session: Session::Clear(carried), client: None })
        }
    };
    let connect = async {
        match connect(&caller.owner, order, None, allow, tracked).await {
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
    let (Secured { session, client }, connected) = tokio::try_join!(handshake, connect)?;
    // A list that came into force meanwhile may say for which clients it is.
    let verdict = settle(&caller.owner, order, client.as_deref(), connected.address, begun);
    verdict.inspect_err(|refusal| answers.abort(refusal.cause))?;
    Ok((session, connected))
}

/// Connects for a client that has proved who it is, once that is on record where there is a log. What comes to nothing is a refusal: the
/// application has heard of no success.
async fn one_after_the_other(
    caller: &Caller,
    order: &Dial,
    carried: Carried,
    begun: &mut Begun,
) -> Result<(Session, Connected), Refusal> {
    let answers = carried.answers();
    let Secured { session, client } = secure(caller, carried, order, &begun.tracked).await?;
    let dialled = async {
        let client = client.as_deref().ok_or(Refusal::new(Hop::Agent, Cause::PeerNotVerified))?;
        let connected = dial_for(&caller.owner, order, client, begun).await?;
        settle(&caller.owner, order, Some(client), connected.address, begun)?;
        Ok(connected)
    };
    match dialled.await {
        Ok(connected) => {
            answers.say(SessionFrame::Opened(connected.address));
            Ok((session, connected))
        }
        Err(refusal) => {
            answers.say(SessionFrame::Refused(refusal));
            Err(refusal)
        }
    }
}

/// Connects for this client, and has it on disk that it may and that it is connected.
async fn dial_for(owner: &Owner, order: &Dial, client: &Shown, begun: &mut Begun) -> Result<Connected, Refusal> {
    let Begun { tracked, account } = begun;
    if let Some(account) = account.as_mut() {
        account.proved(client);
    }
    let lists = owner.lists();
    let refuse = |cause| Refusal::new(Hop::Agent, cause);
    lists.allow.permits_target(Some(&client.principal), &order.target).map_err(refuse)?;
    if let Some(account) = account.as_mut() {
        account.allowed(&lists)?.wait().await?;
    }
    let connected = connect(owner, order, Some(client), &lists.allow, tracked).await?;
    if let Some(account) = account {
        account.connected(connected.address)?.wait().await?;
    }
    Ok(connected)
}

/// Connects to the target by this list. The list in force when the connection stands has the last word: the address then is in the ledger,
/// where a list that comes later finds it.
async fn connect(
    owner: &Owner,
    order: &Dial,
    client: Option<&Shown>,
    allow: &AllowList,
    tracked: &Tracked,
) -> Result<Connected, Refusal> {
    let client = client.map(|client| &client.principal);
    let connected = dial(client, &order.target, allow, &owner.own_listeners).await?;
    let lists = owner.judging();
    lists
        .allow
        .dialable(client, &order.target, &[connected.address], &owner.own_listeners)
        .map_err(|cause| Refusal::new(Hop::Agent, cause))?;
    tracked.dialled(connected.address);
    Ok(connected)
}

/// The last word before bytes flow, by the list in force now, and what the list under observation would have said.
fn settle(
    owner: &Owner,
    order: &Dial,
    client: Option<&Shown>,
    address: SocketAddr,
    begun: &Begun,
) -> Result<(), Refusal> {
    let refuse = |cause| Refusal::new(Hop::Agent, cause);
    let lists = owner.lists();
    let client = client.map(|client| &client.principal);
    if client.is_none() && lists.allow.names_clients() {
        // No configuration leads here: it would take a list for clients where nobody proves who it is.
        return Err(refuse(Cause::PeerNotVerified));
    }
    let judge = |list: &AllowList| list.dialable(client, &order.target, &[address], &owner.own_listeners).map(drop);
    judge(&lists.allow).map_err(refuse)?;
    if let Some(observed) = &lists.observed
        && let Err(cause) = judge(&observed.list)
    {
        tracing::info!(%cause, "the list under observation would refuse this session");
        owner.observations.count(cause);
        if let Some(account) = &begun.account {
            account.would_refuse(address, cause, &observed.version);
        }
    }
    Ok(())
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
    lists.allow.permits_target(None, &order.target).map_err(|cause| Refusal::new(Hop::Agent, cause))
}

/// Verifies the client, and that it wants what the server says.
async fn secure(caller: &Caller, carried: Carried, order: &Dial, tracked: &Tracked) -> Result<Secured, Refusal> {
    let refusal = Refusal::new(Hop::Agent, Cause::PeerNotVerified);
    let answers = carried.answers();
    let responding = caller.responder.respond(&order.client, Instant::now());
    let client = OnceLock::new();
    let permits = |leaf: &Leaf| {
        let shown = caller.owner.permits_client(leaf, tracked)?;
        client.get_or_init(|| shown);
        Ok(())
    };
    let mut responding = pin!(respond(carried, responding, order, permits));
    match timeout(INNER_DEADLINE, &mut responding).await {
        Ok(Ok(session)) => {
            caller.owner.handshakes.count(&session);
            Ok(Secured { session, client: client.get().cloned() })
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
