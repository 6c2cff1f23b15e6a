//! Ends what a rule allowed when the rule expires, and says beforehand that it will.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ginnel_core::audit::Timestamp;
use ginnel_core::policy::{EXPIRES_SOON, Rule};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::broker::Broker;
use crate::rules::Rules;

/// How often the clocks are looked at: what depends on a rule is told to end within a quarter of a second after it expired, and has ended within
/// a second. A wall clock that jumps is noticed as fast.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Rules that one line of the log names; more of them are counted.
const NAMES_MAX: usize = 20;

/// What was said and done about the rules in force.
struct Known {
    rules: Arc<Rules>,
    /// How many of them had expired, and what depended on them was ended.
    expired: usize,
    /// Of how many it was said that they expire soon.
    told: usize,
}

impl Known {
    /// Of rules that came from a file: what they did not allow when they were made was ended when they came into force.
    fn of(rules: Arc<Rules>) -> Self {
        let (policy, made) = (&rules.policy, rules.made);
        let expired = policy.expired_by(made);
        if expired > 0 {
            let names = named(&policy.by_expiry().take(expired).collect::<Vec<_>>());
            tracing::warn!(count = expired, rules = names, "rules have expired and allow nothing");
        }
        let told = warn_of_soon(&rules, expired, made);
        Self { expired, told, rules }
    }

    /// What is known once these are in force.
    fn then(self, rules: Arc<Rules>) -> Self {
        if rules.are_the_same_as(&self.rules) {
            return Self { rules, ..self };
        }
        if rules.are_read_with(&self.rules) {
            // Denials have changed, and the file has not: nothing of it is news, except what has expired since somebody looked.
            let names = |rules: &Rules| rules.policy.by_expiry().map(|rule| rule.name.clone()).collect::<Vec<_>>();
            if names(&rules) == names(&self.rules) {
                return Self { rules, ..self };
            }
            let (policy, made) = (&rules.policy, rules.made);
            let told = policy.expired_by(made.saturating_add(EXPIRES_SOON));
            return Self { expired: policy.expired_by(made), told, rules };
        }
        Self::of(rules)
    }
}

/// Watches the clocks for as long as the server runs.
pub(crate) async fn watch(broker: Arc<Broker>) {
    let mut known = Known::of(broker.rules.now());
    loop {
        sleep(LOOK_EVERY).await;
        let rules = broker.rules.now();
        known = known.then(rules);
        look(&broker, &mut known).await;
        let now = known.rules.clock.now();
        if known.rules.policy.is_worn(now) {
            let broker = Arc::clone(&broker);
            // It takes some tenths of a second for a large policy, and who replaces the rules meanwhile may wait for a disk.
            let remade = spawn_blocking(move || broker.remake());
            let _ = remade.await;
        }
    }
}

async fn look(broker: &Arc<Broker>, known: &mut Known) {
    let rules = &known.rules;
    let now = rules.clock.now();
    let expired = rules.policy.expired_by(now);
    if expired > known.expired {
        let names = named(&rules.policy.by_expiry().take(expired).skip(known.expired).collect::<Vec<_>>());
        let enforcing = Arc::clone(broker);
        // As above: no thread that carries bytes waits for that.
        let enforced = spawn_blocking(move || enforcing.enforce_now()).await;
        let Ok((ended, _)) = enforced else {
            // What has not ended is looked at again with the next look.
            tracing::error!(rules = names, "rules have expired, and what they allowed could not be ended");
            return;
        };
        tracing::warn!(rules = names, ended, "rules have expired; the sessions that they alone allowed are ended");
    }
    if expired < known.expired {
        // The wall clock was put right again, which brings rules back: clients are to hear of it, and the next end of these is news.
        tracing::warn!(count = known.expired - expired, "rules are in force again: the clock was put back");
        broker.directory.rules_changed();
    }
    known.expired = expired;
    known.told = warn_of_soon(rules, known.told.max(expired), now);
}

/// Says which rules expire soon, beyond the first `told`; gives of how many it is said.
fn warn_of_soon(rules: &Rules, told: usize, now: Timestamp) -> usize {
    let policy = &rules.policy;
    let soon = policy.expired_by(now.saturating_add(EXPIRES_SOON));
    if soon > told {
        let names = named(&policy.by_expiry().take(soon).skip(told).collect::<Vec<_>>());
        tracing::warn!(count = soon - told, rules = names, "rules expire within a week");
    }
    soon.max(told)
}

/// The names of rules with their ends, as many as anybody reads.
pub(crate) fn named(rules: &[&Rule]) -> String {
    let more = rules.len().saturating_sub(NAMES_MAX);
    let name = |rule: &&Rule| match rule.expires {
        Some(expires) => format!("{} ({expires})", rule.name),
        None => rule.name.clone(),
    };
    let names: Vec<_> = rules.iter().take(NAMES_MAX).map(name).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

impl Broker {
    /// Ends what the rules in force do not allow at this moment.
    fn enforce_now(&self) -> (u64, u64) {
        let _replacing = self.rules.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = self.rules.now();
        self.rules.settle();
        self.enforce(&rules, &rules)
    }

    /// Makes the same rules anew, without those that have expired meanwhile in the way.
    fn remake(&self) {
        let _replacing = self.rules.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = self.rules.now();
        if rules.policy.is_worn(rules.clock.now()) {
            self.rules.remade(Arc::new(rules.remade()));
        }
    }
}
