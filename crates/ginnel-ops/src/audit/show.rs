//! Reading logs back: which records, and how they are shown.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, Write};
use std::path::{Path, PathBuf};

use ginnel_core::audit::{Entry, Seal, Text, Timestamp};

use super::lines::{LINE_MAX, expand, next_line, reader};

/// Places of malformed lines that a summary names; beyond these it only counts, so that any file can be read in bounded memory.
const PLACES_MAX: usize = 100;

/// Which records to show: those for which everything that is set holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The event's word, such as `refused`.
    pub event: Option<String>,
    /// The request id.
    pub request: Option<String>,
    /// The client: its principal, its name alone, its e-mail or its instance id.
    pub client: Option<String>,
    /// The agent: its principal, its name alone, its e-mail or its instance id.
    pub agent: Option<String>,
    /// The target: `host:port`, or the host alone.
    pub target: Option<String>,
    /// The cause's word, or the reason for which an enrolment was refused.
    pub cause: Option<String>,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that were shown.
    pub shown: u64,
    /// Records that were read, shown or not.
    pub read: u64,
    /// Lines that are no records.
    pub malformed: u64,
    /// Where the first of those lines are.
    pub places: Vec<Place>,
}

/// A line of a file; displayed as `FILE:LINE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from one.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why logs could not be shown to the end.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// A file could not be read (environment).
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The output could not be written (environment).
    #[error("writing the records")]
    Write(#[source] io::Error),
}

/// Writes the records of `files` that pass `filter` to `out`, file by file in the order of their lines.
///
/// With `json` these are the very lines of the files; otherwise one line of text for each record, safe to show on a terminal. A directory
/// means the log in it, with its older files first. Lines that are no records are passed over and named in the summary. A reader of `out` that has seen enough and
/// goes away is no error.
///
/// # Errors
/// [`ShowError`] if a file cannot be read or `out` cannot be written.
pub fn show(files: &[PathBuf], filter: &Filter, json: bool, out: &mut impl Write) -> Result<Summary, ShowError> {
    let mut summary = Summary::default();
    let written = files.iter().try_for_each(|file| show_file(file, filter, json, out, &mut summary));
    let written = written.and_then(|()| out.flush().map_err(ShowError::Write));
    match written {
        Err(ShowError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(summary),
        Ok(()) => Ok(summary),
        Err(error) => Err(error),
    }
}

fn show_file(
    path: &Path,
    filter: &Filter,
    json: bool,
    out: &mut impl Write,
    summary: &mut Summary,
) -> Result<(), ShowError> {
    let failed = |path: &Path, source| ShowError::Read { path: path.to_owned(), source };
    let mut seals = Seals::default();
    for file in expand(path).map_err(|error| failed(path, error))? {
        let mut reader = reader(&file).map_err(|error| failed(&file, error))?;
        show_more(&file, &mut reader, filter, json, out, (summary, &mut seals))?;
    }
    Ok(())
}

/// Shows what a reader gives as [`show`] shows a file, and adds to `summary`; `path` is what places and errors call it.
///
/// # Errors
/// [`ShowError`] if the reader fails or `out` cannot be written.
pub fn show_lines(
    path: &Path,
    reader: &mut impl BufRead,
    filter: &Filter,
    json: bool,
    out: &mut impl Write,
    summary: &mut Summary,
) -> Result<(), ShowError> {
    show_more(path, reader, filter, json, out, (summary, &mut Seals::default()))
}

fn show_more(
    path: &Path,
    reader: &mut impl BufRead,
    filter: &Filter,
    json: bool,
    out: &mut impl Write,
    (summary, seals): (&mut Summary, &mut Seals),
) -> Result<(), ShowError> {
    let failed = |source| ShowError::Read { path: path.to_owned(), source };
    let mut line = Vec::new();
    let mut number = 0;
    while next_line(reader, &mut line).map_err(failed)?.is_some() {
        number += 1;
        if line.is_empty() {
            continue;
        }
        let Some(entry) = parse(&line).filter(|_| seals.allow(&line)) else {
            summary.malformed += 1;
            if summary.places.len() < PLACES_MAX {
                summary.places.push(Place { file: path.to_owned(), line: number });
            }
            continue;
        };
        summary.read += 1;
        if !filter.passes(&entry) {
            continue;
        }
        let written = if json {
            line.push(b'\n');
            out.write_all(&line)
        } else {
            writeln!(out, "{}", Shown(&entry))
        };
        written.map_err(ShowError::Write)?;
        summary.shown += 1;
    }
    Ok(())
}

/// Tells lines of a log that has a chain from what was put among them: there is no record without a seal after one that has it.
///
/// Nothing is proved by that. It keeps those who read a log that nobody has verified from believing what the log itself does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seals {
    have_come: bool,
}

impl Seals {
    /// Whether the next line can be a record of the log.
    pub fn allow(&mut self, line: &[u8]) -> bool {
        let is_sealed = Seal::split(line).is_some();
        self.have_come |= is_sealed;
        is_sealed || !self.have_come
    }
}

/// Gives every line of a log of any kind to `each`, without its end and cut where no line of ours goes on. A directory means the audit log
/// in it.
///
/// # Errors
/// [`ShowError::Read`] if a file cannot be read.
pub fn each_line(path: &Path, mut each: impl FnMut(&[u8])) -> Result<(), ShowError> {
    let failed = |path: &Path, source| ShowError::Read { path: path.to_owned(), source };
    let mut line = Vec::new();
    for file in expand(path).map_err(|error| failed(path, error))? {
        let mut reader = reader(&file).map_err(|error| failed(&file, error))?;
        while next_line(&mut reader, &mut line).map_err(|error| failed(&file, error))?.is_some() {
            each(&line);
        }
    }
    Ok(())
}

pub(super) fn parse(line: &[u8]) -> Option<Entry> {
    // The parser passes over fields that it does not know without looking whether they are UTF-8, which all JSON is.
    let text = str::from_utf8(line).ok().filter(|text| text.len() <= LINE_MAX)?;
    serde_json::from_str(text).ok()
}

impl Filter {
    /// Whether everything that is set holds for the record.
    pub fn passes(&self, entry: &Entry) -> bool {
        let holds = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(test);
        holds(&self.event, &|event| entry.event == event)
            && holds(&self.request, &|request| entry.request_id.as_deref() == Some(request))
            && holds(&self.client, &|client| Party::client(entry).is(client))
            && holds(&self.agent, &|agent| Party::agent(entry).is(agent))
            && holds(&self.target, &|target| entry.target.as_deref().is_some_and(|text| is_target(text, target)))
            && holds(&self.cause, &|cause| {
                [&entry.cause, &entry.reason].into_iter().flatten().any(|word| word == cause)
            })
            && self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
    }
}

/// A client or agent as a record names it.
struct Party<'a> {
    principal: Option<&'a str>,
    others: [Option<&'a str>; 2],
}

impl<'a> Party<'a> {
    fn client(entry: &'a Entry) -> Self {
        Self::new("client", entry, &entry.client, &entry.client_email, &entry.client_instance)
    }

    fn agent(entry: &'a Entry) -> Self {
        Self::new("agent", entry, &entry.agent, &entry.agent_email, &entry.agent_instance)
    }

    /// An enrolment has a `principal` of either role.
    fn new(
        role: &str,
        entry: &'a Entry,
        principal: &'a Option<String>,
        email: &'a Option<String>,
        instance: &'a Option<String>,
    ) -> Self {
        let enrolled = entry.principal.as_deref().filter(|principal| role_of(principal) == Some(role));
        let email = email.as_deref().or(entry.email.as_deref().filter(|_| enrolled.is_some()));
        Self { principal: principal.as_deref().or(enrolled), others: [email, instance.as_deref()] }
    }

    fn is(&self, wanted: &str) -> bool {
        let named = self.principal.is_some_and(|principal| principal == wanted || name_of(principal) == wanted);
        named || self.others.contains(&Some(wanted))
    }
}

fn name_of(principal: &str) -> &str {
    principal.rsplit('/').next().unwrap_or(principal)
}

fn role_of(principal: &str) -> Option<&str> {
    principal.rsplit('/').nth(1)
}

/// Names are compared without regard to case, because records have them in lower case and people may not.
fn is_target(target: &str, wanted: &str) -> bool {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    [target, host, bare].iter().any(|text| text.eq_ignore_ascii_case(wanted))
}

/// A record on one line, for people.
struct Shown<'a>(&'a Entry);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        let request = Text::new(entry.request_id.as_deref().unwrap_or("-"));
        write!(f, "{}  {:<17} {:<32} ", entry.time, Text::new(&entry.event).as_str(), request.as_str())?;
        let names = [&entry.client, &entry.agent, &entry.principal].map(|party| party.as_deref().map(name_of));
        let way = names.into_iter().chain([entry.target.as_deref()]).flatten();
        for (place, name) in way.enumerate() {
            write!(f, "{}{}", if place == 0 { " " } else { " → " }, Text::new(name))?;
        }
        let numbers = [
            ("up", entry.bytes_up),
            ("down", entry.bytes_down),
            ("carriedUp", entry.carried_up),
            ("carriedDown", entry.carried_down),
            ("ms", entry.duration_ms),
            ("records", entry.records),
            ("unrecorded", entry.unrecorded),
            ("chapter", entry.chapter),
            ("after", entry.after),
            ("void", entry.void),
            ("firstSeq", entry.first_seq),
            ("lastSeq", entry.last_seq),
            ("bytes", entry.bytes),
            ("connections", entry.connections),
            ("sessions", entry.sessions),
            ("known", entry.known),
            ("most", entry.most),
        ]
        .map(|(name, number)| (name, number.map(|number| number.to_string())));
        let words = [
            ("clientClaimed", &entry.client_claimed),
            ("hop", &entry.hop),
            ("cause", &entry.cause),
            ("kind", &entry.kind),
            ("subject", &entry.subject),
            ("by", &entry.by),
            ("reason", &entry.reason),
            ("outcome", &entry.outcome),
            ("changed", &entry.changed),
            ("file", &entry.file),
            ("address", &entry.address),
            ("peer", &entry.peer),
            ("network", &entry.network),
            ("forwardedFor", &entry.forwarded_for),
            ("email", &entry.email),
            ("rule", &entry.rule),
            ("policy", &entry.policy),
            ("observed", &entry.observed),
            ("version", &entry.version),
            ("serial", &entry.serial),
            ("notAfter", &entry.not_after),
        ];
        if entry.closing == Some(true) {
            f.write_str("  closing")?;
        }
        let numbers = numbers.iter().map(|(name, text)| (*name, text.as_deref()));
        let words = words.into_iter().map(|(name, text)| (name, text.as_deref()));
        for (name, text) in numbers.chain(words) {
            if let Some(text) = text {
                write!(f, "  {name}={}", Text::new(text))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
