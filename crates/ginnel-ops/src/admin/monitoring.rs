//! Keeps `deploy/monitoring` and `docs/operate/metrics.md` in step with `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ginnel_core::cause::Cause;
use ginnel_core::status::{InnerHandshakes, Observation, Observed, Upstream};
use serde_json::Value;

use super::testing::fake;

const ROLES: [&str; 3] = ["server", "agent", "client"];

/// Labels that Prometheus adds, or that only a histogram's buckets have.
const ADDED: [&str; 4] = ["job", "instance", "le", "alertstate"];

/// A metric: its kind, its labels, and the roles that give it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    roles: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a process of a role gives.
fn exposed(role: &str) -> String {
    let (observed, shared) = fake();
    {
        let mut status = observed.status.lock().unwrap();
        status.role = role.to_owned();
        if role != "server" {
            (status.enrolments, status.signals) = (None, None);
            status.bounds.clear();
            if let Some(audit) = &mut status.audit {
                audit.sink = None;
            }
            let (address, name) = ("192.0.2.1:443".to_owned(), "tunnel.acme.example".to_owned());
            let (connected, connections) = (true, 1);
            let upstream =
                Upstream { address, name, connected, connections, since: None, version: None, failure: None };
            status.server = Some(upstream);
            status.inner_handshakes = Some(InnerHandshakes { full: 1, resumed: 63 });
        }
        if role == "client" {
            status.audit = None;
        }
        if role == "agent" {
            let would_refuse = vec![Observed { cause: Cause::NotOnAllowList.to_string(), count: 1 }];
            status.observation = Some(Observation { would_refuse, ..Observation::default() });
        }
    }
    shared.metrics.text().unwrap()
}

/// Every metric of every role, under the name by which its samples are asked for; a histogram under the name of all of them.
fn metrics() -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for role in ROLES {
        let text = exposed(role);
        let kinds: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let end = sample.find(['{', ' ']).unwrap();
            let (name, rest) = sample.split_at(end);
            let histogram = samples_of_a_histogram(name).filter(|base| kinds.get(base) == Some(&"histogram"));
            let total = name.strip_suffix("_total").filter(|base| kinds.contains_key(base));
            let kind = kinds[histogram.or(total).unwrap_or(name)];
            let metric = metrics.entry(histogram.unwrap_or(name).to_owned()).or_default();
            metric.kind = kind.to_owned();
            metric.roles.insert(role.to_owned());
            metric.labels.extend(labels(rest).into_iter().filter(|label| label != "le"));
        }
    }
    metrics
}

fn samples_of_a_histogram(name: &str) -> Option<&str> {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))
}

/// The names in `{a="x", b=~"y"}` at the beginning of a text; values hold no brace here.
fn labels(text: &str) -> BTreeSet<String> {
    let Some(inside) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else { return BTreeSet::new() };
    let pieces = inside.0.split(',').filter_map(|piece| piece.split_once(['=', '!']));
    pieces.map(|(label, _)| label.trim().to_owned()).collect()
}

/// The metrics that a text speaks of, with the labels that it asks them for.
fn used(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let (word, after) = word.split_at(word.find(|c| !is_word(c)).unwrap_or(word.len()));
        if word.starts_with("ginnel_") || word.starts_with("process_") {
            found.push((word.to_owned(), labels(after)));
        }
        rest = after;
    }
    found
}

/// Asserts that everything that a text asks for is there.
fn asks_for_what_there_is(of: &str, text: &str, least: usize) {
    let metrics = metrics();
    let used = used(text);
    assert!(used.len() >= least, "{of}: found only {used:?}");
    for (name, labels) in used {
        let histogram = samples_of_a_histogram(&name).and_then(|base| metrics.get(base));
        let metric = metrics.get(&name).or(histogram).unwrap_or_else(|| panic!("{of}: there is no {name}"));
        for label in labels {
            let is_there = metric.labels.contains(&label) || ADDED.contains(&label.as_str());
            assert!(is_there, "{of}: {name} has no label {label}");
        }
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/monitoring/grafana-dashboard.json")).unwrap()
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn promtool(directory: &Path, arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(directory).output().expect("promtool runs");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let page = read("docs/operate/metrics.md");
    let mut documented: BTreeMap<String, Metric> = BTreeMap::new();
    let words = |cell: &str| cell.split(", ").map(|word| word.trim_matches('`').to_owned()).collect::<BTreeSet<_>>();
    for row in page.lines() {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if let ["", name, kind, labels, roles, meaning, ""] = cells[..]
            && (name.starts_with("`ginnel_") || name.starts_with("`process_"))
        {
            let labels = if labels == "–" { BTreeSet::new() } else { words(labels) };
            let roles = if roles == "all" { words("server, agent, client") } else { words(roles) };
            assert!(!meaning.is_empty());
            let metric = Metric { kind: kind.to_owned(), labels, roles };
            let twice = documented.insert(name.trim_matches('`').to_owned(), metric);
            assert!(twice.is_none(), "{name} is documented twice");
        }
    }
    for (name, metric) in metrics() {
        assert_eq!(documented.remove(&name), Some(metric), "{name}");
    }
    assert!(documented.is_empty(), "there are none of these: {documented:?}");
    let causes = format!("| `cause` | the words of [causes](../causes.md) | {} |", Cause::ALL.len());
    assert!(page.contains(&causes), "{causes}");
}

#[test]
fn alerts_ask_for_metrics_and_labels_that_there_are() {
    asks_for_what_there_is("alerts.yml", &read("deploy/monitoring/alerts.yml"), 20);
    asks_for_what_there_is("alerts_test.yml", &read("deploy/monitoring/alerts_test.yml"), 40);
}

#[test]
fn alerts_name_causes_that_there_are() {
    for of in ["deploy/monitoring/alerts.yml", "deploy/monitoring/grafana-dashboard.json"] {
        let text = read(of).replace("\\\"", "\"");
        let lists = text.split("cause=~\"").chain(text.split("cause!~\"")).skip(1);
        let words: BTreeSet<&str> =
            lists.filter_map(|rest| rest.split_once('"')).flat_map(|(list, _)| list.split('|')).collect();
        let words: Vec<_> = words.into_iter().filter(|word| word.chars().all(char::is_alphanumeric)).collect();
        assert!(words.contains(&"notAllowed"), "{of}: {words:?}");
        for word in words {
            assert!(word.parse::<Cause>().is_ok(), "{of}: {word} is no cause");
        }
    }
}

#[test]
fn every_alert_fires_when_it_should_and_otherwise_not() {
    let directory = root().join("deploy/monitoring");
    promtool(&directory, &["check", "config", "prometheus.yml"]);
    promtool(&directory, &["test", "rules", "alerts_test.yml"]);
    let (rules, tests) = (read("deploy/monitoring/alerts.yml"), read("deploy/monitoring/alerts_test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test makes {alert} fire");
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let rules = read("deploy/monitoring/alerts.yml");
    for rule in rules.split("- alert: ").skip(1) {
        let severity =
            ["critical", "warning", "info"].iter().any(|word| rule.contains(&format!("{{severity: {word}}}")));
        assert!(severity && rule.contains("summary: ") && rule.contains("description: "), "{rule}");
        assert!(rule.contains("`ginnel ") || rule.contains("`journalctl "), "names no command: {rule}");
    }
}

#[test]
fn every_alert_is_documented_with_its_severity() {
    let (rules, page) = (read("deploy/monitoring/alerts.yml"), read("docs/operate/monitoring.md"));
    let mut written = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let severity = rule.split("{severity: ").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
        written.insert((rule.lines().next().unwrap().to_owned(), severity.to_owned()));
    }
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `Ginnel")?.split_once("` | "));
    let documented: BTreeSet<_> = rows
        .map(|(name, rest)| (format!("Ginnel{name}"), rest.split(" |").next().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(written, documented);
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are_and_promtool_can_read_it() {
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    asks_for_what_there_is("grafana-dashboard.json", &expressions.join("\n"), 40);
    let all = expressions.join("\n");
    for (name, _) in metrics() {
        assert!(all.contains(&name) || name == "ginnel_draining", "the dashboard shows no {name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let expression = Value::from(expression.replace("$__rate_interval", "5m"));
        rules.push_str(&format!("      - {{record: \"e{number}\", expr: {expression}}}\n"));
    }
    fs::write(dir.path().join("rules.yml"), rules).unwrap();
    promtool(dir.path(), &["check", "rules", "rules.yml"]);
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}");
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(taken.insert((place("x") + x, place("y") + y)), "{title} lies on another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for source in targets.iter().map(|target| &target["datasource"]).chain([&panel["datasource"]]) {
            assert_eq!(source["uid"], "${datasource}", "{title}: it would only work in one Grafana");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter().map(|variable| &variable["name"]);
    assert_eq!(variables.collect::<Vec<_>>(), ["datasource", "job", "instance"]);
}

#[test]
fn what_is_not_there_is_found() {
    let (names, _): (Vec<_>, Vec<_>) = used("rate(ginnel_x{job=\"a\"}[5m]) / process_y").into_iter().unzip();
    assert_eq!(names, ["ginnel_x", "process_y"]);
    let missing = |text: &str| {
        let text = text.to_owned();
        std::panic::catch_unwind(move || asks_for_what_there_is("test", &text, 1)).is_err()
    };
    assert!(missing("ginnel_session") && missing("ginnel_sessions{cause=\"reset\"}") && missing("nothing"));
    assert!(!missing("ginnel_sessions{job=\"a\"} / ginnel_open_seconds_bucket{le=\"1\"}"));
}
