//! The same model as for two ends alone, with the middle between them; then what the middle alone decides.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::budget::Budget;
use crate::limits::DATA_MAX;
use crate::stream::tests::hostile;
use crate::stream::tests::model::{Item, Middle, World, cut_cause, reset_cause};
use crate::stream::tests::script::{Faults, config, scripts};

/// A relay as a server drives it: each side's carrier is closed once the session is over and that side was told all, and nothing is
/// said to a side whose carrier broke.
#[derive(Debug)]
struct Server {
    relay: Relay,
    closed: [bool; 2],
    broken: [bool; 2],
}

impl Default for Server {
    fn default() -> Self {
        Self { relay: Relay::new(&Budget::default()), closed: [false; 2], broken: [false; 2] }
    }
}

impl Middle for Server {
    fn take(&mut self, from: Side, item: Item) {
        match item {
            Item::Frame(frame) => self.relay.handle_frame(from, frame).unwrap(),
            Item::Gone(cause) => {
                self.relay.handle_abort(from, cause);
                self.broken[index(from)] = cause == cut_cause(from);
            }
        }
        for direction in [&self.relay.to_agent, &self.relay.to_client] {
            assert!(direction.queue.len() as u64 <= direction.window.size(), "holds more than its own window");
            assert!(direction.window.limit() <= direction.limit, "lets more under way than the receiver granted");
        }
    }

    fn give(&mut self, to: Side, max: usize) -> Option<Item> {
        if self.broken[index(to)] {
            return None;
        }
        let wanted = self.relay.wants_to_send(to);
        if !wanted && self.relay.ending().is_some() {
            return (!std::mem::replace(&mut self.closed[index(to)], true)).then_some(Item::Gone(Cause::Aborted));
        }
        let frame = self.relay.poll_frame(to, max);
        assert!(max == 0 || wanted == frame.is_some(), "wants to send: {wanted}, but {frame:?}");
        if let Some(Frame::Data { bytes, .. }) = &frame {
            assert!((1..=max).contains(&bytes.len()));
        }
        frame.map(Item::Frame)
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_order_without_faults_gives_the_same_bytes_and_a_clean_end(script in scripts(Faults::None)) {
        let mut world = World::new(Server::default());
        world.play(&script);
        world.end_cleanly();
        let relay = &world.middle.relay;
        assert_eq!(relay.ending(), Some(Ending { hop: Hop::Application, cause: Cause::Finished }));
        assert_eq!(relay.bytes(), world.read());
    }

    #[test]
    fn resets_and_cuts_at_any_point_end_both_ends_and_never_look_clean(script in scripts(Faults::ResetsAndCuts)) {
        let mut world = World::new(Server::default());
        world.play(&script);
        world.end_somehow();
        let Ending { hop, cause } = world.middle.relay.ending().unwrap();
        let to_blame = [Side::Client, Side::Agent].into_iter().find(|side| [reset_cause(*side), cut_cause(*side)].contains(&cause));
        assert_eq!(Some(hop), to_blame.map(|side| side.origin(cause)).or((cause == Cause::Finished).then_some(Hop::Application)));
    }

    #[test]
    fn no_sequence_of_frames_from_either_side_does_harm(frames in vec((any::<bool>(), hostile::frames()), 0..16)) {
        let mut relay = Relay::new(&Budget::default());
        for (from_client, frame) in frames {
            let from = if from_client { Side::Client } else { Side::Agent };
            let was_over = relay.ending().is_some();
            if relay.handle_frame(from, frame).is_err() && !was_over {
                assert_eq!(relay.ending(), Some(Ending { hop: from.hop(), cause: Cause::ProtocolError }));
            }
            relay.poll_frame(Side::Client, 100_000);
            relay.poll_frame(Side::Agent, 2);
            for direction in [&relay.to_agent, &relay.to_client] {
                assert!(direction.queue.len() as u64 <= CREDIT_MAX && direction.received <= direction.limit);
            }
        }
    }
}

/// Everything that one side is told.
fn said(relay: &mut Relay, to: Side) -> Vec<Frame> {
    std::iter::from_fn(|| relay.poll_frame(to, DATA_MAX)).collect()
}

#[test]
fn every_breach_is_named_and_both_sides_hear_of_the_reset() {
    for from in [Side::Client, Side::Agent] {
        for (before, breach, violation) in hostile::violations() {
            let mut relay = Relay::new(&Budget::default());
            for frame in before {
                assert_eq!(relay.handle_frame(from, frame), Ok(()));
            }
            assert_eq!(relay.handle_frame(from, breach.clone()), Err(violation), "{breach:?}");
            let cause = Cause::ProtocolError;
            assert_eq!(relay.ending(), Some(Ending { hop: from.hop(), cause }));
            for side in [Side::Client, Side::Agent] {
                assert_eq!(said(&mut relay, side), [Frame::Reset { cause, hop: Some(from.hop()) }]);
            }
        }
    }
}

#[test]
fn a_reset_is_passed_on_with_the_hop_that_it_came_from() {
    let cases = [
        (Side::Client, Cause::Reset, Hop::Application),
        (Side::Client, Cause::EndedByOperator, Hop::Client),
        (Side::Client, Cause::ShuttingDown, Hop::Client),
        (Side::Agent, Cause::Reset, Hop::Target),
        (Side::Agent, Cause::EndedByOperator, Hop::Agent),
        (Side::Agent, Cause::ShuttingDown, Hop::Agent),
    ];
    for (from, cause, hop) in cases {
        let mut relay = Relay::new(&Budget::default());
        relay.handle_frame(from, Frame::Reset { cause, hop: None }).unwrap();
        assert_eq!(relay.ending(), Some(Ending { hop, cause }));
        assert_eq!(said(&mut relay, from.other()), [Frame::Reset { cause, hop: Some(hop) }]);
        assert_eq!(said(&mut relay, from), []);
    }
}

#[test]
fn no_side_can_blame_another_for_its_reset() {
    let hops = [Hop::Application, Hop::Client, Hop::Server, Hop::Agent, Hop::Target];
    for from in [Side::Client, Side::Agent] {
        for (cause, claimed) in
            [Cause::Reset, Cause::Aborted].into_iter().flat_map(|cause| hops.map(|hop| (cause, hop)))
        {
            let mut relay = Relay::new(&Budget::default());
            relay.handle_frame(from, Frame::Reset { cause, hop: Some(claimed) }).unwrap();
            let hop = from.origin(cause);
            assert_eq!(relay.ending(), Some(Ending { hop, cause }), "{claimed}");
            assert_eq!(said(&mut relay, from.other()), [Frame::Reset { cause, hop: Some(hop) }], "{claimed}");
        }
    }
}

#[test]
fn what_the_middle_ends_names_whom_it_ends_it_for() {
    for hop in [Hop::Client, Hop::Server, Hop::Agent] {
        let mut relay = Relay::new(&Budget::default());
        let cause = Cause::CertificateExpired;
        relay.end(hop, cause);
        for side in [Side::Client, Side::Agent] {
            assert_eq!(said(&mut relay, side), [Frame::Reset { cause, hop: Some(hop) }]);
        }
    }
}

#[test]
fn credit_reaches_no_further_than_the_receivers_word() {
    let mut relay = Relay::new(&Budget::default());
    let more = Frame::Credit { consumed: 0, limit: CREDIT_INITIAL + 5 };
    relay.handle_frame(Side::Agent, more.clone()).unwrap();
    let len = usize::try_from(CREDIT_INITIAL).unwrap();
    assert_eq!(relay.handle_frame(Side::Client, hostile::data(0, len)), Ok(()));
    said(&mut relay, Side::Agent);
    assert_eq!(said(&mut relay, Side::Client), [more]);
    assert_eq!(relay.handle_frame(Side::Client, hostile::data(len as u64, 5)), Ok(()));
    assert_eq!(relay.handle_frame(Side::Client, hostile::data(len as u64 + 5, 1)), Err(Violation::BeyondCredit));
}

#[test]
fn bytes_that_were_not_passed_on_cannot_be_acknowledged() {
    let mut relay = Relay::new(&Budget::default());
    relay.handle_frame(Side::Client, hostile::data(0, 5)).unwrap();
    let taken = Frame::Credit { consumed: 5, limit: CREDIT_INITIAL };
    let mut early = Relay::new(&Budget::default());
    early.handle_frame(Side::Client, hostile::data(0, 5)).unwrap();
    assert_eq!(early.handle_frame(Side::Agent, taken.clone()), Err(Violation::Credit));
    said(&mut relay, Side::Agent);
    assert_eq!(relay.handle_frame(Side::Agent, taken), Ok(()));
}

#[test]
fn small_frames_are_joined_and_large_ones_cut() {
    let mut relay = Relay::new(&Budget::default());
    for offset in 0..1000 {
        relay.handle_frame(Side::Client, hostile::data(offset, 1)).unwrap();
    }
    assert_eq!(said(&mut relay, Side::Agent), [hostile::data(0, 1000)]);
    relay.handle_frame(Side::Agent, hostile::data(0, DATA_MAX + 1)).unwrap();
    let last = hostile::data(DATA_MAX as u64, 1);
    assert_eq!(said(&mut relay, Side::Client), [hostile::data(0, DATA_MAX), last]);
}

#[test]
fn a_side_that_has_said_and_heard_everything_may_leave_before_the_rest_is_passed_on() {
    let fin = |offset| Frame::Fin { offset };
    for leaver in [Side::Client, Side::Agent] {
        let mut relay = Relay::new(&Budget::default());
        relay.handle_frame(leaver.other(), fin(0)).unwrap();
        assert_eq!(said(&mut relay, leaver), [fin(0)]);
        relay.handle_frame(leaver, hostile::data(0, 5)).unwrap();
        relay.handle_frame(leaver, fin(5)).unwrap();
        relay.handle_abort(leaver, Cause::Aborted);
        assert_eq!(relay.ending(), None);
        assert_eq!(said(&mut relay, leaver.other()), [hostile::data(0, 5), fin(5)]);
        assert_eq!(relay.ending(), Some(Ending { hop: Hop::Application, cause: Cause::Finished }));
    }
}

#[test]
fn a_side_that_has_not_heard_the_end_may_not_leave() {
    let mut relay = Relay::new(&Budget::default());
    relay.handle_frame(Side::Agent, Frame::Fin { offset: 0 }).unwrap();
    relay.handle_frame(Side::Client, Frame::Fin { offset: 0 }).unwrap();
    relay.handle_abort(Side::Client, Cause::ServerLost);
    let reset = Frame::Reset { cause: Cause::ServerLost, hop: Some(Hop::Client) };
    assert_eq!(said(&mut relay, Side::Agent), [Frame::Fin { offset: 0 }, reset]);
    assert_eq!(said(&mut relay, Side::Client), []);
}

#[test]
fn a_clean_end_is_not_taken_back_by_a_reset_that_follows_it() {
    for target in [Side::Agent, Side::Client] {
        let mut relay = Relay::new(&Budget::default());
        relay.handle_frame(target, hostile::data(0, 5)).unwrap();
        relay.handle_frame(target, Frame::Fin { offset: 5 }).unwrap();
        relay.handle_frame(target, Frame::Reset { cause: Cause::Reset, hop: None }).unwrap();
        assert_eq!(relay.ending(), None, "something is still to be passed on");
        let told = said(&mut relay, target.other());
        let reset = Frame::Reset { cause: Cause::Reset, hop: Some(target.origin(Cause::Reset)) };
        assert_eq!(told, [hostile::data(0, 5), Frame::Fin { offset: 5 }, reset]);
        assert_eq!(relay.ending(), Some(Ending { hop: target.origin(Cause::Reset), cause: Cause::Reset }));
    }
}

#[test]
fn a_rest_that_nobody_can_take_does_not_keep_a_session() {
    let mut relay = Relay::new(&Budget::default());
    relay.handle_frame(Side::Agent, hostile::data(0, 5)).unwrap();
    relay.handle_frame(Side::Agent, Frame::Fin { offset: 5 }).unwrap();
    relay.handle_frame(Side::Agent, Frame::Reset { cause: Cause::Reset, hop: None }).unwrap();
    assert_eq!(relay.ending(), None);
    relay.handle_abort(Side::Client, Cause::ServerLost);
    assert_eq!(relay.ending(), Some(Ending { hop: Hop::Target, cause: Cause::Reset }));
    assert!(!relay.wants_to_send(Side::Client));
}

#[test]
fn nothing_is_passed_on_once_the_middle_has_ended_the_session() {
    let mut relay = Relay::new(&Budget::default());
    relay.handle_frame(Side::Agent, hostile::data(0, 5)).unwrap();
    relay.handle_frame(Side::Agent, Frame::Fin { offset: 5 }).unwrap();
    relay.handle_frame(Side::Agent, Frame::Reset { cause: Cause::Reset, hop: None }).unwrap();
    relay.end(Hop::Server, Cause::CertificateExpired);
    assert_eq!(said(&mut relay, Side::Client), [Frame::Reset { cause: Cause::Reset, hop: Some(Hop::Target) }]);
}

#[test]
fn the_middle_ends_a_session_once() {
    let mut relay = Relay::new(&Budget::default());
    relay.end(Hop::Server, Cause::CertificateExpired);
    relay.end(Hop::Server, Cause::ShuttingDown);
    relay.handle_frame(Side::Client, Frame::Reset { cause: Cause::Reset, hop: None }).unwrap();
    let cause = Cause::CertificateExpired;
    assert_eq!(relay.ending(), Some(Ending { hop: Hop::Server, cause }));
    for side in [Side::Client, Side::Agent] {
        assert_eq!(said(&mut relay, side), [Frame::Reset { cause, hop: Some(Hop::Server) }]);
    }
}
