//! Replaces identities and rules while the server runs, and ends what depended on what is gone.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_config::{Identity, OidcIssuer, ServerConfig, ServerSection};
use ginnel_core::audit::{Event, Text};
use ginnel_core::policy::Rule;
use ginnel_core::report::Chain;
use ginnel_enrol::Issuer;
use ginnel_identity::trust::Roots;
use ginnel_ops::reload::Fault;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::app::outer_trust;
use crate::broker::Broker;
use crate::expiry::named;
use crate::remote::Enrolment;
use crate::rules::{Rules, sources};

/// How long the connections of an identity that is gone stay open, so that both sides of its sessions hear the reason. The last byte of a
/// session is over long before.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(200);

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
        if let Some(name) = redefined(&before.config.oidc_issuers, &config.oidc_issuers, &config.identities) {
            return Err(Fault::from(format!(
                "identities mean the OIDC issuer {name}, which is new or has changed; that takes a restart"
            )));
        }
        let mut changes = changes(&before.config, &config);
        // What needs a restart stays as it was, also for the next comparison.
        let server =
            ServerSection { allowed_sources: config.server.allowed_sources.clone(), ..before.config.server.clone() };
        let config = ServerConfig {
            identities: config.identities,
            rules: config.rules,
            server,
            oidc_issuers: without_removed(&before.config.oidc_issuers, &config.oidc_issuers),
            ..before.config.clone()
        };
        let admissible = match &self.enrolment {
            Enrolment::Here(desk) => {
                let admissible = desk.with_identities(&config.trust_domain, &config.identities, sources(&config))?;
                // Last of what can fail: the issuer takes what it reads into use by itself.
                let roots = desk.issuer.reload(SystemTime::now());
                let roots = roots.map_err(|error| format!("reading the issuer again: {}", Chain(&*error)))?;
                self.take_roots(&desk.issuer);
                if !roots.is_empty() {
                    self.own.renew_soon();
                    tracing::info!(changed = roots.join("; "), "the issuer's roots have changed");
                }
                changes.extend(roots);
                Some((desk, Arc::new(admissible)))
            }
            Enrolment::Elsewhere(remote) => {
                let roots = remote.read_roots().map_err(|error| format!("reading roots again: {}", Chain(&error)))?;
                if !roots.is_empty() {
                    self.trust.set(remote.trust());
                    self.own.renew_soon();
                }
                changes.extend(roots);
                None
            }
        };
        // From here on nothing waits for a file. A revocation that came meanwhile has changed the denials alone.
        let _replacing = self.rules.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.rules.now();
        let next = admissible.as_ref().map(|(_, admissible)| Arc::clone(admissible));
        let after = Arc::new(before.read_again(config, next));
        if let Some((desk, admissible)) = admissible {
            desk.replace(admissible);
        }
        self.rules.replace(Arc::clone(&after));
        tracing::info!(policy = %after.version, changed = changes.join("; "), "rules replaced");
        // Before the ends that follow from it, so that the record reads in the order of cause and effect.
        self.note(Event::Reloaded { policy: after.version.clone(), changed: Text::new(changes.join("; ")) });
        let ended = self.enforce(&before, &after);
        tell(&after, ended, &mut changes);
        Ok(changes.join("\n"))
    }

    /// Believes the roots that the issuer has at the moment, for handshakes from here on.
    pub(crate) fn take_roots(&self, issuer: &Arc<dyn Issuer>) {
        let (now, next) = (self.trust.now(), outer_trust(&**issuer));
        let differs = |a: &Roots, b: &Roots| a.certificates() != b.certificates();
        if differs(&now.agent, &next.agent) || differs(&now.client, &next.client) {
            tracing::info!("the roots of agents and clients have changed");
            self.trust.set(next);
        }
    }

    /// How many sessions and connections the rules no longer allow.
    pub(crate) fn objected(&self, before: &Rules, after: &Rules) -> (u64, u64) {
        let gone = after.no_longer_admitted(before);
        let sessions = self.ledger.count_where(|parties| after.objection(&gone, parties));
        (sessions, count(self.connections.unless(|shown| after.admits(shown)).len()))
    }

    /// Ends what the rules no longer allow; gives how many sessions and connections that were. They are in force already: whatever began under
    /// the old ones is in the ledger.
    pub(crate) fn enforce(&self, before: &Rules, after: &Rules) -> (u64, u64) {
        let gone = after.no_longer_admitted(before);
        let ended = self.ledger.end_where(|parties| after.objection(&gone, parties));
        let closing = self.connections.unless(|shown| after.admits(shown));
        let closed = count(closing.len());
        // Nothing can be opened on them from here on; what is left for them to carry is why their sessions ended.
        self.tasks.spawn(async move {
            sleep(LAST_WORDS).await;
            closing.iter().for_each(CancellationToken::cancel);
        });
        self.directory.leave_where(&|link| !after.admits(&link.facts.certificate));
        self.directory.rules_changed();
        (ended, closed)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Says what came of it, after what changed.
fn tell(after: &Rules, (ended, closed): (u64, u64), changes: &mut Vec<String>) {
    if ended > 0 {
        changes.push(match ended {
            1 => "1 session is no longer allowed and was ended".to_owned(),
            more => format!("{more} sessions are no longer allowed and were ended"),
        });
    }
    if closed > 0 {
        changes.push(match closed {
            1 => "1 connection is no longer admitted and was closed".to_owned(),
            more => format!("{more} connections are no longer admitted and were closed"),
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
    let expired: Vec<_> = after.policy.by_expiry().take(after.policy.expired_by(after.made)).collect();
    if !expired.is_empty() {
        changes.push(format!("expired, and allowing nothing: {}", named(&expired)));
    }
    let denials = after.denials.count();
    if denials > 0 {
        changes.push(format!("denials in force as before: {denials}"));
    }
}

/// What is different, a line for each kind of change.
fn changes(before: &ServerConfig, after: &ServerConfig) -> Vec<String> {
    let mut lines = Vec::new();
    let name_of_rule = |rule: &Rule| rule.name.clone();
    compare("rules", &before.rules, &after.rules, name_of_rule, &mut lines);
    compare_identities(&before.identities, &after.identities, &mut lines);
    let ServerConfig {
        trust_domain,
        server,
        identities: _,
        rules: _,
        issuer,
        google,
        watch_keys,
        oidc_issuers,
        enrolment_audience,
        renewal,
        audit,
        cloud_logging,
        configured_denials,
        limits,
    } = before;
    let allowed = &after.server.allowed_sources;
    if server.allowed_sources != *allowed {
        lines.push("allowedSourceRanges changed".to_owned());
    }
    let restart = [
        ("trustDomain", *trust_domain != after.trust_domain),
        ("server", ServerSection { allowed_sources: allowed.clone(), ..server.clone() } != after.server),
        ("issuer", *issuer != after.issuer),
        ("google", *google != after.google || *watch_keys != after.watch_keys),
        ("oidcIssuers", compare_issuers(oidc_issuers, &after.oidc_issuers, &mut lines)),
        ("enrolment", *enrolment_audience != after.enrolment_audience),
        ("renewal", *renewal != after.renewal),
        ("audit", *audit != after.audit || *cloud_logging != after.cloud_logging),
        ("denials", *configured_denials != after.configured_denials),
        ("limits", *limits != after.limits),
    ];
    takes_a_restart(&restart, &mut lines);
    lines
}

/// An OIDC issuer of this name that identities mean, and that is another one than the one in use, which stays until a restart.
pub(crate) fn redefined<'a>(
    in_use: &[OidcIssuer],
    file: &'a [OidcIssuer],
    identities: &[Identity],
) -> Option<&'a ginnel_core::principal::Name> {
    let is_meant = |issuer: &&OidcIssuer| {
        identities.iter().filter_map(|identity| identity.oidc.as_ref()).any(|oidc| oidc.issuer == issuer.name.as_str())
    };
    file.iter().filter(is_meant).find(|issuer| !in_use.contains(issuer)).map(|issuer| &issuer.name)
}

/// The issuers in use without those that the file has no longer. No identity means one of these, so that what they proved counts no more.
pub(crate) fn without_removed(in_use: &[OidcIssuer], file: &[OidcIssuer]) -> Vec<OidcIssuer> {
    in_use.iter().filter(|issuer| file.iter().any(|its| its.name == issuer.name)).cloned().collect()
}

/// Which issuers are removed, and whether there is more that is different among them, which takes a restart.
pub(crate) fn compare_issuers(in_use: &[OidcIssuer], file: &[OidcIssuer], lines: &mut Vec<String>) -> bool {
    let removed = in_use.iter().filter(|issuer| !file.iter().any(|its| its.name == issuer.name));
    list("oidcIssuers", "removed", removed.map(|issuer| &issuer.name), lines);
    file.iter().any(|issuer| !in_use.contains(issuer))
}

/// What is different among identities.
pub(crate) fn compare_identities(before: &[Identity], after: &[Identity], lines: &mut Vec<String>) {
    compare("identities", before, after, |identity| format!("{} {}", identity.role, identity.name), lines);
}

/// Names the sections that are different and stay as they were.
pub(crate) fn takes_a_restart(sections: &[(&str, bool)], lines: &mut Vec<String>) {
    for (section, _) in sections.iter().filter(|(_, is_different)| *is_different) {
        lines.push(format!("{section} has changed, which takes a restart; it stays as it was"));
    }
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
        let issuer = |name: &str| {
            format!("\noidcIssuers: [{{name: {name}, issuer: \"https://{name}.example\", binding: bearer}}]\n")
        };
        let with_issuer = config(|text| text + &issuer("cluster"));
        assert_eq!(changes(&with_issuer, &before), ["oidcIssuers removed: cluster"]);
        let other = config(|text| text + &issuer("other"));
        let restart = "oidcIssuers has changed, which takes a restart; it stays as it was";
        assert_eq!(changes(&with_issuer, &other), ["oidcIssuers removed: cluster", restart]);
        assert!(without_removed(&with_issuer.oidc_issuers, &other.oidc_issuers).is_empty());
        assert_eq!(changes(&before, &other), [restart]);
        let cases: [(ServerConfig, &[&str]); 7] = [
            (
                config(|text| text.replace("gitlab.acme.internal:22", "gitlab.acme.internal:2222")),
                &["rules changed: gitlab"],
            ),
            (config(|text| text.replace("name: gitlab", "name: git")), &["rules added: git", "rules removed: gitlab"]),
            (config(|text| text.replace("email: agent@", "email: other@")), &["identities changed: agent acme"]),
            (
                config(|text| {
                    text.replace("#allowedSourceRanges:\n", "allowedSourceRanges: {agent: [203.0.113.0/24]}\n")
                }),
                &["allowedSourceRanges changed"],
            ),
            (config(|text| text.replace("#expires: 2030", "expires: 2030")), &["rules changed: gitlab"]),
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
