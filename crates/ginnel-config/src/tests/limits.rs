use std::path::Path;

use ginnel_core::limits::{Limits, MIB};

use super::{SERVER, findings};
use crate::{Daemon, Overrides, ServerConfig};

fn limits(settings: &str) -> Limits {
    let text = format!("{SERVER}{settings}");
    ServerConfig::parse(&text, "f.yaml", Path::new("/etc/ginnel"), &Overrides::none()).expect(settings).limits
}

#[test]
fn without_settings_the_bounds_are_those_of_the_core() {
    assert_eq!(limits(""), Limits::default());
    assert_eq!(limits("limits: {}\n"), Limits::default());
}

#[test]
fn each_setting_moves_its_own_bound() {
    let set = limits(
        "limits: {connections: 100, connectionsPerPrincipal: 50, pending: 40, pendingPerSource: 20, instancesPerPrincipal: 3, \
         sessions: 90, sessionsPerPrincipal: 30, opensPerSecond: 7, failedEnrolmentsPerSecond: 2, waitingMib: 64}\n",
    );
    let expected = Limits {
        connections: 100,
        connections_per_principal: 50,
        pending: 40,
        pending_per_source: 20,
        instances_per_principal: 3,
        sessions: 90,
        sessions_per_principal: 30,
        opens_per_second: 7,
        failed_enrolments_per_second: 2,
        waiting_bytes: Some(64 * MIB),
    };
    assert_eq!(set, expected);
}

#[test]
fn what_cannot_hold_is_found() {
    let cases = [
        ("connections: 0", "limits.connections", "\"0\" is not a whole number from 16 to 500000"),
        ("waitingMib: 8", "limits.waitingMib", "\"8\" is not a whole number from 16 to 1048576"),
        ("opensPerSecond: lots", "limits.opensPerSecond", "\"lots\" is not a whole number from 1 to 1000000"),
        ("sessions: 1000", "limits.sessionsPerPrincipal", "20000 is more than sessions, which is 1000"),
        ("pending: 100", "limits.pendingPerSource", "256 is more than pending, which is 100"),
        ("connections: 1000", "limits.connectionsPerPrincipal", "1024 is more than connections, which is 1000"),
        ("sesions: 7", "limits", "unknown setting \"sesions\""),
    ];
    for (setting, path, message) in cases {
        let found = findings(Daemon::Server, &format!("{SERVER}limits: {{{setting}}}\n"), &Overrides::none());
        assert!(found.contains(&format!("{path}: {message}")), "{setting}: {found}");
    }
}
