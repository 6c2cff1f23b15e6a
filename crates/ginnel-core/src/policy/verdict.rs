//! Questions to a policy, answered for people.

use super::Policy;
use crate::principal::Name;
use crate::status::{AgentReach, Verdict};
use crate::target::Target;

/// Lines of a matrix. Nobody reads more, and an answer has to have an end.
const MATRIX_MAX: usize = 10_000;

/// What the policy says of one client and one target. `links` tells how many live links an agent has.
pub fn verdict(
    policy: &Policy,
    version: &str,
    client: &Name,
    target: &Target,
    links: impl Fn(&Name) -> u64,
) -> Verdict {
    let agents = policy.agents_for(client, target);
    let rule = policy.matching(client, target).find(|rule| !rule.agents.is_empty());
    Verdict {
        client: client.to_string(),
        target: target.to_string(),
        allowed: !agents.is_empty(),
        rule: rule.map(|rule| rule.name.clone()),
        agents: agents.iter().map(|agent| AgentReach { agent: agent.to_string(), links: links(agent) }).collect(),
        nearest: policy.nearest_miss(client, target),
        policy: version.to_owned(),
    }
}

/// Everything that is allowed: each client with each target pattern of each of its rules, in the order of clients and rules.
pub fn matrix(policy: &Policy, version: &str, links: impl Fn(&Name) -> u64) -> Vec<Verdict> {
    let lines = policy.by_client.keys().flat_map(|client| {
        let patterns = policy.rules_of(client).flat_map(|rule| rule.targets.iter().map(move |pattern| (rule, pattern)));
        patterns.map(move |(rule, pattern)| (client, rule, pattern))
    });
    let verdict = |(client, rule, pattern): (&Name, &super::Rule, &crate::pattern::TargetPattern)| Verdict {
        client: client.to_string(),
        target: pattern.to_string(),
        allowed: !rule.agents.is_empty(),
        rule: Some(rule.name.clone()),
        agents: rule.agents.iter().map(|agent| AgentReach { agent: agent.to_string(), links: links(agent) }).collect(),
        nearest: None,
        policy: version.to_owned(),
    };
    lines.take(MATRIX_MAX).map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rule;

    fn policy() -> Policy {
        let names = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let rule = |name: &str, agents: &[&str], targets: &[&str]| Rule {
            name: name.to_owned(),
            clients: names(&["frontend"]),
            agents: names(agents),
            targets: targets.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Policy::new(vec![
            rule("git", &["acme"], &["git.acme.internal:443"]),
            rule("all", &["acme", "other"], &["*.acme.internal:443", "10.0.0.0/8:443"]),
        ])
    }

    #[test]
    fn names_the_deciding_rule_and_every_agent_with_its_links() {
        let links = |agent: &Name| if agent.as_str() == "acme" { 2 } else { 0 };
        let ask = |target: &str| verdict(&policy(), "v", &"frontend".parse().unwrap(), &target.parse().unwrap(), links);
        let allowed = ask("git.acme.internal:443");
        let agents: Vec<_> = allowed.agents.iter().map(|agent| (agent.agent.as_str(), agent.links)).collect();
        assert_eq!(
            (allowed.allowed, allowed.rule.as_deref(), agents),
            (true, Some("git"), vec![("acme", 2), ("other", 0)])
        );
        let denied = ask("git.acme.internal:80");
        assert_eq!((denied.allowed, denied.rule, denied.agents.len()), (false, None, 0));
        assert!(denied.nearest.unwrap().contains("not on 80"));
    }

    #[test]
    fn the_matrix_has_each_pattern_of_each_rule() {
        let lines: Vec<_> =
            matrix(&policy(), "v", |_| 1).into_iter().map(|line| (line.rule.unwrap(), line.target)).collect();
        let expected = [("git", "git.acme.internal:443"), ("all", "*.acme.internal:443"), ("all", "10.0.0.0/8:443")];
        assert_eq!(lines, expected.map(|(rule, target)| (rule.to_owned(), target.to_owned())));
    }
}
