//! Gives what stands in the log to a sink beyond the disk.
//!
//! It reads behind the writer and nobody waits for it: no session knows whether there is a sink. The files are what waits while the sink is away;
//! a mark beside them says how far it has got, so that a restart goes on there. What is retained of the files decides how far it may fall behind.

use std::convert::Infallible;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ginnel_core::audit::Timestamp;
use ginnel_core::backoff::Backoff;
use ginnel_core::report::Chain;
use ginnel_core::sink::{Mark, Next, Queue, Settled, Sink, WriteError};
use ginnel_core::status;
use rand_core::Rng;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::cursor::Cursor;
use super::follow::{Follower, List, newest};
use super::lines::log_files;

mod cursor;

/// How often the log is looked into for what is new. An alert in the cloud comes later than this by far, and a look costs a few system calls.
const LOOK: Duration = Duration::from_millis(500);

/// Between tries of a sink that takes nothing: half a minute on average once it has been away for some minutes.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The longest that a sink may ask for patience. What waits is on disk, but an alert should not be later than this for its sake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// How often the mark is written at most. What was taken since then is given again after a crash, under the same ids.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How often the log's end is looked for while the sink is waited for.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// Bytes of an error that the status shows: what a service answers may be a page.
const ERROR_LENGTH_MAX: usize = 1024;

/// What the end of the process waits for, for the last records to leave. They are on disk, and leave after the next start otherwise.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// What goes on between a log and a sink.
#[derive(Debug)]
pub struct Forwarding {
    seen: Arc<Seen>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What can be seen from outside.
#[derive(Debug, Default)]
struct Seen(Mutex<View>);

#[derive(Debug, Default)]
struct View {
    status: status::Sink,
    oldest: Option<Timestamp>,
}

impl Forwarding {
    /// Begins to give what stands in the log in `directory`, and what will, to `sink`; goes on where the mark says that it was.
    ///
    /// Must be called on a runtime. It ends with [`Self::finish`], or when this is dropped.
    pub fn start(directory: &Path, sink: Arc<dyn Sink>, rng: impl Rng + Send + 'static) -> Self {
        Self::start_with(directory, sink, rng, log_files, RETRY)
    }

    fn start_with(
        directory: &Path,
        sink: Arc<dyn Sink>,
        rng: impl Rng + Send + 'static,
        list: List,
        backoff: Backoff,
    ) -> Self {
        let seen = Arc::new(Seen::default());
        seen.with(|view| view.status.place = sink.place());
        let stop = CancellationToken::new();
        let run = Run {
            directory: directory.to_owned(),
            sink,
            list,
            backoff,
            seen: Arc::clone(&seen),
            stop: stop.clone(),
            queue: Queue::default(),
            reached: 0,
            trouble: None,
        };
        Self { seen, stop, task: Mutex::new(Some(tokio::spawn(run.all(rng)))) }
    }

    /// How it goes.
    pub fn status(&self) -> status::Sink {
        let view = self.seen.view();
        let age = view.oldest.map(|oldest| SystemTime::now().duration_since(oldest.into()).unwrap_or_default());
        status::Sink { behind_seconds: age.unwrap_or_default().as_secs(), ..view.status.clone() }
    }

    /// Gives what is in the log by now a last chance, within a bound, and ends. To be called when the log is closed.
    pub async fn finish(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if timeout(LAST_WAIT, &mut task).await.is_err() {
            task.abort();
            let behind = self.seen.view().status.behind_records;
            tracing::warn!(
                records = behind,
                "the audit sink has not taken everything; the rest goes after the next start"
            );
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Seen {
    fn view(&self) -> MutexGuard<'_, View> {
        // Numbers that are set one by one: a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view());
    }
}

/// The task.
struct Run {
    directory: PathBuf,
    sink: Arc<dyn Sink>,
    list: List,
    backoff: Backoff,
    seen: Arc<Seen>,
    stop: CancellationToken,
    queue: Queue,
    /// The number of the last record that the sink has.
    reached: u64,
    trouble: Option<Trouble>,
}

/// Something is wrong.
struct Trouble {
    since: Instant,
    /// What the process's log was told of last.
    told: String,
}

impl Run {
    async fn all(mut self, mut rng: impl Rng) {
        let mut cursor = Cursor::new(&self.directory, self.sink.place());
        let loading = spawn_blocking(move || {
            let mark = cursor.load();
            (cursor, mark)
        });
        let Ok((mut cursor, mark)) = loading.await else { return };
        self.reached = mark.as_ref().map_or(0, |mark| mark.seq);
        let mut follower = Follower::new(self.directory.clone(), self.list, mark);
        loop {
            let is_last = self.stop.is_cancelled();
            let Some((back, begun)) = self.fill(follower).await else {
                tracing::error!("reading the audit log for its sink broke off: it gets nothing more until a restart");
                return;
            };
            follower = back;
            if let Some(mark) = begun {
                cursor.reached(mark);
                cursor = cursor.keep(true).await;
            }
            if self.queue.is_empty() {
                self.seen.with(|view| (view.oldest, view.status.behind_records) = (None, 0));
                cursor = cursor.keep(is_last).await;
                if is_last {
                    return;
                }
                self.rest(LOOK).await;
                continue;
            }
            let (settled, patience) = self.send().await;
            if let Some(mark) = settled.mark {
                self.reached = mark.seq;
                cursor.reached(mark);
                cursor = cursor.keep(is_last).await;
            }
            if settled.next == Next::Wait {
                if is_last {
                    return;
                }
                let wait = self.backoff.next(&mut rng).max(patience.unwrap_or_default().min(RETRY_AFTER_MAX));
                self.rest(wait).await;
            }
        }
    }

    /// Reads what is new, if there is room for it; gives the mark where a log begins that was never read. `None` if that broke off.
    async fn fill(&mut self, mut follower: Follower) -> Option<(Follower, Option<Mark>)> {
        let room = self.queue.room();
        if room == 0 {
            return Some((follower, None));
        }
        let reading = spawn_blocking(move || {
            let read = follower.read(room);
            (follower, read)
        });
        let (follower, read) = reading.await.ok()?;
        let mut begun = None;
        match read {
            Ok(read) => {
                begun = read.begun;
                if read.missing > 0 {
                    let records = read.missing;
                    tracing::error!(records, "audit records were gone from the disk before the sink had them");
                    self.seen.with(|view| view.status.lost += records);
                }
                for (entry, mark) in read.entries {
                    self.queue.push(entry, mark);
                }
                self.seen.with(|view| view.oldest = self.queue.oldest());
            }
            Err(error) => {
                if self.is_news(&error) {
                    tracing::warn!(%error, "the audit log cannot be read for its sink");
                }
                self.rest(KEEP_EVERY).await;
            }
        }
        Some((follower, begun))
    }

    /// Sends a batch; says what came of it, and for how much patience the sink asks.
    async fn send(&mut self) -> (Settled, Option<Duration>) {
        let sink = Arc::clone(&self.sink);
        let batch = self.queue.batch(SystemTime::now());
        let sent = batch.len();
        let answer = tokio::select! {
            answer = sink.write(&batch) => answer,
            never = measure(&self.directory, self.list, &self.seen, self.reached) => match never {},
        };
        let settled = self.queue.settle(sent, answer.as_ref().copied());
        self.seen.with(|view| {
            let status = &mut view.status;
            status.delivered += settled.delivered;
            status.replaced += settled.replaced;
            status.lost += settled.lost;
            for kind in answer.as_ref().err().map(WriteError::kinds).unwrap_or_default() {
                *status.failures.entry(kind.as_str().to_owned()).or_default() += 1;
            }
            view.oldest = self.queue.oldest();
        });
        if settled.replaced > 0 {
            tracing::warn!(
                entries = settled.replaced,
                "the audit sink does not take some records; stubs stand for them"
            );
        }
        if settled.lost > 0 {
            tracing::error!(
                records = settled.lost,
                "the audit sink takes some records in no form; it does without them"
            );
        }
        match &answer {
            Ok(()) => self.mended(),
            Err(error) => {
                if self.is_news(error) {
                    tracing::warn!(error = %Chain(error), "the audit sink does not take what it should; it is tried again");
                }
            }
        }
        (settled, answer.as_ref().err().and_then(WriteError::retry_after))
    }

    /// Takes note of an error, and says whether the process's log has not been told of it.
    fn is_news(&mut self, error: &(dyn Error + 'static)) -> bool {
        let mut text = Chain(error).to_string();
        text.truncate(text.floor_char_boundary(ERROR_LENGTH_MAX));
        let failure = status::Failure { time: SystemTime::now().into(), error: text };
        self.seen.with(|view| view.status.failure = Some(failure));
        let kind = error.to_string();
        let since = self.trouble.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
        let is_news = self.trouble.as_ref().is_none_or(|trouble| trouble.told != kind);
        self.trouble = Some(Trouble { since, told: kind });
        is_news
    }

    fn mended(&mut self) {
        self.backoff.reset();
        self.seen.with(|view| view.status.failure = None);
        if let Some(Trouble { since, .. }) = self.trouble.take() {
            tracing::info!(after = ?since.elapsed(), "the audit sink takes records again");
        }
    }

    async fn rest(&self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// Keeps the count of what waits up to date, however long the sink takes. The log grows meanwhile.
async fn measure(directory: &Path, list: List, seen: &Seen, reached: u64) -> Infallible {
    let mut ticks = interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let directory = directory.to_owned();
        if let Ok(Ok(Some(last))) = spawn_blocking(move || newest(&directory, list)).await {
            seen.with(|view| view.status.behind_records = last.saturating_sub(reached));
        }
    }
}

#[cfg(test)]
mod tests;
