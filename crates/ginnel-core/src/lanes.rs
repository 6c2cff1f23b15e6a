//! How many connections a process has to its server, and which of them takes the next session.
//!
//! One TCP connection shares its congestion window, and every loss, among all that rides on it. So there is about one connection, a *lane*,
//! for each session, as far as the bound goes, and one more that waits for the next session. The first lane is always there and is no
//! part of a [`Plan`].

use std::time::Duration;

use crate::limits::{LANE_IDLE, LANES_OPENING_MAX};

/// A lane other than the first, as it stands at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// It is being opened.
    Opening,
    /// It has this number, and sessions.
    Busy {
        /// Its number.
        number: u32,
    },
    /// It has this number, and no session for so long.
    Idle {
        /// Its number.
        number: u32,
        /// Since its last session, or since it was opened.
        idle: Duration,
    },
}

/// What is to be done about the lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How many to begin to open.
    pub open: usize,
    /// The numbers of those to close: none of them has a session.
    pub close: Vec<u32>,
}

/// How many lanes a process may have, the first included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// As many there are without any session; at least one.
    pub least: usize,
    /// More there never are; no less than `least`.
    pub most: usize,
}

impl Bounds {
    /// The first lane and no other.
    pub const ONE: Self = Self { least: 1, most: 1 };
}

/// How many lanes, the first included, this many sessions should have.
pub fn wanted(sessions: usize, Bounds { least, most }: Bounds) -> usize {
    sessions.saturating_add(1).max(least).min(most)
}

/// What is to be done about the lanes of a process with this many sessions.
///
/// Growing is quick, a few lanes at a time, because a session stays where it was opened; shrinking waits for [`LANE_IDLE`], because load
/// comes in waves and a handshake costs more than a silent connection.
pub fn plan(sessions: usize, bounds: Bounds, lanes: &[Lane]) -> Plan {
    let have = 1 + lanes.len();
    let wanted = wanted(sessions, bounds);
    if have <= wanted {
        let opening = lanes.iter().filter(|lane| matches!(lane, Lane::Opening)).count();
        let open = (wanted - have).min(LANES_OPENING_MAX.saturating_sub(opening));
        return Plan { open, close: Vec::new() };
    }
    let mut overdue: Vec<(Duration, u32)> = lanes
        .iter()
        .filter_map(|lane| match *lane {
            Lane::Idle { number, idle } if idle >= LANE_IDLE => Some((idle, number)),
            Lane::Idle { .. } | Lane::Busy { .. } | Lane::Opening => None,
        })
        .collect();
    // Those that have been idle for longest go first.
    overdue.sort_unstable();
    let close = overdue.into_iter().rev().take(have - wanted).map(|(_, number)| number).collect();
    Plan { open: 0, close }
}

/// The lane for the next session among those that can take one: with the fewest sessions, and of these the one with the lowest number, so
/// that what is too much falls idle. `load` gives number and sessions of a lane.
pub fn least_busy<T>(lanes: impl IntoIterator<Item = T>, load: impl Fn(&T) -> (u32, usize)) -> Option<T> {
    lanes.into_iter().min_by_key(|lane| {
        let (number, sessions) = load(lane);
        (sessions, number)
    })
}

#[cfg(test)]
mod tests {
    use super::Lane::{Busy, Idle, Opening};
    use super::*;

    /// Sessions, bounds and lanes; how many to open, and which to close.
    type Case<'a> = (usize, Bounds, &'a [Lane], usize, &'a [u32]);

    /// The number of a lane and its sessions.
    type Loaded = (u32, usize);

    const fn idle(number: u32, seconds: u64) -> Lane {
        Idle { number, idle: Duration::from_secs(seconds) }
    }

    const fn up_to(most: usize) -> Bounds {
        Bounds { least: 1, most }
    }

    #[test]
    fn there_is_a_lane_for_each_session_and_one_to_spare_within_the_bounds() {
        let cases = [
            (0, up_to(16), 1),
            (1, up_to(16), 2),
            (14, up_to(16), 15),
            (15, up_to(16), 16),
            (10_000, up_to(16), 16),
            (0, Bounds::ONE, 1),
            (usize::MAX, Bounds::ONE, 1),
            (0, Bounds { least: 4, most: 16 }, 4),
            (3, Bounds { least: 4, most: 16 }, 4),
            (4, Bounds { least: 4, most: 16 }, 5),
        ];
        for (sessions, bounds, lanes) in cases {
            assert_eq!(wanted(sessions, bounds), lanes, "{sessions} of {bounds:?}");
        }
    }

    #[test]
    fn lanes_grow_a_few_at_a_time_and_go_only_when_they_have_been_idle_for_long() {
        let held = Bounds { least: 2, most: 16 };
        let cases: [Case<'_>; 13] = [
            (0, up_to(16), &[], 0, &[]),
            (1, up_to(16), &[], 1, &[]),
            (100, up_to(16), &[], LANES_OPENING_MAX, &[]),
            (100, up_to(16), &[Opening, Busy { number: 2 }], LANES_OPENING_MAX - 1, &[]),
            (100, up_to(16), &[Opening; LANES_OPENING_MAX], 0, &[]),
            (100, up_to(3), &[Busy { number: 1 }], 1, &[]),
            (100, Bounds::ONE, &[], 0, &[]),
            // Load goes before they do.
            (0, up_to(16), &[idle(1, 599), Busy { number: 2 }, Opening], 0, &[]),
            (0, up_to(16), &[idle(1, 600), idle(2, 700), Busy { number: 3 }], 0, &[2, 1]),
            // One may stay: it is the one to spare.
            (1, up_to(16), &[idle(1, 800), idle(2, 700)], 0, &[1]),
            (16, up_to(16), &[idle(1, 800), idle(2, 700)], LANES_OPENING_MAX, &[]),
            (0, held, &[], 1, &[]),
            (0, held, &[idle(1, 800), idle(2, 700)], 0, &[1]),
        ];
        for (number, (sessions, bounds, lanes, open, close)) in cases.into_iter().enumerate() {
            assert_eq!(plan(sessions, bounds, lanes), Plan { open, close: close.to_vec() }, "case {number}");
        }
    }

    #[test]
    fn a_plan_that_is_carried_out_leaves_nothing_to_do() {
        for bounds in [Bounds::ONE, up_to(2), up_to(16), Bounds { least: 7, most: 16 }] {
            for sessions in [0, 1, 5, 16, 100] {
                let mut lanes: Vec<Lane> = Vec::new();
                for _ in 0..bounds.most {
                    for _ in 0..plan(sessions, bounds, &lanes).open {
                        lanes.push(Busy { number: u32::try_from(lanes.len() + 1).unwrap_or(u32::MAX) });
                    }
                }
                assert_eq!(plan(sessions, bounds, &lanes), Plan::default(), "{sessions} of {bounds:?}");
                assert_eq!(lanes.len() + 1, wanted(sessions, bounds));
            }
        }
    }

    #[test]
    fn the_next_session_goes_where_there_are_fewest() {
        let cases: [(&[Loaded], Option<Loaded>); 4] = [
            (&[], None),
            (&[(0, 0), (1, 0)], Some((0, 0))),
            (&[(0, 2), (2, 1), (1, 1)], Some((1, 1))),
            (&[(0, 1), (1, 1), (2, 0)], Some((2, 0))),
        ];
        for (lanes, expected) in cases {
            assert_eq!(least_busy(lanes.iter().copied(), |lane| *lane), expected);
        }
    }
}
