//! The files of a log and their lines, as readers see them.

use std::fs::{self, File};
use std::io::{self, BufRead, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::FILE_NAME;

/// A longer line is no record: the longest has some 2 KiB, and a newer version may write longer ones.
pub(super) const LINE_MAX: usize = 64 * 1024;

/// Digits of the number in an old file's name, so that names sort as their files do until there are a million million records.
const DIGITS: usize = 12;

/// Looks at a directory in which the log is just going on in another file. Each is over in microseconds.
const LOOKS_MAX: usize = 10;

/// The name of a file that the log no longer writes, by the number of its first record.
pub(super) fn old_name(first_seq: u64) -> String {
    format!("audit-{first_seq:0DIGITS$}.jsonl")
}

/// The number in the name of a file that the log no longer writes.
pub(super) fn number_in(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    (digits.len() >= DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// The files in a directory that the log no longer writes, the oldest first.
pub(super) fn old_files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(number_in);
        if let Some(number) = number.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) {
            files.push((number, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

/// All files of the log in a directory, the oldest first, the one that is being written last.
///
/// # Errors
/// If there is none, or the directory cannot be read.
pub(super) fn log_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let current = directory.join(FILE_NAME);
    let inode = || match fs::metadata(&current) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    for _ in 0..LOOKS_MAX {
        let before = inode()?;
        let mut files: Vec<_> = old_files(directory)?.into_iter().map(|(_, path)| path).collect();
        if inode()? != before {
            continue;
        }
        if before.is_some() || files.is_empty() {
            // Without any, opening this one says so.
            files.push(current);
        }
        return Ok(files);
    }
    Err(io::Error::other("its files change faster than they can be listed"))
}

/// The files that a path stands for: a directory for the log in it.
pub(super) fn expand(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.is_dir() { log_files(path) } else { Ok(vec![path.to_owned()]) }
}

/// What a line was in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its bytes, with its end.
    pub(super) bytes: u64,
    /// Whether it has an end.
    pub(super) is_ended: bool,
}

/// Reads one line without its end into `line`, of which no more than [`LINE_MAX`] + 1 bytes are kept; `None` at the end of the file.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<Extent>> {
    line.clear();
    let mut bytes = 0;
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok((bytes > 0).then_some(Extent { bytes, is_ended: false }));
        }
        let end = end_of_line(buffer);
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        let room = (LINE_MAX + 1).saturating_sub(line.len());
        line.extend_from_slice(&piece[..piece.len().min(room)]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        bytes += used as u64;
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(Extent { bytes, is_ended: true }));
        }
    }
}

fn end_of_line(buffer: &[u8]) -> Option<usize> {
    buffer.iter().position(|&byte| byte == b'\n')
}

/// Opens a file of a log.
pub(super) fn reader(path: &Path) -> io::Result<io::BufReader<File>> {
    Ok(io::BufReader::with_capacity(64 * 1024, File::open(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_come_in_the_order_of_their_records() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(log_files(directory.path()).expect("lists"), [directory.path().join(FILE_NAME)]);
        let names =
            ["audit-000000000900.jsonl", "audit-000000001000.jsonl", "audit-1000000000000.jsonl", "audit.jsonl"];
        for name in names.iter().chain(&["audit-9.jsonl", "audit-00000000000x.jsonl", "denials.jsonl", "chain.state"]) {
            fs::write(directory.path().join(name), "").expect("writes");
        }
        let listed = log_files(directory.path()).expect("lists");
        assert_eq!(listed, names.map(|name| directory.path().join(name)));
        for number in [1, 999_999_999_999, u64::MAX] {
            assert_eq!(number_in(&old_name(number)), Some(number));
        }
    }

    #[test]
    fn a_line_is_told_with_its_bytes_and_cut_where_none_of_ours_goes_on() {
        let long = "x".repeat(LINE_MAX + 10);
        let text = format!("a\n\n{long}\nend");
        let (mut reader, mut line) = (text.as_bytes(), Vec::new());
        let mut seen = Vec::new();
        while let Some(Extent { bytes, is_ended }) = next_line(&mut reader, &mut line).expect("reads") {
            seen.push((line.len(), bytes, is_ended));
        }
        let longest = LINE_MAX as u64 + 11;
        assert_eq!(seen, [(1, 2, true), (0, 1, true), (LINE_MAX + 1, longest, true), (3, 3, false)]);
    }
}
