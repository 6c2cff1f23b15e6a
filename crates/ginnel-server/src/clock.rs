//! By which time rules expire.
//!
//! A rule has expired once the wall clock says so, or once the time has passed that it still had when the process began. So a clock that is put back
//! brings no rule back, whether or not the file is read again, and a machine that slept finds its rules expired when it wakes. A clock that runs
//! ahead ends what depends on a rule that would expire, and lets it begin again when it is right; one that was ahead when the process began stays
//! so for rules until the next start.

use std::time::{Duration, SystemTime};

use ginnel_core::audit::Timestamp;
use tokio::time::Instant;

/// The time since the process began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What the wall clock said then.
    began: Timestamp,
    since: Instant,
}

impl Clock {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self { began: Timestamp::from(SystemTime::now()), since: Instant::now() }
    }

    /// The later of what the two clocks say.
    pub(crate) fn now(&self) -> Timestamp {
        self.read(Timestamp::from(SystemTime::now()), self.since.elapsed())
    }

    fn read(&self, wall: Timestamp, passed: Duration) -> Timestamp {
        wall.max(self.began.saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_clocks_counts() {
        let at = |second| Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let clock = Clock { began: at(1000), since: Instant::now() };
        for (what, wall, passed, expected) in [
            ("both go on", 1010, 10, 1010),
            ("the wall clock was put back", 10, 10, 1010),
            ("the wall clock was put forward, or the machine slept", 9000, 10, 9000),
        ] {
            assert_eq!(clock.read(at(wall), Duration::from_secs(passed)), at(expected), "{what}");
        }
    }
}
