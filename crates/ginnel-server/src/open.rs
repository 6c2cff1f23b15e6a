//! Decides on a session, asks the agent for it, and keeps its record.
//!
//! Every session that was allowed leaves exactly one of `refused` or `ended`. `allowed` is handed to the log before the agent hears of the
//! session; `allowed` and `connected` are on the disk before the client does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ginnel_core::audit::{self, Event, Text};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::{RequestId, SessionId};
use ginnel_core::limits::EARLY_MAX;
use ginnel_core::principal::Principal;
use ginnel_core::quota::Place;
use ginnel_core::relay::Side;
use ginnel_core::target::Target;
use ginnel_identity::random::SystemRandom;
use ginnel_net::body::{FrameReader, FrameWriter};
use ginnel_ops::audit::Durable;
use ginnel_ops::ledger::{Begun, Tracked};
use ginnel_wire::frame::{Open, SessionFrame};
use ginnel_wire::hello::Dial;
use ginnel_wire::v1::{ServerMessage, server_message};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use crate::directory::{AgentLink, Awaited, Occupied};
use crate::middle::Middle;
use crate::roster::ClientSeat;
use crate::rules::Rules;

mod running;

use self::running::Running;

/// How long a call may take to say `Open`.
const FIRST_FRAME_WAIT: Duration = Duration::from_secs(5);

/// How long a refusal waits for its record.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);

/// Links of one process that are tried when each was replaced or closed just before it was asked.
const REPLACED_MAX: usize = 3;

/// A call that wants a session.
pub(crate) struct Opening {
    seat: Arc<ClientSeat>,
    place: Place<Principal>,
    middle: Box<Middle>,
}

/// A session that the policy allows and that an agent was asked for.
struct Permitted {
    record: audit::Session,
    link: Arc<AgentLink>,
    occupied: Occupied,
    awaited: Awaited,
    allowed: Durable,
    since: Instant,
    places: Places,
}

/// What a session counts for: at its client, and at its agent.
type Places = (Place<Principal>, [Place<Principal>; 2]);

/// A wish that came to nothing, with what the record says of it.
struct Denied {
    refusal: Refusal,
    target: Text,
    agent: Option<audit::Agent>,
    rule: Option<Text>,
}

impl Opening {
    pub(crate) fn new(
        seat: Arc<ClientSeat>,
        place: Place<Principal>,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> Self {
        let middle = Middle::new(reader, writer, &seat.budget, &seat.shelf);
        Self { seat, place, middle }
    }

    /// Carries the session that the call wants, to its end.
    ///
    /// What is needed for a moment only is boxed: most of its life a session does nothing but carry, and there are thousands of them.
    pub(crate) async fn run(self) {
        let Self { seat, place, mut middle } = self;
        let Some((open, tracked)) = Box::pin(begin(&seat, &mut middle)).await else { return };
        let client = &seat.client.principal;
        let span = tracing::info_span!("session", request = %open.request, client = %client.name);
        carry(&seat, open, &mut middle, tracked, place).instrument(span).await;
    }
}

/// Hears what the client wants, and puts it down.
async fn begin(seat: &ClientSeat, middle: &mut Middle) -> Option<(Box<Open>, Tracked)> {
    let client = &seat.client.principal;
    let Ok(Some(open)) = timeout(FIRST_FRAME_WAIT, middle.wish()).await else {
        tracing::warn!(client = %client, "a client's call did not begin with Open");
        return None;
    };
    let tracked = seat.broker.ledger.begin(Begun {
        request: open.request,
        client: Some(client.clone()),
        client_instance: seat.instance(),
        from: None,
        target: Text::new(&open.target).as_str().to_owned(),
        front: None,
    });
    tracked.client_showed(Arc::clone(&seat.certificate));
    middle.count_in(tracked.traffic());
    Some((Box::new(open), tracked))
}

async fn carry(
    seat: &Arc<ClientSeat>,
    open: Box<Open>,
    middle: &mut Middle,
    tracked: Tracked,
    place: Place<Principal>,
) {
    // It keeps its places until its last bytes have left: a side that takes none could otherwise have any number of such ends.
    let outcome = Box::pin(until_opened(seat, open, middle, tracked, place)).await;
    let running = outcome.as_ref().ok();
    if let Some(running) = running {
        let ending = running.until_over(middle).await;
        running.record_end(middle, ending);
        running.tracked.ended(ending.hop, ending.cause);
    }
    match middle.violator() {
        Some(Side::Client) => seat.broke_the_protocol(),
        Some(Side::Agent) => {
            if let Some(running) = running {
                running.link.broke_the_protocol();
            }
        }
        None => {}
    }
    Box::pin(middle.end()).await;
}

/// What a wish that was refused counts for until the refusal has left.
enum Held {
    /// As a call that nothing was decided about.
    Undecided { _place: Place<Principal> },
    /// As the session that it was to become.
    Session { _places: Places },
}

/// The session, once its client was told that it is open, or what it counts for if it was refused. A session that is permitted has no more need of
/// its `place` among the calls.
async fn until_opened<'a>(
    seat: &'a Arc<ClientSeat>,
    open: Box<Open>,
    middle: &mut Middle,
    tracked: Tracked,
    place: Place<Principal>,
) -> Result<Box<Running<'a>>, Held> {
    let (denied, tracked, held) = match permit(seat, &open, middle, &tracked) {
        Err(denied) => (denied, tracked, Held::Undecided { _place: place }),
        Ok(permitted) => {
            drop(place);
            let Permitted { record, link, occupied, awaited, allowed, since, places } = permitted;
            let running =
                Box::new(Running { seat, record, link, since, tracked, _occupied: occupied, _places: places });
            match running.until_opened(middle, awaited, allowed).await {
                Ok(()) => return Ok(running),
                Err(refusal) => {
                    if middle.violator() == Some(Side::Agent) {
                        running.link.broke_the_protocol();
                    }
                    let Running { record, tracked, _places, .. } = *running;
                    let (target, agent, rule) = (Text::new(&record.target), Some(record.agent), Some(record.rule));
                    (Box::new(Denied { refusal, target, agent, rule }), tracked, Held::Session { _places })
                }
            }
        }
    };
    record_refusal(seat, open.request, &denied).await;
    tracked.refused(denied.refusal);
    middle.answer(SessionFrame::Refused(denied.refusal));
    middle.stop(denied.refusal.hop, denied.refusal.cause);
    Err(held)
}

/// Whether the client may ask for anything at this moment.
fn may_ask(seat: &ClientSeat, rules: &Rules) -> Result<(), Cause> {
    let expired = seat.expired().ok_or(Cause::ProtocolError)?;
    rules.admission(&seat.certificate)?;
    if expired.is_cancelled() {
        return Err(Cause::CertificateExpired);
    }
    if seat.broker.shutdown.is_cancelled() {
        return Err(Cause::ShuttingDown);
    }
    if !seat.broker.bounds.may_open(&seat.client.principal) {
        return Err(Cause::Overloaded);
    }
    Ok(())
}

/// Decides, records, and asks the agent.
///
/// All of it under one state of the rules, the entry in the ledger included: see [`crate::rules::InForceRules::deciding`].
fn permit(
    seat: &Arc<ClientSeat>,
    open: &Open,
    middle: &mut Middle,
    tracked: &Tracked,
) -> Result<Permitted, Box<Denied>> {
    let broker = &seat.broker;
    let rules = broker.rules.deciding();
    let deny = |hop, cause| {
        let target = Text::new(&open.target);
        Box::new(Denied { refusal: Refusal::new(hop, cause), target, agent: None, rule: None })
    };
    may_ask(seat, &rules).map_err(|cause| deny(Hop::Server, cause))?;
    let target: Target = open.target.parse().map_err(|_| deny(Hop::Server, Cause::Malformed))?;
    let ask = rules.ask(&seat.certificate, &target);
    let Some(choice) = &open.agent else {
        let why = rules.policy.allows(&ask).err().unwrap_or(Cause::NoLiveAgent);
        return Err(deny(Hop::Server, why));
    };
    let rule = rules.policy.decide(&ask, &choice.principal.name).map_err(|cause| {
        // What holds of this agent alone is its own matter: the client chose by a roster from before a rule ended.
        let another_serves = rules.policy.allows(&ask).is_ok();
        deny(if another_serves { Hop::Agent } else { Hop::Server }, cause)
    })?;
    let of_client = broker.bounds.of_client(&seat.client.principal);
    let of_client = of_client.ok_or_else(|| deny(Hop::Server, Cause::Overloaded))?;
    tracked.through(&choice.principal, Some(choice.instance), Some(&rule.rule));
    let mut attempt = 0;
    loop {
        attempt += 1;
        let link = broker.directory.find(&choice.principal, choice.instance);
        // The client knows of the agent from its roster, so that it was there a moment ago; another one may be there still.
        let link = link.ok_or_else(|| deny(Hop::Server, Cause::AgentLost))?;
        let record = audit::Session {
            request_id: open.request,
            client: seat.client.clone(),
            agent: link.agent.clone(),
            target: target.clone(),
            peer: Some(seat.peer),
            rule: Text::new(&rule.rule),
            policy: rules.version.clone(),
        };
        let refused = |hop, cause| {
            let refusal = Refusal::new(hop, cause);
            let (agent, rule) = (Some(link.agent.clone()), Some(Text::new(&rule.rule)));
            Box::new(Denied { refusal, target: Text::new(&target), agent, rule })
        };
        let denied = |cause| refused(Hop::Server, cause);
        tracked.agent_showed(Arc::clone(&link.facts.certificate));
        rules.admission(&link.facts.certificate).map_err(|cause| refused(Hop::Agent, cause))?;
        // What is too much for this agent may not be for another.
        let of_agent = broker.bounds.of_agent(&link.agent.principal, &seat.client.principal);
        let of_agent = of_agent.ok_or_else(|| refused(Hop::Agent, Cause::Overloaded))?;
        let slot = match link.control.try_reserve() {
            Ok(slot) => slot,
            // Another lane of the process may take it, or a link that replaced this one.
            Err(TrySendError::Closed(())) if attempt < REPLACED_MAX => continue,
            Err(TrySendError::Closed(())) => return Err(denied(Cause::AgentLost)),
            Err(TrySendError::Full(())) => return Err(refused(Hop::Agent, Cause::Overloaded)),
        };
        let allowed = broker.audit.record(Event::Allowed { session: record.clone() });
        let allowed = allowed.map_err(|error| denied(error.cause()))?;
        let session = SessionId::random(&mut SystemRandom);
        middle.goes_through(&broker.bounds.waiting.shelf(&link.agent.principal));
        let (occupied, awaited) = (link.occupy(), link.expect(session));
        let dial = Dial {
            session,
            request: open.request,
            target,
            client: seat.client.principal.clone(),
            inner_tls: open.inner_tls,
            early: if link.facts.takes_early { middle.early(EARLY_MAX) } else { Bytes::new() },
        };
        slot.send(ServerMessage { kind: Some(server_message::Kind::Dial(dial.into())) });
        let places = (of_client, of_agent);
        return Ok(Permitted { record, link, occupied, awaited, allowed, since: Instant::now(), places });
    }
}

/// Records a refusal and waits for the disk, so that whoever was refused can be shown the record; but not for long.
async fn record_refusal(seat: &ClientSeat, request: RequestId, denied: &Denied) {
    let Refusal { hop, cause } = denied.refusal;
    tracing::info!(%hop, %cause, "refused");
    let recorded = seat.broker.audit.record(Event::Refused {
        request_id: request,
        client: Some(seat.client.clone()),
        client_claimed: None,
        agent: denied.agent.clone(),
        target: denied.target.clone(),
        peer: Some(seat.peer),
        hop,
        cause,
        rule: denied.rule.clone(),
        policy: seat.broker.rules.now().version.clone(),
    });
    // A log that cannot be written says so itself; the refusal stands either way.
    if let Ok(durable) = recorded {
        let _ = timeout(REFUSAL_WAIT, durable).await;
    }
}
