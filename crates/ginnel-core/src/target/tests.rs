use proptest::prelude::*;

use super::*;
use crate::address::{AddressKind, classify};

#[test]
fn one_canonical_form_per_target() {
    let cases = [
        ("gitlab.acme.internal:443", "gitlab.acme.internal:443"),
        ("GitLab.ACME.internal:443", "gitlab.acme.internal:443"),
        ("gitlab.acme.internal.:443", "gitlab.acme.internal:443"),
        ("gitlab:1", "gitlab:1"),
        ("_git._tcp.acme.internal:65535", "_git._tcp.acme.internal:65535"),
        ("XN--MNCHEN-3YA.example:22", "xn--mnchen-3ya.example:22"),
        ("1password.internal:443", "1password.internal:443"),
        ("0xcafe.internal:443", "0xcafe.internal:443"),
        ("10.0.0.7:22", "10.0.0.7:22"),
        ("[FD00:0:0::1]:443", "[fd00::1]:443"),
        ("[::ffff:10.0.0.7]:443", "10.0.0.7:443"),
        ("[::ffff:a9fe:a9fe]:80", "169.254.169.254:80"),
    ];
    for (text, canonical) in cases {
        let target: Target = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(target.to_string(), canonical, "{text}");
        assert_eq!(canonical.parse(), Ok(target), "{text}");
    }
}

#[test]
fn refuses_what_is_no_target_and_says_why() {
    use InvalidTarget as E;
    let cases = [
        ("", E::Empty),
        (":443", E::Empty),
        (".:443", E::Label),
        ("gitlab", E::PortMissing),
        ("[fd00::1]", E::PortMissing),
        ("gitlab:", E::Port),
        ("gitlab:0", E::Port),
        ("gitlab:65536", E::Port),
        ("gitlab:-1", E::Port),
        ("gitlab:+1", E::Port),
        ("gitlab:007", E::Port),
        ("gitlab:https", E::Port),
        ("gitlab:443 ", E::Port),
        ("gitlab:443:443", E::Port),
        ("gitlab:٤٤٣", E::Port),
        ("fd00::1", E::Brackets),
        ("fd00::1:443", E::Brackets),
        ("1:2:3:4:5:6:7:8:443", E::Brackets),
        ("https://gitlab.internal", E::Url),
        ("https://gitlab.internal:443/", E::Url),
        ("gitlab.internal:443/git", E::Url),
        ("[fd00::1:443", E::Brackets),
        ("[fd00::1]443", E::Brackets),
        ("fd00]:443", E::Brackets),
        ("[127.0.0.1]:443", E::Brackets),
        ("[gitlab]:443", E::Ipv6),
        ("[]:443", E::Ipv6),
        ("[fd00:::1]:443", E::Ipv6),
        ("[::ffff:0177.0.0.1]:443", E::Ipv6),
        ("[fe80::1%eth0]:443", E::Zone),
        ("[fe80::1%25eth0]:443", E::Zone),
        ("..:443", E::Label),
        (".gitlab:443", E::Label),
        ("gitlab..internal:443", E::Label),
        ("gitlab.internal..:443", E::Label),
        ("-gitlab.internal:443", E::Hyphen),
        ("gitlab-.internal:443", E::Hyphen),
        ("xn--a_b.internal:443", E::Punycode),
        ("münchen.example:443", E::NonAscii),
        ("127。0。0。1:443", E::NonAscii),
        ("127.1:443", E::Ipv4),
        ("0:443", E::Ipv4),
        ("0x7f000001:443", E::Ipv4),
        ("0X7F.1:443", E::Ipv4),
        ("127.0.0.0x1:443", E::Ipv4),
        ("127.0.0.0x:443", E::Ipv4),
        ("0177.0.0.1:443", E::Ipv4),
        ("2130706433:443", E::Ipv4),
        ("127.0.0.1.:443", E::Ipv4),
        ("256.0.0.1:443", E::Ipv4),
        ("gitlab.1:443", E::Ipv4),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Target>(), Err(error), "{text}");
    }
    for character in ['\0', '\r', '\n', ' ', '\t', '@', '/', '\\', '#', '?', '%', '`', '*', ','] {
        let text = format!("git{character}lab:443");
        assert_eq!(text.parse::<Target>(), Err(E::Character(character)), "{text:?}");
    }
}

#[test]
fn names_and_labels_have_a_length() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    assert!(longest.parse::<DnsName>().is_ok());
    assert!(format!("{longest}.").parse::<DnsName>().is_ok());
    assert_eq!(format!("{longest}a").parse::<DnsName>(), Err(InvalidTarget::Length));
    assert_eq!(format!("{label}a.internal").parse::<DnsName>(), Err(InvalidTarget::Label));
}

#[test]
fn brackets_belong_to_authorities_only() {
    let address = Host::from("fd00::1".parse::<IpAddr>().unwrap());
    assert_eq!("fd00::1".parse::<Host>(), Ok(address.clone()));
    assert_eq!("[fd00::1]".parse::<Host>(), Err(InvalidTarget::Brackets));
    assert_eq!(Host::from_authority("[fd00::1]"), Ok(address));
    assert_eq!(Host::from_authority("fd00::1"), Err(InvalidTarget::Brackets));
    assert_eq!(Host::from_authority("git.acme"), "git.acme".parse());
}

#[test]
fn serde_takes_and_gives_text() {
    let target: Target = serde_json::from_str(r#""GIT.acme.internal:22""#).unwrap();
    assert_eq!(serde_json::to_string(&target).unwrap(), r#""git.acme.internal:22""#);
    assert!(serde_json::from_str::<Target>(r#""git.acme.internal""#).is_err());
    assert!(serde_json::from_str::<DnsName>(r#""127.1""#).is_err());
}

/// One number as `inet_aton` takes it: decimal, octal or hexadecimal, with more zeros than it needs.
fn spelled(number: u32, base: u8, zeros: usize) -> String {
    let zeros = "0".repeat(zeros);
    match base {
        0 => number.to_string(),
        1 => format!("0{zeros}{number:o}"),
        2 => format!("0x{zeros}{number:x}"),
        _ => format!("0X{zeros}{number:X}"),
    }
}

/// The spellings of an IPv4 address in one to four parts, of which the last takes all the remaining bits.
fn ipv4_spelling(bits: u32) -> impl Strategy<Value = String> {
    let part = (0..4_u8, 0..3_usize);
    (1..=4_usize, proptest::collection::vec(part, 4), any::<bool>()).prop_map(move |(count, how, dot)| {
        let octets = bits.to_be_bytes();
        let mut parts: Vec<String> = octets
            .iter()
            .zip(&how)
            .take(count - 1)
            .map(|(&octet, &(base, zeros))| spelled(octet.into(), base, zeros))
            .collect();
        let last = octets[count - 1..].iter().fold(0, |sum, &octet| (sum << 8) | u32::from(octet));
        parts.push(spelled(last, how[3].0, how[3].1));
        let mut text = parts.join(".");
        if dot {
            text.push('.');
        }
        text
    })
}

#[test]
fn a_connection_is_at_the_port_of_its_target_and_at_its_address_if_it_has_one() {
    let cases = [
        ("git.acme.internal:443", "10.0.0.7:443", true),
        ("git.acme.internal:443", "[fd00::7]:443", true),
        ("git.acme.internal:443", "10.0.0.7:22", false),
        ("10.0.0.7:443", "10.0.0.7:443", true),
        ("10.0.0.7:443", "[::ffff:10.0.0.7]:443", true),
        ("10.0.0.7:443", "10.0.0.8:443", false),
        ("10.0.0.7:443", "10.0.0.7:80", false),
        ("[::ffff:10.0.0.7]:443", "10.0.0.7:443", true),
        ("[fd00::7]:443", "[fd00::7]:443", true),
        ("[fd00::7]:443", "[fd00::8]:443", false),
        ("[fd00::7]:443", "10.0.0.7:443", false),
    ];
    for (target, address, expected) in cases {
        let target: Target = target.parse().unwrap();
        assert_eq!(target.may_be_at(address.parse().unwrap()), expected, "{target} {address}");
    }
}

/// Addresses of this machine and of the metadata services.
fn dangerous_ipv4() -> impl Strategy<Value = u32> {
    let loopback = (0..1_u32 << 24).prop_map(|host| (127 << 24) | host);
    prop_oneof![loopback, Just(0xa9fe_a9fe), Just(0), Just(0x7f00_0001)]
}

fn ipv6_spelling(address: Ipv6Addr) -> impl Strategy<Value = String> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let [.., w, x, y, z] = address.octets();
    prop_oneof![
        Just(address.to_string()),
        Just(address.to_string().to_uppercase()),
        Just(format!("{a:04x}:{b:04x}:{c:04X}:{d:x}:{e:x}:{f:x}:{g:x}:{h:x}")),
        Just(format!("{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{w}.{x}.{y}.{z}")),
    ]
}

proptest! {
    #[test]
    fn no_spelling_of_a_dangerous_ipv4_address_is_a_name(text in dangerous_ipv4().prop_flat_map(ipv4_spelling)) {
        match text.parse::<Host>() {
            Ok(Host::Name(name)) => prop_assert!(false, "{} is taken for a name: {}", text, name),
            Ok(Host::Address(address)) => prop_assert_ne!(classify(address), AddressKind::Ordinary),
            Err(_) => {}
        }
    }

    #[test]
    fn every_spelling_of_a_dangerous_ipv6_address_is_that_address(
        (address, text) in prop_oneof![
            Just(Ipv6Addr::LOCALHOST),
            Just("fd00:ec2::254".parse().unwrap()),
            dangerous_ipv4().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped()),
        ].prop_flat_map(|address: Ipv6Addr| (Just(address), ipv6_spelling(address))),
    ) {
        let host = Host::from(IpAddr::V6(address));
        prop_assert_eq!(text.parse::<Host>(), Ok(host.clone()));
        prop_assert_eq!(Host::from_authority(&format!("[{text}]")), Ok(host));
        prop_assert_ne!(classify(IpAddr::V6(address)), AddressKind::Ordinary);
    }

    #[test]
    fn targets_read_back_what_they_write(
        host in prop_oneof![
            "[a-z0-9_]{1,9}(\\.[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?){0,3}\\.[a-z]{1,6}".prop_map(|text| text.parse::<Host>().unwrap()),
            any::<IpAddr>().prop_map(Host::from),
        ],
        port in 1..=u16::MAX,
    ) {
        let target = Target::new(host, Port::try_from(port).unwrap());
        prop_assert_eq!(target.to_string().parse(), Ok(target));
    }

    #[test]
    fn what_parses_is_canonical_and_no_text_panics(text in "\\PC{0,40}|[a-zA-Z0-9.:\\[\\]_%x-]{0,24}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse(), Ok(target));
        }
    }
}
