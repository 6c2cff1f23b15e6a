//! The server's word: which client may reach which target through which agent. What no rule allows is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::cause::Cause;
use crate::pattern::TargetPattern;
use crate::principal::Name;
use crate::target::Target;

pub use self::verdict::{matrix, verdict};

mod miss;
mod verdict;

/// Lets each of its clients reach each of its targets through each of its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What audit records call it.
    pub name: String,
    /// Who may reach the targets.
    pub clients: BTreeSet<Name>,
    /// Through whom.
    pub agents: BTreeSet<Name>,
    /// What may be reached.
    pub targets: Vec<TargetPattern>,
}

/// The rule that allowed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The name of the rule.
    pub rule: String,
}

/// The rules, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    /// The places in `rules` that concern a client, in order: a decision looks at no other rule.
    by_client: BTreeMap<Name, Vec<usize>>,
}

impl Policy {
    /// A policy of these rules. Their order decides which one a permit names, never what is allowed.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut by_client: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (at, rule) in rules.iter().enumerate() {
            for client in &rule.clients {
                by_client.entry(client.clone()).or_default().push(at);
            }
        }
        Self { rules, by_client }
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// Decides whether `client` may reach `target` through `agent`; the permit names the first rule that says so.
    ///
    /// # Errors
    /// [`Cause::NotAllowed`] if there is no such rule.
    pub fn decide(&self, client: &Name, target: &Target, agent: &Name) -> Result<Permit, Cause> {
        self.matching(client, target)
            .find(|rule| rule.agents.contains(agent))
            .map(|rule| Permit { rule: rule.name.clone() })
            .ok_or(Cause::NotAllowed)
    }

    /// The agents through which `client` may reach `target`, connected or not. None means that it is not allowed to.
    pub fn agents_for(&self, client: &Name, target: &Target) -> BTreeSet<Name> {
        self.matching(client, target).flat_map(|rule| rule.agents.iter().cloned()).collect()
    }

    /// What `client` may reach, by agent: each pattern once, in the order of the rules.
    pub fn reach(&self, client: &Name) -> BTreeMap<Name, Vec<TargetPattern>> {
        let mut reach: BTreeMap<Name, Vec<TargetPattern>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for rule in self.rules_of(client) {
            for agent in &rule.agents {
                let new = rule.targets.iter().filter(|target| seen.insert((agent, *target)));
                reach.entry(agent.clone()).or_default().extend(new.cloned());
            }
        }
        reach
    }

    /// The policy as text: equal texts mean equal policies, so that a hash of it is a version.
    ///
    /// Rules keep their order, which decides what a permit names; everything inside a rule is sorted.
    pub fn canonical_text(&self) -> String {
        let mut text = String::new();
        for Rule { name, clients, agents, targets } in &self.rules {
            // Only the name may contain spaces and line ends, so its length is what keeps two policies from having
            // one text.
            let _ = writeln!(text, "rule {} {name}", name.len());
            write_line(&mut text, "clients", clients);
            write_line(&mut text, "agents", agents);
            write_line(&mut text, "targets", &targets.iter().collect());
        }
        text
    }

    fn rules_of(&self, client: &Name) -> impl Iterator<Item = &Rule> {
        self.by_client.get(client).into_iter().flatten().map(|&at| &self.rules[at])
    }

    fn matching(&self, client: &Name, target: &Target) -> impl Iterator<Item = &Rule> {
        self.rules_of(client).filter(|rule| rule.targets.iter().any(|pattern| pattern.matches(target)))
    }
}

fn write_line(text: &mut String, word: &str, items: &BTreeSet<impl std::fmt::Display>) {
    text.push_str(word);
    for item in items {
        let _ = write!(text, " {item}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn names(texts: &[&str]) -> BTreeSet<Name> {
        texts.iter().map(|text| name(text)).collect()
    }

    fn rule(rule: &str, clients: &[&str], agents: &[&str], targets: &[&str]) -> Rule {
        let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
        Rule { name: rule.to_owned(), clients: names(clients), agents: names(agents), targets }
    }

    fn policy() -> Policy {
        Policy::new(vec![
            rule("git", &["frontend"], &["acme"], &["git.acme.internal:443", "git.acme.internal:22"]),
            rule("all", &["frontend", "indexer"], &["acme", "acme-2"], &["*.acme.internal:443"]),
            rule("nobody", &[], &["acme"], &["git.acme.internal:80"]),
            rule("nowhere", &["frontend"], &[], &["git.acme.internal:80"]),
        ])
    }

    #[test]
    fn allows_what_a_rule_says_and_names_the_first() {
        let cases = [
            ("frontend", "git.acme.internal:443", "acme", Some("git")),
            ("frontend", "git.acme.internal:443", "acme-2", Some("all")),
            ("frontend", "GIT.acme.internal.:22", "acme", Some("git")),
            ("frontend", "git.acme.internal:22", "acme-2", None),
            ("frontend", "npm.acme.internal:443", "acme", Some("all")),
            ("frontend", "git.acme.internal:80", "acme", None),
            ("frontend", "10.0.0.7:443", "acme", None),
            ("frontend", "git.acme.internal:443", "other", None),
            ("indexer", "git.acme.internal:443", "acme", Some("all")),
            ("indexer", "git.acme.internal:22", "acme", None),
            ("stranger", "git.acme.internal:443", "acme", None),
        ];
        for (client, target, agent, expected) in cases {
            let verdict = policy().decide(&name(client), &target.parse().unwrap(), &name(agent));
            let expected = expected.map(|rule| Permit { rule: rule.to_owned() }).ok_or(Cause::NotAllowed);
            assert_eq!(verdict, expected, "{client} {target} {agent}");
        }
    }

    #[test]
    fn an_empty_policy_allows_nothing() {
        let target = "git.acme.internal:443".parse().unwrap();
        assert_eq!(Policy::default().decide(&name("frontend"), &target, &name("acme")), Err(Cause::NotAllowed));
        assert!(Policy::default().reach(&name("frontend")).is_empty());
    }

    #[test]
    fn knows_the_agents_of_a_target() {
        let cases: [(&str, &str, &[&str]); 4] = [
            ("frontend", "git.acme.internal:443", &["acme", "acme-2"]),
            ("frontend", "git.acme.internal:22", &["acme"]),
            ("frontend", "git.acme.internal:80", &[]),
            ("stranger", "git.acme.internal:443", &[]),
        ];
        for (client, target, agents) in cases {
            assert_eq!(
                policy().agents_for(&name(client), &target.parse().unwrap()),
                names(agents),
                "{client} {target}"
            );
        }
    }

    #[test]
    fn reach_lists_every_target_once_by_agent() {
        let mut rules = policy().rules;
        rules.push(rule(
            "again",
            &["frontend"],
            &["acme"],
            &["git.acme.internal:22", "*.acme.internal:443", "10.0.0.7:22"],
        ));
        let reach = Policy::new(rules).reach(&name("frontend"));
        let texts: Vec<(String, Vec<String>)> = reach
            .iter()
            .map(|(agent, targets)| (agent.to_string(), targets.iter().map(ToString::to_string).collect()))
            .collect();
        let acme = ["git.acme.internal:443", "git.acme.internal:22", "*.acme.internal:443", "10.0.0.7:22"];
        let expected = [("acme", &acme[..]), ("acme-2", &["*.acme.internal:443"])]
            .map(|(agent, targets)| (agent.to_owned(), targets.iter().map(ToString::to_string).collect()));
        assert_eq!(texts, expected);
    }

    #[test]
    fn the_text_tells_policies_apart_and_nothing_else() {
        let rules = policy().rules;
        let text = |rules: &[Rule]| Policy::new(rules.to_vec()).canonical_text();
        let with = |change: fn(&mut Vec<Rule>)| {
            let mut rules = rules.clone();
            change(&mut rules);
            text(&rules)
        };
        let same = [with(|_| {}), with(|rules| rules[0].targets.reverse())];
        let other = [
            with(|rules| rules.reverse()),
            with(|rules| rules[0].name.push_str("\nclients x")),
            with(|rules| rules[0].name.clear()),
            with(|rules| rules[0].clients.clear()),
            with(|rules| rules[0].agents.clear()),
            with(|rules| rules[0].targets.truncate(1)),
            with(|rules| rules.truncate(1)),
        ];
        assert!(same.iter().all(|same| *same == text(&rules)));
        // A name that spells the rule that follows it must not pass for two rules.
        let two = [rule("a", &[], &[], &[]), rule("b", &[], &[], &[])];
        for next in ["rule b", "rule 1 b"] {
            let one = [rule(&format!("a\nclients\nagents\ntargets\n{next}"), &[], &[], &[])];
            assert_ne!(text(&two), text(&one));
        }
        let distinct: BTreeSet<_> = other.iter().chain(&same[..1]).collect();
        assert_eq!(distinct.len(), other.len() + 1);
    }
}
