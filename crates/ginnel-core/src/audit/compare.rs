//! Two records of the same sessions held against each other: the vendor's, which its server wrote, and the customer's, which the agents wrote.
//!
//! Sessions are matched by request id and agent process. What one side cannot know is not held against it: what lies beyond the ends of its log,
//! what happened after it had lost the other side, and what each of the two did in the same moment. Everything else has to be the same, and
//! bytes have to be equal where the session came to its clean end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use self::log::{Attempt, Key};
pub use self::log::{Log, LogError, Whose};
use super::Timestamp;

mod differ;
mod log;
mod text;

/// How far the times of two records of the same thing may lie apart, unless somebody says otherwise: an opening takes up to 20 s, and clocks that
/// are kept by NTP differ by far less.
pub const APART: Duration = Duration::from_secs(30);

/// Disagreements that are listed; beyond these they are only counted. Whoever has more has one reason for them.
pub const LISTED_MAX: usize = 1_000;

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// How far times might lie apart.
    pub apart_seconds: u64,
    /// The server's log.
    pub vendor: Summary,
    /// The agents' logs.
    pub customer: Summary,
    /// The agents whose sessions were compared.
    pub agents: Vec<String>,
    /// Sessions that are in both logs and agree.
    pub agree: u64,
    /// Sessions about which the logs disagree.
    pub disagree: u64,
    /// The first of those, by time.
    pub disagreements: Vec<Disagreement>,
    /// What was not held against anybody.
    pub excused: Excused,
    /// How far the customer's clock seems to be ahead of the vendor's, in milliseconds: the median over all sessions in both logs. What an
    /// opening takes is in it.
    pub clock_ahead_ms: Option<i64>,
}

/// One side's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Records that were read.
    pub records: u64,
    /// Sessions of the agents that were compared.
    pub sessions: u64,
    /// When the first record was written.
    pub first: Option<Timestamp>,
    /// When the last one was.
    pub last: Option<Timestamp>,
    /// Records that the log itself says are missing.
    pub missing: u64,
}

/// Sessions that are not the same in both logs, for reasons that are nobody's lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Excused {
    /// Only the vendor's log can have them: the customer's begins later or ends earlier.
    pub beyond_customer: u64,
    /// Only the customer's log can have them: the vendor's begins later or ends earlier.
    pub beyond_vendor: u64,
    /// The server refused them by itself, so that the agent may never have heard of them.
    pub unheard: u64,
    /// One side's process ended before it could put the end down.
    pub cut_off: u64,
}

/// What kind of disagreement it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Both logs have it, and say different things.
    Differs,
    /// Only the vendor's log has it, and the customer's should.
    OnlyVendor,
    /// Only the customer's log has it, and the vendor's should.
    OnlyCustomer,
    /// The vendor's log has it through a process of the agent of which no log was given.
    NoLog,
}

/// One session about which the logs disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disagreement {
    /// What kind.
    pub kind: Kind,
    /// The request.
    pub request_id: String,
    /// The agent's process.
    pub agent_instance: String,
    /// When it began, by the vendor's log if it is there.
    pub time: Timestamp,
    /// Who asked, by the same.
    pub client: Option<String>,
    /// Through whom, by the same.
    pub agent: Option<String>,
    /// Where to, by the same.
    pub target: Option<String>,
    /// How it ended by the log that has it, if only one has.
    pub end: Option<String>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// One thing that the two say differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What: a field of the records, or `outcome`, `begin` and `end`.
    pub what: &'static str,
    /// The vendor's word.
    pub vendor: String,
    /// The customer's word.
    pub customer: String,
}

/// Which agents' sessions are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The name or principal of an agent; without it those that the customer's log is about.
    pub agent: Option<String>,
}

impl Comparison {
    /// Whether nothing was found that both sides cannot mean.
    pub fn agrees(&self) -> bool {
        self.disagree == 0
    }
}

/// Holds the vendor's log against the customer's; times may lie `apart`.
pub fn compare(vendor: &Log, customer: &Log, scope: &Scope, apart: Duration) -> Comparison {
    let mut comparing = Comparing::new(vendor, customer, scope, apart);
    let keys: BTreeSet<&Key> = vendor.sessions().keys().chain(customer.sessions().keys()).collect();
    for key in keys {
        comparing.session(key);
    }
    comparing.finish()
}

struct Comparing<'a> {
    vendor: &'a Log,
    customer: &'a Log,
    scope: &'a Scope,
    apart: Duration,
    agents: BTreeSet<&'a str>,
    sessions: [u64; 2],
    agree: u64,
    disagree: u64,
    /// The first of them by time: a map, so that the latest is at hand when there are too many.
    found: BTreeMap<(Timestamp, Key, usize), Disagreement>,
    excused: Excused,
    ahead_ms: Vec<i64>,
}

impl<'a> Comparing<'a> {
    fn new(vendor: &'a Log, customer: &'a Log, scope: &'a Scope, apart: Duration) -> Self {
        Self {
            vendor,
            customer,
            scope,
            apart,
            agents: BTreeSet::new(),
            sessions: [0; 2],
            agree: 0,
            disagree: 0,
            found: BTreeMap::new(),
            excused: Excused::default(),
            ahead_ms: Vec::new(),
        }
    }

    fn session(&mut self, key: &Key) {
        let of = |log: &'a Log| log.sessions().get(key).map_or(&[][..], Vec::as_slice);
        let (vendor, customer) = (self.of_scope(key, of(self.vendor)), self.of_scope(key, of(self.customer)));
        for (log, attempts) in [&vendor, &customer].into_iter().enumerate() {
            self.sessions[log] += u64::try_from(attempts.len()).unwrap_or(u64::MAX);
            self.agents.extend(attempts.iter().filter_map(|attempt| attempt.agent.as_deref()));
        }
        let (pairs, only_vendor, only_customer) = differ::paired(vendor, customer);
        let mut number = 0;
        for (vendor, customer) in pairs {
            self.pair(key, number, vendor, customer);
            number += 1;
        }
        for attempt in only_vendor {
            self.only_vendor(key, number, attempt);
            number += 1;
        }
        for attempt in only_customer {
            self.only_customer(key, number, attempt);
            number += 1;
        }
    }

    /// Those of a session's attempts that are compared at all: a vendor's log has the sessions of all its customers.
    fn of_scope(&self, key: &Key, attempts: &'a [Attempt]) -> Vec<&'a Attempt> {
        let is_meant = |attempt: &&Attempt| {
            let Some(agent) = attempt.agent.as_deref() else { return false };
            match &self.scope.agent {
                Some(wanted) => agent == wanted || agent.rsplit('/').next() == Some(wanted),
                None => self.customer.is_about(agent) || self.customer.process(key.1).is_some(),
            }
        };
        attempts.iter().filter(is_meant).collect()
    }

    fn pair(&mut self, key: &Key, number: usize, vendor: &Attempt, customer: &Attempt) {
        if vendor.is_whole && customer.is_whole {
            self.ahead_ms.push(ahead_ms(vendor.begin, customer.begin));
        }
        let ends = differ::Ends {
            vendor: self.vendor.knows_until(vendor, self.apart),
            customer: self.customer.knows_until(customer, self.apart),
        };
        let (differences, cut_off) = differ::differences(vendor, customer, ends, self.apart);
        self.excused.cut_off += u64::from(cut_off);
        if differences.is_empty() {
            self.agree += 1;
        } else {
            self.find(key, number, Kind::Differs, vendor, differences);
        }
    }

    fn only_vendor(&mut self, key: &Key, number: usize, attempt: &Attempt) {
        let Some(process) = self.customer.process(key.1) else {
            return self.find(key, number, Kind::NoLog, attempt, Vec::new());
        };
        if !attempt.is_whole || process.is_beyond(attempt.begin, self.apart) {
            self.excused.beyond_customer += 1;
        } else if differ::may_be_unheard(attempt) {
            self.excused.unheard += 1;
        } else {
            self.find(key, number, Kind::OnlyVendor, attempt, Vec::new());
        }
    }

    fn only_customer(&mut self, key: &Key, number: usize, attempt: &Attempt) {
        if !attempt.is_whole || self.vendor.is_beyond(attempt.begin, self.apart) {
            self.excused.beyond_vendor += 1;
        } else {
            self.find(key, number, Kind::OnlyCustomer, attempt, Vec::new());
        }
    }

    fn find(&mut self, key: &Key, number: usize, kind: Kind, by: &Attempt, differences: Vec<Difference>) {
        self.disagree += 1;
        let end = by.end.as_ref().filter(|_| kind != Kind::Differs).map(ToString::to_string);
        let disagreement = Disagreement {
            kind,
            request_id: key.0.to_string(),
            agent_instance: key.1.to_string(),
            time: by.begin,
            client: by.client.clone(),
            agent: by.agent.clone(),
            target: by.target.clone(),
            end,
            differences,
        };
        self.found.insert((by.begin, *key, number), disagreement);
        if self.found.len() > LISTED_MAX {
            self.found.pop_last();
        }
    }

    fn finish(mut self) -> Comparison {
        self.ahead_ms.sort_unstable();
        let [of_vendor, of_customer] = self.sessions;
        Comparison {
            apart_seconds: self.apart.as_secs(),
            vendor: Summary { sessions: of_vendor, ..self.vendor.summary() },
            customer: Summary { sessions: of_customer, ..self.customer.summary() },
            agents: self.agents.into_iter().map(str::to_owned).collect(),
            agree: self.agree,
            disagree: self.disagree,
            disagreements: self.found.into_values().collect(),
            excused: self.excused,
            clock_ahead_ms: self.ahead_ms.get(self.ahead_ms.len() / 2).copied(),
        }
    }
}

/// How much later `customer` is than `vendor`, in milliseconds.
fn ahead_ms(vendor: Timestamp, customer: Timestamp) -> i64 {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::from(customer).duration_since(vendor.into()) {
        Ok(later) => millis(later),
        Err(earlier) => -millis(earlier.duration()),
    }
}

#[cfg(test)]
mod tests;
