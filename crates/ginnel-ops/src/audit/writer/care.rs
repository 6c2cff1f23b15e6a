//! What the writer does beside writing what comes: it signs, goes on in another file, removes old ones, and closes the log.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use ginnel_core::audit::Checkpoint;
use tracing::{info, warn};

use super::{Group, Medium, Writer};

/// How often it is looked for files that are too old.
const RETENTION_LOOK: Duration = Duration::from_secs(3600);

/// When a file is tried to be left for another again, after that has failed.
const ROTATION_RETRY: Duration = Duration::from_secs(60);

impl<M: Medium> Writer<M> {
    /// When something is to be done though nobody records anything.
    pub(super) fn due(&self) -> Option<Instant> {
        let rotation = (self.chain.is_some() && self.has_records).then_some(self.rotate_at);
        [self.sign_at, self.look_at.filter(|_| self.chain.is_some()), rotation].into_iter().flatten().min()
    }

    /// Signs, goes on in another file and removes old ones, each when its time has come; `false` if the log was closed meanwhile.
    pub(super) fn look_after(&mut self) -> bool {
        let now = Instant::now();
        if self.chain.is_none() {
            return true;
        }
        if self.sign_at.is_some_and(|at| at <= now) && !self.write(Group::checkpoint(false)) {
            return false;
        }
        if self.has_records && (self.rotate_at <= now || self.whole >= self.rotate_size) {
            match self.rotate() {
                Ok(()) => self.look_at = self.look_at.map(|_| now),
                Err(error) => {
                    warn!(%error, "the audit log cannot go on in another file; it stays in this one for now");
                    self.rotate_at = now + ROTATION_RETRY;
                    self.rotate_size = u64::MAX;
                }
            }
        }
        match self.look_at {
            Some(at) if at <= now => {
                self.look_at = Some(now + RETENTION_LOOK);
                self.remove_old()
            }
            Some(_) | None => true,
        }
    }

    /// Goes on in another file.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(first_seq) = self.first_seq else { return Ok(()) };
        self.attempt(&mut Group::checkpoint(true))?;
        if let Err(error) = self.medium.rotate(first_seq) {
            // The chapter says that nothing follows in it.
            self.chain = None;
            return Err(error);
        }
        (self.whole, self.torn) = (0, false);
        self.leave_file();
        self.attempt(&mut Group::default())
    }

    /// Removes what is too old or too much, with a record of each file before; `false` if the log was closed meanwhile.
    fn remove_old(&mut self) -> bool {
        let old = match self.medium.old() {
            Ok(old) => old,
            Err(error) => {
                warn!(%error, "the old files of the audit log cannot be listed");
                return true;
            }
        };
        let sizes: Vec<_> = old.iter().map(|old| old.file).collect();
        let count = self.files.to_remove(&sizes, SystemTime::now());
        for old in &old[..count] {
            let event = match self.medium.removal_of(old) {
                Ok(event) => event,
                Err(error) => {
                    warn!(%error, "an old file of the audit log cannot be read, and is kept");
                    return true;
                }
            };
            if !self.write(Group::event(event)) {
                return false;
            }
            if let Err(error) = self.medium.remove(old) {
                warn!(%error, "an old file of the audit log cannot be removed");
                return true;
            }
            info!(records_from = old.first_seq, "an old file of the audit log was removed");
        }
        true
    }

    /// Signs what there is, so that a reader knows it for the end.
    pub(super) fn finish(&mut self) {
        if self.chain.is_none() {
            return;
        }
        let closed = self.attempt(&mut Group::checkpoint(true)).and_then(|()| {
            (self.next.seq, self.next.closed) = (self.last.seq, true);
            self.medium.keep(&self.next, None)
        });
        if let Err(error) = closed {
            // Every record is on disk; only that these are all is not. Half a line that says so is of no use.
            let _ = self.mend();
            warn!(%error, "the audit log was closed without its last checkpoint");
        } else if let Some(Checkpoint { seq, hash, .. }) = self.queue.checkpoint() {
            info!(seq, %hash, "audit log closed");
        }
    }
}
