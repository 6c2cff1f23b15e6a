//! The agent owner shuts a client or a target out while the agent runs.
//!
//! Clients are judged twice: by the name that the server gives, before anything is dialled, and by the certificate of the inner handshake,
//! shown or of the handshake that is resumed. Where inner TLS is switched off there is no certificate, and only the name counts.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use ginnel_core::allow::AllowList;
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::denial::{Denial, Shown, Subject};
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_core::status::{Denied, Revoked};
use ginnel_core::target::Target;
use ginnel_identity::certificate::Leaf;
use ginnel_ops::admin::{NotRevoked, Revocation};
use ginnel_ops::denials::revised;
use ginnel_ops::ledger::{Parties, Tracked};

use crate::app::Owner;
use crate::word::Lists;

impl Owner {
    /// What is denied.
    pub(crate) fn denied(&self) -> Vec<Denied> {
        self.judging().denials.all().map(Denial::shown).collect()
    }

    /// Judges the client of an inner handshake that was verified; it is in the ledger first, where a denial that comes later finds it.
    pub(crate) fn permits_client(&self, leaf: &Leaf, tracked: &Tracked) -> Result<Arc<Shown>, Cause> {
        let shown = Arc::new(leaf.shown());
        tracked.client_showed(Arc::clone(&shown));
        if self.judging().denials.denies(&shown) { Err(Cause::NotOnAllowList) } else { Ok(shown) }
    }

    /// Denies something, or undoes that. What is answered is in force, and on disk if there is a place for it; a note says if a crash of the
    /// machine may undo it. To stop everything does not wait for the disk: a note says if it could not be written.
    ///
    /// # Errors
    /// [`NotRevoked`]; then nothing has changed.
    pub(crate) fn revoke(&self, order: &Revocation) -> Result<Revoked, NotRevoked> {
        let Revocation { kind, text, undo, .. } = order;
        let subject = Subject::read(*kind, text, self.trust_domain()).map_err(NotRevoked::Question)?;
        let _one_at_a_time = self.revoking.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lists();
        if !undo {
            can_deny(&subject, &before).map_err(NotRevoked::Question)?;
        }
        let changed = before.denials.has(&subject) == *undo;
        // Everything is stopped at once, whatever becomes of the disk.
        let comes_first = matches!(subject, Subject::All) && !undo;
        let mut notes = Vec::new();
        if changed {
            let file = self.denial_file.as_ref().filter(|_| !comes_first);
            let denials = revised(&before.denials, &subject, order, file, &mut notes)?;
            self.deny(Arc::new(denials));
        }
        let effective = Timestamp::from(SystemTime::now());
        let lists = self.lists();
        let objects = |parties: &Parties| self.objection(&lists, parties);
        if changed {
            self.note(revoked(&subject, order, self.ledger.count_where(objects)));
        }
        let sessions = self.ledger.end_where(objects);
        let mut lasting = self.denial_file.is_some();
        // Also when it was in force before: the disk may have been full then.
        if let Some(file) = self.denial_file.as_ref().filter(|_| comes_first) {
            match file.write(&lists.denials) {
                Ok(replaced) => notes.extend(replaced.note()),
                Err(error) => {
                    lasting = false;
                    notes.push(format!("This is in force, and a restart of the agent undoes it: {}.", Chain(&error)));
                }
            }
        }
        if self.denial_file.is_none() {
            notes.push(
                "This lasts until the agent is restarted: denials.file is not set in its configuration.".to_owned(),
            );
        }
        if self.inner_tls_disabled && matches!(subject, Subject::Email(_) | Subject::Key(_) | Subject::Serial(_)) {
            notes.push(
                "Inner TLS is switched off: clients show no certificate, and only their principal can be denied."
                    .to_owned(),
            );
        }
        Ok(Revoked {
            kind: subject.kind().to_owned(),
            value: subject.value(),
            denied: !undo,
            changed,
            effective,
            connections: 0,
            sessions,
            lasting,
            notes,
        })
    }

    /// Why a session may not go on under `lists`, if so. It is asked with the ledger locked and takes no lock itself: sessions take the
    /// lists' lock first and the ledger's second.
    pub(crate) fn objection(&self, lists: &Lists, parties: &Parties) -> Option<Refusal> {
        let Parties { client, agent: _, target, address, client_certificate, agent_certificate: _ } = parties;
        let refusal = |cause| Refusal::new(Hop::Agent, cause);
        let by_name = client.as_ref().is_some_and(|client| lists.denials.denies_principal(client));
        if by_name || client_certificate.as_ref().is_some_and(|shown| lists.denials.denies(shown)) {
            return Some(refusal(Cause::NotOnAllowList));
        }
        let target = target.as_ref()?;
        // A session whose client has not proved yet who it is will be judged once it has.
        let client = client_certificate.as_ref().map(|shown| &shown.principal);
        let verdict = match address {
            Some(address) => lists.allow.dialable(client, target, &[*address], &self.own_listeners).map(drop),
            None => lists.allow.permits_target(client, target),
        };
        verdict.err().map(refusal)
    }
}

impl Owner {
    /// What a list that only observes would say to a session that goes on: by its client's certificate and the address that was dialled.
    pub(crate) fn would_object(&self, observed: &AllowList, parties: &Parties) -> Option<Refusal> {
        let Parties { client: _, agent: _, target, address, client_certificate, agent_certificate: _ } = parties;
        let client = client_certificate.as_ref().map(|shown| &shown.principal);
        let (target, address) = (target.as_ref()?, (*address)?);
        let verdict = observed.dialable(client, target, &[address], &self.own_listeners);
        verdict.err().map(|cause| Refusal::new(Hop::Agent, cause))
    }
}

/// The record of what was asked for.
fn revoked(subject: &Subject, order: &Revocation, sessions: u64) -> Event {
    let (kind, subject) = (Text::new(subject.kind()), Text::new(subject.value()));
    let (by, reason) = (Text::new(&order.by), order.reason.as_ref().map(Text::new));
    match order.undo {
        true => Event::Unrevoked { kind, subject, by, reason },
        false => Event::Revoked { kind, subject, by, reason, connections: 0, sessions },
    }
}

/// Whether there is such a thing to deny here.
fn can_deny(subject: &Subject, lists: &Lists) -> Result<(), String> {
    match subject {
        Subject::Principal(principal) if principal.role != Role::Client => {
            Err("An agent shuts out clients and targets: an agent is shut out at the server.".to_owned())
        }
        Subject::Rule(_) => Err("An agent has no rules: deny the client or the target.".to_owned()),
        Subject::Target(pattern) => {
            let target: Option<Target> = pattern.to_string().parse().ok();
            let is_listed = target.is_none_or(|target| lists.allow.lists_target(&target));
            if is_listed { Ok(()) } else { Err(format!("The allow-list does not name {pattern}.")) }
        }
        // Which of them there are is known at the server.
        Subject::Principal(_) | Subject::Email(_) | Subject::Key(_) | Subject::Serial(_) | Subject::All => Ok(()),
    }
}
