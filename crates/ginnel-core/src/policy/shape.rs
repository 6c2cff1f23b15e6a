//! The index says what a look at every rule would say, and takes few steps for it, in policies that are made to take many.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Rules of a large policy.
const RULES: usize = 20_000;

/// Steps that a decision may take in it: a word of bits for 64 rules in each of four respects, three times, because a refusal asks why, and once for
/// each of the 33 networks that an address may be in.
const STEPS_MAX: usize = (3 * 4 + 33) * RULES.div_ceil(64) + 1000;

fn at(second: u64) -> Timestamp {
    Timestamp::from(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(second))
}

fn names(names: impl IntoIterator<Item = String>) -> BTreeSet<Name> {
    names.into_iter().map(|name| name.parse().unwrap()).collect()
}

fn rule(number: usize, client: &str, agent: &str, target: &str) -> Rule {
    Rule {
        name: format!("r{number}"),
        clients: names([client.to_owned()]),
        agents: names([agent.to_owned()]),
        targets: vec![target.parse().unwrap()],
        expires: None,
        sources: None,
    }
}

/// A policy by its rules, and what is asked of it.
type Shape = (&'static str, fn(usize) -> Rule, &'static str, &'static str, &'static str, Result<&'static str, Cause>);

fn net(number: usize, prefix: u8) -> Ranges {
    let address = std::net::Ipv4Addr::from(u32::try_from(number << 12).unwrap_or_default());
    let network = ipnet::IpNet::new(address.into(), prefix).unwrap();
    Ranges::new([network.into()])
}

/// What makes a look at every rule slow: all of one client, one host, one agent; overlapping ports, networks and stars; expired ones, and sources.
const SHAPES: [Shape; 15] = [
    (
        "names",
        |n| rule(n, "c", "a", &format!("h{n}.acme.internal:443")),
        "c",
        "h19999.acme.internal:443",
        "a",
        Ok("r19999"),
    ),
    (
        "names, refused",
        |n| rule(n, "c", "a", &format!("h{n}.acme.internal:443")),
        "c",
        "x.acme.internal:443",
        "a",
        Err(Cause::NotAllowed),
    ),
    (
        "stars",
        |n| rule(n, "c", "a", &format!("*.s{n}.acme.internal:443")),
        "c",
        "x.s19999.acme.internal:443",
        "a",
        Ok("r19999"),
    ),
    (
        "one star",
        |n| rule(n, "c", &format!("a{n}"), "*.acme.internal:443"),
        "c",
        "x.acme.internal:443",
        "a19999",
        Ok("r19999"),
    ),
    (
        "ports",
        |n| rule(n, "c", "a", &format!("h.acme.internal:{}", 1 + n % 60_000)),
        "c",
        "h.acme.internal:60001",
        "a",
        Err(Cause::NotAllowed),
    ),
    (
        "ranges of ports",
        |n| {
            rule(
                n,
                "c",
                if n == 19_999 { "b" } else { "a" },
                &format!("h.acme.internal:{}-{}", 1 + n % 20_000, 65_535 - n % 20_000),
            )
        },
        "c",
        "h.acme.internal:30000",
        "b",
        Ok("r19999"),
    ),
    (
        "one host",
        |n| rule(n, "c", &format!("a{n}"), "gitlab.internal:443"),
        "c",
        "gitlab.internal:443",
        "a19999",
        Ok("r19999"),
    ),
    (
        "one host, no agent",
        |n| rule(n, "c", &format!("a{n}"), "gitlab.internal:443"),
        "c",
        "gitlab.internal:443",
        "b",
        Err(Cause::NotAllowed),
    ),
    (
        "clients",
        |n| rule(n, &format!("c{n}"), "a", "gitlab.internal:443"),
        "c19999",
        "gitlab.internal:443",
        "a",
        Ok("r19999"),
    ),
    (
        "halves",
        // The client's rules are one half, those of the target the other.
        |n| {
            rule(
                n,
                if n % 2 == 0 { "c" } else { "d" },
                "a",
                if n % 2 == 0 { "g.internal:443" } else { "h.internal:443" },
            )
        },
        "c",
        "h.internal:443",
        "a",
        Err(Cause::NotAllowed),
    ),
    (
        "nested networks",
        |n| {
            rule(
                n,
                if n % 2 == 0 { "c" } else { "d" },
                "a",
                &format!("0.0.0.0/{}:{}", n % 33, if n % 2 == 0 { 22 } else { 443 }),
            )
        },
        "c",
        "0.0.0.0:443",
        "a",
        Err(Cause::NotAllowed),
    ),
    ("networks", |n| rule(n, "c", "a", &format!("{}:443", net(n, 20))), "c", "4.225.240.1:443", "a", Ok("r19999")),
    (
        "expired",
        |n| Rule { expires: Some(at(10)), ..rule(n, "c", "a", "h.internal:443") },
        "c",
        "h.internal:443",
        "a",
        Err(Cause::RuleExpired),
    ),
    (
        "sources",
        |n| Rule { sources: Some(net(n, 20)), ..rule(n, "c", "a", "h.internal:443") },
        "c",
        "h.internal:443",
        "a",
        Err(Cause::SourceRefused),
    ),
    (
        "one of the sources",
        |n| Rule {
            sources: Some(if n == 19_999 { net(0, 0) } else { net(n, 20) }),
            ..rule(n, "c", "a", "h.internal:443")
        },
        "c",
        "h.internal:443",
        "a",
        Ok("r19999"),
    ),
];

#[test]
fn a_decision_takes_few_steps_however_many_rules_overlap() {
    for (shape, make, client, target, agent, expected) in SHAPES {
        let policy = Policy::new((0..RULES).map(make).collect(), at(20));
        let (client, target): (Name, Target) = (client.parse().unwrap(), target.parse().unwrap());
        let source = Source::Address("203.0.113.9".parse().unwrap());
        let ask = Ask { client: &client, target: &target, source, now: at(30) };
        let mut effort = Effort::default();
        let verdict = policy.judge(&ask, Some(&agent.parse().unwrap()), &mut effort).map(|rule| rule.name.as_str());
        assert_eq!(verdict, expected, "{shape}");
        assert!(effort.rules <= 2 * index::LOOK_AT + RULES / 256, "{shape}: {effort:?}");
        assert!(effort.steps <= STEPS_MAX, "{shape}: {effort:?}, at most {STEPS_MAX}");
    }
}

/// A look at every rule, in the words of the rules.
fn plainly<'a>(rules: &'a [Rule], ask: &Ask<'_>, agent: Option<&Name>) -> Result<&'a str, Cause> {
    let fits = |rule: &&Rule| {
        rule.clients.contains(ask.client)
            && agent.map_or(!rule.agents.is_empty(), |agent| rule.agents.contains(agent))
            && rule.targets.iter().any(|pattern| pattern.matches(ask.target))
    };
    let is_near = |rule: &&Rule| match (&rule.sources, ask.source) {
        (Some(ranges), Source::Address(address)) => ranges.contains(address),
        (None, _) | (_, Source::Anywhere) => true,
    };
    let in_force = |rule: &&Rule| rule.expires.is_none_or(|expires| expires > ask.now);
    let all = || rules.iter().filter(fits);
    if let Some(rule) = all().filter(in_force).find(is_near) {
        return Ok(&rule.name);
    }
    Err(match (all().any(|rule| in_force(&rule)), all().next()) {
        (true, _) => Cause::SourceRefused,
        (false, Some(_)) => Cause::RuleExpired,
        (false, None) => Cause::NotAllowed,
    })
}

fn some_target() -> impl Strategy<Value = TargetPattern> {
    let host = prop::sample::select(vec![
        "a.acme.internal",
        "b.acme.internal",
        "*.acme.internal",
        "*.b.acme.internal",
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.0.7",
        "0.0.0.0/0",
        "[fd00::/8]",
        "[::/0]",
    ]);
    let ports = prop_oneof![
        Just("443".to_owned()),
        Just("1-65535".to_owned()),
        (1..500_u16, 0..500_u16).prop_map(|(first, more)| format!("{first}-{}", first + more)),
    ];
    (host, ports).prop_map(|(host, ports)| format!("{host}:{ports}").parse().unwrap())
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    let few = |letter: &'static str, most: usize| {
        prop::collection::btree_set(0..4_u8, 0..=most)
            .prop_map(move |set| names(set.into_iter().map(|number| format!("{letter}{number}"))))
    };
    let source = prop::sample::select(vec!["10.0.0.0/8", "203.0.113.0/24", "203.0.113.9", "fd00::/8", "0.0.0.0/0"]);
    let sources = prop::option::weighted(0.3, prop::collection::vec(source, 1..3));
    let expires = prop::option::weighted(0.3, 0..60_u64);
    let one = (few("c", 3), few("a", 3), prop::collection::vec(some_target(), 0..4), expires, sources);
    let one = one.prop_map(|(clients, agents, targets, expires, sources)| Rule {
        name: String::new(),
        clients,
        agents,
        targets,
        expires: expires.map(at),
        sources: sources.map(|sources| Ranges::new(sources.into_iter().map(|text| text.parse().unwrap()))),
    });
    let one = one.boxed();
    // Enough of them for sets with bits, and for cutting these.
    let rules = prop_oneof![prop::collection::vec(one.clone(), 0..20), prop::collection::vec(one, 300..600)];
    rules.prop_map(|mut rules| {
        rules.iter_mut().enumerate().for_each(|(number, rule)| rule.name = format!("r{number}"));
        rules
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_index_says_what_the_rules_say(rules in some_rules(), made in 0..40_u64, later in 0..40_u64) {
        let policy = Policy::new(rules.clone(), at(made));
        let hosts = ["a.acme.internal", "b.acme.internal", "x.b.acme.internal", "acme.internal", "10.0.0.7", "10.0.0.8", "10.9.9.9", "192.0.2.1", "[fd00::7]"];
        let targets = hosts.iter().flat_map(|host| [80, 443, 65535].map(|port| format!("{host}:{port}")));
        let sources = ["10.0.0.7", "203.0.113.9", "203.0.113.8", "fd00::9", "198.51.100.1"].map(|text| Source::Address(text.parse().unwrap()));
        for target in targets {
            let target: Target = target.parse().unwrap();
            for client in 0..4 {
                let client: Name = format!("c{client}").parse().unwrap();
                for source in sources.into_iter().chain([Source::Anywhere]) {
                    let ask = Ask { client: &client, target: &target, source, now: at(made + later) };
                    for agent in ["a0", "a3", "b"] {
                        let agent: Name = agent.parse().unwrap();
                        let said = policy.decide(&ask, &agent).map(|permit| permit.rule);
                        prop_assert_eq!(said, plainly(&rules, &ask, Some(&agent)).map(str::to_owned), "{:?} through {}", ask, agent);
                    }
                    prop_assert_eq!(policy.allows(&ask), plainly(&rules, &ask, None).map(drop), "{:?}", ask);
                    prop_assert_eq!(policy.agents_for(&ask).is_empty(), policy.allows(&ask).is_err());
                }
            }
        }
    }
}
