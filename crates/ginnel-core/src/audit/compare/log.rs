//! One side's log as it is read: its sessions, and how far it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use super::Summary;
use crate::audit::{Entry, Timestamp};
use crate::cause::{Cause, Hop};
use crate::id::{InstanceId, RequestId};

/// Sessions of one log that are held: some 500 bytes each. A comparison of more is one of several spans of time.
const SESSIONS_MAX: usize = 1_000_000;

/// Who wrote a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The server.
    Vendor,
    /// Agents.
    Customer,
}

/// Why logs cannot be compared (input).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// More sessions than are held.
    #[error("there are more than {SESSIONS_MAX} sessions; compare a span of time with --since and --until")]
    TooMany,
    /// Records of a server and of an agent.
    #[error("there are records of a server and of an agent in it")]
    Mixed,
}

/// A request through one process of an agent.
pub(super) type Key = (RequestId, InstanceId);

/// The log of one side.
#[derive(Clone, Debug, Default)]
pub struct Log {
    sessions: BTreeMap<Key, Vec<Attempt>>,
    held: usize,
    /// The agents that it speaks of.
    agents: BTreeSet<String>,
    /// The processes that wrote it.
    processes: BTreeMap<InstanceId, Process>,
    /// Where each file ends.
    files: Vec<Option<Timestamp>>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    records: u64,
    missing: u64,
    whose: Option<Whose>,
}

/// One process that wrote records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    first: Timestamp,
    last: Timestamp,
    /// The record of its start is there, so that nothing of it is missing before.
    has_start: bool,
    file: usize,
    /// Where that file ends.
    file_last: Timestamp,
}

/// A session on its way to or through one agent. A request may try the same process again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) begin: Timestamp,
    /// Its first record is there.
    pub(super) is_whole: bool,
    pub(super) boot: Option<InstanceId>,
    pub(super) client: Option<String>,
    pub(super) client_email: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) target: Option<String>,
    pub(super) address: Option<String>,
    pub(super) end: Option<End>,
}

/// How it ended, as one side has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) time: Timestamp,
    pub(super) is_refusal: bool,
    pub(super) hop: Option<Hop>,
    /// The word, also one that this version does not know.
    pub(super) word: String,
    pub(super) cause: Option<Cause>,
    pub(super) bytes: (u64, u64),
    /// With the encryption around them, where the record has both.
    pub(super) carried: Option<(u64, u64)>,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = if self.is_refusal { "refused" } else { "ended" };
        write!(f, "{event} {} {}", self.hop.map_or("-", Hop::as_str), self.word)
    }
}

impl Log {
    /// From here on records of another file come.
    pub fn begin_file(&mut self) {
        self.files.push(None);
    }

    /// Takes in the next record.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn add(&mut self, entry: Entry) -> Result<(), LogError> {
        self.records += 1;
        self.first = self.first.map_or(Some(entry.time), |first| Some(first.min(entry.time)));
        self.last = self.last.max(Some(entry.time));
        if self.files.is_empty() {
            self.begin_file();
        }
        let file = self.files.len() - 1;
        self.files[file] = self.files[file].max(Some(entry.time));
        let boot = entry.boot.parse().ok();
        if let Some(boot) = boot {
            self.wrote(boot, &entry, file);
        }
        match entry.event.as_str() {
            "gap" => self.missing += entry.records.unwrap_or(0),
            "allowed" | "connected" | "ended" | "refused" => self.session(entry, boot)?,
            // They tell of no session, or nothing that the other side can know.
            _ => {}
        }
        Ok(())
    }

    fn wrote(&mut self, boot: InstanceId, entry: &Entry, file: usize) {
        let new = Process { first: entry.time, last: entry.time, has_start: false, file, file_last: entry.time };
        let process = self.processes.entry(boot).or_insert(new);
        process.first = process.first.min(entry.time);
        process.last = process.last.max(entry.time);
        process.has_start |= entry.event == "started";
        process.file = file;
    }

    fn session(&mut self, entry: Entry, boot: Option<InstanceId>) -> Result<(), LogError> {
        // Every server says where a client came from, and no agent can.
        let whose = if entry.peer.is_some() { Whose::Vendor } else { Whose::Customer };
        if *self.whose.get_or_insert(whose) != whose {
            return Err(LogError::Mixed);
        }
        if let (Whose::Customer, Some(agent)) = (whose, &entry.agent) {
            self.agents.insert(agent.clone());
        }
        let request = entry.request_id.as_deref().and_then(|id| id.parse().ok());
        let instance = entry.agent_instance.as_deref().and_then(|id| id.parse().ok());
        // A refusal before it came to an agent is between the client and the server.
        let (Some(request), Some(instance)) = (request, instance) else { return Ok(()) };
        let attempts = self.sessions.entry((request, instance)).or_default();
        let goes_on = entry.event != "allowed" && attempts.last().is_some_and(|attempt| attempt.end.is_none());
        if !goes_on {
            self.held += 1;
            if self.held > SESSIONS_MAX {
                return Err(LogError::TooMany);
            }
            attempts.push(Attempt::new(&entry, boot));
        }
        if let Some(attempt) = attempts.last_mut() {
            attempt.add(entry);
        }
        Ok(())
    }

    /// Who wrote it; nothing if it has no session.
    pub fn whose(&self) -> Option<Whose> {
        self.whose
    }

    pub(super) fn sessions(&self) -> &BTreeMap<Key, Vec<Attempt>> {
        &self.sessions
    }

    pub(super) fn is_about(&self, agent: &str) -> bool {
        self.agents.contains(agent)
    }

    /// A process that wrote some of it.
    pub(super) fn process(&self, instance: InstanceId) -> Option<Process> {
        let process = *self.processes.get(&instance)?;
        let file_last = self.files.get(process.file).copied().flatten().unwrap_or(process.last);
        Some(Process { file_last, ..process })
    }

    /// Whether the log need not have what happened at `time`, because it begins later or ends earlier.
    pub(super) fn is_beyond(&self, time: Timestamp, apart: Duration) -> bool {
        let (Some(first), Some(last)) = (self.first, self.last) else { return true };
        earlier(time, apart) < first || later(time, apart) > last
    }

    /// Until when the log must have the end of an attempt, and until when the process that carried it wrote anything.
    pub(super) fn knows_until(&self, attempt: &Attempt, apart: Duration) -> Known {
        let process = attempt.boot.and_then(|boot| self.process(boot));
        let log = process.map(|process| process.file_last).or(self.last);
        Known { log: log.map(|last| earlier(last, apart)), process: process.map(|process| process.last) }
    }

    pub(super) fn summary(&self) -> Summary {
        let (records, first, last, missing) = (self.records, self.first, self.last, self.missing);
        Summary { records, sessions: 0, first, last, missing }
    }
}

/// How far a log goes for one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) log: Option<Timestamp>,
    pub(super) process: Option<Timestamp>,
}

impl Process {
    /// Whether its log need not have what happened at `time`.
    pub(super) fn is_beyond(&self, time: Timestamp, apart: Duration) -> bool {
        (!self.has_start && earlier(time, apart) < self.first) || later(time, apart) > self.file_last
    }
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    SystemTime::from(time).checked_sub(by).map_or(time, Timestamp::from)
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    SystemTime::from(time).checked_add(by).map_or(time, Timestamp::from)
}

impl Attempt {
    fn new(entry: &Entry, boot: Option<InstanceId>) -> Self {
        Self {
            begin: entry.time,
            is_whole: matches!(entry.event.as_str(), "allowed" | "refused"),
            boot,
            client: None,
            client_email: None,
            agent: None,
            target: None,
            address: None,
            end: None,
        }
    }

    fn add(&mut self, entry: Entry) {
        let is_refusal = entry.event == "refused";
        if is_refusal || entry.event == "ended" {
            let word = entry.cause.unwrap_or_default();
            self.end = Some(End {
                time: entry.time,
                is_refusal,
                hop: entry.hop.as_deref().and_then(hop),
                cause: word.parse().ok(),
                word,
                bytes: (entry.bytes_up.unwrap_or(0), entry.bytes_down.unwrap_or(0)),
                carried: entry.carried_up.zip(entry.carried_down),
            });
        }
        let Self { client, client_email, agent, target, address, .. } = self;
        // The server's word for the client is better than none, and is the other log's word as well.
        for (field, value) in [
            (client, entry.client.or(entry.client_claimed)),
            (client_email, entry.client_email),
            (agent, entry.agent),
            (target, entry.target),
            (address, entry.address),
        ] {
            if value.is_some() {
                *field = value;
            }
        }
    }
}

fn hop(word: &str) -> Option<Hop> {
    [Hop::Application, Hop::Client, Hop::Server, Hop::Agent, Hop::Target].into_iter().find(|hop| hop.as_str() == word)
}
