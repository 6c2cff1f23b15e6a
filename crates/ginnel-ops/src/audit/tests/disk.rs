//! A disk that fails when it is told to.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use ginnel_core::audit::LogFiles;

use super::super::AuditLog;
use super::super::chain::Position;
use super::super::chain::keys::Seed;
use super::super::chain::state::State;
use super::super::chain::void::Void;
use super::super::file::Start;
use super::super::verify::Kept;
use super::super::writer::{Look, Medium, Old, Retry, Writer};
use super::{PATIENCE, boot};

/// A disk that does what a test says.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<(Mutex<DiskState>, Condvar)>);

#[derive(Default)]
pub(super) struct DiskState {
    pub(super) bytes: Vec<u8>,
    pub(super) synced: usize,
    pub(super) syncs: usize,
    /// Bytes that the disk still has room for; unlimited if `None`.
    pub(super) room: Option<usize>,
    pub(super) append_only: bool,
    pub(super) syncs_fail: bool,
    /// A sync waits as long as this holds.
    pub(super) stopped: bool,
    pub(super) syncing: bool,
    pub(super) failures: usize,
    /// Whether states cannot be kept, and the numbers of the chapters of those that were.
    pub(super) states_fail: bool,
    pub(super) states: Vec<u64>,
    /// Somebody has moved the file away, and what became of those before.
    pub(super) removed: bool,
    pub(super) moved: Vec<Vec<u8>>,
    /// Files that were put away, with the number of their first record.
    pub(super) old: Vec<(u64, Vec<u8>)>,
    /// Others, which are as old as can be.
    pub(super) ancient: Vec<u64>,
}

/// Where a new log goes on.
pub(super) fn new_log() -> Start {
    let seed = Seed::from_hex(&"5e".repeat(32)).expect("digits");
    let state = State { log: boot(), from: 1, chapter: 0, seed, seq: 0, closed: false };
    Start { state, last: Position::before_all(0), void: Void::default(), whole: 0, is_unended: false, first: None }
}

impl Disk {
    pub(super) fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.0.lock().expect("not poisoned")
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut DiskState)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    pub(super) fn wait(&self, until: impl Fn(&DiskState) -> bool) {
        let (state, waited) =
            self.0.1.wait_timeout_while(self.state(), PATIENCE, |state| !until(state)).expect("not poisoned");
        drop(state);
        assert!(!waited.timed_out(), "the disk never got there");
    }

    pub(super) fn all_synced(&self) -> bool {
        let state = self.state();
        state.synced == state.bytes.len()
    }

    pub(super) fn log(&self) -> AuditLog {
        self.log_of(Path::new("nowhere").into())
    }

    pub(super) fn log_of(&self, files: LogFiles) -> AuditLog {
        let retry = Retry { first: Duration::from_millis(1), max: Duration::from_millis(5) };
        AuditLog::start(Writer::new(self.clone(), boot(), new_log(), files, retry)).expect("a thread")
    }
}

fn no_space() -> io::Error {
    ErrorKind::StorageFull.into()
}

impl Medium for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let fits = state.room.unwrap_or(usize::MAX).min(bytes.len());
        state.bytes.extend_from_slice(&bytes[..fits]);
        state.room = state.room.map(|room| room - fits);
        if fits == bytes.len() {
            return Ok(());
        }
        state.failures += 1;
        self.0.1.notify_all();
        Err(no_space())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.syncing = true;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.stopped).expect("not poisoned");
        state.syncing = false;
        if state.syncs_fail {
            state.failures += 1;
            self.0.1.notify_all();
            return Err(no_space());
        }
        state.synced = state.bytes.len();
        state.syncs += 1;
        self.0.1.notify_all();
        Ok(())
    }

    fn add_to(&mut self, void: &mut Void, from: u64, bytes: u64) -> io::Result<()> {
        let at = |place: u64| usize::try_from(place).expect("small");
        void.add(&self.state().bytes[at(from)..at(from + bytes)]);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.append_only {
            return Err(ErrorKind::PermissionDenied.into());
        }
        state.bytes.truncate(usize::try_from(length).expect("small"));
        Ok(())
    }

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn is_in_place(&mut self) -> io::Result<bool> {
        Ok(!self.state().removed)
    }

    fn replace(&mut self) -> io::Result<()> {
        let mut state = self.state();
        let moved = std::mem::take(&mut state.bytes);
        state.moved.push(moved);
        (state.synced, state.removed) = (0, false);
        Ok(())
    }

    fn keep(&mut self, state: &State, _: Option<&[u8]>) -> io::Result<()> {
        let mut disk = self.state();
        if disk.states_fail {
            disk.failures += 1;
            self.0.1.notify_all();
            return Err(no_space());
        }
        disk.states.push(state.chapter);
        Ok(())
    }

    fn rotate(&mut self, first_seq: u64) -> io::Result<()> {
        let mut state = self.state();
        let bytes = std::mem::take(&mut state.bytes);
        state.old.push((first_seq, bytes));
        state.synced = 0;
        Ok(())
    }

    fn old(&mut self, _: u64) -> io::Result<Vec<Old>> {
        let old = |&first_seq: &u64| Old { path: first_seq.to_string().into(), first_seq, bytes: 1 };
        Ok(self.state().ancient.iter().map(old).collect())
    }

    fn look(&mut self, old: &[Old], index: usize, _: &mut u64) -> io::Result<Look> {
        let last = Position::before_all(old[index].first_seq);
        Ok(Look::Fits(Kept { bytes: 1, until: SystemTime::UNIX_EPOCH, last }))
    }

    fn remove(&mut self, old: &Old) -> io::Result<()> {
        self.state().ancient.retain(|first_seq| *first_seq != old.first_seq);
        Ok(())
    }
}
