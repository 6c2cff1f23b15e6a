//! How far the sink has got, in a file beside the log.
//!
//! It may be older than the truth after a crash, and is never newer: what is given again has the ids that it had before.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ginnel_core::sink::Mark;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::KEEP_EVERY;

/// Name of the file in the directory of the log.
const FILE_NAME: &str = "sink.json";

/// Bytes of a file that are read: far more than it has.
const BYTES_MAX: u64 = 64 * 1024;

/// The mark and its file.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    place: String,
    mark: Option<Mark>,
    is_kept: bool,
    /// When it was written last.
    kept: Option<Instant>,
    fails: bool,
}

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Where the records went: another place has none of them.
    place: String,
    #[serde(flatten)]
    mark: Mark,
}

impl Cursor {
    pub(super) fn new(directory: &Path, place: String) -> Self {
        let path = directory.join(FILE_NAME);
        Self { path, place, mark: None, is_kept: true, kept: None, fails: false }
    }

    /// The mark of an earlier process, if it was made for the same place. Without one, everything that is on disk is given.
    pub(super) fn load(&mut self) -> Option<Mark> {
        let mut bytes = Vec::new();
        let read = fs::File::open(&self.path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
        if let Err(error) = read {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(%error, path = %self.path.display(), "it is not known how far the audit sink has got; it is given everything again");
            }
            return None;
        }
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) if kept.place == self.place => Some(kept.mark),
            Ok(kept) => {
                warn!(
                    before = kept.place,
                    now = self.place,
                    "the audit sink is another one than before; it is given everything"
                );
                None
            }
            Err(error) => {
                warn!(%error, path = %self.path.display(), "it is not known how far the audit sink has got; it is given everything again");
                None
            }
        }
    }

    pub(super) fn reached(&mut self, mark: Mark) {
        self.mark = Some(mark);
        self.is_kept = false;
    }

    /// Writes the mark if there is a new one and it is time, or the last chance.
    pub(super) async fn keep(mut self, is_last: bool) -> Self {
        let is_time = is_last || self.kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY);
        let Some(mark) = self.mark.clone().filter(|_| is_time && !self.is_kept) else { return self };
        let (path, kept) = (self.path.clone(), Kept { place: self.place.clone(), mark });
        let written = spawn_blocking(move || write(&path, &kept)).await;
        self.kept = Some(Instant::now());
        match written.unwrap_or_else(|broken_off| Err(io::Error::other(broken_off))) {
            Ok(()) => (self.is_kept, self.fails) = (true, false),
            Err(error) if self.fails => tracing::debug!(%error, "the mark of the audit sink still cannot be written"),
            Err(error) => {
                self.fails = true;
                warn!(%error, path = %self.path.display(), "the mark of the audit sink cannot be written; after a crash more is given again");
            }
        }
        self
    }
}

/// Replaces the file, whole or not at all.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    // Without this a crash of the machine may leave an empty file under the name.
    file.sync_all()?;
    fs::rename(&next, path)
}
