//! A session that the policy allows, from the order to the agent to its end.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use ginnel_core::audit::{self, Event};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::limits::OPEN_DEADLINE;
use ginnel_core::relay::{Ending, Side};
use ginnel_ops::audit::Durable;
use ginnel_ops::ledger::Tracked;
use ginnel_wire::frame::SessionFrame;
use tokio::time::{Instant, sleep_until};

use super::Places;
use crate::directory::{AgentLink, Awaited, Occupied};
use crate::middle::{Middle, Said};
use crate::roster::ClientSeat;

/// A session between `allowed` and its end.
pub(super) struct Running<'a> {
    pub(super) seat: &'a ClientSeat,
    pub(super) record: audit::Session,
    pub(super) link: Arc<AgentLink>,
    pub(super) since: Instant,
    pub(super) tracked: Tracked,
    pub(super) _occupied: Occupied,
    pub(super) _places: Places,
}

impl Running<'_> {
    /// Carries the inner handshake while the agent connects to the target; then makes the record durable and tells the client.
    pub(super) async fn until_opened(
        &self,
        middle: &mut Middle,
        awaited: Awaited,
        allowed: Durable,
    ) -> Result<(), Refusal> {
        let deadline = self.since + OPEN_DEADLINE;
        let mut awaited = Some(awaited);
        let mut given_up = pin!(self.given_up(deadline));
        let answer = loop {
            tokio::select! {
                biased;
                refusal = &mut given_up => return Err(refusal),
                carrier = taken_up(&mut awaited) => match carrier {
                    Some(carrier) => middle.join(carrier.reader, carrier.writer),
                    None => return Err(Refusal::new(Hop::Server, Cause::Internal)),
                },
                said = middle.next() => match said {
                    Said::Answer(answer) => break answer,
                    Said::Over(Ending { hop, cause }) => return Err(Refusal::new(hop, cause)),
                },
            }
        };
        let address = match answer {
            // An agent that says to have been somewhere else has not done what it was asked for, whatever it has done.
            SessionFrame::Opened(address) if self.record.target.may_be_at(address) => address,
            SessionFrame::Refused(Refusal { hop: hop @ (Hop::Agent | Hop::Target), cause })
                if cause.is_a_peers_word() =>
            {
                return Err(Refusal::new(hop, cause));
            }
            SessionFrame::Opened(_)
            | SessionFrame::Refused(_)
            | SessionFrame::Open(_)
            | SessionFrame::Stream(_)
            | SessionFrame::Take(_) => {
                middle.blame(Side::Agent);
                return Err(Refusal::new(Hop::Agent, Cause::ProtocolError));
            }
        };
        let connected = self.seat.broker.audit.record(Event::Connected { session: self.record.clone(), address });
        let durable = async {
            allowed.await?;
            connected?.await
        };
        let (mut durable, mut cut, mut late) = (pin!(durable), pin!(self.cut()), pin!(sleep_until(deadline)));
        // Who leaves meanwhile is heard, and the handshake inside goes on, which may come to its end after the agent's connection. The client does
        // not hear that the session is open before the disk has the record, and its application nothing at all.
        loop {
            tokio::select! {
                biased;
                refusal = &mut cut => return Err(refusal),
                done = &mut durable => match done {
                    Ok(()) => break,
                    Err(_) => return Err(Refusal::new(Hop::Server, Cause::AuditUnavailable)),
                },
                () = &mut late => return Err(Refusal::new(Hop::Server, Cause::AuditUnavailable)),
                said = middle.next() => match said {
                    Said::Over(Ending { hop, cause }) => return Err(Refusal::new(hop, cause)),
                    Said::Answer(_) => middle.blame(Side::Agent),
                },
            }
        }
        self.tracked.carried(Some(address));
        middle.answer(SessionFrame::Opened(address));
        tracing::debug!("opened");
        Ok(())
    }

    /// Resolves when the session cannot come about any more.
    async fn given_up(&self, deadline: Instant) -> Refusal {
        tokio::select! {
            biased;
            refusal = self.cut() => refusal,
            // A link that was drained is not gone, but whoever has not taken the session up on its connection no longer will.
            () = self.link.closed.cancelled() => Refusal::new(Hop::Server, Cause::AgentLost),
            () = self.link.gone.cancelled() => Refusal::new(Hop::Server, Cause::AgentLost),
            () = sleep_until(deadline) => Refusal::new(Hop::Agent, Cause::TimedOut),
        }
    }

    pub(super) async fn until_over(&self, middle: &mut Middle) -> Ending {
        let mut is_cut = false;
        let mut cut = pin!(self.cut());
        loop {
            tokio::select! {
                biased;
                // Once is enough: what has ended stays so, and the sides have to hear of it.
                refusal = &mut cut, if !is_cut => {
                    is_cut = true;
                    middle.stop(refusal.hop, refusal.cause);
                }
                said = middle.next() => match said {
                    Said::Over(ending) => return ending,
                    Said::Answer(_) => middle.blame(Side::Agent),
                },
            }
        }
    }

    /// Resolves when something that the session depends on has ended.
    async fn cut(&self) -> Refusal {
        let expired = async {
            match self.seat.expired() {
                Some(expired) => expired.cancelled().await,
                None => pending().await,
            }
        };
        let refused = async {
            match self.seat.refused() {
                Some(refused) => refused.cancelled().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = expired => Refusal::new(Hop::Client, Cause::CertificateExpired),
            () = self.link.expired.cancelled() => Refusal::new(Hop::Agent, Cause::CertificateExpired),
            () = refused => Refusal::new(Hop::Server, Cause::NotAdmitted),
            () = self.link.refused.cancelled() => Refusal::new(Hop::Server, Cause::NotAdmitted),
            refusal = self.tracked.stopped() => refusal,
            () = self.seat.broker.cut.cancelled() => Refusal::new(Hop::Server, Cause::ShuttingDown),
        }
    }

    pub(super) fn record_end(&self, middle: &Middle, ending: Ending) {
        let Ending { hop, cause } = ending;
        let (bytes_up, bytes_down) = middle.bytes();
        let duration_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(bytes_up, bytes_down, duration_ms, %hop, %cause, "ended");
        let session = self.record.clone();
        let (carried_up, carried_down) = (None, None);
        self.seat.broker.note(Event::Ended {
            session,
            bytes_up,
            bytes_down,
            carried_up,
            carried_down,
            duration_ms,
            hop,
            cause,
        });
    }
}

/// Resolves once, when the agent took the session up; `None` if it never will.
async fn taken_up(awaited: &mut Option<Awaited>) -> Option<crate::directory::Carrier> {
    let Some(waiting) = awaited else { return pending().await };
    let carrier = (&mut waiting.carrier).await.ok();
    *awaited = None;
    carrier
}
