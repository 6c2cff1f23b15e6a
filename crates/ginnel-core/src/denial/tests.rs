use super::*;
use crate::evidence::Proof;

fn domain() -> TrustDomain {
    "acme.example".parse().unwrap()
}

fn shown() -> Shown {
    Shown {
        principal: "spiffe://acme.example/client/frontend".parse().unwrap(),
        email: "frontend@acme.example".to_owned(),
        serial: "0aff".to_owned(),
        key: [7; 32],
        evidence: Some(Evidence { proof: Proof::Key("one".to_owned()), verified_by: [8; 32] }),
        source: None,
    }
}

fn denial(subject: Subject) -> Denial {
    Denial::new(subject, Timestamp::default(), "uid 0".to_owned(), None)
}

fn read(kind: Kind, text: &str) -> Result<Subject, String> {
    Subject::read(kind, text, Some(&domain()))
}

#[test]
fn reads_every_way_to_name_something_in_one_spelling() {
    let hash = "07".repeat(32);
    let cases = [
        (Kind::Who, "client/frontend", "principal spiffe://acme.example/client/frontend"),
        (Kind::Who, "spiffe://acme.example/agent/acme", "principal spiffe://acme.example/agent/acme"),
        (Kind::Who, "frontend@acme.example", "email frontend@acme.example"),
        (Kind::Key, &hash, &format!("key {hash}")),
        (Kind::Serial, "0AFF", "serial 0aff"),
        (Kind::Serial, "00:0a:ff", "serial 0aff"),
        (Kind::Serial, "aff", "serial 0aff"),
        (Kind::Rule, "gitlab", "rule gitlab"),
        (Kind::Target, "10.0.0.0/8:443", "target 10.0.0.0/8:443"),
        (Kind::All, "sessions", "all sessions"),
    ];
    for (kind, text, expected) in cases {
        assert_eq!(read(kind, text).unwrap().to_string(), expected, "{text}");
    }
}

#[test]
fn refuses_what_names_nothing() {
    let cases = [
        (Kind::Who, ""),
        (Kind::Who, "frontend"),
        (Kind::Who, "server/tunnel"),
        (Kind::Who, "client/"),
        (Kind::Who, "client/a/b"),
        (Kind::Who, "spiffe://acme.example/client"),
        (Kind::Who, "Frontend@acme.example"),
        (Kind::Key, ""),
        (Kind::Key, "07"),
        (Kind::Key, "zz07070707070707070707070707070707070707070707070707070707070707"),
        (Kind::Serial, ""),
        (Kind::Serial, "0"),
        (Kind::Serial, "0x0a"),
        (Kind::Serial, "-1"),
        (Kind::Serial, "1111111111111111111111111111111111111111111"),
        (Kind::Rule, "Git Lab"),
        (Kind::Target, "host"),
        (Kind::All, ""),
        (Kind::All, "all"),
    ];
    for (kind, text) in cases {
        assert!(read(kind, text).is_err(), "{kind:?} {text:?}");
    }
    assert!(Subject::read(Kind::Who, "client/frontend", None).is_err(), "whose domain?");
}

/// What a denial of each kind means for one certificate: itself, and no other.
#[test]
fn a_denial_means_exactly_what_it_names() {
    let cases = [
        (Kind::Who, "client/frontend", true),
        (Kind::Who, "client/other", false),
        (Kind::Who, "agent/frontend", false),
        (Kind::Who, "spiffe://other.example/client/frontend", false),
        (Kind::Who, "frontend@acme.example", true),
        (Kind::Who, "other@acme.example", false),
        (Kind::Serial, "0aff", true),
        (Kind::Serial, "0afe", false),
        (Kind::Key, &"07".repeat(32), true),
        (Kind::Key, &"08".repeat(32), true),
        (Kind::Key, &"09".repeat(32), false),
        (Kind::Rule, "frontend", false),
        (Kind::Target, "*.acme.example:1-65535", false),
    ];
    for (kind, text, is_denied) in cases {
        let subject = read(kind, text).unwrap();
        let denials = Denials::default().with(denial(subject.clone())).unwrap();
        assert_eq!(denials.denies(&shown()), is_denied, "{subject}");
        assert!(!denials.without(&subject).denies(&shown()), "{subject} was undone");
    }
    assert!(!Denials::default().denies(&shown()));
}

#[test]
fn rules_are_denied_by_name_and_targets_are_listed() {
    let subjects = [(Kind::Rule, "gitlab"), (Kind::Target, "git.acme.internal:22"), (Kind::Target, "10.0.0.0/8:443")];
    let denials = Denials::new(subjects.map(|(kind, text)| denial(read(kind, text).unwrap()))).unwrap();
    assert!(denials.denies_rule("gitlab") && !denials.denies_rule("gitlab-2"));
    let targets: Vec<_> = denials.targets().iter().map(ToString::to_string).collect();
    assert_eq!(targets.len(), 2);
    assert!(targets.contains(&"10.0.0.0/8:443".to_owned()), "{targets:?}");
}

#[test]
fn is_bounded_and_keeps_the_first_word_about_a_thing() {
    let of = |number: usize| denial(Subject::Serial(format!("{:08x}", number + 1)));
    let full = Denials::new((0..DENIALS_MAX).map(of)).unwrap();
    assert_eq!(full.with(of(DENIALS_MAX)), Err(TooMany));
    let again = Denial::new(of(0).subject, Timestamp::default(), "uid 1".to_owned(), Some("later"));
    assert_eq!(full.with(again).unwrap(), full);
    let one_less = full.without(&of(5).subject);
    assert_eq!(one_less.count() + 1, full.count());
    assert!(one_less.with(of(DENIALS_MAX)).is_ok());
}

#[test]
fn a_reason_is_cut_at_a_whole_character() {
    let reason = "é".repeat(REASON_MAX);
    let kept = Denial::new(Subject::Serial("01".to_owned()), Timestamp::default(), String::new(), Some(&reason)).reason;
    let kept = kept.unwrap();
    assert!(kept.len() <= REASON_MAX && kept.chars().all(|c| c == 'é') && kept.len() > REASON_MAX - 2);
    assert_eq!(
        Denial::new(Subject::Serial("01".to_owned()), Timestamp::default(), String::new(), Some("")).reason,
        None
    );
}
