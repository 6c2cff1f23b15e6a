//! Two ends, whatever is between them, and every order in which things can happen.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use model::{Item, Middle, World};
use script::{Faults, config, scripts};

mod credit;
pub(crate) mod hostile;
pub(crate) mod model;
pub(crate) mod script;

use crate::budget::Budget;
use crate::relay::Side;

/// A middle that only passes on, in order and without loss: the two ends speak to each other directly.
#[derive(Debug, Default)]
struct Wire {
    to_client: VecDeque<Item>,
    to_agent: VecDeque<Item>,
}

impl Middle for Wire {
    fn take(&mut self, from: Side, item: Item) {
        match from {
            Side::Client => self.to_agent.push_back(item),
            Side::Agent => self.to_client.push_back(item),
        }
    }

    fn give(&mut self, to: Side, _: usize) -> Option<Item> {
        match to {
            Side::Client => self.to_client.pop_front(),
            Side::Agent => self.to_agent.pop_front(),
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_order_without_faults_gives_the_same_bytes_and_a_clean_end(script in scripts(Faults::None)) {
        let mut world = World::new(Wire::default());
        world.play(&script);
        world.end_cleanly();
    }

    #[test]
    fn resets_and_cuts_at_any_point_end_both_ends_and_never_look_clean(script in scripts(Faults::ResetsAndCuts)) {
        let mut world = World::new(Wire::default());
        world.play(&script);
        world.end_somehow();
    }
}

/// One end and what it has to say.
fn said(stream: &mut Stream) -> Vec<Frame> {
    std::iter::from_fn(|| stream.poll_frame(usize::MAX)).collect()
}

#[test]
fn a_stalled_reader_stops_the_writer_at_its_credit_and_lets_it_on_again() {
    let (mut near, mut far) = (Stream::new(Budget::default()), Stream::new(Budget::default()));
    let mut written = 0;
    while let taken @ 1.. = near.write(&[7; 10_000]) {
        written += taken as u64;
        for frame in said(&mut near) {
            far.handle_frame(frame).unwrap();
        }
    }
    assert_eq!((written, near.writable(), said(&mut far)), (CREDIT_INITIAL, 0, vec![]));

    while let Read::Bytes(_) = far.read(10_000) {}
    // The last byte that was let through has come and was taken: the credit was too small.
    let limit = 3 * CREDIT_INITIAL;
    assert_eq!(said(&mut far), [Frame::Credit { consumed: CREDIT_INITIAL, limit }]);
    near.handle_frame(Frame::Credit { consumed: CREDIT_INITIAL, limit }).unwrap();
    assert_eq!(near.writable() as u64, SEND_BUFFER_MAX);
}

#[test]
fn no_room_for_bytes_is_neither_their_end_nor_their_loss() {
    let mut near = Stream::new(Budget::default());
    near.write(b"last words");
    near.finish();
    assert_eq!(near.poll_frame(0), None);
    let mut far = Stream::new(Budget::default());
    for frame in said(&mut near) {
        far.handle_frame(frame).unwrap();
    }
    assert_eq!(far.read(0), Read::Pending);
    assert_eq!(far.read(100), Read::Bytes(Bytes::from_static(b"last words")));
    assert_eq!(far.read(0), Read::Finished);
}

#[test]
fn a_reset_after_the_last_end_changes_nothing() {
    let mut near = Stream::new(Budget::default());
    near.finish();
    assert_eq!(said(&mut near), [Frame::Fin { offset: 0 }]);
    near.handle_frame(Frame::Fin { offset: 0 }).unwrap();
    near.handle_frame(Frame::Reset { cause: Cause::Reset, hop: None }).unwrap();
    near.handle_abort(Cause::Aborted);
    near.reset(Cause::Internal);
    assert_eq!((near.over(), near.read(1), near.is_done(), said(&mut near)), (None, Read::Finished, true, vec![]));
}

#[test]
fn a_reset_follows_the_clean_end_before_it_even_if_there_is_no_room() {
    let mut near = Stream::new(Budget::default());
    near.write(b"answer");
    near.finish();
    near.reset(Cause::Reset);
    assert_eq!(near.poll_frame(0), None);
    let answer = Frame::Data { offset: 0, bytes: Bytes::from_static(b"answer") };
    assert_eq!(said(&mut near), [answer, Frame::Fin { offset: 6 }, Frame::Reset { cause: Cause::Reset, hop: None }]);
}

#[test]
fn may_be_left_without_loss_only_when_both_halves_are_dealt_with() {
    let mut near = Stream::new(Budget::default());
    near.handle_frame(Frame::Data { offset: 0, bytes: Bytes::from_static(b"x") }).unwrap();
    near.handle_frame(Frame::Fin { offset: 1 }).unwrap();
    assert!(!near.is_settled(), "a byte is unread and the own half open");
    near.finish();
    assert!(!near.is_settled(), "a byte is unread");
    near.read(1);
    assert!(near.is_settled());
}
