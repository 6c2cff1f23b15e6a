//! `/metrics`: the status in Prometheus' text format. Every number comes from [`Observed::status`] or the process itself.

use std::collections::BTreeMap;
use std::fmt::{self, Error};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ginnel_core::audit::Timestamp;
use ginnel_core::sink::FailureKind;
use ginnel_core::status::{Bound, Latency, Peer, Sink, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Observed;
use super::process::Process;

/// Software versions that are told apart. A peer chooses its version freely, and every label value is a series that somebody stores.
const VERSIONS_MAX: usize = 16;

/// The version of every peer beyond [`VERSIONS_MAX`].
const OTHER: &str = "other";

/// The text of `/metrics`, and its content type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders every metric.
pub(super) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(super) fn new(observed: Arc<dyn Observed>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Collected(observed)));
        Self { registry }
    }

    pub(super) fn text(&self) -> Result<String, Error> {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

struct Collected(Arc<dyn Observed>);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").finish_non_exhaustive()
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        let status = self.0.status();
        life(&mut families, &status)?;
        sessions(&mut families, &status)?;
        certificates(&mut families, &status)?;
        configuration(&mut families, &status)?;
        peers(&mut families, &status)?;
        server(&mut families, &status)?;
        process(&mut families, &Process::read())
    }
}

type Labels<const N: usize> = [(&'static str, String); N];

/// Writes families one by one.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<S: EncodeLabelSet>(&mut self, name: &str, help: &str, values: &[(S, f64)]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.iter().try_for_each(|(labels, value)| family.encode_family(labels)?.encode_gauge(value))
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<S: EncodeLabelSet>(&mut self, name: &str, help: &str, values: &[(S, u64)]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(labels, value)| {
            family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)
        })
    }
}

fn life(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let build: Labels<2> = [("role", status.role.clone()), ("version", status.version.clone())];
    families.gauges(
        "ginnel_build_info",
        "The role and the software version of this process; always 1",
        &[(build, 1.0)],
    )?;
    families.gauge("ginnel_ready", "Whether a session could be carried now (1) or not (0)", flag(status.ready))?;
    families.gauge("ginnel_draining", "Whether the process is on its way out (1) or not (0)", flag(status.draining))?;
    if let Some(server) = &status.server {
        let help = "Whether there is a connection to the server that sessions can use (1) or not (0)";
        families.gauge("ginnel_server_connected", help, flag(server.connected))?;
        let help = "Connections to the server that new sessions can use";
        families.gauge("ginnel_server_connections", help, count(server.connections))?;
    }
    let suppressed = count(crate::telemetry::suppressed_total());
    families.counter(
        "ginnel_log_suppressed",
        "Log lines that were left out because they repeated themselves",
        suppressed,
    )
}

fn sessions(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let totals = &status.sessions;
    families.gauge("ginnel_sessions", "Sessions that are carried now", count(totals.live))?;
    families.counter("ginnel_sessions_opened", "Sessions that were opened", count(totals.opened))?;
    let by_cause = |event: &str| {
        let counted = status.causes.iter().filter(|counted| counted.event == event);
        let labels =
            counted.map(|counted| ([("hop", counted.hop.clone()), ("cause", counted.cause.clone())], counted.count));
        labels.collect::<Vec<(Labels<2>, u64)>>()
    };
    let help = "Sessions that ended, by who ended them and why";
    families.counters("ginnel_sessions_ended", help, &by_cause("ended"))?;
    let help = "Sessions that were refused, by who refused them and why";
    families.counters("ginnel_sessions_refused", help, &by_cause("refused"))?;
    if let Some(observation) = &status.observation {
        let counted = observation.would_refuse.iter();
        let counted: Vec<(Labels<1>, u64)> =
            counted.map(|observed| ([("cause", observed.cause.clone())], observed.count)).collect();
        let help = "Sessions that were opened and that the list under observation would have refused, by the cause it would have had";
        families.counters("ginnel_observed_refusals", help, &counted)?;
    }
    let direction = |word: &str| [("direction", word.to_owned())];
    let bytes: [(Labels<1>, u64); 2] = [(direction("up"), totals.bytes_up), (direction("down"), totals.bytes_down)];
    families.counters("ginnel_bytes", "Bytes carried towards targets (up) and towards applications (down)", &bytes)?;
    if let Some(handshakes) = &status.inner_handshakes {
        let kind = |word: &str| [("kind", word.to_owned())];
        let kinds: [(Labels<1>, u64); 2] = [(kind("full"), handshakes.full), (kind("resumed"), handshakes.resumed)];
        let help = "Handshakes between client and agent that succeeded, with both certificates or with an earlier one's ticket";
        families.counters("ginnel_inner_handshakes", help, &kinds)?;
    }
    opening(families, &status.opening)
}

fn opening(families: &mut Families<'_>, latency: &Latency) -> Result<(), Error> {
    let within: u64 = latency.buckets.iter().map(|bucket| bucket.count).sum();
    let ends = latency.buckets.iter().map(|bucket| (seconds(Duration::from_millis(bucket.up_to_millis)), bucket.count));
    let beyond = (f64::MAX, latency.count.saturating_sub(within));
    let buckets: Vec<_> = ends.chain([beyond]).collect();
    let help = "Seconds from a request to success, of sessions that were opened";
    let mut family = families.0.encode_descriptor("ginnel_open_seconds", help, None, MetricType::Histogram)?;
    let sum = seconds(Duration::from_micros(latency.sum_micros));
    family.encode_histogram::<NoLabelSet>(sum, latency.count, &buckets, None)
}

fn certificates(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    if let Some(certificate) = &status.certificate {
        let help = "When the certificate of this process expires, in seconds since 1970";
        families.gauge("ginnel_certificate_expiry_timestamp_seconds", help, unix(certificate.not_after))?;
    }
    let outcome = |word: &str| [("outcome", word.to_owned())];
    let renewals: [(Labels<1>, u64); 2] =
        [(outcome("renewed"), status.renewals.renewed), (outcome("failed"), status.renewals.failed)];
    families.counters("ginnel_renewals", "Attempts to get a certificate, by outcome", &renewals)?;
    let mut earliest: BTreeMap<(&str, &str), Timestamp> = BTreeMap::new();
    for (role, peer) in peers_of(status) {
        if let Some(certificate) = &peer.certificate {
            let expiry = earliest.entry((role, name_of(&peer.principal))).or_insert(certificate.not_after);
            *expiry = (*expiry).min(certificate.not_after);
        }
    }
    let labels = |(role, name): (&str, &str)| [("role", role.to_owned()), ("name", name.to_owned())];
    let values: Vec<(Labels<2>, f64)> = earliest.into_iter().map(|(who, at)| (labels(who), unix(at))).collect();
    let help = "When the first certificate among the connected processes of a principal expires, in seconds since 1970";
    families.gauges("ginnel_peer_certificate_expiry_timestamp_seconds", help, &values)
}

fn configuration(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    let config = &status.config;
    let help = "Whether the last reload came into force (1) or failed (0); 1 before the first";
    families.gauge("ginnel_reload_last_success", help, flag(config.failure.is_none()))?;
    let outcome = |word: &str| [("outcome", word.to_owned())];
    let reloads: [(Labels<1>, u64); 2] = [(outcome("applied"), config.reloads), (outcome("failed"), config.failures)];
    families.counters("ginnel_reloads", "Reloads of the configuration, by outcome", &reloads)?;
    if let Some(applied) = config.applied {
        let help = "When the configuration in force was loaded, in seconds since 1970";
        families.gauge("ginnel_reload_applied_timestamp_seconds", help, unix(applied))?;
    }
    if let Some(denials) = status.denials.filter(|_| status.role != "client") {
        families.gauge(
            "ginnel_denials",
            "Identities, keys, certificates, rules and targets that are revoked",
            count(denials),
        )?;
    }
    if status.role == "server" {
        families.gauge("ginnel_policy_rules", "Rules in force", count(config.entries))?;
        let version: [(Labels<1>, f64); 1] = [([("version", config.version.clone())], 1.0)];
        families.gauges("ginnel_policy_info", "The version of the rules in force; always 1", &version)?;
    }
    Ok(())
}

fn peers(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    if status.role == "client" {
        return families.gauge("ginnel_roster_agents", "Live agent processes on the roster", count_of(&status.agents));
    }
    if status.role != "server" {
        return Ok(());
    }
    let by_name = |label: &'static str, peers: &[Peer]| {
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for peer in peers {
            *counts.entry(name_of(&peer.principal).to_owned()).or_default() += 1.0;
        }
        counts.into_iter().map(|(name, count)| ([(label, name)], count)).collect::<Vec<(Labels<1>, f64)>>()
    };
    families.gauges("ginnel_links", "Live links by agent", &by_name("agent", &status.agents))?;
    families.gauges("ginnel_clients", "Connected client processes by client", &by_name("client", &status.clients))?;
    let connections = |peers: &[Peer]| peers.iter().map(|peer| count(peer.connections.unwrap_or(1))).sum::<f64>();
    let role = |word: &str| [("role", word.to_owned())];
    let by_role: [(Labels<1>, f64); 2] =
        [(role("agent"), connections(&status.agents)), (role("client"), connections(&status.clients))];
    let help = "Connections of agents and clients that new sessions can use, by role";
    families.gauges("ginnel_connections", help, &by_role)?;
    families.gauges("ginnel_peers", "Connected processes by role and software version", &by_version(status))
}

/// The versions of peers, at most [`VERSIONS_MAX`] of them by name.
fn by_version(status: &Status) -> Vec<(Labels<2>, f64)> {
    let mut counts: BTreeMap<(String, String), f64> = BTreeMap::new();
    for (role, peer) in peers_of(status) {
        let version = peer.version.clone().unwrap_or_else(|| OTHER.to_owned());
        let known = counts.contains_key(&(role.to_owned(), version.clone())) || counts.len() < VERSIONS_MAX;
        let version = if known { version } else { OTHER.to_owned() };
        *counts.entry((role.to_owned(), version)).or_default() += 1.0;
    }
    counts.into_iter().map(|((role, version), count)| ([("role", role), ("version", version)], count)).collect()
}

fn server(families: &mut Families<'_>, status: &Status) -> Result<(), Error> {
    if let Some(enrolments) = &status.enrolments {
        let refused = enrolments.refused.values().sum();
        let outcome = |word: &str| [("outcome", word.to_owned())];
        let outcomes: [(Labels<1>, u64); 2] = [(outcome("issued"), enrolments.issued), (outcome("refused"), refused)];
        families.counters("ginnel_enrolments", "Enrolments of agents and clients, by outcome", &outcomes)?;
        let reasons = enrolments.refused.iter().map(|(reason, count)| ([("reason", reason.clone())], *count));
        let reasons: Vec<(Labels<1>, u64)> = reasons.collect();
        families.counters("ginnel_enrolments_refused", "Enrolments that were refused, by reason", &reasons)?;
    }
    bounds(families, &status.bounds)?;
    if let Some(audit) = &status.audit {
        families.gauge(
            "ginnel_audit_healthy",
            "Whether the audit log can be written (1) or not (0)",
            flag(audit.healthy),
        )?;
        families.gauge(
            "ginnel_audit_waiting_records",
            "Audit records that wait to be written",
            count(audit.waiting),
        )?;
    }
    if let Some(sink) = status.audit.as_ref().and_then(|audit| audit.sink.as_ref()) {
        audit_sink(families, sink)?;
    }
    if let Some(signals) = &status.signals {
        let by_role = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(role, count)| ([("role", role.clone())], *count)).collect::<Vec<(Labels<1>, u64)>>()
        };
        let help = "Connections from networks that their principal was not known to come from, while it was known from others, by role";
        families.counters("ginnel_new_sources", help, &by_role(&signals.new_sources))?;
        let help = "Processes that were turned away because their principal has as many as it may have, by role";
        families.counters("ginnel_too_many_instances", help, &by_role(&signals.too_many_instances))?;
    }
    Ok(())
}

fn bounds(families: &mut Families<'_>, bounds: &[Bound]) -> Result<(), Error> {
    let label = |bound: &Bound| [("bound", bound.name.clone())];
    // A rate has neither: it is of one principal or source, and who that is is no label.
    let filled = || bounds.iter().filter(|bound| bound.most > 0);
    let used: Vec<(Labels<1>, f64)> = filled().map(|bound| (label(bound), count(bound.used))).collect();
    families.gauges("ginnel_bound_used", "How much of a bound is used up by all together", &used)?;
    let most: Vec<(Labels<1>, f64)> = filled().map(|bound| (label(bound), count(bound.most))).collect();
    families.gauges("ginnel_bound_most", "The bound for all together", &most)?;
    let turned_away: Vec<(Labels<1>, u64)> = bounds.iter().map(|bound| (label(bound), bound.turned_away)).collect();
    let help = "How often somebody was turned away, or a session ended, at a bound";
    families.counters("ginnel_turned_away", help, &turned_away)
}

fn audit_sink(families: &mut Families<'_>, sink: &Sink) -> Result<(), Error> {
    let help = "Audit records on disk that the sink has not taken yet";
    families.gauge("ginnel_audit_sink_behind_records", help, count(sink.behind_records))?;
    let help = "Age of the oldest audit record that the sink has not taken yet, in seconds; 0 if there is none";
    families.gauge("ginnel_audit_sink_behind_seconds", help, count(sink.behind_seconds))?;
    let counters = [
        ("ginnel_audit_sink_delivered", "Entries that the audit sink has taken", sink.delivered),
        (
            "ginnel_audit_sink_replaced",
            "Stubs among them, for records that the sink does not take as they are",
            sink.replaced,
        ),
        ("ginnel_audit_sink_lost", "Audit records that the sink will never have", sink.lost),
    ];
    for (name, help, value) in counters {
        families.counter(name, help, count(value))?;
    }
    let kinds = FailureKind::ALL.map(FailureKind::as_str);
    let failures =
        kinds.map(|kind| ([("kind", kind.to_owned())], sink.failures.get(kind).copied().unwrap_or_default()));
    let failures: [(Labels<1>, u64); FailureKind::ALL.len()] = failures;
    families.counters(
        "ginnel_audit_sink_failures",
        "Attempts to give records to the audit sink that failed, by kind",
        &failures,
    )
}

/// Prometheus' own names for what every process has.
fn process(families: &mut Families<'_>, process: &Process) -> Result<(), Error> {
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory size in bytes", process.resident_bytes),
        ("process_open_fds", "Open file descriptors", process.open_descriptors),
        ("process_max_fds", "Most file descriptors that may be open", process.descriptors_max),
        ("process_start_time_seconds", "When the process started, in seconds since 1970", process.start_seconds),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            families.gauge(name, help, value)?;
        }
    }
    match process.cpu_seconds {
        Some(cpu) => families.counter("process_cpu_seconds", "User and system CPU time spent, in seconds", cpu),
        None => Ok(()),
    }
}

fn peers_of(status: &Status) -> impl Iterator<Item = (&'static str, &Peer)> {
    let (agents, clients): (&[Peer], &[Peer]) =
        if status.role == "server" { (&status.agents, &status.clients) } else { (&[], &[]) };
    agents.iter().map(|peer| ("agent", peer)).chain(clients.iter().map(|peer| ("client", peer)))
}

/// The name in a principal's URI.
pub(super) fn name_of(principal: &str) -> &str {
    principal.rsplit('/').next().unwrap_or(principal)
}

fn flag(is_set: bool) -> f64 {
    if is_set { 1.0 } else { 0.0 }
}

/// Exact up to 2^53, which is where Prometheus' own numbers end.
fn count(number: u64) -> f64 {
    number as f64
}

fn count_of<T>(items: &[T]) -> f64 {
    count(u64::try_from(items.len()).unwrap_or(u64::MAX))
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn unix(time: Timestamp) -> f64 {
    SystemTime::from(time).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{fake, status};
    use super::*;

    #[test]
    fn gives_the_status_in_numbers() {
        let (_, shared) = fake();
        let text = shared.metrics.text().unwrap();
        for line in [
            "ginnel_build_info{role=\"server\",version=\"0.1.0\"} 1",
            "ginnel_sessions_opened_total 18450",
            "ginnel_sessions_refused_total{hop=\"agent\",cause=\"nameNotResolved\"} 11",
            "ginnel_sessions_ended_total{hop=\"target\",cause=\"finished\"} 18400",
            "ginnel_bytes_total{direction=\"down\"} 48123456789",
            "ginnel_open_seconds_bucket{le=\"0.1\"} 18400",
            "ginnel_open_seconds_bucket{le=\"+Inf\"} 18450",
            "ginnel_open_seconds_count 18450",
            "ginnel_certificate_expiry_timestamp_seconds 1795579920",
            "ginnel_peer_certificate_expiry_timestamp_seconds{role=\"agent\",name=\"acme\"} 1795550400",
            "ginnel_links{agent=\"acme\"} 2",
            "ginnel_clients{client=\"frontend\"} 1",
            "ginnel_reload_last_success 0",
            "ginnel_reloads_total{outcome=\"failed\"} 1",
            "ginnel_enrolments_total{outcome=\"refused\"} 3",
            "ginnel_enrolments_refused_total{reason=\"expired\"} 1",
            "ginnel_bound_used{bound=\"pending\"} 3",
            "ginnel_bound_most{bound=\"pending\"} 1024",
            "ginnel_turned_away_total{bound=\"opensPerSecond\"} 5",
            "ginnel_audit_healthy 1",
            "ginnel_policy_info{version=\"8d2c1f0a9b3e4d55\"} 1",
        ] {
            let found = text.lines().any(|found| found == line || found == format!("{line}.0"));
            assert!(found, "{line}\n{text}");
        }
    }

    #[test]
    fn hostile_versions_make_no_more_series_than_there_are_places() {
        let mut status = status();
        let peer = status.agents[0].clone();
        status.agents = (0..1000).map(|n| Peer { version: Some(format!("v{n}\"\n")), ..peer.clone() }).collect();
        let versions = by_version(&status);
        assert_eq!(versions.len(), VERSIONS_MAX + 2, "one of the others for each role");
        assert_eq!(versions.iter().map(|(_, count)| count).sum::<f64>(), 1001.0);
    }
}
