//! A record as it is read back.

use serde::Deserialize;

use super::Timestamp;

/// A line of a log that was read, perhaps one that a newer version wrote; deserialised from the JSON of the line.
///
/// Fields that this version does not know are passed over, words that it does not know stay as they are, and a field that the event
/// does not have is `None`. Texts are as they stand in the file: whoever prints them makes them fit for a terminal first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of Record, Session and Event, under the same names")]
pub struct Entry {
    pub v: u32,
    pub seq: u64,
    pub time: Timestamp,
    pub boot: String,
    pub event: String,
    pub request_id: Option<String>,
    pub client: Option<String>,
    pub client_email: Option<String>,
    pub client_instance: Option<String>,
    pub client_claimed: Option<String>,
    pub agent: Option<String>,
    pub agent_email: Option<String>,
    pub agent_instance: Option<String>,
    pub principal: Option<String>,
    pub email: Option<String>,
    pub target: Option<String>,
    pub address: Option<String>,
    pub peer: Option<String>,
    pub rule: Option<String>,
    pub policy: Option<String>,
    pub observed: Option<String>,
    pub hop: Option<String>,
    pub cause: Option<String>,
    pub reason: Option<String>,
    pub outcome: Option<String>,
    pub forwarded_for: Option<String>,
    pub kind: Option<String>,
    pub subject: Option<String>,
    pub by: Option<String>,
    pub connections: Option<u64>,
    pub sessions: Option<u64>,
    pub changed: Option<String>,
    pub bytes_up: Option<u64>,
    pub bytes_down: Option<u64>,
    pub carried_up: Option<u64>,
    pub carried_down: Option<u64>,
    pub duration_ms: Option<u64>,
    pub version: Option<String>,
    pub serial: Option<String>,
    pub not_after: Option<String>,
    pub spki_sha256: Option<String>,
    pub proof: Option<String>,
    pub verified_by: Option<String>,
    pub records: Option<u64>,
    pub unrecorded: Option<u64>,
    pub chapter: Option<u64>,
    pub after: Option<u64>,
    pub void: Option<u64>,
    pub closing: Option<bool>,
    pub file: Option<String>,
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    pub bytes: Option<u64>,
    pub instance: Option<String>,
    pub network: Option<String>,
    pub known: Option<u64>,
    pub most: Option<u64>,
}
