//! Names, targets, patterns and times: what is read has one spelling, and that spelling reads back.

use std::net::SocketAddr;
use std::time::SystemTime;

use ginnel_core::audit::Timestamp;
use ginnel_core::id::RequestId;
use ginnel_core::pattern::TargetPattern;
use ginnel_core::principal::{Principal, is_email};
use ginnel_core::ranges::{Network, Ranges};
use ginnel_core::target::{Host, Port, Target};

/// A name of 253 characters, a colon and a port; an IPv6 address with brackets is shorter.
const TARGET_CHARACTERS_MAX: usize = 253 + 1 + 5;

/// Targets and hosts.
pub fn target(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(target) = text.parse::<Target>() {
        let spelling = target.to_string();
        assert_eq!(spelling.parse(), Ok(target.clone()), "{text:?}");
        assert!(spelling.len() <= TARGET_CHARACTERS_MAX && is_canonical(&spelling), "{spelling:?}");
        assert_eq!(target.host.to_string().parse(), Ok(target.host), "{text:?}");
    }
    if let Ok(host) = text.parse::<Host>() {
        assert_eq!(host.to_string().parse(), Ok(host.clone()), "{text:?}");
        match host {
            Host::Name(name) => {
                assert!(is_canonical(name.as_str()), "{text:?}");
                // Whatever a system's own reader takes for an address is no name.
                assert!(name.as_str().parse::<std::net::IpAddr>().is_err(), "{text:?}");
            }
            Host::Address(address) => assert_eq!(address, address.to_canonical(), "{text:?}"),
        }
    }
}

fn is_canonical(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
}

/// Patterns of targets, and networks.
pub fn pattern(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network), "{text:?}");
        let ranges = Ranges::new([network]);
        let [only] = ranges.networks() else { panic!("{text:?} is one network") };
        assert!(ranges.contains(only.addr()) && ranges.contains(only.broadcast()), "{text:?}");
    }
    let Ok(pattern) = text.parse::<TargetPattern>() else { return };
    let spelling = pattern.to_string();
    assert_eq!(spelling.parse(), Ok(pattern.clone()), "{text:?}");
    let (first, last) = pattern.ports();
    assert!(1 <= first && first <= last, "{text:?}");
    let kinds = [pattern.name().is_some(), pattern.parent().is_some(), pattern.network().is_some()];
    assert_eq!(kinds.into_iter().filter(|is| *is).count(), 1, "{text:?} is about names or about addresses");

    let at = |host: Host, port: u16| Target::new(host, Port::try_from(port).expect("a port"));
    if let Some(name) = pattern.name() {
        assert!(pattern.matches(&at(Host::Name(name.clone()), last)), "{text:?}");
        let child = format!("x.{name}").parse().map(Host::Name);
        assert!(child.is_ok_and(|child| !pattern.matches_host(&child)) || name.as_str().len() > 251, "{text:?}");
    }
    if let Some(parent) = pattern.parent() {
        assert!(!pattern.matches_host(&Host::Name(parent.clone())), "{text:?}");
        if let Ok(child) = format!("x.{parent}").parse() {
            assert!(pattern.matches_host(&Host::Name(child)), "{text:?}");
        }
        if let Ok(grandchild) = format!("y.x.{parent}").parse() {
            assert!(!pattern.matches_host(&Host::Name(grandchild)), "{text:?}");
        }
    }
    if let Some(network) = pattern.network() {
        assert_eq!(network, network.trunc(), "{text:?}");
        assert!(pattern.matches_address(SocketAddr::new(network.addr(), first)), "{text:?}");
        assert!(pattern.matches(&at(network.addr().into(), last)), "{text:?}");
    }
}

/// Principals and request ids.
pub fn principal(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(principal) = text.parse::<Principal>() {
        assert_eq!(principal.to_string(), text, "there is one spelling");
    }
    if let Ok(id) = text.parse::<RequestId>() {
        assert_eq!(id.to_string(), text, "there is one spelling");
        assert_eq!(RequestId::from_bytes(&id.to_bytes()), Ok(id));
    }
}

/// Service accounts.
pub fn email(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if is_email(text) {
        assert!(text.len() <= 254 && is_canonical(text), "{text:?}");
        assert_eq!(text.matches('@').count(), 1, "{text:?}");
        assert!(!text.contains(['/', '"', '\'', '\\', '<', '>', ',', ';', ':', '%']), "{text:?}");
    }
}

/// Times.
pub fn timestamp(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(time) = text.parse::<Timestamp>() else { return };
    let spelling = time.to_string();
    assert_eq!(spelling.len(), "2026-01-31T13:45:00.000000Z".len(), "{text:?}: all have one width, so that they sort");
    assert_eq!(spelling.parse(), Ok(time), "{text:?}");
    assert_eq!(Timestamp::from(SystemTime::from(time)), time, "{text:?}");
}
