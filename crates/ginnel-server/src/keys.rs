//! Which key at Google enrolled whom, and cutting off those whose key is gone there.
//!
//! Deleting a service account's key at Google is how its holder is shut out. What was enrolled with the key is valid for hours, so the server
//! remembers which key enrolled which certificate and looks at the keys of those who are connected every few minutes. Only a set that
//! was fetched counts: while Google is away nobody is cut off.
//!
//! What was enrolled before the process started, or by another process, is not remembered. Such a certificate stays good as long as
//! its account has any key at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::cause::Cause;
use ginnel_enrol::{Admitted, Evidence, Issued, KeySet};
use ginnel_identity::certificate::Leaf;
use ginnel_identity::random::SystemRandom;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::broker::Broker;
use crate::enrol::Desk;

/// Certificates whose key is remembered, some 200 bytes each: a thousand processes that renew every quarter of an hour for a day. Of more,
/// those that expire first are forgotten.
const CERTIFICATES_MAX: usize = 100_000;

/// Accounts that are looked at side by side: with Google away and two seconds lost on each, a thousand take two minutes.
const LOOKS_MAX: usize = 16;

/// How long those who are cut off stay connected, so that both sides of their sessions hear the reason.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Which key at Google enrolled which certificate.
#[derive(Debug, Default)]
pub(crate) struct EnrolledKeys(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_serial: BTreeMap<String, Enrolled>,
    /// Accounts that had no key when they were looked at last.
    without_keys: BTreeSet<String>,
}

#[derive(Debug)]
struct Enrolled {
    email: String,
    key_id: String,
    not_after: SystemTime,
    is_gone: bool,
}

impl EnrolledKeys {
    /// Remembers what an enrolment was proved by, if that can go away at Google.
    pub(crate) fn remember(&self, admitted: &Admitted, issued: &Issued, now: SystemTime) {
        let Evidence::GoogleKey(key_id) = &admitted.evidence else { return };
        let mut table = self.table();
        let certificates = &mut table.by_serial;
        if certificates.len() >= CERTIFICATES_MAX {
            certificates.retain(|_, enrolled| enrolled.not_after >= now);
        }
        if certificates.len() >= CERTIFICATES_MAX {
            let first = certificates.iter().min_by_key(|(_, enrolled)| enrolled.not_after);
            if let Some(first) = first.map(|(serial, _)| serial.clone()) {
                certificates.remove(&first);
            }
        }
        let (email, key_id) = (admitted.email.clone(), key_id.clone());
        let enrolled = Enrolled { email, key_id, not_after: issued.not_after, is_gone: false };
        certificates.insert(issued.serial.clone(), enrolled);
    }

    /// Takes note of the keys that an account has.
    fn see(&self, email: &str, keys: &KeySet) {
        let mut table = self.table();
        if keys.ids().next().is_none() {
            table.without_keys.insert(email.to_owned());
        } else {
            table.without_keys.remove(email);
        }
        for enrolled in table.by_serial.values_mut().filter(|enrolled| enrolled.email == email) {
            enrolled.is_gone = keys.find(&enrolled.key_id).is_none();
        }
    }

    /// Takes note that Google's keys count for these accounts alone. What the keys of others enrolled is gone, like what a key enrolled that is
    /// deleted: an account that comes back does not bring it back, unless Google still has the key.
    pub(crate) fn keep(&self, accounts: &BTreeSet<String>) {
        let mut table = self.table();
        for enrolled in table.by_serial.values_mut().filter(|enrolled| !accounts.contains(&enrolled.email)) {
            enrolled.is_gone = true;
        }
    }

    /// Whether the key is gone that enrolled the certificate.
    pub(crate) fn is_gone(&self, email: &str, serial: &str) -> bool {
        let table = self.table();
        match table.by_serial.get(serial) {
            Some(enrolled) => enrolled.is_gone,
            None => table.without_keys.contains(email),
        }
    }

    /// Refuses whoever shows a certificate whose key is gone.
    pub(crate) fn expect(&self, leaf: &Leaf) -> Result<(), Status> {
        match self.is_gone(&leaf.email, &leaf.serial) {
            true => Err(Status::permission_denied("not admitted")),
            false => Ok(()),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the keys of those who are connected, again and again, and cuts off those whose key is gone.
pub(crate) async fn watch(broker: Arc<Broker>, desk: Arc<Desk>) {
    loop {
        sleep(jittered(desk.keys.watch_every())).await;
        let connected = broker.leases.emails();
        let accounts = &desk.admissible().at_google;
        let mut looking = JoinSet::new();
        for email in connected.intersection(accounts) {
            if looking.len() >= LOOKS_MAX {
                let _ = looking.join_next().await;
            }
            let (desk, email) = (Arc::clone(&desk), email.clone());
            looking.spawn(async move {
                if let Some(keys) = desk.keys.current(&email).await {
                    desk.enrolled.see(&email, &keys);
                }
            });
        }
        while looking.join_next().await.is_some() {}
        cut(&broker);
    }
}

/// Cuts off every process whose key is gone.
pub(crate) fn cut(broker: &Broker) {
    let closing = broker.leases.cut(|email, serial| broker.enrolled.is_gone(email, serial));
    if closing.is_empty() {
        return;
    }
    tracing::warn!(connections = closing.len(), cause = %Cause::NotAdmitted, "cut off: the key that enrolled them is gone at Google");
    broker.tasks.spawn(async move {
        sleep(LAST_WORDS).await;
        closing.iter().for_each(CancellationToken::cancel);
    });
}

/// Between three quarters of the time and all of it, so that servers do not ask in step.
fn jittered(time: Duration) -> Duration {
    ginnel_core::backoff::spread(time, &mut SystemRandom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_at_google_enrolled_does_not_come_back_with_its_account() {
        let keys = EnrolledKeys::default();
        let (email, now) = ("agent@acme.example", SystemTime::now());
        let admitted = Admitted {
            principal: "spiffe://acme.example/agent/acme".parse().unwrap(),
            email: email.to_owned(),
            spki_der: Vec::new(),
            spki_sha256: [0; 32],
            signed_by: None,
            verified_by: None,
            evidence: Evidence::GoogleKey("key".to_owned()),
        };
        let issued = Issued { chain: Vec::new(), not_after: now + Duration::from_secs(60), serial: "01".to_owned() };
        keys.remember(&admitted, &issued, now);
        assert!(!keys.is_gone(email, "01"));
        keys.keep(&BTreeSet::new());
        assert!(keys.is_gone(email, "01"), "the account's keys at Google do not count");
        keys.keep(&BTreeSet::from([email.to_owned()]));
        assert!(keys.is_gone(email, "01"), "Google has not been asked whether it has the key");
    }
}
