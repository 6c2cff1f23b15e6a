//! How long it takes until a grant has an effect.

use std::time::Duration;

/// How much longer than the shortest one a round may take before the bytes count as waiting somewhere on the way.
const SLOWDOWN_MAX: u32 = 2;

/// The time from a grant to the first byte that needed it: the way there and back, and whatever both wait for on it. A window beyond what the
/// shortest round asks for fills queues, which every other session on the way stands in as well.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) now: Duration,
    /// The first offset that the grant under way allows, and when it was given.
    under_way: Option<(u64, Duration)>,
    shortest: Option<Duration>,
    last: Duration,
}

impl Round {
    /// A grant is given to a sender that could go to `limit` before.
    pub(super) fn granted(&mut self, limit: u64) {
        self.under_way.get_or_insert((limit, self.now));
    }

    /// Everything up to `end` has come.
    pub(super) fn received(&mut self, end: u64) {
        if let Some((_, given)) = self.under_way.take_if(|(limit, _)| end > *limit) {
            self.last = self.now.saturating_sub(given);
            self.shortest = Some(self.shortest.map_or(self.last, |shortest| shortest.min(self.last)));
        }
    }

    /// Whether bytes wait nowhere on the way, as far as is known.
    pub(super) fn is_short(&self) -> bool {
        self.shortest.is_none_or(|shortest| self.last <= SLOWDOWN_MAX * shortest)
    }
}
