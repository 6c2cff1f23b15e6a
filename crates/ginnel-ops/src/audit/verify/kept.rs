//! A walk through one old file, up to the chapter that follows it, before it is removed: what was changed is evidence, and stays.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::chain::Position;
use super::super::lines::{next_line, reader};
use super::super::show::Place;
use super::Anchors;
use super::walk::{Trust, Walk};

/// Bytes of the next file in which its first chapter has to begin, and of a line that is read at all: what a crash leaves is never more.
const PIECE_MAX: u64 = 4 * 1024 * 1024;

/// An old file whose records fit together, and from whose last one the next file goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Kept {
    /// Its size, as it was read.
    pub(in crate::audit) bytes: u64,
    /// When its last record was written.
    pub(in crate::audit) until: SystemTime,
    /// That record. Its hash is that of no record if it has no seal.
    pub(in crate::audit) last: Position,
}

/// The walk, which is made a piece at a time: whoever makes it has other things to do as well.
pub(in crate::audit) struct KeptWalk {
    first_seq: u64,
    path: PathBuf,
    next: PathBuf,
    reader: BufReader<File>,
    walk: Walk,
    line: Vec<u8>,
    /// What the file itself had, once it was read.
    own: Option<Own>,
}

struct Own {
    bytes: u64,
    chapters: u64,
}

impl KeptWalk {
    /// Begins with the file that begins with record `first_seq`; `next` is the one after it.
    pub(in crate::audit) fn new(first_seq: u64, path: &Path, next: &Path) -> io::Result<Self> {
        Ok(Self {
            first_seq,
            path: path.to_owned(),
            next: next.to_owned(),
            reader: reader(path)?,
            walk: Walk::new(Trust::default(), Anchors::default()),
            line: Vec::new(),
            own: None,
        })
    }

    /// Goes on until `budget` is used up, which gives `None`, or it is known whether the file is what was written, and if not, why.
    pub(in crate::audit) fn go_on(&mut self, budget: &mut u64) -> io::Result<Option<Result<Kept, String>>> {
        while *budget > 0 {
            let mut piece = (&mut self.reader).take(PIECE_MAX);
            let Some(extent) = next_line(&mut piece, &mut self.line)? else {
                if self.own.is_some() {
                    return Ok(Some(self.unfollowed()));
                }
                self.own = Some(Own { bytes: self.walk.read(), chapters: self.walk.chapters() });
                self.reader = reader(&self.next)?;
                continue;
            };
            if extent.bytes == PIECE_MAX {
                return Ok(Some(Err("it has a line that is longer than any of a log".to_owned())));
            }
            *budget = budget.saturating_sub(extent.bytes);
            let place = Place { file: self.path.clone(), line: 0 };
            self.walk.line(&place, &self.line, extent, false);
            if let Some(own) = &self.own {
                if self.walk.chapters() > own.chapters {
                    return Ok(Some(self.kept(own)));
                }
                if self.walk.read() - own.bytes > PIECE_MAX {
                    return Ok(Some(self.unfollowed()));
                }
            }
        }
        Ok(None)
    }

    fn kept(&self, own: &Own) -> Result<Kept, String> {
        let (last, until) = self.walk.before_chapter().ok_or("it has no records")?;
        if self.walk.first_seq().is_some_and(|first| first != self.first_seq) {
            return Err("it does not begin with the record that its name says".to_owned());
        }
        Ok(Kept { bytes: own.bytes, until: until.into(), last })
    }

    fn unfollowed(&self) -> Result<Kept, String> {
        Err("its records do not fit together, or the file after it does not go on from its last one".to_owned())
    }
}
