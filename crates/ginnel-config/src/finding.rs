//! What is wrong with a configuration, and where.
//!
//! A finding always names the place that a person has to edit: a line and column of the file, or the variable or flag
//! that set the value.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ginnel_core::report::Chain;

/// More findings than this are counted, not kept: nobody reads further, and a hostile file must not fill the memory.
pub const FINDINGS_MAX: usize = 100;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A position in the file, both counted from one; columns count characters.
    File {
        /// The line.
        line: u32,
        /// The column.
        column: u32,
    },
    /// An environment variable (`GINNEL_X`) or a flag (`--set x`).
    Override(Arc<str>),
}

impl Place {
    /// The start of the file, where a missing setting is reported when it has no nearer place.
    pub const START: Self = Self::File { line: 1, column: 1 };
}

/// Reads as the second half of "already given at …".
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("the top of the file"),
            Self::File { line, column } => write!(f, "line {line}, column {column}"),
            Self::Override(source) => f.write_str(source),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as the caller named it.
    pub file: Arc<str>,
    /// Where to look.
    pub place: Place,
    /// The setting, as in `identities[1].email`; empty when the file as a whole is meant.
    pub path: String,
    /// What is wrong. What the file says, and a person may want to keep to themselves, stands in it in quotation marks only.
    pub message: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl Finding {
    /// The line, counted from one; none when the value does not come from the file.
    pub fn line(&self) -> Option<u32> {
        match self.place {
            Place::File { line, .. } => Some(line),
            Place::Whole | Place::Override(_) => None,
        }
    }

    /// The column, counted from one; none when the value does not come from the file.
    pub fn column(&self) -> Option<u32> {
        match self.place {
            Place::File { column, .. } => Some(column),
            Place::Whole | Place::Override(_) => None,
        }
    }

    fn write_place(&self, f: &mut impl fmt::Write) -> fmt::Result {
        match &self.place {
            Place::Whole => write!(f, "{}: ", self.file),
            Place::File { line, column } => write!(f, "{}:{line}:{column}: ", self.file),
            Place::Override(source) => write!(f, "{source}: "),
        }
    }

    /// The place and the kind of the fault, without the setting's path, which may have keys of the file in it, and without the hint.
    fn without_quotes(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _ = self.write_place(&mut text);
        push_unquoted(&mut text, &self.message);
        text
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_place(f)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with one configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    list: Vec<Finding>,
    more: usize,
}

impl Findings {
    /// A single finding about the file as a whole.
    pub(crate) fn one(file: &str, place: &Place, message: &str) -> Self {
        let finding = Finding {
            file: file.into(),
            place: place.clone(),
            path: String::new(),
            message: message.to_owned(),
            hint: None,
        };
        Self { list: vec![finding], more: 0 }
    }

    /// The findings, overrides last.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.list.iter()
    }

    /// How many there are, counting those beyond [`FINDINGS_MAX`] that were not kept.
    pub fn total(&self) -> usize {
        self.list.len() + self.more
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Findings {}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file was read and is wrong; whoever wrote it is to blame.
    #[error(transparent)]
    Invalid(#[from] Findings),
    /// The file cannot be read; the environment is to blame.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl LoadError {
    /// All of it as text: a line for each finding, or what the system said.
    pub fn whole(&self) -> String {
        match self {
            Self::Invalid(findings) => findings.to_string(),
            Self::Read { .. } => Chain(self).to_string(),
        }
    }

    /// The same without what the file says, for the log: where the faults are and of what kind. A target's name may be what is misspelled.
    pub fn without_quotes(&self) -> String {
        match self {
            Self::Invalid(findings) => {
                let mut lines: Vec<_> = findings.iter().map(Finding::without_quotes).collect();
                if findings.more > 0 {
                    lines.push(format!("and {} more", findings.more));
                }
                lines.join("\n")
            }
            Self::Read { .. } => self.whole(),
        }
    }
}

/// Gathers findings while a file is read.
#[derive(Debug)]
pub struct Collector {
    file: Arc<str>,
    list: Vec<Finding>,
    more: usize,
}

impl Collector {
    /// An empty collector for the file of this name.
    pub fn new(file: &str) -> Self {
        Self { file: file.into(), list: Vec::new(), more: 0 }
    }

    /// Keeps one finding, or counts it if there are too many.
    pub fn report(
        &mut self,
        place: &Place,
        path: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        self.list.push(Finding {
            file: Arc::clone(&self.file),
            place: place.clone(),
            path: path.into(),
            message: message.into(),
            hint: hint.into(),
        });
    }

    /// Whether another finding would only be counted, so that its text need not be worked out.
    pub fn is_full(&self) -> bool {
        self.list.len() >= FINDINGS_MAX
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How much was found so far, what is only counted included.
    pub fn total(&self) -> usize {
        self.list.len() + self.more
    }

    /// What was found, in the order of the file; none if nothing was.
    pub fn finish(mut self) -> Option<Findings> {
        if self.list.is_empty() {
            return None;
        }
        self.list.sort_by(|one, other| one.place.cmp(&other.place));
        Some(Findings { list: self.list, more: self.more })
    }
}

/// A text from outside, quoted, with control characters escaped and cut to a length that fits on a line.
pub fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Adds a text, with an ellipsis for whatever stands in quotation marks. A quotation that does not end hides the rest.
fn push_unquoted(onto: &mut String, text: &str) {
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        onto.push(character);
        if character != '"' {
            continue;
        }
        onto.push('…');
        while let Some(hidden) = characters.next() {
            match hidden {
                '\\' => drop(characters.next()),
                '"' => {
                    onto.push('"');
                    break;
                }
                _ => {}
            }
        }
    }
}

/// Adds one key to a path, quoted where it is no plain word.
pub(crate) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    if key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        path.push_str(key);
    } else {
        path.push_str(&quoted(key));
    }
}

/// The candidate that `word` was probably meant to be, if one is close.
pub fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Beyond this no setting or name is close, and the distance is quadratic in the length.
    const WORD_MAX: usize = 80;
    if word.len() > WORD_MAX {
        return None;
    }
    let word = folded(word);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::osa_distance(&word, &folded(candidate));
            (distance <= word.chars().count().max(candidate.len()) / 3).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// The spelling without case, `_` and `-`, so that `trust_domain` and `TRUSTDOMAIN` both mean `trustDomain`.
pub(crate) fn folded(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_close_and_nothing_else() {
        let known = ["address", "name", "trustDomain", "dangerDisableInnerTls"];
        let cases = [
            ("adress", Some("address")),
            ("Name", Some("name")),
            ("trust_domain", Some("trustDomain")),
            ("disableInnerTls", Some("dangerDisableInnerTls")),
            ("colour", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(suggestion(word, known), expected, "{word}");
        }
        assert_eq!(suggestion(&"n".repeat(1000), known), None);
    }

    #[test]
    fn counts_findings_that_it_does_not_keep() {
        let mut collector = Collector::new("f.yaml");
        for _ in 0..FINDINGS_MAX + 3 {
            collector.report(&Place::START, "", "wrong", None);
        }
        let findings = collector.finish().expect("findings");
        assert_eq!((findings.iter().count(), findings.total()), (FINDINGS_MAX, FINDINGS_MAX + 3));
        assert!(findings.to_string().ends_with("\nand 3 more"));
    }

    #[test]
    fn the_log_has_the_place_and_the_kind_and_nothing_of_the_file() {
        let mut collector = Collector::new("f.yaml");
        let at = |line| Place::File { line, column: 3 };
        let name = "git\"lab\\.acme.internal";
        let message = format!("{}: the port is missing; not {} either", quoted(name), quoted(name));
        collector.report(&at(7), "allow[0].gitlab", message, format!("did you mean {name}?"));
        collector.report(&at(9), "", "\"cut off: gitlab", None);
        let error = LoadError::from(collector.finish().expect("findings"));
        assert_eq!(error.without_quotes(), "f.yaml:7:3: \"…\": the port is missing; not \"…\" either\nf.yaml:9:3: \"…");
    }

    #[test]
    fn quotes_without_control_characters_and_cuts_long_texts() {
        assert_eq!(quoted("a\u{1b}[0m\n"), r#""a\u{1b}[0m\n""#);
        assert_eq!(quoted(&"ä".repeat(61)), format!("\"{}\"…", "ä".repeat(60)));
    }
}
