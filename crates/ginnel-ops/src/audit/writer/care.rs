//! What the writer does beside writing what comes: it signs, goes on in another file, removes old ones, and closes the log.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use ginnel_core::audit::{Checkpoint, Event, NO_HASH, OldFile, Text};
use tracing::{error, info, warn};

use super::super::verify::Kept;
use super::{Group, Look, Medium, Old, Writer};

/// How often it is looked for files that are too old.
const RETENTION_LOOK: Duration = Duration::from_secs(3600);

/// When a file is tried to be left for another again, after that has failed.
const ROTATION_RETRY: Duration = Duration::from_secs(60);

/// Bytes of old files that are read at a time: some milliseconds.
const LOOK_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What retention wants.
enum Next {
    /// It is not known yet.
    Busy,
    Nothing,
    Remove(Old, Kept),
}

/// The time by both clocks.
pub(super) struct Clock {
    wall: SystemTime,
    steady: Instant,
}

impl Clock {
    pub(super) fn read() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// What time it is later, for what cannot be undone: a clock that is set forward meanwhile makes nothing old.
    fn now(&self, later: &Self) -> SystemTime {
        let passed = later.steady.saturating_duration_since(self.steady);
        self.wall.checked_add(passed).map_or(later.wall, |now| now.min(later.wall))
    }
}

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

    /// Removes the oldest file if it is too old or there is too much, with a record of it before; `false` if the log was closed meanwhile. It is one
    /// at a time, and few bytes are read for it, so that records that come meanwhile wait for neither many files nor a long one.
    fn remove_old(&mut self) -> bool {
        let (old, kept) = match self.next_removal() {
            Ok(Next::Remove(old, kept)) => (old, kept),
            Ok(Next::Busy) => {
                self.look_at = Some(Instant::now());
                return true;
            }
            Ok(Next::Nothing) => return true,
            Err(error) => {
                warn!(%error, "the old files of the audit log cannot be read, and are kept");
                return true;
            }
        };
        let event = Event::FileRemoved {
            file: Text::new(old.path.file_name().unwrap_or_default().display()),
            first_seq: old.first_seq,
            last_seq: kept.last.seq,
            last_hash: (kept.last.hash != NO_HASH).then_some(kept.last.hash),
            bytes: kept.bytes,
        };
        if !self.write(Group::event(event)) {
            return false;
        }
        if let Err(error) = self.medium.remove(&old) {
            warn!(%error, "an old file of the audit log cannot be removed");
            return true;
        }
        info!(records_from = old.first_seq, "an old file of the audit log was removed");
        self.look_at = Some(Instant::now());
        true
    }

    /// What is to be removed next. Only what the files themselves say counts, and only as far as their records fit together: sizes and times of files
    /// are whatever somebody makes them, and a file that was changed is evidence.
    fn next_removal(&mut self) -> io::Result<Next> {
        let old = self.medium.old(self.last.seq)?;
        let now = self.began.now(&Clock::read());
        let length = old.iter().fold(0_u64, |sum, old| sum.saturating_add(old.bytes));
        let is_much = self.files.keep_size.is_some_and(|most| length > most);
        let needed = if is_much { old.len() } else { old.len().min(1) };
        let mut budget = LOOK_BYTES_MAX;
        // What need not be looked at, and what is kept in any case, is neither old nor large.
        let mut sizes = vec![OldFile { bytes: 0, until: now }; old.len()];
        let mut oldest = None;
        for index in 0..needed {
            match self.medium.look(&old, index, &mut budget)? {
                Look::Busy => return Ok(Next::Busy),
                Look::Fits(kept) => {
                    sizes[index] = OldFile { bytes: kept.bytes, until: kept.until };
                    oldest = oldest.or(Some(kept).filter(|_| index == 0));
                }
                Look::Strange(why) => {
                    error!(path = %old[index].path.display(), %why, "an old file of the audit log is not what was written, and is kept");
                }
            }
        }
        let is_due = self.files.to_remove(&sizes, now) > 0;
        Ok(match old.into_iter().next().zip(oldest) {
            Some((old, kept)) if is_due => Next::Remove(old, kept),
            Some(_) | None => Next::Nothing,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_forward_makes_nothing_old() {
        let began = Clock::read();
        let hour = Duration::from_secs(3600);
        let later = |wall| Clock { wall, steady: began.steady + hour };
        assert_eq!(began.now(&later(began.wall + 9000 * hour)), began.wall + hour);
        assert_eq!(began.now(&later(began.wall + hour)), began.wall + hour);
        assert_eq!(began.now(&later(began.wall - hour)), began.wall - hour, "and one that is set back is believed");
    }
}
