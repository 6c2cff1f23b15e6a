//! Questions to a policy, answered for people.

use super::{Ask, Policy, Rule};
use crate::audit::Timestamp;
use crate::pattern::TargetPattern;
use crate::principal::Name;
use crate::status::{AgentReach, Verdict};

/// Lines of a matrix. Nobody reads more, and an answer has to have an end.
const MATRIX_MAX: usize = 10_000;

/// What the policy says of one client and one target. `links` tells how many live links an agent has.
///
/// Who does not say where the client comes from hears of the rule that asks for it least.
pub fn verdict(policy: &Policy, version: &str, ask: &Ask<'_>, links: impl Fn(&Name) -> u64) -> Verdict {
    let agents = policy.agents_for(ask);
    let allowing = || policy.matching(ask).filter(|rule| !rule.agents.is_empty());
    let rule = allowing().find(|rule| rule.sources.is_none()).filter(|_| ask.source.address().is_none());
    let rule = rule.or_else(|| allowing().next());
    Verdict {
        client: ask.client.to_string(),
        target: ask.target.to_string(),
        allowed: !agents.is_empty(),
        rule: rule.map(|rule| rule.name.clone()),
        expires: rule.and_then(|rule| rule.expires),
        sources: rule.map(sources).unwrap_or_default(),
        agents: agents.iter().map(|agent| AgentReach { agent: agent.to_string(), links: links(agent) }).collect(),
        cause: policy.allows(ask).err().map(|cause| cause.to_string()),
        nearest: policy.nearest_miss(ask),
        policy: version.to_owned(),
    }
}

/// Everything that is allowed at this time: each client with each target pattern of each of its rules, in the order of clients and rules.
pub fn matrix(policy: &Policy, version: &str, now: Timestamp, links: impl Fn(&Name) -> u64) -> Vec<Verdict> {
    let lines = policy.by_client.keys().flat_map(|client| {
        let rules = policy.rules_of(client).filter(|rule| !rule.has_expired(now));
        let patterns = rules.flat_map(|rule| rule.targets.iter().map(move |pattern| (rule, pattern)));
        patterns.map(move |(rule, pattern)| (client, rule, pattern))
    });
    let verdict = |(client, rule, pattern): (&Name, &Rule, &TargetPattern)| Verdict {
        client: client.to_string(),
        target: pattern.to_string(),
        allowed: !rule.agents.is_empty(),
        rule: Some(rule.name.clone()),
        expires: rule.expires,
        sources: sources(rule),
        agents: rule.agents.iter().map(|agent| AgentReach { agent: agent.to_string(), links: links(agent) }).collect(),
        cause: None,
        nearest: None,
        policy: version.to_owned(),
    };
    lines.take(MATRIX_MAX).map(verdict).collect()
}

fn sources(rule: &Rule) -> Vec<String> {
    rule.sources.iter().flat_map(|ranges| ranges.networks()).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Source;

    fn policy() -> Policy {
        let names = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let rule = |name: &str, agents: &[&str], targets: &[&str]| Rule {
            name: name.to_owned(),
            clients: names(&["frontend"]),
            agents: names(agents),
            targets: targets.iter().map(|text| text.parse().unwrap()).collect(),
            expires: None,
            sources: None,
        };
        let mut near = rule("near", &["acme"], &["build.acme.internal:22"]);
        near.sources = Some(crate::ranges::Ranges::new(["10.0.0.0/8".parse().unwrap()]));
        near.expires = Some(later());
        let rules = vec![
            rule("git", &["acme"], &["git.acme.internal:443"]),
            rule("all", &["acme", "other"], &["*.acme.internal:443", "10.0.0.0/8:443"]),
            near,
        ];
        Policy::new(rules, Timestamp::default())
    }

    fn later() -> Timestamp {
        "2026-11-30".parse().unwrap()
    }

    #[test]
    fn names_the_deciding_rule_and_every_agent_with_its_links() {
        let links = |agent: &Name| if agent.as_str() == "acme" { 2 } else { 0 };
        let ask = |target: &str, source, now| {
            let (client, target) = ("frontend".parse().unwrap(), target.parse().unwrap());
            verdict(&policy(), "v", &Ask { client: &client, target: &target, source, now }, links)
        };
        let now = Timestamp::default();
        let allowed = ask("git.acme.internal:443", Source::Anywhere, now);
        let agents: Vec<_> = allowed.agents.iter().map(|agent| (agent.agent.as_str(), agent.links)).collect();
        assert_eq!(
            (allowed.allowed, allowed.rule.as_deref(), agents),
            (true, Some("git"), vec![("acme", 2), ("other", 0)])
        );
        let denied = ask("git.acme.internal:80", Source::Anywhere, now);
        assert_eq!((denied.allowed, denied.rule, denied.agents.len()), (false, None, 0));
        assert!(denied.nearest.unwrap().contains("not on 80"));
        assert_eq!(denied.cause.as_deref(), Some("notAllowed"));

        let from = |text: &str| Source::Address(text.parse().unwrap());
        let near = ask("build.acme.internal:22", Source::Anywhere, now);
        assert_eq!((near.allowed, near.sources, near.expires), (true, vec!["10.0.0.0/8".to_owned()], Some(later())));
        for (source, now, cause) in [
            (from("10.0.0.9"), now, None),
            (from("192.0.2.9"), now, Some("sourceRefused")),
            (from("10.0.0.9"), later(), Some("ruleExpired")),
        ] {
            let verdict = ask("build.acme.internal:22", source, now);
            assert_eq!((verdict.allowed, verdict.cause.as_deref()), (cause.is_none(), cause), "{source:?} {now}");
            assert_eq!(verdict.nearest.is_some(), cause.is_some(), "{source:?} {now}");
        }
    }

    #[test]
    fn the_matrix_has_each_pattern_of_each_rule() {
        let lines: Vec<_> = matrix(&policy(), "v", Timestamp::default(), |_| 1)
            .into_iter()
            .map(|line| (line.rule.unwrap(), line.target))
            .collect();
        let expected = [
            ("git", "git.acme.internal:443"),
            ("all", "*.acme.internal:443"),
            ("all", "10.0.0.0/8:443"),
            ("near", "build.acme.internal:22"),
        ];
        assert_eq!(lines, expected.map(|(rule, target)| (rule.to_owned(), target.to_owned())));
    }
}
