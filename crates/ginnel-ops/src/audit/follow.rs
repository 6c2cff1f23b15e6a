//! Reads the log behind its writer, from file to file, and finds its place again after a restart.
//!
//! Invariant: every record that stands in the files behind a mark is given once and in order. Numbers that are left out are counted, and said to
//! be missing where they are. What was given may come again after the files were cut or exchanged; it then has the same id.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ginnel_core::audit::Entry;
use ginnel_core::sink::{BATCH_BYTES_MAX, LogEntry, Mark};
use serde::Deserialize;
use tracing::warn;

use self::lines::{Line, Lines};
use super::show::parse;

mod lines;

/// How far back from its end a log is searched for its last record: more than the longest line that is one.
const TAIL_MAX: u64 = 128 * 1024;

/// How often the files of a log may change while one of them is opened. Rotation is slower than this by far.
const OPENINGS_MAX: usize = 4;

/// How the files of a log are found.
pub(super) type List = fn(&Path) -> io::Result<Vec<PathBuf>>;

/// A reader behind the writer.
#[derive(Debug)]
pub(super) struct Follower {
    directory: PathBuf,
    list: List,
    /// The last line that was given.
    mark: Mark,
    /// Whether it is known which record comes next. It is not before the first record of a log that was never read.
    is_begun: bool,
    lines: Option<Lines>,
    /// The file that is read has a successor, so that it grows no more.
    is_over: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Entries with the mark behind each.
    pub(super) entries: Vec<(LogEntry, Mark)>,
    /// Records that are missing among them.
    pub(super) missing: u64,
    /// The mark before the first record of a log that was never read: what is gone later is missing.
    pub(super) begun: Option<Mark>,
}

/// Which record a line is.
#[derive(Deserialize)]
struct Key {
    seq: u64,
    boot: String,
}

impl Follower {
    /// Reads on behind `mark`, or from the beginning.
    pub(super) fn new(directory: PathBuf, list: List, mark: Option<Mark>) -> Self {
        let is_begun = mark.is_some();
        Self { directory, list, mark: mark.unwrap_or_default(), is_begun, lines: None, is_over: false }
    }

    /// Reads the next entries, about `most` of them; none if the log has no more at the moment.
    pub(super) fn read(&mut self, most: usize) -> io::Result<Read> {
        let mut read = Read::default();
        let mut bytes = 0;
        while read.entries.len() < most && bytes < BATCH_BYTES_MAX {
            let line = match self.next_line() {
                Ok(Some(line)) => line,
                // Whatever was read is given, and not read again. What went wrong goes wrong with the next call as well.
                Err(error) if read.entries.is_empty() => return Err(error),
                Ok(None) | Err(_) => break,
            };
            bytes += line.text.len();
            self.give(line, &mut read);
        }
        Ok(read)
    }

    fn give(&mut self, line: Line, read: &mut Read) {
        let record = if line.is_whole() { parse(&line.text) } else { None };
        let Some(record) = record else {
            // What separates a fragment from what follows it is nobody's line.
            if !line.text.is_empty() {
                self.mark.others += 1;
                let entry = LogEntry::other(&self.mark, &line.text, line.length);
                read.entries.push((entry, self.mark.clone()));
            }
            return;
        };
        if !self.is_begun {
            self.is_begun = true;
            self.mark.seq = record.seq.saturating_sub(1);
            read.begun = Some(self.mark.clone());
        }
        if record.seq.saturating_sub(self.mark.seq) > 1 {
            read.missing += record.seq - self.mark.seq - 1;
            read.entries.push((LogEntry::missing(self.mark.seq, &record), self.mark.clone()));
        }
        let Entry { seq, time, .. } = record;
        self.mark = Mark { boot: record.boot.clone(), seq, time, others: 0, at: line.at };
        if let Ok(text) = String::from_utf8(line.text) {
            read.entries.push((LogEntry::record(text, &record), self.mark.clone()));
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(lines) = &mut self.lines else {
                if self.find_place()? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(line) = lines.next()? {
                return Ok(Some(line));
            }
            if lines.is_cut()? {
                // The writer takes back what it half wrote. What it writes in its place comes at the same place.
                self.lines = None;
            } else if self.is_over {
                let id = lines.id();
                let next = self.open_behind(id)?;
                let rest = self.lines.replace(next).and_then(|mut lines| lines.rest());
                self.is_over = false;
                if rest.is_some() {
                    return Ok(rest);
                }
            } else if self.has_successor()? {
                // Something may have been written between the last look into the file and its end.
                self.is_over = true;
            } else {
                return Ok(None);
            }
        }
    }

    /// Whether another file goes on where the one that is read ends.
    fn has_successor(&self) -> io::Result<bool> {
        let Some(lines) = &self.lines else { return Ok(false) };
        let ids = self.ids()?;
        // One that is no longer among the files was removed, as the oldest; without any others the writer still has it.
        let last_id = ids.last().map(|(id, _)| *id);
        Ok(last_id.is_some_and(|last| last != lines.id()))
    }

    /// Opens the file that follows the one with this id, or the oldest if that one is gone.
    fn open_behind(&self, id: (u64, u64)) -> io::Result<Lines> {
        for _ in 0..OPENINGS_MAX {
            let Some((wanted, path)) = following(&self.ids()?, id) else { break };
            let lines = Lines::open(&path, 0)?;
            // A name may mean another file from one moment to the next.
            if lines.id() == wanted {
                return Ok(lines);
            }
        }
        Err(io::Error::other("the files of the log change while they are opened"))
    }

    fn ids(&self) -> io::Result<Vec<((u64, u64), PathBuf)>> {
        let mut ids = Vec::new();
        for path in (self.list)(&self.directory)? {
            match fs::metadata(&path) {
                Ok(metadata) => ids.push(((metadata.dev(), metadata.ino()), path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ids)
    }

    /// Opens the file in which the last line stands that was given, behind that line; `false` if there is no file yet.
    fn find_place(&mut self) -> io::Result<bool> {
        self.is_over = false;
        let files: Vec<PathBuf> = self.ids()?.into_iter().map(|(_, path)| path).collect();
        let Some(oldest) = files.first() else { return Ok(false) };
        if self.mark.boot.is_empty() {
            let others = self.mark.others;
            self.lines = Some(past_others(Lines::open(oldest, 0)?, others)?);
            return Ok(true);
        }
        for path in files.iter().rev() {
            let mut lines = Lines::open(path, self.mark.at)?;
            let is_it = lines.next()?.and_then(|line| key(&line.text));
            if is_it.is_some_and(|key| key.seq == self.mark.seq && key.boot == self.mark.boot) {
                self.lines = Some(past_others(lines, self.mark.others)?);
                return Ok(true);
            }
        }
        self.search(&files)?;
        Ok(true)
    }

    /// Goes through all of the log. It goes on behind the last record of the mark's process that is not beyond the mark; those before it were
    /// given as well. If there is none, the files that had it are gone, or this is another log.
    fn search(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let (mut first, mut last) = (None, None);
        for path in files {
            let mut lines = Lines::open(path, 0)?;
            while let Some(line) = lines.next()? {
                let Some(key) = key(&line.text) else { continue };
                first = first.or(Some(key.seq));
                if key.boot == self.mark.boot && key.seq <= self.mark.seq {
                    last = Some((path, line.at, key.seq));
                }
            }
        }
        if let Some((path, at, seq)) = last {
            let mut lines = Lines::open(path, at)?;
            lines.next()?;
            let others = if seq == self.mark.seq { self.mark.others } else { 0 };
            self.mark = Mark { seq, others, at, ..self.mark.clone() };
            self.lines = Some(past_others(lines, others)?);
            return Ok(());
        }
        let Some(oldest) = files.first() else { return Ok(()) };
        if first.is_some_and(|first| first <= self.mark.seq) {
            warn!(
                seq = self.mark.seq,
                "the audit log is not the one that was read before; it is given to the sink from its beginning"
            );
            (self.mark, self.is_begun) = (Mark::default(), false);
        }
        self.lines = Some(Lines::open(oldest, 0)?);
        Ok(())
    }
}

/// The number of the last record of the log.
pub(super) fn newest(directory: &Path, list: List) -> io::Result<Option<u64>> {
    let Some(path) = list(directory)?.pop() else { return Ok(None) };
    let file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_MAX);
    let mut tail = vec![0; usize::try_from(TAIL_MAX).unwrap_or(usize::MAX)];
    let length = read_at(&file, &mut tail, start)?;
    Ok(tail[..length].rsplit(|&byte| byte == b'\n').find_map(key).map(|key| key.seq))
}

/// The file behind the one with this id; the oldest if that one is gone.
fn following(ids: &[((u64, u64), PathBuf)], id: (u64, u64)) -> Option<((u64, u64), PathBuf)> {
    let behind = ids.iter().position(|(each, _)| *each == id).map_or(0, |place| place + 1);
    ids.get(behind).cloned()
}

/// Passes over as many lines that are no records.
fn past_others(mut lines: Lines, others: u64) -> io::Result<Lines> {
    let mut ahead = None;
    let mut left = others;
    while left > 0 {
        let Some(line) = lines.next()? else { break };
        if line.is_whole() && key(&line.text).is_some() {
            ahead = Some(line);
            break;
        }
        left -= u64::from(!line.text.is_empty());
    }
    lines.put_back(ahead);
    Ok(lines)
}

fn key(line: &[u8]) -> Option<Key> {
    serde_json::from_slice(line).ok()
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], start + u64::try_from(length).unwrap_or(u64::MAX)) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
pub(super) mod tests;
