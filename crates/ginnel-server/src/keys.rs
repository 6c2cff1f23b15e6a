//! Whether Google still has the key that a certificate was given for, or its account; and cutting off those for whom it has not.
//!
//! Deleting a service account's key at Google is how its holder is shut out. What the key enrolled is valid for hours. Which key it was stands in
//! the certificate ([`ginnel_core::evidence`]), so that it is known after a restart, and whoever enrolled. The server looks at the keys of
//! those who are connected every few minutes, and at once at those that it has not looked at yet. Only a set that was fetched counts: while
//! Google is away nobody is cut off.
//!
//! A key that was there and is missing is gone. One that was never there may be so new that not all of Google has it: it is gone when two
//! fetches miss it. Where a certificate was given for something else of Google's, an ID token, the account itself counts: it is gone when it has
//! no keys at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ginnel_core::cause::Cause;
use ginnel_core::denial::Shown;
use ginnel_core::evidence::{Evidence, Proof};
use ginnel_enrol::KeySet;
use ginnel_identity::random::SystemRandom;
use ginnel_keys::KeySets;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::broker::Broker;
use crate::remote::Enrolment;

/// Accounts that are looked at side by side: with Google away and two seconds lost on each, a thousand take two minutes.
const LOOKS_MAX: usize = 16;

/// How long it is remembered that something is gone: longer than a certificate that was given for it can be valid, which is a week.
const GONE_KEPT: Duration = Duration::from_secs(8 * 24 * 3600);

/// Keys and accounts that are remembered as gone, some 300 bytes each. Of more, those that went first are forgotten; whoever comes with one of
/// these again is looked at again.
const GONE_MAX: usize = 4096;

/// How long those who are cut off stay connected, so that both sides of their sessions hear the reason.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What is known of the proofs that hang on Google: those of everybody who is connected, and those that are gone.
#[derive(Debug, Default)]
pub(crate) struct AtGoogle {
    table: Mutex<BTreeMap<Hanging, Entry>>,
    /// Somebody came with a proof that nobody has looked at.
    unknown: Notify,
}

/// A service account, and what its holder came with; nothing if the certificate does not say.
type Hanging = (String, Option<Evidence>);

#[derive(Debug)]
struct Entry {
    since: Instant,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody has looked yet, or there was no answer.
    Unknown,
    /// Google had it when it was asked last.
    There,
    /// Google did not have it, in an answer of that moment, and was never seen to have it.
    Missing(Instant),
    /// Google has it no longer, since about then.
    Gone(Instant),
}

impl Standing {
    /// After an answer that was fetched at `fetched`, for somebody who came at `since`.
    fn after(self, is_there: bool, fetched: Instant, since: Instant) -> Self {
        match self {
            _ if is_there => Self::There,
            Self::There => Self::Gone(fetched),
            Self::Missing(before) if fetched > before => Self::Gone(fetched),
            // An older answer says nothing of a key that is newer.
            Self::Unknown if fetched >= since => Self::Missing(fetched),
            Self::Unknown | Self::Missing(_) | Self::Gone(_) => self,
        }
    }
}

impl AtGoogle {
    /// Takes somebody in who is connected, and says whether what the certificate was given for is gone.
    fn join(&self, shown: &Shown) -> bool {
        let mut table = self.table();
        let entry = table.entry(hanging(shown)).or_insert_with(|| {
            self.unknown.notify_one();
            Entry { since: Instant::now(), standing: Standing::Unknown }
        });
        matches!(entry.standing, Standing::Gone(_))
    }

    /// Whether what the certificate was given for is gone.
    fn is_gone(&self, shown: &Shown) -> bool {
        let table = self.table();
        table.get(&hanging(shown)).is_some_and(|entry| matches!(entry.standing, Standing::Gone(_)))
    }

    /// Takes note of what an account has, by an answer that was fetched at `fetched`.
    fn see(&self, email: &str, fetched: Instant, is_there: impl Fn(Option<&Evidence>) -> bool) {
        let mut table = self.table();
        let from = (email.to_owned(), None);
        for ((_, evidence), entry) in table.range_mut(from..).take_while(|((its, _), _)| its == email) {
            entry.standing = entry.standing.after(is_there(evidence.as_ref()), fetched, entry.since);
        }
    }

    /// The accounts of which something is known or to be known; of which nothing was seen yet, if only these are asked for.
    fn accounts(&self, only_unknown: bool) -> BTreeSet<String> {
        let table = self.table();
        let asked = table.iter().filter(|(_, entry)| !only_unknown || entry.standing == Standing::Unknown);
        asked.map(|((email, _), _)| email.clone()).collect()
    }

    /// Forgets what is there and belongs to nobody of these who were connected at `then`, and what has been gone for long. What is missing is
    /// looked at once more, whether or not its holder stays for it.
    fn forget(&self, connected: &BTreeSet<Hanging>, then: Instant) {
        let mut table = self.table();
        table.retain(|hanging, entry| match entry.standing {
            Standing::Gone(since) | Standing::Missing(since) => since.elapsed() < GONE_KEPT,
            Standing::Unknown | Standing::There => entry.since >= then || connected.contains(hanging),
        });
        let gone = |(hanging, entry): (&Hanging, &Entry)| match entry.standing {
            Standing::Gone(since) | Standing::Missing(since) => Some((since, hanging.clone())),
            Standing::Unknown | Standing::There => None,
        };
        let mut gone: Vec<_> = table.iter().filter_map(gone).collect();
        gone.sort_unstable();
        for (_, hanging) in gone.iter().take(gone.len().saturating_sub(GONE_MAX)) {
            table.remove(hanging);
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Hanging, Entry>> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hanging(shown: &Shown) -> Hanging {
    (shown.email.clone(), shown.evidence.clone())
}

/// Whether an account with these keys still has what a certificate was given for.
fn is_there(keys: &KeySet, evidence: Option<&Evidence>) -> bool {
    match evidence {
        Some(Evidence { proof: Proof::GoogleKey(id), verified_by }) => {
            keys.find(id).is_some_and(|key| key.spki_sha256() == *verified_by)
        }
        Some(_) | None => !keys.is_empty(),
    }
}

impl Broker {
    /// Whether the certificate was given for something of Google's that is gone.
    pub(crate) fn is_gone_at_google(&self, shown: &Shown) -> bool {
        self.rules.now().hangs_on_google(shown) && self.at_google.is_gone(shown)
    }

    /// Refuses whoever shows a certificate that was given for something of Google's that is gone, and has it looked at if nobody has yet. To be
    /// called when the connection is in its lease already, so that who cuts off either comes before this or finds it there.
    pub(crate) fn expect_at_google(&self, shown: &Shown) -> Result<(), Status> {
        let is_gone = self.rules.now().hangs_on_google(shown) && self.at_google.join(shown);
        if is_gone { Err(Status::permission_denied("not admitted")) } else { Ok(()) }
    }
}

/// Looks at the keys of those who are connected, again and again, and cuts off those whose key is gone.
pub(crate) async fn watch(broker: Arc<Broker>, keys: Arc<KeySets>) {
    let mut next = Instant::now() + jittered(keys.watch_every());
    loop {
        tokio::select! {
            biased;
            () = sleep_until(next) => {
                next = Instant::now() + jittered(keys.watch_every());
                review(&broker);
                look(&broker, &keys, broker.at_google.accounts(false)).await;
            }
            () = broker.at_google.unknown.notified() => {
                look(&broker, &keys, broker.at_google.accounts(true)).await;
            }
        }
        cut(&broker);
    }
}

/// Makes what is known fit those who are connected.
fn review(broker: &Broker) {
    let (then, rules) = (Instant::now(), broker.rules.now());
    let connected = broker.leases.certificates();
    let connected: Vec<_> = connected.iter().filter(|shown| rules.hangs_on_google(shown)).collect();
    for shown in &connected {
        broker.at_google.join(shown);
    }
    broker.at_google.forget(&connected.into_iter().map(|shown| hanging(shown)).collect(), then);
}

async fn look(broker: &Arc<Broker>, keys: &Arc<KeySets>, accounts: BTreeSet<String>) {
    if let Enrolment::Elsewhere(_) = &broker.enrolment {
        // Whose keys are at Google, the certificates say; whom they may name, the configuration.
        keys.set_accounts(&broker.at_google.accounts(false));
    }
    let mut looking = JoinSet::new();
    for email in accounts {
        if looking.len() >= LOOKS_MAX {
            let _ = looking.join_next().await;
        }
        let (broker, keys) = (Arc::clone(broker), Arc::clone(keys));
        looking.spawn(async move {
            if let Some((set, fetched)) = keys.current(&email).await {
                broker.at_google.see(&email, fetched, |evidence| is_there(&set, evidence));
            }
        });
    }
    while looking.join_next().await.is_some() {}
}

/// Cuts off every process whose key is gone.
fn cut(broker: &Broker) {
    let rules = broker.rules.now();
    let closing = broker.leases.cut(|shown| rules.hangs_on_google(shown) && broker.at_google.is_gone(shown));
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
    use tokio::time::advance;

    use super::*;

    const EMAIL: &str = "agent@acme.example";
    const SECOND: Duration = Duration::from_secs(1);

    fn shown(email: &str, proof: Option<Proof>) -> Shown {
        Shown {
            principal: "spiffe://acme.example/agent/acme".parse().unwrap(),
            email: email.to_owned(),
            serial: "01".to_owned(),
            key: [0; 32],
            source: None,
            evidence: proof.map(|proof| Evidence { proof, verified_by: [7; 32] }),
        }
    }

    fn of_key(id: &str) -> Shown {
        shown(EMAIL, Some(Proof::GoogleKey(id.to_owned())))
    }

    /// One look a second later, at which the account has these keys.
    async fn look(at_google: &AtGoogle, keys: &[&str]) {
        advance(SECOND).await;
        let has = |evidence: Option<&Evidence>| match evidence.map(|evidence| &evidence.proof) {
            Some(Proof::GoogleKey(id)) => keys.contains(&id.as_str()),
            Some(_) | None => !keys.is_empty(),
        };
        at_google.see(EMAIL, Instant::now(), has);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_there_is_gone_at_once_and_one_that_never_was_at_the_second_look() {
        let at_google = AtGoogle::default();
        let (old, new, stranger) = (of_key("old"), of_key("new"), shown("other@acme.example", None));
        assert!(![&old, &new, &stranger].into_iter().any(|shown| at_google.join(shown)));
        look(&at_google, &["old"]).await;
        assert!(!at_google.is_gone(&old) && !at_google.is_gone(&new), "it may be too new");
        look(&at_google, &["old", "new"]).await;
        assert!(!at_google.is_gone(&new), "it was");
        look(&at_google, &["new"]).await;
        assert!(at_google.is_gone(&old) && at_google.join(&old) && !at_google.is_gone(&new));
        let never = of_key("never");
        assert!(!at_google.join(&never));
        look(&at_google, &["new"]).await;
        assert!(!at_google.is_gone(&never));
        look(&at_google, &["new"]).await;
        assert!(at_google.is_gone(&never) && !at_google.is_gone(&stranger));
        look(&at_google, &["old", "new"]).await;
        assert!(!at_google.is_gone(&old), "a key that was switched off may be switched on again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_somebody_came_says_nothing_and_one_answer_counts_once() {
        let at_google = AtGoogle::default();
        let before = Instant::now();
        advance(SECOND).await;
        at_google.join(&of_key("new"));
        for _ in 0..3 {
            at_google.see(EMAIL, before, |_| false);
        }
        assert!(!at_google.is_gone(&of_key("new")));
        let answer = Instant::now();
        for _ in 0..3 {
            at_google.see(EMAIL, answer, |_| false);
        }
        assert!(!at_google.is_gone(&of_key("new")), "it is the same answer");
        look(&at_google, &[]).await;
        assert!(at_google.is_gone(&of_key("new")));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_key_the_account_counts() {
        let at_google = AtGoogle::default();
        let token = shown(EMAIL, Some(Proof::GoogleIdToken { about: [1; 32] }));
        let unsaid = shown(EMAIL, None);
        at_google.join(&token);
        at_google.join(&unsaid);
        look(&at_google, &["any"]).await;
        look(&at_google, &["other"]).await;
        assert!(!at_google.is_gone(&token) && !at_google.is_gone(&unsaid));
        look(&at_google, &[]).await;
        assert!(at_google.is_gone(&token) && at_google.is_gone(&unsaid));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_remembered_for_longer_than_its_certificates_and_the_rest_while_connected() {
        let at_google = AtGoogle::default();
        let (gone, there) = (of_key("gone"), of_key("there"));
        at_google.join(&gone);
        at_google.join(&there);
        look(&at_google, &["gone", "there"]).await;
        look(&at_google, &["there"]).await;
        let connected = BTreeSet::from([hanging(&there)]);
        at_google.forget(&connected, Instant::now());
        assert_eq!(at_google.table().len(), 2);
        at_google.join(&of_key("just-came"));
        at_google.forget(&BTreeSet::new(), Instant::now());
        let left: Vec<_> = at_google.table().keys().cloned().collect();
        assert_eq!(left, [hanging(&gone), hanging(&of_key("just-came"))]);
        assert_eq!(at_google.accounts(true), BTreeSet::from([EMAIL.to_owned()]), "it was not looked at");
        advance(GONE_KEPT).await;
        at_google.forget(&BTreeSet::new(), Instant::now());
        assert!(at_google.table().is_empty());
        for number in 0..=GONE_MAX {
            at_google.join(&of_key(&format!("{number:04}")));
        }
        at_google.see(EMAIL, Instant::now(), |_| true);
        advance(SECOND).await;
        at_google.see(EMAIL, Instant::now(), |_| false);
        at_google.forget(&BTreeSet::new(), Instant::now());
        assert_eq!(at_google.table().len(), GONE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_with_something_new_has_it_looked_at() {
        let at_google = AtGoogle::default();
        at_google.join(&of_key("one"));
        at_google.unknown.notified().await;
        at_google.join(&of_key("one"));
        assert!(tokio::time::timeout(SECOND, at_google.unknown.notified()).await.is_err(), "it is known of");
    }
}
