//! What is known of the old files, each of which is looked through once as long as nobody touches it.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::verify::{Kept, KeptWalk};
use super::super::writer::{Look, Old};

/// What changes when somebody writes to a file, sets its times or puts another in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity([i64; 4], [u64; 3]);

impl From<Metadata> for Identity {
    fn from(it: Metadata) -> Self {
        Self([it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()], [it.dev(), it.ino(), it.len()])
    }
}

#[derive(Default)]
pub(super) struct Looks {
    known: BTreeMap<u64, (Identity, Result<Kept, String>)>,
    /// A walk that is not over, and through what.
    walk: Option<(u64, Identity, KeptWalk)>,
}

impl Looks {
    /// Looks through the file at `index`, unless that was done; `current` is the file that is being written.
    pub(super) fn look(&mut self, old: &[Old], index: usize, current: &Path, budget: &mut u64) -> io::Result<Look> {
        let Old { path, first_seq, .. } = &old[index];
        let identity = Identity::from(path.symlink_metadata()?);
        self.known.retain(|first_seq, _| old.iter().any(|old| old.first_seq == *first_seq));
        if let Some((of, known)) = self.known.get(first_seq)
            && *of == identity
        {
            return Ok(known.clone().map_or_else(Look::Strange, Look::Fits));
        }
        let mut walk = match self.walk.take() {
            Some((number, of, walk)) if number == *first_seq && of == identity => walk,
            Some(_) | None => {
                let next = old.get(index + 1).map_or(current, |next| &next.path);
                KeptWalk::new(*first_seq, path, next)?
            }
        };
        match walk.go_on(budget)? {
            None => {
                self.walk = Some((*first_seq, identity, walk));
                Ok(Look::Busy)
            }
            Some(known) => {
                self.known.insert(*first_seq, (identity, known.clone()));
                Ok(known.map_or_else(Look::Strange, Look::Fits))
            }
        }
    }
}
