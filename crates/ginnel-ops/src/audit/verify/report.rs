//! What verifying a log has found.

use std::fmt;

use ginnel_core::audit::Checkpoint;
use ginnel_core::id::InstanceId;
use serde::{Serialize, Serializer};

use super::super::show::Place;

/// What a log was verified with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// The secret key of the chain: each record is proved.
    SecretKey,
    /// A public key from elsewhere: what is before the last signed record is proved.
    PublicKey,
    /// Nothing but the log itself: it fits together, and whoever can write the file could have written all of it.
    #[default]
    Itself,
}

/// What is wrong at the first place where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A record that was kept elsewhere is another one.
    Anchor,
    /// The log ends before a record that it has had.
    CutOff,
    /// A record is not the one that was written.
    Edited,
    /// The log begins after its first record, and nothing says that the rest was removed.
    HeadCutOff,
    /// A line was not written by the log, or not there.
    Inserted,
    /// A chapter is signed by somebody else.
    Key,
    /// The log is another one than the key is for.
    OtherLog,
    /// Records are missing.
    Removed,
    /// A record stands before one that was written earlier.
    Reordered,
    /// Records were replaced together, with hashes that fit.
    Rewritten,
    /// No record has a seal.
    Unsealed,
    /// What a crash had left was changed.
    Void,
}

impl Wrong {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anchor => "anchor",
            Self::CutOff => "cutOff",
            Self::Edited => "edited",
            Self::HeadCutOff => "headCutOff",
            Self::Inserted => "inserted",
            Self::Key => "key",
            Self::OtherLog => "otherLog",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Rewritten => "rewritten",
            Self::Unsealed => "unsealed",
            Self::Void => "void",
        }
    }
}

impl Serialize for Wrong {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where, unless it is what is not there.
    #[serde(serialize_with = "place")]
    pub place: Option<Place>,
    /// Which record.
    pub seq: u64,
    /// What.
    pub wrong: Wrong,
    /// The same in words.
    pub text: String,
}

fn place<S: Serializer>(place: &Option<Place>, serializer: S) -> Result<S::Ok, S::Error> {
    match place {
        Some(place) => serializer.collect_str(place),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Something that is worth knowing, and is nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Note(pub String);

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Records from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The number of the first.
    pub first_seq: u64,
    /// The number of the last.
    pub last_seq: u64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "records {}-{}", self.first_seq, self.last_seq)
    }
}

/// Notes that a report has at most, and runs; each start after a crash may leave one.
const NOTES_MAX: usize = 100;

/// What verifying a log has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which log it is.
    pub log: Option<InstanceId>,
    /// Sealed records that are what was written, from the first to the last good one.
    pub records: u64,
    /// The number of the first of them.
    pub first_seq: u64,
    /// The number of the last.
    pub last_seq: u64,
    /// Files that were read.
    pub files: usize,
    /// Chapters that begin in them.
    pub chapters: u64,
    /// What it was verified with.
    pub proof: Proof,
    /// The newest signed record, which is an anchor if it is kept elsewhere.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the log says that it was closed there.
    pub closed: bool,
    /// Records that their chapter did not sign before the next one began, the first hundred runs of them; none with the secret key.
    pub unsigned: Vec<Run>,
    /// Chapters that were not closed and were followed by another: where a process was killed or could not write, or the end was cut off.
    pub unclosed: u64,
    /// What is worth knowing.
    pub notes: Vec<Note>,
    /// The first thing that is wrong.
    pub finding: Option<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.finding.is_none()
    }

    pub(super) fn unsigned(&mut self, run: Run) {
        if self.unsigned.len() < NOTES_MAX {
            self.unsigned.push(run);
        }
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(Note(text.into()));
        }
    }

    /// Adds a note about all of the log, for which there is always room.
    pub(super) fn say(&mut self, text: impl Into<String>) {
        self.notes.push(Note(text.into()));
    }
}
