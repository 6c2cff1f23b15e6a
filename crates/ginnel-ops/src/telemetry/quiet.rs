//! Repetition is bounded: what one place in the program says too often is counted, and the count is said.
//!
//! Invariant: of one callsite, no more is written in any stretch of time than its burst, its rate times that stretch, and one line in
//! [`REPORT_AFTER`] that says how many were left out; and every line that was left out is in one such count.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::{Duration, Instant};

use tracing::Level;

/// How long lines are counted before the count is said: often enough to see a flood while it lasts, seldom enough not to be one.
pub(super) const REPORT_AFTER: Duration = Duration::from_secs(10);

/// How often one callsite may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// How many lines at once, after it was quiet for long enough.
    burst: u32,
    /// How long until one more line is allowed.
    every: Duration,
}

/// Somebody is woken, and wants the first lines more than the thousandth; a fault that repeats once for each session must still
/// leave the disk alone. Higher than for warnings, because distinct faults share a callsite.
const ERRORS: Allowance = Allowance { burst: 50, every: Duration::from_millis(500) };

/// What peers can cause at will, a malformed message or a wrong token, is a warning: a stranger must not fill a disk.
const WARNINGS: Allowance = Allowance { burst: 20, every: Duration::from_secs(1) };

/// The lines of sessions, which operators search for by request: all of them at the pace of a busy server, and a bound against a client
/// that opens sessions in a loop. The audit log has every session in any case.
const RECORDS: Allowance = Allowance { burst: 1000, every: Duration::from_millis(5) };

/// How often a callsite of this level may speak; `None` is without a bound. Whoever asks for debug lines wants all of them.
pub(super) fn allowance(level: Level) -> Option<Allowance> {
    match level {
        Level::ERROR => Some(ERRORS),
        Level::WARN => Some(WARNINGS),
        Level::INFO => Some(RECORDS),
        Level::DEBUG | Level::TRACE => None,
    }
}

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut<P> {
    /// The callsite that it would have come from.
    pub(super) place: P,
    /// The words of the first line that was left out.
    pub(super) message: String,
    /// How many lines.
    pub(super) lines: u64,
}

/// The memory of who spoke how much. It has an entry for each callsite at most, whose number is fixed when the program is built.
#[derive(Debug)]
pub(super) struct Quiet<P> {
    callsites: HashMap<P, Callsite<P>>,
    /// When the first count is to be said.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Callsite<P> {
    /// When the whole burst is there again. Being this far in the future stands for the lines that were spent.
    full: Instant,
    left_out: Option<Pending<P>>,
}

#[derive(Debug)]
struct Pending<P> {
    due: Instant,
    what: LeftOut<P>,
}

impl<P> Default for Quiet<P> {
    fn default() -> Self {
        Self { callsites: HashMap::new(), due: None }
    }
}

impl<P: Copy + Eq + Hash> Quiet<P> {
    /// Whether the callsite `place` may write a line with the words `message`; if not, the line is counted.
    pub(super) fn admit(&mut self, place: P, level: Level, message: &str, now: Instant) -> bool {
        let Some(allowance) = allowance(level) else { return true };
        let callsite = match self.callsites.entry(place) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Callsite { full: now, left_out: None }),
        };
        if callsite.take(allowance, now) {
            return true;
        }
        match &mut callsite.left_out {
            Some(pending) => pending.what.lines += 1,
            None => {
                let due = now + REPORT_AFTER;
                let what = LeftOut { place, message: message.to_owned(), lines: 1 };
                callsite.left_out = Some(Pending { due, what });
                self.due.get_or_insert(due);
            }
        }
        false
    }

    /// Takes the counts that are to be said by `now`, or all of them if there is no later.
    pub(super) fn due(&mut self, now: Option<Instant>) -> Vec<LeftOut<P>> {
        if now.is_some_and(|now| self.due.is_none_or(|due| now < due)) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.due = None;
        for callsite in self.callsites.values_mut() {
            if let Some(pending) = callsite.left_out.take_if(|pending| now.is_none_or(|now| pending.due <= now)) {
                taken.push(pending.what);
            } else if let Some(pending) = &callsite.left_out {
                self.due = Some(self.due.map_or(pending.due, |due| due.min(pending.due)));
            }
        }
        taken
    }
}

impl<P> Callsite<P> {
    fn take(&mut self, allowance: Allowance, now: Instant) -> bool {
        let spent = self.full.max(now) + allowance.every;
        let fits = spent.duration_since(now) <= allowance.every * allowance.burst;
        if fits {
            self.full = spent;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(
        quiet: &mut Quiet<&'static str>,
        place: &'static str,
        level: Level,
        lines: usize,
        now: Instant,
    ) -> usize {
        (0..lines).filter(|_| quiet.admit(place, level, "again", now)).count()
    }

    fn lines(said: Vec<LeftOut<&'static str>>) -> Vec<(&'static str, u64)> {
        said.into_iter().map(|said| (said.place, said.lines)).collect()
    }

    #[test]
    fn a_burst_passes_and_the_rest_comes_at_the_rate() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        for (after_ms, passed) in [(0, 20), (999, 0), (1000, 1), (4000, 3), (1_000_000, 20)] {
            let now = start + Duration::from_millis(after_ms);
            assert_eq!(admitted(&mut quiet, "peer", Level::WARN, 100, now), passed, "after {after_ms} ms");
        }
    }

    #[test]
    fn what_was_left_out_is_said_once_when_the_window_ends() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(admitted(&mut quiet, "peer", Level::WARN, 25, start), 20);
        assert_eq!(quiet.due(Some(start + REPORT_AFTER - Duration::from_millis(1))), []);
        let said = quiet.due(Some(start + REPORT_AFTER));
        assert_eq!(said, [LeftOut { place: "peer", message: "again".to_owned(), lines: 5 }]);
        assert_eq!(quiet.due(Some(start + REPORT_AFTER * 2)), []);
        assert_eq!(quiet.due(None), []);
    }

    #[test]
    fn the_end_takes_what_is_not_due() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(admitted(&mut quiet, "peer", Level::WARN, 21, start), 20);
        assert_eq!(admitted(&mut quiet, "disk", Level::ERROR, 53, start + Duration::from_secs(5)), 50);
        assert_eq!(lines(quiet.due(Some(start + REPORT_AFTER))), [("peer", 1)]);
        assert_eq!(lines(quiet.due(None)), [("disk", 3)]);
    }

    #[test]
    fn callsites_do_not_pay_for_each_other() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(admitted(&mut quiet, "ended", Level::INFO, 5000, start), 1000);
        assert_eq!(admitted(&mut quiet, "link up", Level::INFO, 1, start), 1);
        assert_eq!(admitted(&mut quiet, "ended", Level::INFO, 5000, start + Duration::from_secs(1)), 200);
        assert_eq!(lines(quiet.due(None)), [("ended", 8800)]);
    }

    #[test]
    fn who_asks_for_debug_lines_gets_them_all() {
        let mut quiet = Quiet::default();
        assert_eq!(admitted(&mut quiet, "opening", Level::DEBUG, 10_000, Instant::now()), 10_000);
        assert!(quiet.callsites.is_empty());
    }
}
