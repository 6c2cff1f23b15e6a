use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use ginnel_config::Overrides;
use ginnel_core::audit::Timestamp;
use ginnel_core::denial::{Denial, Kind, Subject};
use ginnel_core::evidence::Evidence;
use ginnel_core::id::RequestId;
use ginnel_core::principal::Role;
use ginnel_enrol::Enroller;
use ginnel_ops::ledger::{Begun, Ledger, Tracked};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::connections::Connections;

const CLIENT: &str = "spiffe://acme.example/client/frontend";
const AGENT: &str = "spiffe://acme.example/agent/acme";
/// Where everybody comes from.
const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
const TARGET: &str = "gitlab.acme.internal:443";

fn rules() -> Rules {
    let text = ginnel_config::example(Role::Server);
    let config = ServerConfig::parse(&text, "server.yaml", Path::new("/"), &Overrides::none()).unwrap();
    let enroller = Enroller::new("audience".to_owned(), Vec::new(), Vec::new(), SystemTime::UNIX_EPOCH).unwrap();
    let admissible = Admissible::new(enroller, &config.trust_domain, &[], Sources::default());
    Rules::new(config, Some(Arc::new(admissible)), Arc::default())
}

fn certificate(principal: &str, serial: &str) -> Arc<Shown> {
    let principal: Principal = principal.parse().unwrap();
    let email = format!(
        "{}@acme-project.iam.gserviceaccount.com",
        if principal.role == Role::Agent { "agent" } else { "frontend" }
    );
    Arc::new(Shown { principal, email, serial: serial.to_owned(), key: [7; 32], evidence: None, source: Some(FROM) })
}

fn denying(rules: &Rules, kind: Kind, text: &str) -> Arc<Rules> {
    let subject = Subject::read(kind, text, Some(&rules.config.trust_domain)).unwrap();
    let denial = Denial::new(subject, Timestamp::default(), "uid 0".to_owned(), None);
    Arc::new(rules.with_denials(Arc::new(rules.denials.with(denial).unwrap())))
}

fn begin(ledger: &Ledger) -> Tracked {
    let tracked = ledger.begin(Begun {
        request: RequestId::from_bytes(&[1; 16]).unwrap(),
        client: Some(CLIENT.parse().unwrap()),
        client_instance: None,
        from: None,
        target: TARGET.to_owned(),
        front: None,
    });
    tracked.client_showed(certificate(CLIENT, "0c"));
    tracked
}

/// What [`crate::open`] does under one guard: the verdict, and the entry of the agent.
fn decide(in_force: &InForceRules, tracked: &Tracked) -> bool {
    let rules = in_force.deciding();
    let (client, agent) = (certificate(CLIENT, "0c"), certificate(AGENT, "0a"));
    tracked.through(&agent.principal, None, None);
    tracked.agent_showed(Arc::clone(&agent));
    let target = TARGET.parse().unwrap();
    let is_allowed = rules.policy.decide(&rules.ask(&client, &target), &agent.principal.name).is_ok();
    rules.admits(&client) && rules.admits(&agent) && is_allowed
}

/// Everything that a session between these two hangs on, by which one of its denials is named.
const WAYS: [(Kind, &str, Hop, Cause); 6] = [
    (Kind::Who, "client/frontend", Hop::Server, Cause::NotAdmitted),
    (Kind::Who, "frontend@acme-project.iam.gserviceaccount.com", Hop::Server, Cause::NotAdmitted),
    (Kind::Serial, "0c", Hop::Server, Cause::NotAdmitted),
    (Kind::Serial, "0a", Hop::Agent, Cause::NotAdmitted),
    (Kind::Who, "agent/acme", Hop::Agent, Cause::NotAdmitted),
    (Kind::Rule, "gitlab", Hop::Server, Cause::NotAllowed),
];

/// Every order in which the steps of two may come, each keeping its own.
const ORDERS: [&str; 6] = ["aabb", "abab", "abba", "baab", "baba", "bbaa"];

#[test]
fn a_session_in_any_order_with_a_denial_is_refused_or_told_to_end() {
    for (kind, text, hop, cause) in WAYS {
        for order in ORDERS {
            let (in_force, ledger) = (InForceRules::new(rules()), Ledger::new(Role::Server));
            let before = in_force.now();
            let after = denying(&before, kind, text);
            let (mut tracked, mut allowed, mut denied) = (None, None, false);
            for step in order.chars() {
                match (step, &tracked) {
                    ('a', None) => tracked = Some(begin(&ledger)),
                    ('a', Some(tracked)) => allowed = Some(decide(&in_force, tracked)),
                    (_, _) if !denied => {
                        in_force.deny(Arc::clone(&after));
                        denied = true;
                    }
                    (_, _) => {
                        let gone = after.no_longer_admitted(&before);
                        ledger.end_where(|parties| after.objection(&gone, parties));
                    }
                }
            }
            let told = tracked.as_ref().and_then(Tracked::told);
            assert!(
                allowed == Some(false) || told == Some(Refusal::new(hop, cause)),
                "{text} in {order}: {allowed:?} {told:?}"
            );
        }
    }
}

#[test]
fn a_connection_in_any_order_with_a_denial_is_turned_away_or_closed() {
    for (kind, text, ..) in WAYS.into_iter().filter(|way| way.0 != Kind::Rule) {
        for order in ORDERS {
            let (in_force, connections) = (InForceRules::new(rules()), Connections::default());
            let after = denying(&in_force.now(), kind, text);
            let mine = if text.contains("agent") || text == "0a" {
                certificate(AGENT, "0a")
            } else {
                certificate(CLIENT, "0c")
            };
            let others = certificate(CLIENT, "0d");
            let (closed, bystander) = (CancellationToken::new(), CancellationToken::new());
            let _bystander = connections.register(Arc::clone(&others), bystander.clone());
            let (mut registered, mut admitted, mut denied) = (None, None, false);
            for step in order.chars() {
                match (step, &registered) {
                    ('a', None) => registered = Some(connections.register(Arc::clone(&mine), closed.clone())),
                    ('a', Some(_)) => admitted = Some(in_force.now().admits(&mine)),
                    (_, _) if !denied => {
                        in_force.deny(Arc::clone(&after));
                        denied = true;
                    }
                    (_, _) => {
                        let closing = connections.unless(|shown| after.admits(shown));
                        closing.iter().for_each(CancellationToken::cancel);
                    }
                }
            }
            assert!(admitted == Some(false) || closed.is_cancelled(), "{text} in {order}: {admitted:?}");
            assert_eq!(bystander.is_cancelled(), !after.admits(&others), "{text} in {order}");
        }
    }
}

/// The decision and its entry are one step: a denial waits for the guard, and finds what was entered under it.
#[test]
fn a_denial_waits_for_a_decision_that_is_being_made() {
    let (in_force, ledger) = (InForceRules::new(rules()), Ledger::new(Role::Server));
    let after = denying(&in_force.now(), Kind::Serial, "0a");
    let (said, denied) = mpsc::channel();
    std::thread::scope(|scope| {
        let guard = in_force.deciding();
        let denier = Arc::clone(&after);
        let in_force = &in_force;
        scope.spawn(move || {
            in_force.deny(denier);
            said.send(()).unwrap();
        });
        // Paused between verdict and entry: the denial is not in force, however long this takes.
        assert!(guard.admits(&certificate(AGENT, "0a")));
        assert!(denied.recv_timeout(Duration::from_millis(50)).is_err(), "the denial did not wait");
        let tracked = begin(&ledger);
        tracked.through(&AGENT.parse().unwrap(), None, None);
        tracked.agent_showed(certificate(AGENT, "0a"));
        drop(guard);
        denied.recv().unwrap();
        let told = ledger.end_where(|parties| after.objection(&BTreeSet::new(), parties));
        assert_eq!((told, tracked.told()), (1, Some(Refusal::new(Hop::Agent, Cause::NotAdmitted))));
    });
}

#[test]
fn a_denied_rule_leaves_what_another_rule_allows() {
    let mut rules = rules();
    let mut second = rules.config.rules[0].clone();
    second.name = "second".to_owned();
    second.targets = vec![TARGET.parse().unwrap()];
    rules.config.rules.push(second);
    let rules = Rules::new(rules.config, rules.admissible, rules.denials);
    let version = rules.version.clone();
    let denied = denying(&rules, Kind::Rule, "gitlab");
    let allowed = |target: &str| {
        let (client, agent) = (certificate(CLIENT, "0c"), "acme".parse().unwrap());
        denied.policy.decide(&denied.ask(&client, &target.parse().unwrap()), &agent).map(|permit| permit.rule)
    };
    assert_eq!(allowed(TARGET), Ok("second".to_owned()));
    assert_eq!(allowed("gitlab.acme.internal:22"), Err(Cause::NotAllowed));
    assert_ne!(denied.version, version, "another policy has another version");
    let undone = denied.with_denials(Arc::default());
    assert_eq!(undone.version, version);
}

#[test]
fn a_certificate_is_good_as_long_as_its_identity_has_the_proof_that_it_was_given_for() {
    let rules = rules();
    let of = |evidence| Shown { evidence, ..(*certificate(CLIENT, "0c")).clone() };
    let evidence = |proof| Some(Evidence { proof, verified_by: [9; 32] });
    assert!(rules.admits(&of(None)), "what it was given for is not known");
    let issuer = "cluster".to_owned();
    let proofs = [
        Proof::Key("k".to_owned()),
        Proof::GoogleKey("k".to_owned()),
        Proof::GoogleIdToken { about: [1; 32] },
        Proof::Oidc { issuer: issuer.clone(), about: [1; 32] },
        Proof::Bearer { issuer, about: [1; 32] },
    ];
    for proof in proofs {
        assert!(!rules.admits(&of(evidence(proof.clone()))), "the identity has no {proof}");
        let elsewhere = Rules::new(rules.config.clone(), None, Arc::default());
        assert!(elsewhere.admits(&of(evidence(proof))), "proofs are judged where enrolment is");
    }
}

fn bounded(settings: &[(&str, &str)]) -> Rules {
    let mut text = ginnel_config::example(Role::Server);
    for (from, to) in settings {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let config = ServerConfig::parse(&text, "server.yaml", Path::new("/"), &Overrides::none()).unwrap();
    Rules::new(config, rules().admissible, Arc::default())
}

#[test]
fn a_certificate_from_elsewhere_is_refused_with_a_cause_of_its_own() {
    let of_agents = ("  #allowedSourceRanges:\n", "  allowedSourceRanges: {agent: [198.51.100.0/24]}\n");
    let from_here = ("role: agent", "role: agent\n    sourceRanges: [203.0.113.0/24]");
    let elsewhere = ("role: agent", "role: agent\n    sourceRanges: [198.51.100.0/24]");
    let cases = [
        (None, AGENT, Ok(())),
        (Some(of_agents), AGENT, Err(Cause::SourceRefused)),
        (Some(of_agents), CLIENT, Ok(())),
        (Some(from_here), AGENT, Ok(())),
        (Some(elsewhere), AGENT, Err(Cause::SourceRefused)),
    ];
    for (setting, who, expected) in cases {
        assert_eq!(bounded(setting.as_slice()).admission(&certificate(who, "01")), expected, "{setting:?}");
    }
    let unknown = Shown { email: "other@acme.example".to_owned(), ..(*certificate(AGENT, "01")).clone() };
    assert_eq!(bounded(&[elsewhere]).admission(&unknown), Err(Cause::NotAdmitted), "who it is comes first");
}

#[test]
fn a_session_whose_ends_come_from_elsewhere_or_whose_rule_has_expired_is_told_why() {
    let elsewhere = "sourceRanges: [198.51.100.0/24]";
    let cases = [
        (("role: client", format!("role: client\n    {elsewhere}")), Hop::Server, Cause::SourceRefused),
        (("role: agent", format!("role: agent\n    {elsewhere}")), Hop::Agent, Cause::SourceRefused),
        (("#sources:", "sources: [198.51.100.0/24]\n    #x:".to_owned()), Hop::Server, Cause::SourceRefused),
        (("#expires: 2030", "expires: 2020".to_owned()), Hop::Server, Cause::RuleExpired),
    ];
    for ((from, to), hop, cause) in cases {
        let (in_force, ledger) = (InForceRules::new(rules()), Ledger::new(Role::Server));
        let tracked = begin(&ledger);
        assert!(decide(&in_force, &tracked));
        let after = bounded(&[(from, &to)]);
        ledger.end_where(|parties| after.objection(&BTreeSet::new(), parties));
        assert_eq!(tracked.told(), Some(Refusal::new(hop, cause)), "{to}");
    }
}

#[test]
fn rules_that_are_made_anew_are_the_same_and_others_are_not() {
    let rules = rules();
    let remade = rules.remade();
    assert!(remade.are_the_same_as(&rules) && remade.are_read_with(&rules));
    let denied = denying(&rules, Kind::Rule, "gitlab");
    assert!(!denied.are_the_same_as(&rules) && denied.are_read_with(&rules));
}
