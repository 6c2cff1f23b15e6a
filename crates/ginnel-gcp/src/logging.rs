//! The sink that is Google Cloud Logging.
//!
//! Entries go by `entries.write`, in requests of which the service takes what it can (`partial_success`); it says of each entry that it did not
//! take, and why. What comes twice has the id that it had before, by which the service knows it again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use ginnel_core::sink::{FailureKind, LogEntry, Payload, Sink, WriteError, Writing};
use google_cloud_api::model::MonitoredResource;
use google_cloud_auth::credentials::Credentials;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_logging_v2::client::LoggingServiceV2;
use google_cloud_logging_v2::model;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;
use tokio::time::timeout;

mod failure;

#[cfg(test)]
mod tests;

/// The largest number that the service keeps as it is: it has all numbers as floating point.
const NUMBER_MAX: u64 = 1 << 53;

/// Where entries go, and as whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The project whose log it is.
    pub project: String,
    /// The log in it.
    pub log_name: String,
    /// The region that the entries name.
    pub location: String,
    /// The trust domain of who writes.
    pub namespace: String,
    /// Which kind of process writes.
    pub job: String,
    /// The name of the server that writes.
    pub task: String,
    /// How long one request may take, from the credentials to the last byte of the answer.
    pub timeout: Duration,
    /// Where the service is called, if not at Google's own address.
    pub endpoint: Option<String>,
}

/// Writes to the service. Nothing is asked of Google before the first entry, and a process starts without an answer.
pub struct CloudLogging {
    settings: Settings,
    /// Other credentials than those of the process.
    credentials: Option<Credentials>,
    service: OnceCell<LoggingServiceV2>,
}

impl CloudLogging {
    /// A sink with the credentials of Google's usual kinds that the process has.
    pub fn new(settings: Settings) -> Self {
        Self { settings, credentials: None, service: OnceCell::new() }
    }

    /// Finds out whether entries would be taken, and writes none.
    ///
    /// # Errors
    /// [`WriteError`] says why they would not.
    pub async fn probe(&self) -> Result<(), WriteError> {
        let entry = model::LogEntry::new().set_text_payload("ginnel check");
        self.within_time(self.send(vec![entry], true)).await
    }

    async fn write_all(&self, entries: &[&LogEntry]) -> Result<(), WriteError> {
        let entries = entries.iter().map(|entry| self.entry(entry)).collect();
        self.within_time(self.send(entries, false)).await
    }

    async fn within_time(&self, sending: impl Future<Output = Result<(), WriteError>>) -> Result<(), WriteError> {
        let late = |_| Err(failure::all(FailureKind::Timeout, "there was no answer in time".into()));
        timeout(self.settings.timeout, sending).await.unwrap_or_else(late)
    }

    async fn send(&self, entries: Vec<model::LogEntry>, is_dry: bool) -> Result<(), WriteError> {
        let service = self.service.get_or_try_init(|| self.open()).await?;
        let request = service
            .write_log_entries()
            .set_log_name(self.place())
            .set_resource(self.resource())
            .set_labels([("server", self.settings.task.as_str())])
            .set_entries(entries)
            .set_partial_success(true)
            .set_dry_run(is_dry)
            // Whoever sends decides when the next try is.
            .with_retry_policy(NeverRetry);
        request.send().await.map(drop).map_err(failure::of_call)
    }

    async fn open(&self) -> Result<LoggingServiceV2, WriteError> {
        crate::provider::install();
        let mut builder = LoggingServiceV2::builder();
        if let Some(endpoint) = &self.settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(credentials) = &self.credentials {
            builder = builder.with_credentials(credentials.clone());
        }
        builder.build().await.map_err(failure::of_building)
    }

    /// A process that no resource of Google's stands for: it may run anywhere.
    fn resource(&self) -> MonitoredResource {
        let Settings { project, location, namespace, job, task, .. } = &self.settings;
        let labels = [
            ("project_id", project),
            ("location", location),
            ("namespace", namespace),
            ("job", job),
            ("task_id", task),
        ];
        MonitoredResource::new().set_type("generic_task").set_labels(labels)
    }

    fn entry(&self, entry: &LogEntry) -> model::LogEntry {
        let LogEntry { insert_id, time, severity, labels, request, payload, .. } = entry;
        let trace = request.as_ref().map(|request| format!("projects/{}/traces/{request}", self.settings.project));
        model::LogEntry::new()
            .set_insert_id(insert_id)
            .set_timestamp(timestamp((*time).into()))
            .set_severity(severity.number())
            .set_labels(labels.iter().map(|(name, value)| (*name, value.as_str())))
            .set_trace(trace.unwrap_or_default())
            .set_json_payload(object(payload))
    }
}

impl Sink for CloudLogging {
    fn write<'a>(&'a self, entries: &'a [&'a LogEntry]) -> Writing<'a> {
        Box::pin(self.write_all(entries))
    }

    fn place(&self) -> String {
        format!("projects/{}/logs/{}", self.settings.project, self.settings.log_name)
    }
}

impl fmt::Debug for CloudLogging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudLogging").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn timestamp(time: SystemTime) -> google_cloud_wkt::Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    google_cloud_wkt::Timestamp::clamp(seconds, i32::try_from(since.subsec_nanos()).unwrap_or_default())
}

/// What an entry says, as the service keeps it.
fn object(payload: &Payload) -> Map<String, Value> {
    let value = match payload {
        Payload::Line(line) => serde_json::from_str(line).ok(),
        Payload::Fields(fields) => serde_json::to_value(fields.iter().collect::<BTreeMap<_, _>>()).ok(),
    };
    match value.map(exact) {
        Some(Value::Object(object)) => object,
        // A record is an object, and so are fields: this is for whoever adds another payload.
        other => Map::from_iter([("value".to_owned(), other.unwrap_or_default())]),
    }
}

/// The same with numbers as text that would not be kept exactly. The parser bounds the depth.
fn exact(value: Value) -> Value {
    match value {
        Value::Number(number) if !is_kept(&number) => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(exact).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, exact(value))).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn is_kept(number: &serde_json::Number) -> bool {
    let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    whole.is_none_or(|whole| whole <= NUMBER_MAX)
}
