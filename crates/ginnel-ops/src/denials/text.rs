//! The text of the file: one JSON object a line, after a first line that says how many there are, so that a file that lost its end is told
//! from one that is whole.

use std::io;

use ginnel_core::audit::Timestamp;
use ginnel_core::denial::{Denial, Denials, Kind, Subject};
use serde::{Deserialize, Serialize};

/// The edition of the form.
const EDITION: u32 = 1;

/// What is wrong with a text, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    ginnel_denials: u32,
    entries: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    kind: String,
    value: String,
    since: Timestamp,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<String>,
}

/// The whole text.
pub(super) fn write(denials: &Denials) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(&Header { ginnel_denials: EDITION, entries: denials.all().len() })?;
    text.push(b'\n');
    for Denial { subject, since, by, reason } in denials.all() {
        let (kind, value) = (subject.kind().to_owned(), subject.value());
        let line = Line { kind, value, since: *since, by: by.clone(), reason: reason.clone() };
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Reads the whole text.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Denial>, Malformed> {
    let malformed = |line, column, message: &str| Malformed { line, column, message: message.to_owned() };
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.split(|&byte| byte == b'\n').count();
        malformed(line, 1, "this is not UTF-8")
    })?;
    let mut lines = (1..).zip(text.split_inclusive('\n'));
    let Some((_, first)) = lines.next() else {
        return Err(malformed(1, 1, "the file is empty, which a file without denials is not"));
    };
    let Header { ginnel_denials, entries } = parse(1, first)?;
    if ginnel_denials != EDITION {
        let message = format!("the form has edition {ginnel_denials}, and this version reads {EDITION}");
        return Err(malformed(1, 1, &message));
    }
    let mut denials = Vec::new();
    for (number, line) in lines {
        if denials.len() == entries {
            return Err(malformed(number, 1, "there are more lines than the first one says"));
        }
        denials.push(denial(number, line)?);
    }
    if denials.len() != entries {
        let message =
            format!("the file ends after {} of the {entries} denials that its first line speaks of", denials.len());
        return Err(malformed(denials.len() + 2, 1, &message));
    }
    Ok(denials)
}

fn denial(number: usize, line: &str) -> Result<Denial, Malformed> {
    let Line { kind, value, since, by, reason } = parse(number, line)?;
    let malformed = |message: String| {
        let column = line.find(&value).map_or(1, |at| line[..at].chars().count() + 1);
        Malformed { line: number, column, message }
    };
    let asked = match kind.as_str() {
        "principal" | "email" => Kind::Who,
        "key" => Kind::Key,
        "serial" => Kind::Serial,
        "rule" => Kind::Rule,
        "target" => Kind::Target,
        "all" => Kind::All,
        _ => return Err(malformed(format!("{kind:?} is no kind of denial"))),
    };
    let subject = Subject::read(asked, &value, None).map_err(|why| malformed(why.trim_end_matches('.').to_owned()))?;
    if subject.kind() != kind || subject.value() != value {
        return Err(malformed(format!("{value:?} is not how this program spells a denial of the kind {kind}")));
    }
    Ok(Denial::new(subject, since, by, reason.as_deref()))
}

fn parse<'a, T: Deserialize<'a>>(number: usize, line: &'a str) -> Result<T, Malformed> {
    let Some(whole) = line.strip_suffix('\n') else {
        let message = "the line has no end: the file was cut off".to_owned();
        return Err(Malformed { line: number, column: line.chars().count() + 1, message });
    };
    serde_json::from_str(whole).map_err(|error| {
        let said = error.to_string();
        // serde_json ends its message with the place in its own count of lines.
        let message = said.split(" at line ").next().unwrap_or_default().to_owned();
        Malformed { line: number, column: error.column().max(1), message }
    })
}
