//! The lines of one file that grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::super::lines::LINE_MAX;

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Bytes that are kept of a line which is too long to be a record.
const KEPT: usize = 1024;

/// A line of a file, without its end.
#[derive(Debug)]
pub(super) struct Line {
    /// What it says; of a long one the beginning.
    pub(super) text: Vec<u8>,
    /// How many bytes it has.
    pub(super) length: u64,
    /// Where it begins.
    pub(super) at: u64,
}

impl Line {
    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        u64::try_from(self.text.len()).is_ok_and(|length| length == self.length)
    }
}

/// The lines of a file that have an end, from some place on.
#[derive(Debug)]
pub(super) struct Lines {
    file: File,
    id: (u64, u64),
    /// Where in the file the buffer begins.
    at: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given.
    used: usize,
    /// The line at the beginning of the buffer began before it, and is too long to be kept.
    long: Option<Line>,
    ahead: Option<Line>,
}

impl Lines {
    pub(super) fn open(path: &Path, at: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        Ok(Self { file, id, at, buffer: Vec::new(), used: 0, long: None, ahead: None })
    }

    /// Which file it is, whatever it is called.
    pub(super) fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Gives a line again with the next call.
    pub(super) fn put_back(&mut self, line: Option<Line>) {
        self.ahead = line;
    }

    /// The next line that has an end; `None` if there is none at the moment.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        loop {
            if let Some(length) = memchr(&self.buffer[self.used..]) {
                let text = self.buffer[self.used..self.used + length].to_vec();
                let at = self.at + offset(self.used);
                self.used += length + 1;
                return Ok(Some(self.finished(text, at)));
            }
            self.compact();
            if self.buffer.len() > LINE_MAX {
                self.lengthen();
            }
            let kept = self.buffer.len();
            self.buffer.resize(kept + PIECE, 0);
            let read = self.file.read_at(&mut self.buffer[kept..], self.at + offset(kept));
            let length = match read {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.buffer.truncate(kept);
                    continue;
                }
                Err(error) => {
                    self.buffer.truncate(kept);
                    return Err(error);
                }
            };
            if length == 0 {
                // What has no end yet is read again: the writer may take it back.
                self.buffer.clear();
                return Ok(None);
            }
            self.buffer.truncate(kept + length);
        }
    }

    /// What stands behind the last line of a file that grows no more.
    pub(super) fn rest(&mut self) -> Option<Line> {
        let length = self.file.metadata().ok()?.len().checked_sub(self.at)?;
        let mut text = vec![0; KEPT.min(usize::try_from(length).unwrap_or(KEPT))];
        let read = super::read_at(&self.file, &mut text, self.at).ok()?;
        text.truncate(read);
        let at = self.at;
        self.at += length;
        let line = match self.long.take() {
            Some(long) => Line { length: long.length + length, ..long },
            None => Line { text, length, at },
        };
        (line.length > 0).then_some(line)
    }

    /// Whether the file is shorter than what was read of it.
    pub(super) fn is_cut(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.at + offset(self.used))
    }

    fn finished(&mut self, text: Vec<u8>, at: u64) -> Line {
        let length = offset(text.len());
        match self.long.take() {
            Some(long) => Line { length: long.length + length, ..long },
            None if text.len() > LINE_MAX => Line { text: text[..KEPT].to_vec(), length, at },
            None => Line { text, length, at },
        }
    }

    fn compact(&mut self) {
        self.at += offset(self.used);
        self.buffer.drain(..self.used);
        self.used = 0;
    }

    /// Lets go of what was read of a line that is no record, but for its beginning.
    fn lengthen(&mut self) {
        let length = offset(self.buffer.len());
        let begun = Line { text: self.buffer[..KEPT].to_vec(), length: 0, at: self.at };
        self.long.get_or_insert(begun).length += length;
        self.at += length;
        self.buffer.clear();
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}

fn offset(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
