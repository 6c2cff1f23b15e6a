//! `audit.cloudLogging`: where audit records go beyond the disk.

use std::time::Duration;

use crate::shape::{self, Fields};

/// How long one request may take. Less is no time for a batch on a slow line; beyond the most, nobody waits for the answer.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The longest name of anything at Google that is written here.
const NAME_LENGTH_MAX: usize = 63;

/// A log in Google Cloud Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudLogging {
    /// The project.
    pub project: String,
    /// The log in it.
    pub log_name: String,
    /// The region that the entries name.
    pub location: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// Where the service is called, if not at Google's own address.
    pub endpoint: Option<String>,
}

pub(super) fn cloud_logging(fields: &mut Fields<'_, '_>) -> Option<Option<CloudLogging>> {
    let is_given = fields.has("cloudLogging");
    let read = fields
        .field(
            "cloudLogging",
            "A log in Google Cloud Logging that is given every record as well, behind the file and never before it: while it cannot \
             be reached, records wait in the files, and no session waits. The process's own Google credentials need the role \
             roles/logging.logWriter on the project.",
        )
        .optional(shape::object(declaration));
    match (is_given, read) {
        (true, None) => None,
        (_, read) => Some(read),
    }
}

fn declaration(fields: &mut Fields<'_, '_>) -> Option<CloudLogging> {
    let project = fields
        .field("project", "The id of the project.")
        .example_off("acme-project")
        .required(shape::text_with(project));
    let log_name = fields
        .field("logName", "The name of the log: letters, digits, - and _ and dots.")
        .default("ginnel-audit", shape::text_with(log_name));
    let location = fields
        .field("location", "The region that entries name as theirs; it decides nothing about where they are kept.")
        .default("global", shape::text_with(location));
    let timeout = fields
        .field("timeout", "How long one request may take, answer included.")
        .default("30s", shape::duration(TIMEOUT.0, TIMEOUT.1));
    let endpoint = fields
        .field(
            "endpoint",
            "Where the service is called, for Private Service Connect or a regional endpoint. Without it: Google's own address.",
        )
        .example_off("https://logging.googleapis.com")
        .optional(super::issuer::endpoint());
    Some(CloudLogging { project: project?, log_name: log_name?, location: location?, timeout: timeout?, endpoint })
}

/// Projects of organisations have a domain and a colon before their id.
fn project(text: &str) -> Result<String, String> {
    named(text, b"-.:").ok_or_else(|| "the id of a project has letters, digits and -, 63 of them at most".to_owned())
}

/// Google allows a slash as well, which has to be written otherwise wherever the log is named.
fn log_name(text: &str) -> Result<String, String> {
    named(text, b"-._").ok_or_else(|| "the name of a log has letters, digits, - and _ and dots, 63 at most".to_owned())
}

fn location(text: &str) -> Result<String, String> {
    named(text, b"-").ok_or_else(|| "a location is written like europe-west1, or global".to_owned())
}

fn named(text: &str, others: &[u8]) -> Option<String> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || others.contains(&b);
    let is_name = (1..=NAME_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_good);
    is_name.then(|| text.to_owned())
}
