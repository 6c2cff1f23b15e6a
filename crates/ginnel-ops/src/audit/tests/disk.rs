//! A disk that fails when it is told to.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::super::AuditLog;
use super::super::writer::{Medium, Retry, Writer};
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
        let retry = Retry { first: Duration::from_millis(1), max: Duration::from_millis(5) };
        AuditLog::start(Writer::new(self.clone(), boot(), 1, false, retry)).expect("a thread")
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
}
