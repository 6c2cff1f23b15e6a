//! Reading logs of two sides to hold them against each other.

use std::path::{Path, PathBuf};

use ginnel_core::audit::compare::{Comparison, Log, LogError, Scope, Whose, compare};
use ginnel_core::audit::{Entry, Timestamp};

use super::show::{Place, Seals, ShowError, each_line};

/// Places of malformed lines that are named; beyond these they are only counted.
const PLACES_MAX: usize = 100;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Question {
    /// One side's log.
    pub one: PathBuf,
    /// The other side's logs: one for each of its agents.
    pub other: Vec<PathBuf>,
    /// Which agents' sessions.
    pub scope: Scope,
    /// How far times may lie apart.
    pub apart: std::time::Duration,
    /// Records from then on.
    pub since: Option<Timestamp>,
    /// Records before then.
    pub until: Option<Timestamp>,
}

/// What was read, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// What came of it.
    pub comparison: Comparison,
    /// Lines that are no records: the logs are not what their owners wrote.
    pub malformed: u64,
    /// Where the first of those are.
    pub places: Vec<Place>,
}

/// Why there is nothing to compare (input).
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A log cannot be held.
    #[error("{}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: LogError,
    },
    /// A file could not be read (environment).
    #[error(transparent)]
    Read(#[from] ShowError),
    /// Both are of one side.
    #[error("{} and {} are both {whose}: give the log of the vendor's server and those of the customer's agents", one.display(), other.display())]
    SameSide {
        /// The first file.
        one: PathBuf,
        /// The first of the others.
        other: PathBuf,
        /// Of whom.
        whose: &'static str,
    },
}

/// Reads both sides, in whichever order they were given, and holds one against the other.
///
/// # Errors
/// [`CompareError`].
pub fn read_and_compare(question: &Question) -> Result<Compared, CompareError> {
    let mut reading = Reading { question, malformed: 0, places: Vec::new() };
    let one = reading.log(std::slice::from_ref(&question.one))?;
    let other = reading.log(&question.other)?;
    let (vendor, customer) = match (one.whose(), other.whose()) {
        (Some(Whose::Vendor), Some(Whose::Vendor)) => return Err(question.same_side("logs of a server")),
        (Some(Whose::Customer), Some(Whose::Customer)) => return Err(question.same_side("logs of agents")),
        (Some(Whose::Customer), _) | (None, Some(Whose::Vendor)) => (other, one),
        (Some(Whose::Vendor), _) | (None, Some(Whose::Customer) | None) => (one, other),
    };
    let Reading { malformed, places, .. } = reading;
    let comparison = compare(&vendor, &customer, &question.scope, question.apart);
    Ok(Compared { comparison, malformed, places })
}

impl Question {
    fn same_side(&self, whose: &'static str) -> CompareError {
        let other = self.other.first().cloned().unwrap_or_default();
        CompareError::SameSide { one: self.one.clone(), other, whose }
    }

    fn asks_for(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

struct Reading<'a> {
    question: &'a Question,
    malformed: u64,
    places: Vec<Place>,
}

impl Reading<'_> {
    fn log(&mut self, paths: &[PathBuf]) -> Result<Log, CompareError> {
        let mut log = Log::default();
        for path in paths {
            log.begin_file();
            self.file(path, &mut log)?;
        }
        Ok(log)
    }

    fn file(&mut self, path: &Path, log: &mut Log) -> Result<(), CompareError> {
        let (mut line_number, mut failed, mut seals) = (0, None, Seals::default());
        each_line(path, |line| {
            line_number += 1;
            if line.is_empty() || failed.is_some() {
                return;
            }
            let text = Some(line).filter(|line| seals.allow(line)).and_then(|line| str::from_utf8(line).ok());
            match text.and_then(|text| serde_json::from_str::<Entry>(text).ok()) {
                Some(entry) if !self.question.asks_for(entry.time) => {}
                Some(entry) => failed = log.add(entry).err(),
                None => {
                    self.malformed += 1;
                    if self.places.len() < PLACES_MAX {
                        self.places.push(Place { file: path.to_owned(), line: line_number });
                    }
                }
            }
        })?;
        failed.map_or(Ok(()), |source| Err(CompareError::Log { path: path.to_owned(), source }))
    }
}
