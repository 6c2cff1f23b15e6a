//! A line of a log, as far as it can be read.

use ginnel_core::audit::{Entry, Hash, Seal, Timestamp};
use ginnel_core::id::InstanceId;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::super::lines::LINE_MAX;

/// What every record says.
#[derive(Deserialize)]
pub(in crate::audit::verify) struct Header {
    pub(in crate::audit::verify) seq: u64,
    pub(super) time: Timestamp,
    pub(super) event: String,
}

/// What the first record of a chapter says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::audit::verify) struct Beginning {
    pub(super) log: InstanceId,
    pub(in crate::audit::verify) chapter: u64,
    pub(in crate::audit::verify) after: u64,
    pub(in crate::audit::verify) after_hash: Hash,
    pub(super) void: u64,
    pub(super) void_hash: Option<Hash>,
    pub(in crate::audit::verify) key: Hash,
    pub(in crate::audit::verify) next_key: Hash,
}

/// What a checkpoint says.
#[derive(Deserialize)]
pub(super) struct Signed {
    pub(super) log: InstanceId,
    pub(super) chapter: u64,
    pub(super) records: u64,
    pub(super) closing: bool,
}

/// What a record says of a file that is removed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Removal {
    pub(super) file: String,
    pub(super) last_seq: u64,
    pub(super) last_hash: Option<Hash>,
}

/// A line, as far as it can be read.
pub(in crate::audit::verify) enum Line<'a> {
    /// The first record of a chapter.
    Chapter { header: Header, chapter: Box<Beginning>, record: &'a [u8], seal: Seal },
    /// Any other sealed record, and the line as it stands.
    Sealed { header: Header, record: &'a [u8], seal: Seal, line: &'a [u8] },
    /// A record without a seal, of which only the number is known.
    Unsealed(u64),
    /// No record.
    Unreadable {
        /// It has zeros, as some file systems leave them.
        is_holed: bool,
        /// It is something whole all the same.
        is_json: bool,
    },
}

impl<'a> Line<'a> {
    pub(in crate::audit::verify) fn parse(line: &'a [u8]) -> Self {
        // The parser passes over fields that it does not know without looking whether they are UTF-8, which all JSON is.
        if line.len() > LINE_MAX || str::from_utf8(line).is_err() {
            return Self::unreadable(line);
        }
        let Some((record, seal)) = Seal::split(line) else {
            return serde_json::from_slice::<Entry>(line)
                .map_or_else(|_| Self::unreadable(line), |entry| Self::Unsealed(entry.seq));
        };
        let Ok(header) = serde_json::from_slice::<Header>(line) else { return Self::unreadable(line) };
        if header.event != "chapterBegun" {
            return Self::Sealed { header, record, seal, line };
        }
        match serde_json::from_slice(line) {
            Ok(chapter) => Self::Chapter { header, chapter: Box::new(chapter), record, seal },
            Err(_) => Self::unreadable(line),
        }
    }

    fn unreadable(line: &[u8]) -> Self {
        let is_json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
        Self::Unreadable { is_holed: line.contains(&0), is_json }
    }

    /// The chapter that it begins.
    pub(in crate::audit::verify) fn chapter(&self) -> Option<u64> {
        match self {
            Self::Chapter { chapter, .. } => Some(chapter.chapter),
            Self::Sealed { .. } | Self::Unsealed(_) | Self::Unreadable { .. } => None,
        }
    }
}
