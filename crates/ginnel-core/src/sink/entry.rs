//! What a record looks like in a sink.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{ENTRY_BYTES_MAX, FailureKind, Mark};
use crate::audit::{Entry, Text, Timestamp};
use crate::id::RequestId;

/// How old a record may be to be filed under its own time. Log buckets store nothing that is older than 30 days when it comes, and say nothing
/// about it; a day is left for the way.
const AGE_MAX: Duration = Duration::from_secs(29 * 86_400);

/// How far ahead a record's time may be. The service refuses what is more than a day ahead of its own clock.
const AHEAD_MAX: Duration = Duration::from_secs(23 * 3600);

/// What an entry takes beside its payload and its labels: id, time, trace and their names.
const OVERHEAD: usize = 256;

/// Characters of a process's name in an id; a record of ours has 32.
const BOOT_LENGTH_MAX: usize = 64;

/// How loud an entry is, in the words of Cloud Logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The diary.
    Info,
    /// Significant: somebody changed who may do what.
    Notice,
    /// Somebody was told no, or did what is unusual.
    Warning,
    /// Records are missing.
    Error,
}

impl Severity {
    /// The number of `google.logging.type.LogSeverity`.
    pub fn number(self) -> i32 {
        match self {
            Self::Info => 200,
            Self::Notice => 300,
            Self::Warning => 400,
            Self::Error => 500,
        }
    }
}

/// What each event is, unless more is known of it. A word that is not here comes from a newer version.
const SEVERITIES: &[(&str, Severity)] = &[
    ("started", Severity::Notice),
    ("reloaded", Severity::Notice),
    ("revoked", Severity::Notice),
    ("unrevoked", Severity::Notice),
    ("enrolled", Severity::Info),
    ("enrolmentRefused", Severity::Warning),
    ("enrolmentForwarded", Severity::Info),
    ("certificateIssued", Severity::Info),
    ("turnedAway", Severity::Warning),
    ("linkUp", Severity::Info),
    ("linkDown", Severity::Info),
    ("clientUp", Severity::Info),
    ("clientDown", Severity::Info),
    ("newSource", Severity::Notice),
    ("tooManyInstances", Severity::Warning),
    ("allowed", Severity::Info),
    ("connected", Severity::Info),
    ("ended", Severity::Info),
    ("refused", Severity::Warning),
    ("wouldRefuse", Severity::Notice),
    ("gap", Severity::Error),
    ("chapterBegun", Severity::Info),
    ("checkpoint", Severity::Info),
    ("fileRemoved", Severity::Notice),
];

/// Causes that are suspicious wherever they stand.
const SUSPICIOUS: &[&str] = &["peerNotVerified", "protocolError"];

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What a second copy of it is known by: the process that wrote the record and the record's number, which no other record has.
    pub insert_id: String,
    /// The time under which it is filed: the record's own, if the sink stores that.
    pub time: Timestamp,
    /// How loud it is.
    pub severity: Severity,
    /// What filters ask for.
    pub labels: BTreeMap<&'static str, String>,
    /// The request that it belongs to.
    pub request: Option<String>,
    /// The record.
    pub payload: Payload,
    recorded: Timestamp,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The record, as the JSON object that its line is.
    Line(String),
    /// Something about records.
    Fields(BTreeMap<&'static str, Field>),
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl LogEntry {
    /// The entry of a record that stands on `line`.
    pub fn record(line: String, record: &Entry) -> Self {
        let mut labels = BTreeMap::from([("event", text(&record.event))]);
        let named = [
            ("hop", &record.hop),
            ("cause", &record.cause),
            ("reason", &record.reason),
            ("client", &record.client),
            ("agent", &record.agent),
            ("principal", &record.principal),
        ];
        labels.extend(named.into_iter().filter_map(|(name, value)| Some((name, text(value.as_deref()?)))));
        let request = record.request_id.as_ref().filter(|id| id.parse::<RequestId>().is_ok()).cloned();
        let entry = Self {
            insert_id: id(&record.boot, record.seq),
            time: record.time,
            severity: severity(record),
            labels,
            request,
            payload: Payload::Line(line),
            recorded: record.time,
        };
        if entry.bytes() > ENTRY_BYTES_MAX { entry.stub(FailureKind::TooLarge) } else { entry }
    }

    /// The entry of a line that is no record, of `length` bytes beginning with `text`, behind `mark`. A crash leaves such lines, and whoever edits
    /// the file.
    pub fn other(mark: &Mark, text: &[u8], length: u64) -> Self {
        let fields = BTreeMap::from([
            ("afterSeq", Field::Number(mark.seq)),
            ("bytes", Field::Number(length)),
            ("text", Field::Text(Text::new(String::from_utf8_lossy(text)).to_string())),
        ]);
        let insert_id = format!("{}-line{:010}", id(&mark.boot, mark.seq), mark.others);
        Self::about(insert_id, mark.time, "notARecord", Severity::Warning, fields)
    }

    /// The entry that says which records are missing before `next`: those behind number `last`.
    pub fn missing(last: u64, next: &Entry) -> Self {
        let fields = BTreeMap::from([
            ("firstSeq", Field::Number(last.saturating_add(1))),
            ("lastSeq", Field::Number(next.seq.saturating_sub(1))),
            ("records", Field::Number(next.seq.saturating_sub(last).saturating_sub(1))),
        ]);
        let insert_id = format!("{}-missing", id(&next.boot, next.seq));
        Self::about(insert_id, next.time, "recordsMissing", Severity::Error, fields)
    }

    fn about(
        insert_id: String,
        time: Timestamp,
        event: &'static str,
        severity: Severity,
        mut fields: BTreeMap<&'static str, Field>,
    ) -> Self {
        fields.insert("event", Field::Text(event.to_owned()));
        fields.insert("time", Field::Text(time.to_string()));
        let labels = BTreeMap::from([("event", event.to_owned())]);
        Self { insert_id, time, severity, labels, request: None, payload: Payload::Fields(fields), recorded: time }
    }

    /// What stands for an entry that the sink does not take. The record itself is in the files.
    pub fn stub(&self, why: FailureKind) -> Self {
        let event = self.labels.get("event").cloned().unwrap_or_default();
        let fields = BTreeMap::from([
            ("event", Field::Text(event.clone())),
            ("time", Field::Text(self.recorded.to_string())),
            ("insertId", Field::Text(self.insert_id.clone())),
            ("bytes", Field::Number(u64::try_from(self.bytes()).unwrap_or(u64::MAX))),
            ("notTaken", Field::Text(why.as_str().to_owned())),
        ]);
        Self {
            insert_id: self.insert_id.clone(),
            time: self.time,
            severity: self.severity.max(Severity::Warning),
            labels: BTreeMap::from([("event", event), ("notTaken", why.as_str().to_owned())]),
            request: None,
            payload: Payload::Fields(fields),
            recorded: self.recorded,
        }
    }

    /// When what it tells of was recorded.
    pub fn recorded(&self) -> Timestamp {
        self.recorded
    }

    /// Files it under a time that the sink stores. A record that is too old for that, or from a clock that was wrong, comes under the day on which
    /// it is sent, so that a second copy is known all day; its own time is in the record.
    pub(super) fn stamp(&mut self, now: SystemTime) {
        let now = Timestamp::from(now);
        let (earliest, latest) = (shifted(now, AGE_MAX, false), shifted(now, AHEAD_MAX, true));
        let is_stored = earliest <= self.recorded && self.recorded <= latest;
        self.time = if is_stored { self.recorded } else { day(now) };
        match is_stored {
            true => drop(self.labels.remove("restamped")),
            false => drop(self.labels.insert("restamped", "true".to_owned())),
        }
    }

    /// What it takes, about.
    pub fn bytes(&self) -> usize {
        let payload = match &self.payload {
            Payload::Line(line) => line.len(),
            Payload::Fields(fields) => fields.iter().map(|(name, field)| name.len() + field.bytes()).sum(),
        };
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        payload + labels + OVERHEAD
    }
}

impl Field {
    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => 20,
            Self::Text(text) => text.len(),
        }
    }
}

fn severity(record: &Entry) -> Severity {
    let usual = SEVERITIES.iter().find(|(word, _)| *word == record.event).map_or(Severity::Info, |(_, usual)| *usual);
    let is_suspicious = record.cause.as_deref().is_some_and(|cause| SUSPICIOUS.contains(&cause));
    // Somebody who was never seen before is no news where nobody was: every principal has a first network.
    let is_another_network = record.event == "newSource" && record.known.is_some_and(|known| known > 0);
    let has_failed = record.event == "enrolmentForwarded" && record.outcome.as_deref() != Some("answered");
    if is_suspicious || is_another_network || has_failed { usual.max(Severity::Warning) } else { usual }
}

fn text(value: &str) -> String {
    Text::new(value).to_string()
}

fn id(boot: &str, seq: u64) -> String {
    let boot: String = boot.chars().filter(char::is_ascii_alphanumeric).take(BOOT_LENGTH_MAX).collect();
    // Entries of the same time are shown in the order of their ids.
    format!("{boot}-{seq:020}")
}

fn shifted(time: Timestamp, by: Duration, ahead: bool) -> Timestamp {
    let time = SystemTime::from(time);
    let shifted = if ahead { time.checked_add(by) } else { time.checked_sub(by) };
    shifted.unwrap_or(time).into()
}

/// Midnight in UTC.
fn day(time: Timestamp) -> Timestamp {
    let since = SystemTime::from(time).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() / 86_400 * 86_400)).into()
}

#[cfg(test)]
mod tests;
