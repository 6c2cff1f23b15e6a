//! One of the connections of a process, and the sessions on it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_core::lanes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What all lanes of a process carry together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load(Arc<Totals>);

#[derive(Debug, Default)]
struct Totals {
    sessions: AtomicUsize,
    lanes_up: AtomicUsize,
    /// Whether the server takes lanes beside the first.
    takes_further: AtomicBool,
    /// Sessions for which there are lanes enough: more of them are worth a look.
    enough_for: AtomicUsize,
    worth_a_look: Notify,
}

impl Load {
    /// Sessions at this moment.
    pub(crate) fn sessions(&self) -> usize {
        self.0.sessions.load(Ordering::Relaxed)
    }

    /// Lanes that new sessions can use at this moment.
    pub(crate) fn lanes_up(&self) -> usize {
        self.0.lanes_up.load(Ordering::Relaxed)
    }

    /// Whether the server takes lanes beside the first.
    pub(super) fn takes_further(&self) -> bool {
        self.0.takes_further.load(Ordering::Relaxed)
    }

    /// Says for how many sessions there are lanes enough. Sessions that came meanwhile count as a change.
    pub(super) fn set_enough_for(&self, sessions: usize) {
        self.0.enough_for.store(sessions, Ordering::SeqCst);
        if self.0.sessions.load(Ordering::SeqCst) > sessions {
            self.0.worth_a_look.notify_one();
        }
    }

    /// Resolves when there are more sessions than there are lanes for, or a lane came up. One may wait.
    pub(super) async fn changed(&self) {
        self.0.worth_a_look.notified().await;
    }
}

/// One connection of this process, as its link and its sessions see it. Clones are of the same lane.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: u32,
    load: Load,
    usage: Mutex<Usage>,
    is_up: AtomicBool,
    is_over: AtomicBool,
    retired: CancellationToken,
}

#[derive(Debug)]
struct Usage {
    sessions: usize,
    /// When the last session left, or when the lane was made.
    idle_since: Instant,
}

/// A session's place on a lane, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Place(Lane);

/// The work on a lane; when this is dropped, the lane is over.
pub(super) struct Work(Lane);

impl Lane {
    pub(super) fn new(number: u32, load: &Load) -> Self {
        Self(Arc::new(Inner {
            number,
            load: load.clone(),
            usage: Mutex::new(Usage { sessions: 0, idle_since: Instant::now() }),
            is_up: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            retired: CancellationToken::new(),
        }))
    }

    /// Its number; 0 is the first.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Whether it is the first, which stands for the process.
    pub fn is_first(&self) -> bool {
        self.0.number == 0
    }

    /// Whether the two are the same, and not only of the same number.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> usize {
        self.usage().sessions
    }

    /// Puts a session on it.
    pub fn enter(&self) -> Place {
        self.usage().sessions += 1;
        let Totals { sessions, enough_for, worth_a_look, .. } = &*self.0.load.0;
        if sessions.fetch_add(1, Ordering::SeqCst) + 1 > enough_for.load(Ordering::SeqCst) {
            worth_a_look.notify_one();
        }
        Place(self.clone())
    }

    /// Says whether the server takes lanes beside the first; to be said on the first before it is up.
    pub fn set_takes_further(&self, takes_further: bool) {
        self.0.load.0.takes_further.store(takes_further, Ordering::Relaxed);
    }

    /// Resolves when no new session is to be taken on it; those that it has finish.
    pub async fn retired(&self) {
        self.0.retired.cancelled().await;
    }

    /// Whether no new session is to be taken on it.
    pub fn is_retired(&self) -> bool {
        self.0.retired.is_cancelled()
    }

    pub(super) fn retire(&self) {
        self.0.retired.cancel();
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// How it stands, to whoever plans.
    pub(super) fn seen(&self) -> lanes::Lane {
        let Inner { number, .. } = *self.0;
        if !self.0.is_up.load(Ordering::Relaxed) {
            return lanes::Lane::Opening;
        }
        let usage = self.usage();
        match usage.sessions {
            0 => lanes::Lane::Idle { number, idle: usage.idle_since.elapsed() },
            _ => lanes::Lane::Busy { number },
        }
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut usage = self.0.usage();
        usage.sessions -= 1;
        if usage.sessions == 0 {
            usage.idle_since = Instant::now();
        }
        drop(usage);
        self.0.0.load.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Work {
    /// Begins the work on a lane.
    pub(super) fn begin(lane: &Lane) -> Self {
        Self(lane.clone())
    }

    /// The lane is up.
    pub(super) fn up(&self) {
        let Inner { load, is_up, .. } = &*self.0.0;
        if !is_up.swap(true, Ordering::Relaxed) {
            load.0.lanes_up.fetch_add(1, Ordering::Relaxed);
            load.0.worth_a_look.notify_one();
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Inner { load, is_up, is_over, .. } = &*self.0.0;
        is_over.store(true, Ordering::Relaxed);
        if is_up.load(Ordering::Relaxed) {
            load.0.lanes_up.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lane_knows_its_sessions_and_for_how_long_it_has_had_none() {
        let load = Load::default();
        let lane = Lane::new(3, &load);
        let work = Work::begin(&lane);
        assert_eq!((lane.seen(), load.lanes_up()), (lanes::Lane::Opening, 0));
        work.up();
        advance(Duration::from_secs(5)).await;
        assert_eq!(lane.seen(), lanes::Lane::Idle { number: 3, idle: Duration::from_secs(5) });
        let places = (lane.enter(), lane.enter());
        assert_eq!((lane.seen(), lane.sessions(), load.sessions()), (lanes::Lane::Busy { number: 3 }, 2, 2));
        drop(places);
        advance(Duration::from_secs(1)).await;
        assert_eq!(lane.seen(), lanes::Lane::Idle { number: 3, idle: Duration::from_secs(1) });
        assert_eq!((load.sessions(), load.lanes_up(), lane.is_over()), (0, 1, false));
        drop(work);
        assert_eq!((load.lanes_up(), lane.is_over()), (0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn more_sessions_than_there_are_lanes_for_are_worth_a_look() {
        let load = Load::default();
        let lane = Lane::new(0, &load);
        let look = async || timeout(Duration::from_secs(1), load.changed()).await.is_ok();
        load.set_enough_for(1);
        let _first = lane.enter();
        assert!(!look().await);
        let _second = lane.enter();
        assert!(look().await);
        // They came while it was being worked out for how many there are lanes.
        load.set_enough_for(1);
        assert!(look().await);
        load.set_enough_for(2);
        assert!(!look().await);
    }
}
