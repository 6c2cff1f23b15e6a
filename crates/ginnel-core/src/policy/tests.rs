use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> BTreeSet<Name> {
    texts.iter().map(|text| name(text)).collect()
}

fn rule(rule: &str, clients: &[&str], agents: &[&str], targets: &[&str]) -> Rule {
    let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
    let (expires, sources) = (None, None);
    Rule { name: rule.to_owned(), clients: names(clients), agents: names(agents), targets, expires, sources }
}

fn at(second: u64) -> Timestamp {
    Timestamp::from(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(second))
}

fn from(address: &str) -> Source {
    Source::Address(address.parse().unwrap())
}

fn ranges(text: &str) -> Ranges {
    Ranges::new(text.split(' ').map(|text| text.parse().unwrap()))
}

fn decide(
    policy: &Policy,
    (client, target, agent): (&str, &str, &str),
    source: Source,
    now: u64,
) -> Result<String, Cause> {
    let (client, target) = (name(client), target.parse().unwrap());
    let ask = Ask { client: &client, target: &target, source, now: at(now) };
    policy.decide(&ask, &name(agent)).map(|permit| permit.rule)
}

fn policy() -> Policy {
    Policy::new(rules(), at(0))
}

fn rules() -> Vec<Rule> {
    vec![
        rule("git", &["frontend"], &["acme"], &["git.acme.internal:443", "git.acme.internal:22"]),
        rule("all", &["frontend", "indexer"], &["acme", "acme-2"], &["*.acme.internal:443"]),
        rule("nobody", &[], &["acme"], &["git.acme.internal:80"]),
        rule("nowhere", &["frontend"], &[], &["git.acme.internal:80"]),
    ]
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
        let verdict = decide(&policy(), (client, target, agent), from("10.0.0.7"), 1);
        assert_eq!(verdict, expected.map(str::to_owned).ok_or(Cause::NotAllowed), "{client} {target} {agent}");
    }
}

#[test]
fn an_empty_policy_allows_nothing() {
    let session = ("frontend", "git.acme.internal:443", "acme");
    assert_eq!(decide(&Policy::default(), session, from("10.0.0.7"), 1), Err(Cause::NotAllowed));
    assert!(Policy::default().reach(&name("frontend"), Source::Anywhere, at(1)).is_empty());
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
        let (client, target) = (name(client), target.parse().unwrap());
        let ask = Ask { client: &client, target: &target, source: Source::Anywhere, now: at(1) };
        assert_eq!(policy().agents_for(&ask), names(agents), "{client} {target}");
        let allows = policy().allows(&ask);
        assert_eq!(allows, if agents.is_empty() { Err(Cause::NotAllowed) } else { Ok(()) }, "{client} {target}");
    }
}

#[test]
fn reach_lists_every_target_once_by_agent() {
    let mut rules = rules();
    rules.push(rule(
        "again",
        &["frontend"],
        &["acme"],
        &["git.acme.internal:22", "*.acme.internal:443", "10.0.0.7:22"],
    ));
    let reach = Policy::new(rules, at(0)).reach(&name("frontend"), Source::Anywhere, at(1));
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
    let rules = rules();
    let text = |rules: &[Rule]| Policy::new(rules.to_vec(), at(0)).canonical_text();
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
        with(|rules| rules[0].expires = Some(at(5))),
        with(|rules| rules[0].expires = Some(at(6))),
        with(|rules| rules[1].expires = Some(at(5))),
        with(|rules| rules[0].sources = Some(ranges("10.0.0.0/8"))),
        with(|rules| rules[0].sources = Some(ranges("10.0.0.0/9"))),
        with(|rules| rules[0].sources = Some(Ranges::default())),
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

#[test]
fn a_rule_counts_until_it_expires_and_from_where_it_says() {
    let mut rules = vec![
        rule("short", &["frontend"], &["acme"], &["git.acme.internal:443"]),
        rule("near", &["frontend"], &["acme"], &["git.acme.internal:443", "npm.acme.internal:443"]),
        rule("gone", &["frontend"], &["acme"], &["old.acme.internal:443"]),
    ];
    rules[0].expires = Some(at(100));
    rules[1].sources = Some(ranges("203.0.113.0/24 fd00::/8"));
    rules[2].expires = Some(at(10));
    let policy = Policy::new(rules, at(50));
    let cases = [
        ("git", "10.0.0.7", 99, Ok("short")),
        ("git", "10.0.0.7", 100, Err(Cause::SourceRefused)),
        ("git", "203.0.113.9", 99, Ok("short")),
        ("git", "203.0.113.9", 100, Ok("near")),
        ("git", "::ffff:203.0.113.9", 101, Ok("near")),
        ("npm", "fd00::9", 101, Ok("near")),
        ("npm", "203.0.114.9", 101, Err(Cause::SourceRefused)),
        ("old", "203.0.113.9", 60, Err(Cause::RuleExpired)),
        // A clock that is put back brings it back when the policy is made anew, which it then asks for.
        ("old", "203.0.113.9", 5, Err(Cause::RuleExpired)),
        ("new", "203.0.113.9", 60, Err(Cause::NotAllowed)),
    ];
    for (host, source, now, expected) in cases {
        let target = format!("{host}.acme.internal:443");
        let verdict = decide(&policy, ("frontend", &target, "acme"), from(source), now);
        assert_eq!(verdict, expected.map(str::to_owned), "{host} from {source} at {now}");
        let (client, target) = (name("frontend"), target.parse().unwrap());
        let ask = Ask { client: &client, target: &target, source: from(source), now: at(now) };
        let allowed = policy.allows(&ask);
        assert_eq!(allowed, expected.map(drop), "{host} from {source} at {now}, through anybody");
        let reach = policy.reach(&client, from(source), at(now)).into_values().flatten().any(|p| p.matches(&target));
        assert_eq!(reach, allowed.is_ok() || (host, now) == ("old", 5), "{host} from {source} at {now}, on the roster");
    }
    let other = decide(&policy, ("frontend", "npm.acme.internal:443", "other"), from("203.0.113.9"), 60);
    assert_eq!(other, Err(Cause::NotAllowed), "no rule names the agent, wherever the client comes from");
    assert_eq!([9, 10, 99, 100].map(|now| policy.expired_by(at(now))), [0, 1, 1, 2]);
    assert_eq!(policy.by_expiry().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["gone", "short"]);
}

#[test]
fn is_worn_when_many_rules_have_expired_since_it_was_made_or_some_that_have_not() {
    let rules: Vec<Rule> = (0..1000)
        .map(|number| Rule {
            expires: Some(at(number)),
            ..rule("r", &["frontend"], &["acme"], &["git.acme.internal:443"])
        })
        .collect();
    let policy = Policy::new(rules.clone(), at(500));
    assert_eq!([500, 756, 757, 999].map(|now| policy.is_worn(at(now))), [false, false, true, true]);
    assert!(policy.is_worn(at(499)), "what had expired by a clock that was put right counts again");
    assert!(!Policy::new(rules, at(757)).is_worn(at(757)));
}
