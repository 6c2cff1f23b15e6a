//! A line that does not fit, and what the lines after it make of it.

use super::super::super::chain::Position;
use super::super::super::chain::keys::running;
use super::super::super::show::Place;
use super::super::report::{Finding, Proof, Wrong};
use super::Line;

/// Why a line does not fit. The numbers are those that the line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspect {
    /// Its content or place is not what its hash says.
    Changed(u64),
    /// Its number is not the next.
    Elsewhere(u64),
    /// It follows the checkpoint that closed its chapter.
    Closed(u64),
    /// It begins a chapter with other keys than were announced.
    Foreign(u64),
    /// It belongs to a chapter whose first record is not there.
    Headless(u64),
    /// It begins a chapter of another log.
    OtherLog(u64),
    /// Its hash is right, its MAC is not: whoever wrote it did not have the key.
    Sealed(u64),
    /// It is no record.
    Unreadable,
    /// Its hash is right, its signature is not.
    Unsigned(u64),
    /// It begins a chapter after more or less than it says.
    Void { seq: u64, said: u64, found: u64 },
}

pub(super) struct Doubt {
    suspect: Suspect,
    /// The last good record.
    at: Option<Position>,
    place: Place,
    bytes: u64,
    /// It has zeros, as some file systems leave them where the machine stopped in a write.
    is_holed: bool,
    /// A crash or a failed write can have left all of it.
    is_excusable: bool,
    /// Whole records in it.
    records: u64,
    /// It is the beginning of a line at the very end.
    is_open_end: bool,
    /// The record that should have been here comes later.
    next_comes: bool,
    /// A record with the number of the suspect comes later.
    same_comes: bool,
    /// The highest number that comes later.
    highest: u64,
    /// The number of the first readable record that comes later.
    first: Option<u64>,
}

impl Doubt {
    pub(super) fn new(suspect: Suspect, at: Option<Position>, place: Place, bytes: u64, is_last: bool) -> Self {
        let is_open_end = is_last && suspect == Suspect::Unreadable;
        Self {
            suspect,
            at,
            place,
            bytes,
            is_holed: false,
            is_excusable: true,
            records: 0,
            is_open_end,
            next_comes: false,
            same_comes: false,
            highest: 0,
            first: None,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_open_end(&self) -> bool {
        self.is_open_end
    }

    /// Whether a chapter may say that all of it counts for nothing.
    pub(super) fn is_excusable(&self) -> bool {
        self.is_excusable
    }

    /// Whether the next whole record settles that.
    pub(super) fn is_in_question(&self) -> bool {
        self.is_excusable && !self.is_holed
    }

    /// Whole records in it.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Asks of a line, the first one too, whether a crash or a failed write can have left it; `is_again` if it is there already.
    pub(super) fn weigh(&mut self, line: &Line<'_>, is_again: bool) {
        let can_be = match line {
            // Where the first blocks of a write are missing, the later ones do not follow.
            Line::Chapter { .. } | Line::Sealed { .. } => {
                self.records += 1;
                is_again || self.is_holed
            }
            Line::Unsealed(_) => false,
            Line::Unreadable { is_holed, is_json } => {
                self.is_holed |= is_holed;
                !is_json
            }
        };
        self.is_excusable &= can_be;
    }

    /// Takes a later line.
    pub(super) fn hear(&mut self, line: &Line<'_>, bytes: u64) {
        self.bytes += bytes;
        self.is_open_end = false;
        let (seq, record, seal) = match line {
            Line::Chapter { header, record, seal, .. } | Line::Sealed { header, record, seal, .. } => {
                (header.seq, *record, seal)
            }
            Line::Unsealed(_) | Line::Unreadable { .. } => return,
        };
        self.first.get_or_insert(seq);
        self.highest = self.highest.max(seq);
        self.same_comes |= self.suspect.seq() == Some(seq);
        if let Some(at) = self.at
            && at.seq.checked_add(1) == Some(seq)
        {
            self.next_comes |= running(&at.hash, record) == seal.hash;
        }
    }

    /// What it comes to, after everything else was read. `signed` is the number of the first record that no signature covers.
    pub(super) fn finding(self, signed: u64, proof: Proof) -> Finding {
        let before_first = || self.first.map_or(1, |first| first.saturating_sub(1).max(1));
        let next = self.at.map_or_else(before_first, |at| at.seq.saturating_add(1));
        let (seq, wrong, text) = match self.suspect {
            Suspect::Unreadable if self.next_comes || self.first == Some(next) => {
                (next, Wrong::Inserted, format!("a line that is no record was inserted before record {next}"))
            }
            Suspect::Unreadable => {
                (next, Wrong::Edited, format!("this is no record, where record {next} should be: it was edited"))
            }
            Suspect::Changed(seq) | Suspect::Sealed(seq) if self.next_comes => (
                seq,
                Wrong::Inserted,
                format!("a record that names itself {seq} was inserted: the real one comes later"),
            ),
            Suspect::Changed(seq) if proof == Proof::SecretKey => {
                (seq, Wrong::Edited, format!("record {seq} was edited"))
            }
            Suspect::Changed(seq) => {
                let before = seq.saturating_sub(1);
                (
                    seq,
                    Wrong::Edited,
                    format!("record {seq} was edited, or record {before} was and given a hash that fits"),
                )
            }
            Suspect::Sealed(seq) => {
                (seq, Wrong::Edited, format!("record {seq} was edited, and its hash made anew without the key"))
            }
            Suspect::Elsewhere(seq) => self.elsewhere(seq, next),
            Suspect::Closed(seq) => {
                let text = format!("record {seq} was appended after the checkpoint that closed its chapter");
                (seq, Wrong::Inserted, text)
            }
            Suspect::Foreign(seq) => {
                let text = format!(
                    "record {seq} begins a chapter with a key that does not follow from the one before: from here on somebody else has written, or what leads there is missing"
                );
                (seq, Wrong::Key, text)
            }
            Suspect::Headless(seq) => {
                let text =
                    format!("the log begins with record {seq}, in the middle of a chapter: its beginning was cut off");
                (seq, Wrong::HeadCutOff, text)
            }
            Suspect::OtherLog(seq) => (seq, Wrong::OtherLog, "this is another log than the key is for".to_owned()),
            Suspect::Unsigned(seq) if proof == Proof::SecretKey => {
                (seq, Wrong::Edited, format!("the signature of record {seq} was edited"))
            }
            Suspect::Unsigned(seq) => {
                let text = format!(
                    "the signature of record {seq} is not right: records from {signed} to {seq} were rewritten"
                );
                (signed, Wrong::Rewritten, text)
            }
            Suspect::Void { seq, said, found } => {
                let text =
                    format!("record {seq} says that {said} bytes before it count for nothing, and {found} are there");
                (seq, Wrong::Void, text)
            }
        };
        Finding { place: Some(self.place), seq, wrong, text }
    }

    /// A whole record at the wrong place.
    fn elsewhere(&self, seq: u64, next: u64) -> (u64, Wrong, String) {
        if seq < next {
            let text = format!("record {seq} was inserted: one with this number comes before");
            (seq, Wrong::Inserted, text)
        } else if self.next_comes && (self.same_comes || seq > self.highest) {
            (seq, Wrong::Inserted, format!("a record that names itself {seq} was inserted before record {next}"))
        } else if self.next_comes {
            (seq, Wrong::Reordered, format!("record {seq} stands before record {next}: they were reordered"))
        } else if seq - 1 == next {
            (next, Wrong::Removed, format!("record {next} is missing before this one: it was removed"))
        } else {
            let last = seq - 1;
            (next, Wrong::Removed, format!("records {next} to {last} are missing before this one: they were removed"))
        }
    }
}

impl Suspect {
    /// The number that the line names.
    fn seq(self) -> Option<u64> {
        match self {
            Self::Changed(seq)
            | Self::Closed(seq)
            | Self::Elsewhere(seq)
            | Self::Foreign(seq)
            | Self::Headless(seq)
            | Self::OtherLog(seq)
            | Self::Sealed(seq)
            | Self::Unsigned(seq)
            | Self::Void { seq, .. } => Some(seq),
            Self::Unreadable => None,
        }
    }
}
