use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> TargetPattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn matches_what_it_says_and_nothing_beside() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "gitlab.acme.internal:443",
            &["gitlab.acme.internal:443", "GITLAB.acme.internal.:443"],
            &[
                "gitlab.acme.internal:22",
                "gitlab.acme.internal.evil.example:443",
                "x.gitlab.acme.internal:443",
                "10.0.0.7:443",
            ],
        ),
        (
            "*.acme.internal:443",
            &["gitlab.acme.internal:443", "_x.acme.internal:443"],
            &[
                "acme.internal:443",
                "a.b.acme.internal:443",
                "gitlabacme.internal:443",
                "gitlab.acme.internal:80",
                "10.0.0.7:443",
            ],
        ),
        (
            "10.20.0.0/16:8000-8100",
            &["10.20.0.0:8000", "10.20.255.255:8100", "[::ffff:10.20.1.1]:8050"],
            &["10.21.0.0:8000", "10.20.0.1:7999", "10.20.0.1:8101", "gitlab.acme.internal:8000", "[fd00::1]:8000"],
        ),
        ("10.0.0.7:22", &["10.0.0.7:22"], &["10.0.0.8:22", "10.0.0.7:23"]),
        ("[fd00::/8]:443", &["[fd00::1]:443", "[fdff::1]:443"], &["[fc00::1]:443", "10.0.0.7:443"]),
        ("0.0.0.0/0:1-65535", &["1.2.3.4:1", "127.0.0.1:65535"], &["[::1]:1", "localhost:1"]),
        ("[::/0]:1-65535", &["[::1]:1"], &["127.0.0.1:1", "[::ffff:127.0.0.1]:1"]),
    ];
    for (text, inside, outside) in cases {
        let pattern = pattern(text);
        for target in *inside {
            assert!(pattern.matches(&target.parse().unwrap()), "{text} means {target}");
        }
        for target in *outside {
            assert!(!pattern.matches(&target.parse().unwrap()), "{text} does not mean {target}");
        }
    }
}

#[test]
fn matches_addresses_by_address_patterns_only() {
    let cases = [
        ("10.20.0.0/16:443", "10.20.3.4:443", true),
        ("10.20.0.0/16:443", "[::ffff:10.20.3.4]:443", true),
        ("10.20.0.0/16:443", "10.20.3.4:444", false),
        ("10.20.0.0/16:443", "10.21.3.4:443", false),
        ("[fd00::1]:443", "[fd00::1]:443", true),
        ("*.acme.internal:443", "10.20.3.4:443", false),
    ];
    for (text, address, expected) in cases {
        assert_eq!(pattern(text).matches_address(address.parse().unwrap()), expected, "{text} {address}");
    }
}

#[test]
fn one_canonical_form_per_pattern() {
    let cases = [
        ("GitLab.acme.internal.:443", "gitlab.acme.internal:443"),
        ("*.ACME.internal:443-443", "*.acme.internal:443"),
        ("10.0.0.7/32:22", "10.0.0.7:22"),
        ("[FD00:0::/8]:443", "[fd00::/8]:443"),
        ("[fd00::1/128]:1-2", "[fd00::1]:1-2"),
        ("[::ffff:10.20.0.0/112]:443", "10.20.0.0/16:443"),
        ("[::ffff:10.0.0.7]:443", "10.0.0.7:443"),
        ("0.0.0.0/0:1-65535", "0.0.0.0/0:1-65535"),
    ];
    for (text, canonical) in cases {
        assert_eq!(pattern(text).to_string(), canonical, "{text}");
        assert_eq!(pattern(canonical), pattern(text), "{text}");
    }
}

#[test]
fn refuses_what_is_no_pattern_and_says_why() {
    use InvalidPattern as E;
    use InvalidTarget as T;
    let network = |text: &str| E::HostBits { network: text.parse().unwrap() };
    let cases = [
        ("", E::Target(T::Empty)),
        ("gitlab.acme.internal", E::Target(T::PortMissing)),
        ("10.20.0.0/16", E::Target(T::PortMissing)),
        ("gitlab.acme.internal:", E::Ports),
        ("gitlab.acme.internal:*", E::Ports),
        ("gitlab.acme.internal:0", E::Ports),
        ("gitlab.acme.internal:080", E::Ports),
        ("gitlab.acme.internal:1:2", E::Ports),
        ("gitlab.acme.internal:1-", E::Ports),
        ("gitlab.acme.internal:1-2-3", E::Ports),
        ("gitlab.acme.internal:0-65535", E::Ports),
        ("gitlab.acme.internal:2-1", E::Range),
        ("*:443", E::Wildcard),
        ("*.internal:443", E::Wildcard),
        ("*.:443", E::Target(T::Empty)),
        ("*.internal.:443", E::Wildcard),
        ("git*.acme.internal:443", E::Wildcard),
        ("*git.acme.internal:443", E::Wildcard),
        ("*.*.acme.internal:443", E::Wildcard),
        ("git.*.acme.internal:443", E::Wildcard),
        ("*.0.0.1:443", E::Target(T::Ipv4)),
        ("10.20.1.0/16:443", network("10.20.0.0/16")),
        ("[fd00::1/8]:443", network("fd00::/8")),
        ("[::ffff:10.20.1.0/112]:443", network("10.20.0.0/16")),
        ("10.20.0.0/33:443", E::Prefix { bits: 32 }),
        ("10.20.0.0/016:443", E::Prefix { bits: 32 }),
        ("10.20.0.0/+16:443", E::Prefix { bits: 32 }),
        ("10.20.0.0/:443", E::Prefix { bits: 32 }),
        ("10.20.0.0/255.255.0.0:443", E::Prefix { bits: 32 }),
        ("[fd00::/129]:443", E::Prefix { bits: 128 }),
        ("[::ffff:10.0.0.0/8]:443", E::Prefix { bits: 128 }),
        ("10.20/16:443", E::Target(T::Ipv4)),
        ("gitlab.acme.internal/16:443", E::Target(T::Character('/'))),
        ("fd00::/8:443", E::Target(T::Brackets)),
        ("[10.20.0.0/16]:443", E::Target(T::Ipv6)),
        ("https://gitlab.acme.internal", E::Target(T::Url)),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<TargetPattern>(), Err(error), "{text}");
    }
    let message = "10.20.1.0/16:443".parse::<TargetPattern>().unwrap_err().to_string();
    assert!(message.ends_with("the network is \"10.20.0.0/16\""), "{message}");
}

#[test]
fn serde_takes_and_gives_text() {
    let pattern: TargetPattern = serde_json::from_str(r#""*.ACME.internal:443""#).unwrap();
    assert_eq!(serde_json::to_string(&pattern).unwrap(), r#""*.acme.internal:443""#);
    assert!(serde_json::from_str::<TargetPattern>(r#""*:443""#).is_err());
}

fn hosts() -> impl Strategy<Value = String> {
    let network = (any::<IpAddr>(), any::<u8>()).prop_map(|(address, prefix)| {
        let address = address.to_canonical();
        let prefix = prefix % if address.is_ipv4() { 33 } else { 129 };
        let network = IpNet::new(address, prefix).unwrap().trunc();
        if address.is_ipv4() { network.to_string() } else { format!("[{network}]") }
    });
    prop_oneof!["(\\*\\.)?[a-z0-9]{1,5}(\\.[a-z][a-z0-9]{0,4}){1,3}", network]
}

proptest! {
    #[test]
    fn patterns_read_back_what_they_write(hosts in hosts(), first in 1..=u16::MAX, more in 0..9_u16) {
        let text = format!("{hosts}:{first}-{}", first.saturating_add(more));
        let pattern: TargetPattern = text.parse().unwrap();
        prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
    }

    #[test]
    fn a_target_is_a_pattern_that_means_it(text in "[a-z]{1,9}(\\.[a-z]{1,5}){0,3}:[1-9][0-9]{0,3}") {
        prop_assert!(pattern(&text).matches(&text.parse().unwrap()));
    }

    #[test]
    fn what_parses_is_canonical_and_no_text_panics(text in "\\PC{0,40}|[a-f0-9.:\\[\\]/*-]{0,24}") {
        if let Ok(pattern) = text.parse::<TargetPattern>() {
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
    }
}
