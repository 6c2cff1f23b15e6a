//! Reading again what a chapter says counts for nothing: how much that is becomes known only when the chapter begins.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::super::chain::void::Void;
use super::super::lines::next_line;
use super::super::show::Place;
use super::walk::Walk;
use super::{VerifyError, reading};

/// The bytes of a log, where they can be read a second time.
pub(super) enum Bytes<'a> {
    /// All of them.
    Content(&'a [u8]),
    /// Files, each with the number of bytes that were read before it.
    Files(Vec<(u64, &'a Path)>),
}

impl Bytes<'_> {
    fn void(&self, range: &Range<u64>) -> Result<Void, VerifyError> {
        let mut void = Void::default();
        match self {
            Self::Content(content) => {
                let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
                void.add(content.get(at(range.start)..at(range.end)).unwrap_or_default());
            }
            Self::Files(files) => {
                let ends = files.iter().skip(1).map(|(start, _)| *start).chain([u64::MAX]);
                for ((start, path), end) in files.iter().zip(ends) {
                    let (from, until) = (range.start.max(*start), range.end.min(end));
                    if from < until {
                        add_file(&mut void, path, from - start, until - from).map_err(reading(path))?;
                    }
                }
            }
        }
        Ok(void)
    }
}

fn add_file(void: &mut Void, path: &Path, from: u64, bytes: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    void.add_from(&mut file.take(bytes))
}

/// Takes the lines of a file, up to its end as it is when that is first reached.
pub(super) fn walk_through(
    walk: &mut Walk,
    path: &Path,
    reader: &mut impl BufRead,
    is_newest: bool,
    bytes: &Bytes<'_>,
) -> Result<(), VerifyError> {
    let (mut line, mut place) = (Vec::new(), Place { file: path.to_owned(), line: 0 });
    while let Some(extent) = next_line(reader, &mut line).map_err(reading(path))? {
        place.line += 1;
        walk.line(&place, &line, extent, is_newest);
        look_again(walk, bytes)?;
        if !extent.is_ended {
            // Its writer may be about to write the rest, which by itself is no line.
            break;
        }
    }
    Ok(())
}

/// Holds a chapter to what it says of the bytes before it, once nothing can take its place any more.
pub(super) fn look_again(walk: &mut Walk, bytes: &Bytes<'_>) -> Result<(), VerifyError> {
    let Some(claim) = walk.claim() else { return Ok(()) };
    if bytes.void(&claim.range)?.hash() != claim.hash {
        walk.deny(claim);
    }
    Ok(())
}
