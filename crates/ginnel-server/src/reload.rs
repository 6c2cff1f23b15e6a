//! Replaces identities and rules while the server runs, and ends what depended on what is gone.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_config::{Identity, ServerConfig};
use ginnel_core::audit::{Event, Text};
use ginnel_core::policy::Rule;
use ginnel_core::report::Chain;
use ginnel_ops::reload::Fault;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::rules::{Rules, enrol_identities};

/// How long the connections of an identity that is gone stay open, so that both sides of its sessions hear the reason. The last byte of a
/// session is over long before.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Names that are given of each kind of change; more of them are counted.
const NAMES_MAX: usize = 20;

impl Broker {
    /// Reads the configuration again and puts it into force; says what changed.
    ///
    /// # Errors
    /// What is wrong with it. What was in force stays.
    pub(crate) fn reload(&self) -> Result<String, Fault> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.try_reload();
        if let Err(why) = &outcome {
            self.rules.shown.failed(&why.whole);
        }
        outcome
    }

    fn try_reload(&self) -> Result<String, Fault> {
        let source = self.source.as_ref().ok_or("this server was started without a configuration file")?;
        let config = source.load().map_err(|error| Fault { whole: error.whole(), logged: error.without_quotes() })?;
        let before = self.rules.now();
        let mut changes = changes(&before.config, &config);
        // What needs a restart stays as it was, also for the next comparison.
        let config = ServerConfig { identities: config.identities, rules: config.rules, ..before.config.clone() };
        let identities = enrol_identities(&config).map_err(|(doing, error)| format!("{doing}: {}", Chain(&*error)))?;
        let enroller = before
            .enroller
            .with_identities(identities, SystemTime::now())
            .map_err(|error| Chain(&error).to_string())?;
        let after = Arc::new(Rules::new(config, enroller));
        self.rules.replace(Arc::clone(&after));
        tracing::info!(policy = %after.version, changed = changes.join("; "), "rules replaced");
        // Before the ends that follow from it, so that the record reads in the order of cause and effect.
        self.note(Event::Reloaded { policy: after.version.clone(), changed: Text::new(changes.join("; ")) });
        self.enforce(&before, &after, &mut changes);
        Ok(changes.join("\n"))
    }

    /// Ends what the rules no longer allow. They are in force already: whatever began under the old ones is in the ledger.
    fn enforce(&self, before: &Rules, after: &Rules, changes: &mut Vec<String>) {
        let gone = after.no_longer_admitted(before);
        let ended = self.ledger.end_where(|parties| after.objection(&gone, parties));
        let closing = self.connections.unless(|principal, email| after.admits(principal, email));
        let closed = closing.len();
        // Nothing can be opened on them from here on; what is left for them to carry is why their sessions ended.
        self.tasks.spawn(async move {
            sleep(LAST_WORDS).await;
            closing.iter().for_each(CancellationToken::cancel);
        });
        self.directory.rules_changed();
        if ended > 0 {
            changes.push(match ended {
                1 => "1 session is no longer allowed and was ended".to_owned(),
                more => format!("{more} sessions are no longer allowed and were ended"),
            });
        }
        if closed > 0 {
            changes.push(match closed {
                1 => "1 connection of an identity that is gone was closed".to_owned(),
                more => format!("{more} connections of identities that are gone were closed"),
            });
        }
        if changes.is_empty() {
            changes.push("nothing has changed".to_owned());
        }
        let rules = match after.config.rules.len() {
            1 => "1 rule".to_owned(),
            more => format!("{more} rules"),
        };
        changes.push(format!("policy {} is in force with {rules}", after.version));
    }
}

/// What is different, a line for each kind of change.
fn changes(before: &ServerConfig, after: &ServerConfig) -> Vec<String> {
    let mut lines = Vec::new();
    let name_of_rule = |rule: &Rule| rule.name.clone();
    compare("rules", &before.rules, &after.rules, name_of_rule, &mut lines);
    let name_of_identity = |identity: &Identity| format!("{} {}", identity.role, identity.name);
    compare("identities", &before.identities, &after.identities, name_of_identity, &mut lines);
    let ServerConfig {
        trust_domain,
        server,
        identities: _,
        rules: _,
        issuer,
        enrolment_audience,
        renewal,
        audit_directory,
    } = before;
    let restart = [
        ("trustDomain", *trust_domain != after.trust_domain),
        ("server", *server != after.server),
        ("issuer", *issuer != after.issuer),
        ("enrolment", *enrolment_audience != after.enrolment_audience),
        ("renewal", *renewal != after.renewal),
        ("audit", *audit_directory != after.audit_directory),
    ];
    for (section, _) in restart.into_iter().filter(|(_, is_different)| *is_different) {
        lines.push(format!("{section} has changed, which takes a restart; it stays as it was"));
    }
    lines
}

fn compare<T: PartialEq, K: Ord + Display>(
    what: &str,
    before: &[T],
    after: &[T],
    name: impl Fn(&T) -> K,
    lines: &mut Vec<String>,
) {
    let by_name = |items: &'_ [T]| items.iter().map(&name).zip(0..).collect::<BTreeMap<K, usize>>();
    let (old, new) = (by_name(before), by_name(after));
    let added = new.keys().filter(|name| !old.contains_key(*name));
    let removed = old.keys().filter(|name| !new.contains_key(*name));
    let changed = new.iter().filter(|(name, at)| old.get(*name).is_some_and(|was| before[*was] != after[**at]));
    list(what, "added", added, lines);
    list(what, "removed", removed, lines);
    list(what, "changed", changed.map(|(name, _)| name), lines);
    if old.len() == new.len() && !lines.iter().any(|line| line.starts_with(what)) && before != after {
        lines.push(format!("{what} are in another order"));
    }
}

fn list<'a, K: Display + 'a>(what: &str, how: &str, names: impl Iterator<Item = &'a K>, lines: &mut Vec<String>) {
    let names: Vec<_> = names.map(ToString::to_string).collect();
    if names.is_empty() {
        return;
    }
    let more = names.len().saturating_sub(NAMES_MAX);
    let shown = names[..names.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    lines.push(format!("{what} {how}: {shown}{more}"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ginnel_config::Overrides;

    use super::*;

    fn config(change: impl Fn(String) -> String) -> ServerConfig {
        let text = change(ginnel_config::example(ginnel_core::principal::Role::Server));
        ServerConfig::parse(&text, "server.yaml", Path::new("/"), &Overrides::none()).unwrap()
    }

    #[test]
    fn says_what_changed_and_what_takes_a_restart() {
        let before = config(|text| text);
        assert!(changes(&before, &before).is_empty());
        let cases: [(ServerConfig, &[&str]); 5] = [
            (
                config(|text| text.replace("gitlab.acme.internal:22", "gitlab.acme.internal:2222")),
                &["rules changed: gitlab"],
            ),
            (config(|text| text.replace("name: gitlab", "name: git")), &["rules added: git", "rules removed: gitlab"]),
            (config(|text| text.replace("email: agent@", "email: other@")), &["identities changed: agent acme"]),
            (
                config(|text| text.replace("0.0.0.0:50050", "0.0.0.0:443")),
                &["server has changed, which takes a restart; it stays as it was"],
            ),
            (
                config(|text| text.replace("#renewal:", "renewal:").replace("#at: \"33%\"", "at: 50%")),
                &["renewal has changed, which takes a restart; it stays as it was"],
            ),
        ];
        for (after, expected) in cases {
            assert_eq!(changes(&before, &after), expected);
        }
    }
}
