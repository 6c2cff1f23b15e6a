//! The one thread that writes the log.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ginnel_core::audit::{Checkpoint, Event, LogFiles, Timestamp};
use ginnel_core::id::InstanceId;
use tracing::{error, info, warn};

use self::care::Clock;
use super::chain::state::State;
use super::chain::void::Void;
use super::chain::{CHECKPOINT_RECORDS, Chain, Position};
use super::file::Start;
use super::queue::{Pending, Queue, Taken};
use super::verify::Kept;

mod care;

/// How long records may be on disk without a signature after them.
const CHECKPOINT_AGE: Duration = Duration::from_secs(60);

/// Checkpoints that the process's own log tells of are at least this far apart.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Where the log ends up: a file and what is beside it, or a test's idea of them.
pub(super) trait Medium: Send + 'static {
    /// Appends all of `bytes`, or fails after any part of them.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended is durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Adds so many bytes from `from` on to what counts for nothing.
    fn add_to(&mut self, void: &mut Void, from: u64, bytes: u64) -> io::Result<()>;
    /// Cuts off what lies beyond `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// How long it is.
    fn length(&mut self) -> io::Result<u64>;
    /// Whether it is where readers look for it: nobody has moved or removed it.
    fn is_in_place(&mut self) -> io::Result<bool>;
    /// Begins an empty one where none is any more.
    fn replace(&mut self) -> io::Result<()>;
    /// Makes the state durable from which the chain goes on, and with it the line that begins a chapter.
    fn keep(&mut self, state: &State, chapter: Option<&[u8]>) -> io::Result<()>;
    /// Puts it away as the file that begins with record `first_seq`, and begins an empty one.
    fn rotate(&mut self, first_seq: u64) -> io::Result<()>;
    /// What was put away and is still there, the oldest first, of a log that has got to record `last_seq`.
    fn old(&mut self, last_seq: u64) -> io::Result<Vec<Old>>;
    /// Looks whether one of these files is what was written, and reads no more than `budget` bytes for it.
    fn look(&mut self, old: &[Old], index: usize, budget: &mut u64) -> io::Result<Look>;
    /// Removes an old file.
    fn remove(&mut self, old: &Old) -> io::Result<()>;
}

/// A file that was put away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Old {
    pub(super) path: PathBuf,
    pub(super) first_seq: u64,
    /// Its size, as anybody can make it.
    pub(super) bytes: u64,
}

/// What is known of a file that was put away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Not enough yet: it is to be looked at again.
    Busy,
    /// It is what was written.
    Fits(Kept),
    /// It is not, and why.
    Strange(String),
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
    files: LogFiles,
    /// Size from which the file is to be left for another.
    rotate_size: u64,
    retry: Retry,
    /// The chapter that is being written; none if the next record begins another.
    chain: Option<Chain>,
    /// From what the next chapter begins.
    next: State,
    /// The first line of this chapter, as long as `next` is not durable: until then nothing else of it is written.
    unkept: Option<Vec<u8>>,
    /// The last durable record.
    last: Position,
    /// Length up to the end of that record.
    whole: u64,
    /// Something may lie beyond it.
    torn: bool,
    /// It is evidence, and stays; only what this process half wrote is taken back.
    stays: bool,
    /// The last record has no end of line.
    is_unended: bool,
    /// What lies after the last record in an older file.
    void: Void,
    /// Number of the first record in the file, and when the file is to be left for another.
    first_seq: Option<u64>,
    rotate_at: Instant,
    /// The file has more than what the chain says of itself.
    has_records: bool,
    /// When the next checkpoint is due, if anything is unsigned.
    sign_at: Option<Instant>,
    /// When the next look for old files is due, if any is ever removed.
    look_at: Option<Instant>,
    /// What time it was when this process began to write.
    began: Clock,
    /// When the process's own log was told of a checkpoint.
    told: Option<Instant>,
}

/// What is written and synced together.
#[derive(Default)]
struct Group {
    records: Vec<Pending>,
    /// A checkpoint at the end, which says whether the chapter is over.
    checkpoint: Option<bool>,
    sealed: Option<Sealed>,
}

/// A group as it goes on disk, and the chain after it.
struct Sealed {
    lines: Vec<u8>,
    chain: Chain,
    signed: Option<Checkpoint>,
}

impl Group {
    fn checkpoint(closing: bool) -> Self {
        Self { checkpoint: Some(closing), ..Self::default() }
    }

    fn event(event: Event) -> Self {
        Self { records: vec![Pending { time: SystemTime::now(), event, done: None }], ..Self::default() }
    }
}

impl<M: Medium> Writer<M> {
    pub(super) fn new(mut medium: M, boot: InstanceId, start: Start, files: LogFiles, retry: Retry) -> Self {
        let Start { state, last, void, whole, is_unended, first } = start;
        let now = Instant::now();
        // A length that cannot be told now is asked for again before anything is written.
        let torn = is_unended || medium.length().is_ok_and(|length| length > whole);
        let age = first.and_then(|(_, time)| time.elapsed().ok()).unwrap_or_default();
        let rotate_at = now + files.rotate_age.saturating_sub(age);
        let look_at = files.removes().then_some(now);
        Self {
            queue: Arc::default(),
            medium,
            boot,
            rotate_size: files.rotate_size,
            files,
            retry,
            chain: None,
            next: state,
            unkept: None,
            last,
            whole,
            torn,
            stays: torn,
            is_unended,
            void,
            first_seq: first.map(|(seq, _)| seq),
            rotate_at,
            has_records: first.is_some(),
            sign_at: None,
            look_at,
            began: Clock::read(),
            told: None,
        }
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.queue));
        loop {
            let is_over = match self.queue.take(self.due()) {
                Taken::Records(records) => !self.write(Group { records, ..Group::default() }),
                Taken::Due => false,
                Taken::Closed => {
                    self.finish();
                    true
                }
            };
            if is_over || !self.look_after() {
                return;
            }
        }
    }

    /// Writes a group, however long it takes; `false` if the log was closed before it could be written.
    fn write(&mut self, mut group: Group) -> bool {
        let mut delay = self.retry.first;
        let mut failed: Option<Instant> = None;
        let mut last = false;
        while let Err(error) = self.attempt(&mut group) {
            self.queue.fail();
            group.records.iter_mut().for_each(|record| record.done = None);
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
        for done in group.records.into_iter().filter_map(|record| record.done) {
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
    fn attempt(&mut self, group: &mut Group) -> io::Result<()> {
        self.mend()?;
        if self.chain.is_none() {
            self.begin_chapter()?;
            group.sealed = None;
        }
        if let Some(line) = &self.unkept {
            self.medium.keep(&self.next, Some(line))?;
            self.unkept = None;
        }
        let sealed = match group.sealed.take() {
            Some(sealed) => sealed,
            None => self.seal(group)?,
        };
        let put = if sealed.lines.is_empty() { Ok(()) } else { self.put(&sealed.lines) };
        let Sealed { chain, signed, .. } = group.sealed.insert(sealed);
        put?;
        let (last, unsigned, signed) = (chain.last(), chain.unsigned(), *signed);
        self.last = last;
        self.has_records |= !group.records.is_empty();
        if unsigned == 0 {
            self.sign_at = None;
        } else if self.sign_at.is_none() || signed.is_some() {
            self.sign_at = Some(Instant::now() + CHECKPOINT_AGE);
        }
        self.chain = group.sealed.take().map(|sealed| sealed.chain);
        if let Some(checkpoint) = signed {
            self.signed(checkpoint);
        }
        Ok(())
    }

    /// Takes back what was half written. What cannot be taken back stays and counts for nothing, which the next chapter says.
    fn mend(&mut self) -> io::Result<()> {
        if !self.medium.is_in_place()? {
            let left = if self.torn { self.medium.length()?.saturating_sub(self.whole) } else { 0 };
            let mut void = self.void.clone();
            if left > 0 {
                // It stays in the file that was moved, and whoever verifies that together with the rest finds it there.
                self.medium.add_to(&mut void, self.whole, left)?;
            }
            self.medium.replace()?;
            self.void = void;
            warn!("the file of the audit log was moved or removed: the log goes on in a new one");
            (self.whole, self.torn, self.stays, self.is_unended) = (0, false, false, false);
            self.leave_file();
            return Ok(());
        }
        if self.torn && !self.stays {
            if self.medium.truncate(self.whole).is_ok() {
                self.torn = false;
            } else {
                // An append-only file, say.
                self.stays = true;
                self.chain = None;
            }
        }
        Ok(())
    }

    fn leave_file(&mut self) {
        self.chain = None;
        self.first_seq = None;
        self.has_records = false;
        self.rotate_at = Instant::now() + self.files.rotate_age;
        self.rotate_size = self.files.rotate_size;
    }

    fn begin_chapter(&mut self) -> io::Result<()> {
        let time = SystemTime::now();
        let left = if self.torn { self.medium.length()?.saturating_sub(self.whole) } else { 0 };
        // The end of the line before, or of what remains after it; then it remains as well.
        let end: &[u8] = if left > 0 || self.is_unended { b"\n" } else { b"" };
        let mut void = self.void.clone();
        if left > 0 {
            self.medium.add_to(&mut void, self.whole, left)?;
            void.add(end);
        }
        let (chain, line, next) =
            Chain::begin(&self.next, self.last, &void, self.boot, time.into()).map_err(io::Error::other)?;
        let seq = chain.last().seq;
        self.put(&[end, &line].concat())?;
        (self.stays, self.is_unended, self.void) = (false, false, Void::default());
        self.last = chain.last();
        self.first_seq.get_or_insert(seq);
        (self.next, self.chain, self.unkept) = (next, Some(chain), Some(line));
        self.sign_at = None;
        self.signed(Checkpoint { seq, hash: self.last.hash, time: time.into() });
        Ok(())
    }

    fn seal(&self, group: &mut Group) -> io::Result<Sealed> {
        let Some(mut chain) = self.chain.clone() else { return Err(io::Error::other("no chapter has begun")) };
        let mut lines = Vec::new();
        let mut signed = None;
        for Pending { time, event, done } in &mut group.records {
            if let Err(error) = chain.seal((*time).into(), event.clone(), &mut lines) {
                // Cannot happen with the types that records have. If it does, its sender is dropped, and so nothing relies on it.
                error!(%error, "an audit record is left out");
                *done = None;
            }
            if chain.unsigned() >= CHECKPOINT_RECORDS {
                signed = Some(checkpoint(&mut chain, false, &mut lines)?);
            }
        }
        if let Some(closing) = group.checkpoint {
            signed = Some(checkpoint(&mut chain, closing, &mut lines)?);
        }
        Ok(Sealed { lines, chain, signed })
    }

    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.torn {
            self.whole = self.medium.length()?;
        }
        self.torn = true;
        self.medium.append(lines)?;
        self.medium.sync()?;
        // What went into a file that nobody finds any more is on record nowhere.
        if !self.medium.is_in_place()? {
            return Err(io::Error::other("the file was moved or removed"));
        }
        self.torn = false;
        // It is durable, whatever its length; what is cut back to is asked for again before the next write.
        self.whole = self.medium.length().unwrap_or(self.whole);
        Ok(())
    }

    fn signed(&mut self, checkpoint: Checkpoint) {
        self.queue.signed(checkpoint);
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            let Checkpoint { seq, hash, .. } = checkpoint;
            info!(seq, %hash, "audit checkpoint");
        }
    }
}

fn checkpoint(chain: &mut Chain, closing: bool, lines: &mut Vec<u8>) -> io::Result<Checkpoint> {
    let time = Timestamp::from(SystemTime::now());
    chain.seal(time, chain.checkpoint(closing), lines).map_err(io::Error::other)?;
    let Position { seq, hash } = chain.last();
    Ok(Checkpoint { seq, hash, time })
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
