//! What comes nearest to allowing something that is not allowed, in a sentence for whoever wonders.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::{Ask, Policy, Rule, Source};
use crate::audit::Timestamp;
use crate::pattern::TargetPattern;
use crate::principal::Name;
use crate::target::{Host, Target};

/// Names that a sentence lists; more of them are counted.
const NAMES_MAX: usize = 5;

/// A longer name is not compared by its spelling, which costs the product of two lengths.
const SPELLING_MAX: usize = 80;

/// Names whose spelling is compared. A typing mistake in a policy with more of them is found by other means.
const COMPARED_MAX: usize = 10_000;

impl Policy {
    /// The rule that comes nearest to letting a client have a session, and what in it does not fit; `None` if nothing is near, or if it
    /// is allowed.
    pub fn nearest_miss(&self, ask: &Ask<'_>) -> Option<String> {
        let Ask { client, target, source: _, now } = *ask;
        if !self.agents_for(ask).is_empty() {
            return None;
        }
        if let Some(rule) = self.matching(ask).next() {
            return Some(format!("rule {} allows it, but names no agent", rule.name));
        }
        self.other_source(ask)
            .or_else(|| self.too_late(client, target, now))
            .or_else(|| self.other_ports(client, target, now))
            .or_else(|| self.other_clients(client, target, now))
            .or_else(|| self.unknown_client(client))
            .or_else(|| self.other_depth(client, target, now))
            .or_else(|| self.other_kind(client, target, now))
            .or_else(|| self.other_spelling(client, target, now))
    }

    /// The patterns of a client's rules that have not expired.
    fn patterns_of(&self, client: &Name, now: Timestamp) -> impl Iterator<Item = (&Rule, &TargetPattern)> {
        let in_force = self.rules_of(client).filter(move |rule| !rule.has_expired(now));
        in_force.flat_map(|rule| rule.targets.iter().map(move |pattern| (rule, pattern)))
    }

    fn other_source(&self, ask: &Ask<'_>) -> Option<String> {
        let Source::Address(address) = ask.source else { return None };
        let rule = self.matching(&Ask { source: Source::Anywhere, ..*ask }).next()?;
        let sources = rule.sources.as_ref()?.networks().iter().collect();
        Some(format!("rule {} allows it from {}, not from {address}", rule.name, listed(&sources)))
    }

    /// The one of the expired rules that was in force the longest.
    fn too_late(&self, client: &Name, target: &Target, now: Timestamp) -> Option<String> {
        let expired = self.rules_of(client).filter(|rule| rule.has_expired(now) && rule.means(target));
        let rule = expired.max_by_key(|rule| rule.expires)?;
        Some(format!("rule {} allowed it until {}, when it expired", rule.name, rule.expires?))
    }

    fn other_ports(&self, client: &Name, target: &Target, now: Timestamp) -> Option<String> {
        let on_host = || self.patterns_of(client, now).filter(|(_, pattern)| pattern.matches_host(&target.host));
        let (rule, _) = on_host().next()?;
        let ports = on_host().map(|(_, pattern)| match pattern.ports() {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        });
        let ports = listed(&ports.collect::<BTreeSet<_>>());
        Some(format!("rule {} allows {} on {ports}, not on {}", rule.name, target.host, target.port))
    }

    fn other_clients(&self, client: &Name, target: &Target, now: Timestamp) -> Option<String> {
        let rule = self.rules.iter().find(|rule| !rule.has_expired(now) && rule.means(target))?;
        Some(format!("rule {} allows this target for {}, not for {client}", rule.name, listed(&rule.clients)))
    }

    fn unknown_client(&self, client: &Name) -> Option<String> {
        if self.by_client.contains_key(client) {
            return None;
        }
        let close = closest(client.as_str(), self.by_client.keys().map(Name::as_str));
        let hint = close.map(|close| format!("; did you mean {close}?")).unwrap_or_default();
        Some(format!("no rule names the client {client}{hint}"))
    }

    fn other_depth(&self, client: &Name, target: &Target, now: Timestamp) -> Option<String> {
        let Host::Name(host) = &target.host else { return None };
        let (rule, pattern) = self.patterns_of(client, now).find(|(_, pattern)| {
            pattern.parent().is_some_and(|parent| {
                host == parent || host.as_str().strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            })
        })?;
        Some(format!("rule {} allows {pattern}, where the star stands for exactly one label", rule.name))
    }

    fn other_kind(&self, client: &Name, target: &Target, now: Timestamp) -> Option<String> {
        if !matches!(target.host, Host::Address(_)) {
            return None;
        }
        let (rule, pattern) = self.patterns_of(client, now).find(|(_, pattern)| pattern.network().is_none())?;
        Some(format!("rule {} names hosts ({pattern}): an address has to be listed as an address", rule.name))
    }

    fn other_spelling(&self, client: &Name, target: &Target, now: Timestamp) -> Option<String> {
        let Host::Name(host) = &target.host else { return None };
        let names =
            || self.patterns_of(client, now).filter_map(|(rule, pattern)| Some((rule, pattern, pattern.name()?)));
        let close = closest(host.as_str(), names().map(|(_, _, name)| name.as_str()))?;
        let (rule, pattern, _) = names().find(|(_, _, name)| name.as_str() == close)?;
        Some(format!("rule {} allows {pattern}; did you mean that?", rule.name))
    }
}

fn listed(items: &BTreeSet<impl Display>) -> String {
    let shown: Vec<_> = items.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    match items.len().saturating_sub(NAMES_MAX) {
        0 if shown.is_empty() => "nobody".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > SPELLING_MAX {
        return None;
    }
    candidates
        .take(COMPARED_MAX)
        .filter(|candidate| candidate.len() <= SPELLING_MAX)
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= word.len().max(candidate.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::Ranges;

    fn rule(name: &str, clients: &[&str], targets: &[&str]) -> Rule {
        let names = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
        let (expires, sources) = (None, None);
        Rule { name: name.to_owned(), clients: names(clients), agents: names(&["acme"]), targets, expires, sources }
    }

    fn policy() -> Policy {
        let mut unserved = rule("unserved", &["frontend"], &["lonely.acme.internal:443"]);
        unserved.agents.clear();
        let mut old = rule("old", &["frontend"], &["old.acme.internal:443", "npm.acme.internal:443"]);
        old.expires = Some(Timestamp::default());
        let mut near = rule("near", &["frontend"], &["near.acme.internal:443"]);
        near.sources = Some(Ranges::new(["203.0.113.0/24".parse().unwrap(), "fd00::1".parse().unwrap()]));
        let rules = vec![
            rule(
                "git",
                &["frontend"],
                &["gitlab.acme.internal:443", "gitlab.acme.internal:22", "gitlab.acme.internal:8000-8100"],
            ),
            rule("npm", &["builder", "runner"], &["npm.acme.internal:443"]),
            rule("wide", &["frontend"], &["*.registry.acme.internal:443"]),
            unserved,
            old,
            near,
        ];
        Policy::new(rules, Timestamp::default())
    }

    #[test]
    fn says_in_one_sentence_what_does_not_fit() {
        let cases = [
            ("frontend", "gitlab.acme.internal:443", None),
            (
                "frontend",
                "gitlab.acme.internal:80",
                Some("rule git allows gitlab.acme.internal on 22, 443, 8000-8100, not on 80"),
            ),
            (
                "indexer",
                "npm.acme.internal:443",
                Some("rule npm allows this target for builder, runner, not for indexer"),
            ),
            (
                "frontend",
                "npm.acme.internal:443",
                Some("rule old allowed it until 1970-01-01T00:00:00.000000Z, when it expired"),
            ),
            (
                "frontend",
                "near.acme.internal:443",
                Some("rule near allows it from 203.0.113.0/24, fd00::1/128, not from 10.0.0.9"),
            ),
            ("fronted", "gitlab.acme.io:443", Some("no rule names the client fronted; did you mean frontend?")),
            ("zebra", "x.acme.io:443", Some("no rule names the client zebra")),
            (
                "frontend",
                "a.b.registry.acme.internal:443",
                Some("rule wide allows *.registry.acme.internal:443, where the star stands for exactly one label"),
            ),
            (
                "frontend",
                "registry.acme.internal:443",
                Some("rule wide allows *.registry.acme.internal:443, where the star stands for exactly one label"),
            ),
            (
                "frontend",
                "10.0.0.7:443",
                Some("rule git names hosts (gitlab.acme.internal:443): an address has to be listed as an address"),
            ),
            (
                "frontend",
                "gitlba.acme.internal:443",
                Some("rule git allows gitlab.acme.internal:443; did you mean that?"),
            ),
            ("frontend", "lonely.acme.internal:443", Some("rule unserved allows it, but names no agent")),
            ("frontend", "www.example.com:443", None),
        ];
        for (client, target, expected) in cases {
            let (name, wanted) = (client.parse().unwrap(), target.parse().unwrap());
            let source = Source::Address("10.0.0.9".parse().unwrap());
            let ask = Ask { client: &name, target: &wanted, source, now: Timestamp::default() };
            let miss = policy().nearest_miss(&ask);
            assert_eq!(miss.as_deref(), expected, "{client} {target}");
        }
    }
}
