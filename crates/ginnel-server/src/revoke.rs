//! Shuts somebody out while the server runs, and ends what depended on that.
//!
//! The order is what leaves no survivor: the denial is on disk, then in force, then it is looked for in the ledger and among the connections.
//! Whoever is admitted or allowed is entered there first and judged afterwards, so that each is either judged by the denial or found by the
//! search. Sessions are judged and entered under the lock that the denial comes into force with ([`crate::rules::InForceRules::deciding`]).
//!
//! A key is denied as the key of certificates and as the key that verifies tokens. Which key verified the token that a certificate was given for
//! stands in it ([`ginnel_core::evidence`]).

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::denial::{Denial, Subject};
use ginnel_core::status::{Denied, Revoked};
use ginnel_ops::admin::{NotRevoked, Revocation};
use ginnel_ops::audit::Durable;
use ginnel_ops::denials::revised;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::remote::Enrolment;
use crate::rules::Rules;

/// How long an answer waits for its record. What is denied is denied whether or not the log can be written.
const AUDIT_WAIT: Duration = Duration::from_secs(1);

/// What an answer adds while the log takes no records.
pub(crate) const NOT_ON_RECORD: &str = "The audit log cannot be written: this is in force, and not on record.";

/// What a server that passes enrolments on adds.
const KEY_ELSEWHERE: &str = "Tokens are judged where enrolment is: deny it there as well, so that it enrols nobody.";

impl Broker {
    /// What is denied.
    pub(crate) fn denied(&self) -> Vec<Denied> {
        self.rules.now().denials.all().map(Denial::shown).collect()
    }

    /// Denies something, or undoes that. What is answered is on disk and in force; a note says if a crash of the machine may undo it.
    ///
    /// # Errors
    /// [`NotRevoked`]; then nothing has changed.
    pub(crate) async fn revoke(self: Arc<Self>, order: Revocation) -> Result<Revoked, NotRevoked> {
        // Writing waits for the disk.
        let revoking = tokio::task::spawn_blocking(move || self.revoke_now(&order)).await;
        let broke_off = |_| NotRevoked::Failed("The revocation broke off; ask for it again.".to_owned());
        let (revoked, record) = revoking.map_err(broke_off)??;
        Ok(on_record(revoked, record).await)
    }

    fn revoke_now(&self, order: &Revocation) -> Result<(Revoked, Option<Durable>), NotRevoked> {
        let Revocation { kind, text, undo, .. } = order;
        let subject =
            Subject::read(*kind, text, Some(&self.rules.now().config.trust_domain)).map_err(NotRevoked::Question)?;
        let _replacing = self.rules.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.rules.now();
        if !undo {
            before.can_deny(&subject).map_err(NotRevoked::Question)?;
        }
        let changed = before.denials.has(&subject) == *undo;
        let (mut after, mut notes) = (Arc::clone(&before), Vec::new());
        if changed {
            let denials = revised(&before.denials, &subject, order, Some(&self.denial_file), &mut notes)?;
            after = Arc::new(before.with_denials(Arc::new(denials)));
            self.rules.deny(Arc::clone(&after));
            self.enrolment.deny(&after.denials);
        }
        let effective = Timestamp::from(SystemTime::now());
        // One that was there already is enforced again: it costs nothing, and whoever repeats a command wants to be sure.
        let counted = self.objected(&before, &after);
        let record = changed.then(|| self.audit.record(event(&subject, order, counted)).ok()).flatten();
        let audit_failed = changed && record.is_none();
        let (sessions, connections) = self.enforce(&before, &after);
        if audit_failed {
            notes.push(NOT_ON_RECORD.to_owned());
        }
        if let (Subject::Key(_), Enrolment::Elsewhere(_), false) = (&subject, &self.enrolment, undo) {
            notes.push(KEY_ELSEWHERE.to_owned());
        }
        let revoked = Revoked {
            kind: subject.kind().to_owned(),
            value: subject.value(),
            denied: !undo,
            changed,
            effective,
            connections,
            sessions,
            lasting: true,
            notes,
        };
        Ok((revoked, record))
    }
}

/// The answer, once its record is on disk or that was waited for.
pub(crate) async fn on_record(mut revoked: Revoked, record: Option<Durable>) -> Revoked {
    let is_recorded = match record {
        None => true,
        Some(record) => matches!(timeout(AUDIT_WAIT, record).await, Ok(Ok(()))),
    };
    if !is_recorded {
        revoked.notes.push("The audit log cannot be written: this is in force, and not on record yet.".to_owned());
    }
    revoked
}

/// The record of what was asked for.
pub(crate) fn event(subject: &Subject, order: &Revocation, (sessions, connections): (u64, u64)) -> Event {
    let (kind, subject) = (Text::new(subject.kind()), Text::new(subject.value()));
    let (by, reason) = (Text::new(&order.by), order.reason.as_ref().map(Text::new));
    if order.undo {
        Event::Unrevoked { kind, subject, by, reason }
    } else {
        Event::Revoked { kind, subject, by, reason, connections, sessions }
    }
}

impl Rules {
    /// Whether there is such a thing to deny: a slip of the pen must not look like a success.
    fn can_deny(&self, subject: &Subject) -> Result<(), String> {
        let is_known = match subject {
            Subject::Principal(principal) => self.identities.contains_key(principal),
            Subject::Email(email) => self.identities.values().any(|known| known == email),
            Subject::Rule(name) => self.config.rules.iter().any(|rule| rule.name == name.as_str()),
            // Which of them there are is known for those only that are connected.
            Subject::Key(_) | Subject::Serial(_) => true,
            Subject::Target(_) => {
                return Err("A server denies no targets: deny the rule, or change it and reload.".to_owned());
            }
            Subject::All => {
                return Err("A server denies nothing and nobody in general: deny the identities or rules, or stop it."
                    .to_owned());
            }
        };
        let what = match subject {
            Subject::Rule(_) => "rule",
            Subject::Principal(_)
            | Subject::Email(_)
            | Subject::Key(_)
            | Subject::Serial(_)
            | Subject::Target(_)
            | Subject::All => "identity",
        };
        if is_known { Ok(()) } else { Err(format!("The configuration has no {what} {}.", subject.value())) }
    }
}
