//! A policy of 100,000 rules: how long it takes from the file to the first decision, and how long a decision takes, in policies that are made to
//! take long.
//!
//! `cargo bench -p ginnel-config` prints the tables of docs/policy-performance.md. A harness of its own, because what counts is the slowest of
//! many decisions, not their average.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "a program that developers run")]
#![cfg_attr(test, allow(dead_code, reason = "the test build of a bench without a harness"))]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use ginnel_config::{Overrides, ServerConfig};
use ginnel_core::audit::Timestamp;
use ginnel_core::cause::Cause;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::policy::{Ask, Policy, Rule, Source};
use ginnel_core::principal::Name;
use ginnel_core::ranges::{Network, Ranges};
use ginnel_core::target::Target;

const RULES: usize = 100_000;

/// Decisions of each policy, each of them timed.
const DECISIONS: usize = 20_000;

/// Loads of each file; the fastest counts, which has the least of what else the machine did.
const LOADS: usize = 5;

fn main() {
    println!("| from the file to a policy of {RULES} rules | file | read and checked | compiled | version | all |");
    println!("|---|---|---|---|---|---|");
    for (name, text) in [("one line a rule", one_line_a_rule()), ("one line a setting", one_line_a_setting())] {
        load(name, &text);
    }
    println!("\n| policy, {DECISIONS} decisions each | verdict | p50 | p99 | p99.9 | slowest |");
    println!("|---|---|---|---|---|---|");
    for shape in SHAPES {
        decide(&shape);
    }
}

fn head() -> String {
    let mut text =
        "trustDomain: acme.example\nserver: {name: tunnel.acme.example, listen: 127.0.0.1:0}\nidentities:\n".to_owned();
    for client in 0..10 {
        let _ =
            writeln!(text, "  - {{name: c{client}, role: client, email: c{client}@p.example, publicKeys: [k.pem]}}");
    }
    for agent in 0..1000 {
        let _ = writeln!(text, "  - {{name: a{agent}, role: agent, email: a{agent}@p.example, publicKeys: [k.pem]}}");
    }
    text.push_str("issuer: {embedded: {directory: ca}}\naudit: {file: {directory: audit}}\nrules:\n");
    text
}

fn one_line_a_rule() -> String {
    let mut text = head();
    for rule in 0..RULES {
        let (client, agent) = (rule % 10, rule % 1000);
        let _ = writeln!(
            text,
            "  - {{name: rule-{rule}, clients: [c{client}], agents: [a{agent}], targets: [\"host-{rule}.site.acme.internal:443\"]}}"
        );
    }
    text
}

fn one_line_a_setting() -> String {
    let mut text = head();
    for rule in 0..RULES {
        let (client, agent) = (rule % 10, rule % 1000);
        let _ = writeln!(
            text,
            "  - name: rule-{rule}\n    clients: [c{client}]\n    agents: [a{agent}]\n    targets:\n      - host-{rule}.site.acme.internal:443"
        );
    }
    text
}

fn load(name: &str, text: &str) {
    let mut best = [Duration::MAX; 4];
    for _ in 0..LOADS {
        let began = Instant::now();
        let config = ServerConfig::parse(text, "server.yaml", Path::new("/"), &Overrides::none()).unwrap();
        let parsed = began.elapsed();
        let policy = Policy::new(config.rules.clone(), Timestamp::default());
        let compiled = began.elapsed();
        black_box(policy.canonical_text());
        let all = began.elapsed();
        assert_eq!(policy.count(), RULES, "the file has them all");
        for (best, now) in best.iter_mut().zip([parsed, compiled - parsed, all - compiled, all]) {
            *best = now.min(*best);
        }
    }
    let [parsed, compiled, version, all] = best.map(|time| time.as_millis());
    let mib = text.len() >> 20;
    println!("| {name} | {mib} MiB | {parsed} ms | {compiled} ms | {version} ms | {all} ms |");
}

/// A policy by its rules, and a question by its number.
struct Shape {
    name: &'static str,
    rule: fn(usize) -> Rule,
    question: fn(usize) -> Question,
}

struct Question {
    client: &'static str,
    agent: String,
    target: String,
    from: &'static str,
}

fn rule(number: usize, client: &str, agent: &str, target: &str) -> Rule {
    Rule {
        name: format!("r{number}"),
        clients: [client.parse().unwrap()].into(),
        agents: [agent.parse().unwrap()].into(),
        targets: vec![target.parse::<TargetPattern>().unwrap()],
        expires: None,
        sources: None,
    }
}

fn ask(agent: &str, target: String) -> Question {
    Question { client: "c", agent: agent.to_owned(), target, from: "203.0.113.9" }
}

/// Spreads numbers over all rules.
fn any(number: usize) -> usize {
    number.wrapping_mul(7919) % RULES
}

fn net(number: usize) -> Ranges {
    let address = Ipv4Addr::from(u32::try_from(number << 12).unwrap());
    Ranges::new([format!("{address}/20").parse::<Network>().unwrap()])
}

fn old() -> Timestamp {
    "2020-01-01".parse().unwrap()
}

const SHAPES: [Shape; 14] = [
    Shape {
        name: "a name each",
        rule: |n| rule(n, "c", "a", &format!("h{n}.acme.internal:443")),
        question: |n| ask("a", format!("h{}.acme.internal:443", any(n))),
    },
    Shape {
        name: "a name each, none of them asked for",
        rule: |n| rule(n, "c", "a", &format!("h{n}.acme.internal:443")),
        question: |n| ask("a", format!("x{}.acme.internal:443", any(n))),
    },
    Shape {
        name: "a star each",
        rule: |n| rule(n, "c", "a", &format!("*.s{n}.acme.internal:443")),
        question: |n| ask("a", format!("x.s{}.acme.internal:443", any(n))),
    },
    Shape {
        name: "one star, an agent each",
        rule: |n| rule(n, "c", &format!("a{n}"), "*.acme.internal:443"),
        question: |n| ask(&format!("a{}", any(n)), "x.acme.internal:443".to_owned()),
    },
    Shape {
        name: "one star, ten agents, another one asked for",
        rule: |n| rule(n, "c", &format!("a{}", n % 10), "*.acme.internal:443"),
        question: |_| ask("b", "x.acme.internal:443".to_owned()),
    },
    Shape {
        name: "one host, overlapping ranges of ports",
        rule: |n| rule(n, "c", "a", &format!("h.acme.internal:{}-{}", 1 + n % 30_000, 65_535 - n % 30_000)),
        question: |n| ask("a", format!("h.acme.internal:{}", 1 + any(n) % 65_535)),
    },
    Shape {
        name: "the same, the last rule is meant",
        rule: |n| {
            let agent = if n == RULES - 1 { "b" } else { "a" };
            rule(n, "c", agent, &format!("h.acme.internal:{}-{}", 1 + n % 30_000, 65_535 - n % 30_000))
        },
        question: |n| ask("b", format!("h.acme.internal:{}", 30_000 + any(n) % 5_000)),
    },
    Shape {
        name: "client and target have half of the rules each, and none in common",
        rule: |n| {
            rule(
                n,
                if n % 2 == 0 { "c" } else { "d" },
                "a",
                if n % 2 == 0 { "g.internal:443" } else { "h.internal:443" },
            )
        },
        question: |_| ask("a", "h.internal:443".to_owned()),
    },
    Shape {
        name: "33 nested networks, half of the rules each, and none in common",
        rule: |n| {
            let (client, port) = if n % 2 == 0 { ("c", 22) } else { ("d", 443) };
            rule(n, client, "a", &format!("0.0.0.0/{}:{port}", n % 33))
        },
        question: |_| ask("a", "0.0.0.0:443".to_owned()),
    },
    Shape {
        name: "33 nested networks, ranges of ports",
        rule: |n| {
            rule(
                n,
                "c",
                if n % 2 == 0 { "a" } else { "b" },
                &format!("0.0.0.0/{}:{}-{}", n % 33, 1 + n % 30_000, 65_535 - n % 30_000),
            )
        },
        question: |n| ask("b", format!("0.0.0.0:{}", 1 + any(n) % 65_535)),
    },
    Shape {
        name: "a network each",
        rule: |n| rule(n, "c", "a", &format!("{}:443", net(n))),
        question: |n| {
            let IpAddr::V4(address) = net(any(n)).networks()[0].addr() else { return ask("a", String::new()) };
            ask("a", format!("{}:443", Ipv4Addr::from(u32::from(address) + 9)))
        },
    },
    Shape {
        name: "one host, every rule has expired",
        rule: |n| Rule { expires: Some(old()), ..rule(n, "c", "a", "h.internal:443") },
        question: |_| ask("a", "h.internal:443".to_owned()),
    },
    Shape {
        name: "one host, a source each, another one asked from",
        rule: |n| Rule { sources: Some(net(n)), ..rule(n, "c", "a", "h.internal:443") },
        question: |_| ask("a", "h.internal:443".to_owned()),
    },
    Shape {
        name: "one rule with every target",
        rule: |n| {
            let mut rule = rule(n, "c", "a", "h.internal:443");
            if n == 0 {
                rule.targets = (0..RULES).map(|n| format!("h{n}.acme.internal:443").parse().unwrap()).collect();
            }
            rule
        },
        question: |n| ask("a", format!("h{}.acme.internal:443", any(n))),
    },
];

fn decide(shape: &Shape) {
    let now: Timestamp = "2026-01-01".parse().unwrap();
    let policy = Policy::new((0..RULES).map(shape.rule).collect(), now);
    let mut times = Vec::with_capacity(DECISIONS);
    let mut verdict = String::new();
    // The first tenth warms it up.
    for number in 0..DECISIONS + DECISIONS / 10 {
        let Question { client, agent, target, from } = (shape.question)(number);
        let (client, agent): (Name, Name) = (client.parse().unwrap(), agent.parse().unwrap());
        let target: Target = target.parse().unwrap();
        let ask = Ask { client: &client, target: &target, source: Source::Address(from.parse().unwrap()), now };
        let began = Instant::now();
        let decision = black_box(policy.decide(black_box(&ask), black_box(&agent)));
        let took = began.elapsed();
        verdict = decision.map_or_else(|cause: Cause| cause.to_string(), |_| "allowed".to_owned());
        if number >= DECISIONS / 10 {
            times.push(took);
        }
    }
    times.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in the list"
        )]
        let place = (share * (times.len() - 1) as f64) as usize;
        times[place].as_secs_f64() * 1e6
    };
    let name = shape.name;
    println!(
        "| {name} | {verdict} | {:.2} µs | {:.2} µs | {:.2} µs | {:.1} µs |",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
