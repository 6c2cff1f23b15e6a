//! `limits` of a server: the bounds that depend on how large an installation is. What holds without a setting stands, with its reason, in
//! [`ginnel_core::limits`].

use ginnel_core::limits::{Limits, MIB};

use crate::finding::Collector;
use crate::shape::{self, Fields, Located, located, object};

/// Most connections of either kind: as many descriptors as a large machine gives one process.
const CONNECTIONS: usize = 500_000;

/// Most connections without a certificate. Each may be in a handshake, which is what they are bounded for.
const PENDING: usize = 16_384;

/// Most processes of one principal. A server goes through all of them when one comes.
const INSTANCES: usize = 10_000;

/// Most sessions: 5 GiB of memory while all of them rest.
const SESSIONS: usize = 1_000_000;

/// Most of anything in a second: more than a machine does.
const PER_SECOND: usize = 1_000_000;

/// Least and most MiB that may wait.
const WAITING_MIB: (usize, usize) = (16, 1 << 20);

pub(super) fn section() -> shape::Object<Limits> {
    object(declaration)
}

fn declaration(fields: &mut Fields<'_, '_>) -> Option<Limits> {
    let (connections, sessions) = (of_connections(fields), of_sessions(fields));
    let Connections { connections, connections_per_principal, pending, pending_per_source, instances } = connections?;
    let Sessions { sessions, sessions_per_principal, opens, failures, waiting_mib } = sessions?;
    let per_second = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(Limits {
        connections,
        connections_per_principal,
        pending,
        pending_per_source,
        instances_per_principal: instances,
        sessions: wide(sessions),
        sessions_per_principal: wide(sessions_per_principal),
        opens_per_second: per_second(opens),
        failed_enrolments_per_second: per_second(failures),
        waiting_bytes: waiting_mib.map(|mib| wide(mib).saturating_mul(MIB)),
    })
}

struct Connections {
    connections: usize,
    connections_per_principal: usize,
    pending: usize,
    pending_per_source: usize,
    instances: usize,
}

fn of_connections(fields: &mut Fields<'_, '_>) -> Option<Connections> {
    let connections = fields
        .field(
            "connections",
            "Connections with a certificate at once. Fewer where the process may have fewer descriptors; beyond half of them, processes \
             get their first connection only.",
        )
        .default("8192", shape::number(16..=CONNECTIONS));
    let connections_per_principal = fields
        .field("connectionsPerPrincipal", "The same with one principal's certificates.")
        .default("1024", located(shape::number(4..=CONNECTIONS)));
    let pending = fields
        .field(
            "pending",
            "Connections at once that have shown no certificate yet. At the bound the longest silent one gives way.",
        )
        .default("1024", shape::number(8..=PENDING));
    let pending_per_source = fields
        .field(
            "pendingPerSource",
            "The same from one IPv4 /24 or IPv6 /56. Behind a load balancer that hides who calls, all come from one.",
        )
        .default("256", located(shape::number(4..=PENDING)));
    let instances = fields
        .field("instancesPerPrincipal", "Processes of one principal at once.")
        .default("256", shape::number(1..=INSTANCES));
    fields.check(|findings| {
        within(&connections_per_principal, connections, "connections", findings);
        within(&pending_per_source, pending, "pending", findings);
    });
    Some(Connections {
        connections: connections?,
        connections_per_principal: connections_per_principal?.value,
        pending: pending?,
        pending_per_source: pending_per_source?.value,
        instances: instances?,
    })
}

struct Sessions {
    sessions: usize,
    sessions_per_principal: usize,
    opens: usize,
    failures: usize,
    waiting_mib: Option<usize>,
}

fn of_sessions(fields: &mut Fields<'_, '_>) -> Option<Sessions> {
    let sessions = fields
        .field(
            "sessions",
            "Sessions at once. No client and no agent gets more than it leaves to the others; what is too much is refused as overloaded.",
        )
        .default("40000", shape::number(2..=SESSIONS));
    let sessions_per_principal = fields
        .field("sessionsPerPrincipal", "The same of one client, and of one agent.")
        .default("20000", located(shape::number(1..=SESSIONS)));
    let opens = fields
        .field(
            "opensPerSecond",
            "Sessions that one client may ask for in a second, over the time; after a pause four seconds' worth at once.",
        )
        .default("3000", shape::number(1..=PER_SECOND));
    let failures = fields
        .field(
            "failedEnrolmentsPerSecond",
            "Enrolments from one IPv4 /24 or IPv6 /56 that may fail in a second, over the time; after a pause ten seconds' worth at once. \
             Beyond, nobody from there is listened to for that long.",
        )
        .default("50", shape::number(1..=PER_SECOND));
    let waiting_mib = fields
        .field(
            "waitingMib",
            "MiB of sessions that may wait for somebody who does not take them. Beyond, the session that would add to it is ended as \
             overloaded. Without it: a quarter of the memory that the process may use, at most 1024.",
        )
        .example_off(256)
        .optional(shape::number(WAITING_MIB.0..=WAITING_MIB.1));
    fields.check(|findings| within(&sessions_per_principal, sessions, "sessions", findings));
    Some(Sessions {
        sessions: sessions?,
        sessions_per_principal: sessions_per_principal?.value,
        opens: opens?,
        failures: failures?,
        waiting_mib,
    })
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Reports a part that is more than the whole.
fn within(part: &Option<Located<usize>>, whole: Option<usize>, name: &str, findings: &mut Collector) {
    if let (Some(part), Some(whole)) = (part, whole)
        && part.value > whole
    {
        let hint = format!("write at most {whole} here, or more in limits.{name}");
        part.report(findings, format!("{} is more than {name}, which is {whole}", part.value), hint);
    }
}
