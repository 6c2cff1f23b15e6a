//! Shuts somebody out of enrolment while the process runs.
//!
//! There are no connections to end: whoever has a certificate is connected to a server, which has denials of its own. The order is the same as
//! there: the denial is on disk, then in force. An enrolment is judged before its issuer is asked and once more before its certificate is handed out.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use ginnel_core::audit::Timestamp;
use ginnel_core::denial::{Denial, Subject};
use ginnel_core::status::{Denied, Revoked};
use ginnel_ops::admin::{NotRevoked, Revocation};
use ginnel_ops::audit::Durable;
use ginnel_ops::denials::revised;

use super::Office;
use crate::revoke::{NOT_ON_RECORD, event, on_record};

/// What follows a denial: whoever asks must not take it for all that there is to do.
const NOBODY_IS_CUT: &str = "Certificates that were given out stay good at the servers, and nobody is disconnected there: deny it at each \
     of them as well.";

impl Office {
    /// What is denied.
    pub(super) fn denied(&self) -> Vec<Denied> {
        self.desk.denials().all().map(Denial::shown).collect()
    }

    /// Denies something, or undoes that. What is answered is on disk and in force.
    ///
    /// # Errors
    /// [`NotRevoked`]; then nothing has changed.
    pub(super) async fn revoke(self: Arc<Self>, order: Revocation) -> Result<Revoked, NotRevoked> {
        // Writing waits for the disk.
        let revoking = tokio::task::spawn_blocking(move || self.revoke_now(&order)).await;
        let broke_off = |_| NotRevoked::Failed("The revocation broke off; ask for it again.".to_owned());
        let (revoked, record) = revoking.map_err(broke_off)??;
        Ok(on_record(revoked, record).await)
    }

    fn revoke_now(&self, order: &Revocation) -> Result<(Revoked, Option<Durable>), NotRevoked> {
        let undo = order.undo;
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = &self.config().trust_domain;
        let subject = Subject::read(order.kind, &order.text, Some(domain)).map_err(NotRevoked::Question)?;
        self.can_deny(&subject, undo).map_err(NotRevoked::Question)?;
        let before = self.desk.denials();
        let changed = before.has(&subject) == undo;
        let mut notes = Vec::new();
        if changed {
            let denials = revised(&before, &subject, order, Some(&self.denial_file), &mut notes)?;
            self.desk.deny(Arc::new(denials));
        }
        let effective = Timestamp::from(SystemTime::now());
        let record = changed.then(|| self.audit.record(event(&subject, order, (0, 0))).ok()).flatten();
        if changed && record.is_none() {
            notes.push(NOT_ON_RECORD.to_owned());
        }
        if !undo {
            notes.push(NOBODY_IS_CUT.to_owned());
        }
        let revoked = Revoked {
            kind: subject.kind().to_owned(),
            value: subject.value(),
            denied: !undo,
            changed,
            effective,
            connections: 0,
            sessions: 0,
            lasting: true,
            notes,
        };
        Ok((revoked, record))
    }

    /// Whether there is such a thing to deny here: a slip of the pen must not look like a success. What is denied can be undone also when the
    /// configuration has it no longer.
    fn can_deny(&self, subject: &Subject, undo: bool) -> Result<(), String> {
        let config = self.config();
        let mut identities = config.identities.iter();
        let is_known = match subject {
            Subject::Principal(principal) => {
                principal.trust_domain == config.trust_domain
                    && identities.any(|known| known.role == principal.role && known.name == principal.name)
            }
            Subject::Email(email) => identities.any(|known| known.email == *email),
            // Which of them there are is known for those only that have enrolled.
            Subject::Key(_) => true,
            Subject::Serial(_) | Subject::Rule(_) | Subject::Target(_) | Subject::All => {
                return Err(
                    "Where enrolment is, identities and keys are denied: deny a serial number or a rule at the servers, a \
                     target at the agents."
                        .to_owned(),
                );
            }
        };
        if is_known || undo { Ok(()) } else { Err(format!("The configuration has no identity {}.", subject.value())) }
    }
}
