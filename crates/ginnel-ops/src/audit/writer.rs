//! The one thread that writes the log.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ginnel_core::audit::Record;
use ginnel_core::id::InstanceId;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::queue::{Pending, Queue};

/// Where the log ends up: a file, or a test's idea of one.
pub(super) trait Medium: Send + 'static {
    /// Appends all of `bytes`, or fails after any part of them.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended is durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what lies beyond `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// How long it is.
    fn length(&mut self) -> io::Result<u64>;
}

/// How long the writer rests after a failed write: `first`, then twice as long each time up to `max`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    pub(super) first: Duration,
    pub(super) max: Duration,
}

impl Default for Retry {
    /// A disk that has room again is noticed within a second, and a dead one costs one failing write a second.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(1) }
    }
}

pub(super) struct Writer<M> {
    queue: Arc<Queue>,
    medium: M,
    boot: InstanceId,
    /// Number of the next record.
    seq: u64,
    /// Something may lie beyond the last line that is whole.
    torn: bool,
    /// Length up to the last line that is whole, if known. Never cut at a guess: what lies before it was acknowledged.
    whole: Option<u64>,
    retry: Retry,
}

/// Lines that go out together, and who waits for them.
struct Group {
    lines: Vec<u8>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl<M: Medium> Writer<M> {
    pub(super) fn new(mut medium: M, boot: InstanceId, seq: u64, torn: bool, retry: Retry) -> Self {
        // What a crash left behind is evidence, and stays; only what this process half wrote is taken back.
        let whole = if torn { None } else { medium.length().ok() };
        Self { queue: Arc::default(), medium, boot, seq, torn, whole, retry }
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.queue));
        while let Some(records) = self.queue.take() {
            let group = self.number(records);
            if !self.write(group) {
                return;
            }
        }
    }

    fn number(&mut self, records: Vec<Pending>) -> Group {
        let mut group = Group { lines: Vec::new(), waiting: Vec::with_capacity(records.len()) };
        for Pending { time, event, done } in records {
            let start = group.lines.len();
            let record = Record::new(self.seq, time.into(), self.boot, event);
            if let Err(error) = serde_json::to_writer(&mut group.lines, &record) {
                // Cannot happen with the types that records have. If it does, its sender is dropped, and so nothing relies on it.
                error!(%error, "an audit record cannot be written down");
                group.lines.truncate(start);
                continue;
            }
            group.lines.push(b'\n');
            group.waiting.extend(done);
            self.seq += 1;
        }
        group
    }

    /// Writes a group, however long it takes; `false` if the log was closed before it could be written.
    fn write(&mut self, mut group: Group) -> bool {
        let mut delay = self.retry.first;
        let mut failed: Option<Instant> = None;
        let mut last = false;
        while let Err(error) = self.attempt(&group.lines) {
            self.queue.fail();
            group.waiting.clear();
            if failed.is_none() {
                failed = Some(Instant::now());
                error!(%error, "the audit log cannot be written; new sessions are refused until it can");
            }
            if last {
                return false;
            }
            last = !self.queue.rest(delay);
            delay = (delay * 2).min(self.retry.max);
        }
        self.queue.written();
        for done in group.waiting {
            // Whoever recorded this may not care to wait.
            let _ = done.send(());
        }
        if let Some(since) = failed {
            info!(after = ?since.elapsed(), "the audit log can be written again");
        }
        true
    }

    /// Everything since the last success is written again, also when only the sync failed: after a failed sync the kernel may have
    /// dropped the pages and call the next sync a success.
    fn attempt(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            let cut = self.whole.is_some_and(|length| self.medium.truncate(length).is_ok());
            if !cut {
                // An append-only file, say. The fragment keeps a line of its own; lines that did get out whole appear twice.
                self.whole = None;
                self.medium.append(b"\n")?;
            }
        }
        self.torn = true;
        self.medium.append(lines)?;
        self.medium.sync()?;
        self.torn = false;
        self.whole = self.medium.length().ok();
        Ok(())
    }
}

/// However the thread ends, nobody waits for it any more.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        let left = self.0.give_up();
        if left > 0 {
            error!(records = left, "audit records were left unwritten");
        }
    }
}
