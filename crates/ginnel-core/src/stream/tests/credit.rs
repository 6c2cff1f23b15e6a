//! How credit grows: with what holds the sender back, and as far as the budget goes.

use std::time::Duration;

use crate::budget::Budget;
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX};
use crate::relay::{Relay, Side};
use crate::stream::{Frame, Read, Stream};

/// A path on which everything that was sent arrives at once, one round trip after the credit for it was given.
fn one_round(near: &mut Stream, far: &mut Stream) -> u64 {
    let mut carried = 0;
    while near.write(&[7; 60_000]) > 0 {
        while let Some(frame) = near.poll_frame(60_000) {
            if let Frame::Data { bytes, .. } = &frame {
                carried += bytes.len() as u64;
            }
            far.handle_frame(frame).unwrap();
        }
    }
    carried
}

fn take_all(stream: &mut Stream) {
    while let Read::Bytes(_) = stream.read(60_000) {}
}

fn answer(far: &mut Stream, near: &mut Stream) {
    while let Some(frame) = far.poll_frame(0) {
        near.handle_frame(frame).unwrap();
    }
}

#[test]
fn a_sender_that_waits_for_credit_gets_more_each_round_trip_up_to_the_bound() {
    let (mut near, mut far) = (Stream::new(Budget::default()), Stream::new(Budget::default()));
    let mut rounds = Vec::new();
    for _ in 0..9 {
        rounds.push(one_round(&mut near, &mut far));
        take_all(&mut far);
        answer(&mut far, &mut near);
    }
    assert_eq!(rounds[..3], [CREDIT_INITIAL, 2 * CREDIT_INITIAL, 4 * CREDIT_INITIAL]);
    assert_eq!(rounds[7..], [CREDIT_MAX, CREDIT_MAX]);
}

#[test]
fn a_path_on_which_more_bytes_only_wait_longer_gets_no_more() {
    let grown = |slower: u32| {
        let (mut near, mut far) = (Stream::new(Budget::default()), Stream::new(Budget::default()));
        let (mut now, mut last) = (Duration::ZERO, 0);
        for round in 1..8 {
            now += Duration::from_millis(100) * if round > 3 { slower } else { 1 };
            far.set_time(now);
            last = one_round(&mut near, &mut far);
            take_all(&mut far);
            answer(&mut far, &mut near);
        }
        last
    };
    assert_eq!((grown(1), grown(3)), (64 * CREDIT_INITIAL, 8 * CREDIT_INITIAL));
}

#[test]
fn a_receiver_that_is_slower_than_the_path_gives_no_more() {
    let (mut near, mut far) = (Stream::new(Budget::default()), Stream::new(Budget::default()));
    let mut ahead = one_round(&mut near, &mut far);
    for _ in 0..1000 {
        if let Read::Bytes(bytes) = far.read(10_000) {
            ahead -= bytes.len() as u64;
        }
        answer(&mut far, &mut near);
        ahead += one_round(&mut near, &mut far);
        assert!(ahead <= CREDIT_INITIAL);
    }
}

#[test]
fn an_empty_budget_leaves_the_first_credit_and_what_ends_gives_back() {
    let budget = Budget::new(2 * CREDIT_INITIAL);
    let grow = || {
        let (mut near, mut far) = (Stream::new(Budget::default()), Stream::new(budget.clone()));
        let mut last = 0;
        for _ in 0..4 {
            last = one_round(&mut near, &mut far);
            take_all(&mut far);
            answer(&mut far, &mut near);
        }
        (last, far)
    };
    let (with_budget, first) = grow();
    let (without, _second) = grow();
    assert_eq!((with_budget, without), (2 * CREDIT_INITIAL, CREDIT_INITIAL));
    drop(first);
    assert_eq!(grow().0, 2 * CREDIT_INITIAL);
}

#[test]
fn the_middle_passes_on_no_more_than_its_own_budget_and_goes_on_as_it_forwards() {
    let next = |budget| {
        let mut relay = Relay::new(&budget);
        let grant = Frame::Credit { consumed: 0, limit: CREDIT_MAX };
        relay.handle_frame(Side::Client, grant).unwrap();
        assert_eq!(relay.poll_frame(Side::Agent, 0), None, "a word alone gets nothing");
        let bytes = vec![7; usize::try_from(CREDIT_INITIAL).unwrap()].into();
        relay.handle_frame(Side::Agent, Frame::Data { offset: 0, bytes }).unwrap();
        while relay.poll_frame(Side::Client, 60_000).is_some() {}
        relay.poll_frame(Side::Agent, 0)
    };
    let credit = |limit| Some(Frame::Credit { consumed: 0, limit });
    assert_eq!(next(Budget::new(CREDIT_INITIAL)), credit(2 * CREDIT_INITIAL));
    assert_eq!(next(Budget::default()), credit(CREDIT_MAX));
}
