//! Frames that no honest peer sends.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::budget::Budget;
use crate::cause::{Cause, Hop};
use crate::limits::{CREDIT_INITIAL, CREDIT_MAX};
use crate::stream::{Frame, Read, Stream, Violation};
use bytes::Bytes;

/// Frames that are right now and then, so that a sequence of them gets somewhere.
pub(crate) fn frames() -> impl Strategy<Value = Frame> {
    let offset = || prop_oneof![4 => Just(0_u64), 2 => 1_u64..4, 1 => CREDIT_INITIAL - 2..=CREDIT_INITIAL + 2, 1 => any::<u64>()];
    let len = prop_oneof![4 => 0_usize..4, 1 => Just(usize::try_from(CREDIT_INITIAL).unwrap()), 1 => 1_usize..300_000];
    let limit =
        prop_oneof![3 => CREDIT_INITIAL..=CREDIT_INITIAL + 4, 1 => CREDIT_MAX - 1..=CREDIT_MAX + 1, 1 => any::<u64>()];
    prop_oneof![
        (offset(), limit).prop_map(|(consumed, limit)| Frame::Credit { consumed, limit }),
        (offset(), len).prop_map(|(offset, len)| Frame::Data { offset, bytes: Bytes::from(vec![1; len]) }),
        offset().prop_map(|offset| Frame::Fin { offset }),
        any::<bool>().prop_map(|lies| Frame::Reset { cause: Cause::Reset, hop: lies.then_some(Hop::Client) }),
    ]
}

pub(crate) fn data(offset: u64, len: usize) -> Frame {
    Frame::Data { offset, bytes: Bytes::from(vec![1; len]) }
}

/// What was said before, what breaks the protocol, and what that is called. Ends and middle agree on all of it; nothing was ever
/// sent to the peer.
pub(crate) fn violations() -> Vec<(Vec<Frame>, Frame, Violation)> {
    let whole = usize::try_from(CREDIT_INITIAL).unwrap();
    let fin = |offset| Frame::Fin { offset };
    let credit = |consumed, limit| Frame::Credit { consumed, limit };
    vec![
        (vec![], data(0, 0), Violation::Empty),
        (vec![data(0, 5)], data(5, 0), Violation::Empty),
        (vec![], data(1, 1), Violation::Gap),
        (vec![data(0, 5)], data(4, 1), Violation::Gap),
        (vec![data(0, 5)], data(0, 5), Violation::Gap),
        (vec![data(0, 5)], data(6, 1), Violation::Gap),
        (vec![], data(u64::MAX, 1), Violation::Gap),
        (vec![], data(0, whole + 1), Violation::BeyondCredit),
        (vec![data(0, whole)], data(CREDIT_INITIAL, 1), Violation::BeyondCredit),
        (vec![], fin(1), Violation::Gap),
        (vec![data(0, 5)], fin(4), Violation::Gap),
        (vec![data(0, 5)], fin(u64::MAX), Violation::Gap),
        (vec![fin(0)], fin(0), Violation::AfterEnd),
        (vec![data(0, 5), fin(5)], data(5, 1), Violation::AfterEnd),
        (vec![data(0, 5), fin(5)], fin(5), Violation::AfterEnd),
        (vec![], credit(0, CREDIT_INITIAL - 1), Violation::Credit),
        (vec![credit(0, CREDIT_INITIAL + 1)], credit(0, CREDIT_INITIAL), Violation::Credit),
        (vec![], credit(1, CREDIT_INITIAL), Violation::Credit),
        (vec![], credit(0, CREDIT_MAX + 1), Violation::Credit),
        (vec![], credit(0, u64::MAX), Violation::Credit),
        (vec![], credit(u64::MAX, u64::MAX), Violation::Credit),
    ]
}

#[test]
fn every_breach_is_named_and_resets_the_session() {
    for (before, breach, violation) in violations() {
        let mut stream = Stream::new(Budget::default());
        stream.write(b"owed to nobody who breaks the protocol");
        stream.finish();
        for frame in before {
            assert_eq!(stream.handle_frame(frame), Ok(()));
        }
        assert_eq!(stream.handle_frame(breach.clone()), Err(violation), "{breach:?}");
        let cause = Cause::ProtocolError;
        assert_eq!(
            (stream.over(), stream.poll_frame(1), stream.poll_frame(1)),
            (Some(cause), Some(Frame::Reset { cause, hop: None }), None)
        );
        assert!(stream.is_done());
    }
}

#[test]
fn the_right_frames_are_no_breach() {
    let whole = usize::try_from(CREDIT_INITIAL).unwrap();
    let mut stream = Stream::new(Budget::default());
    for frame in [
        Frame::Credit { consumed: 0, limit: CREDIT_INITIAL },
        Frame::Credit { consumed: 0, limit: CREDIT_MAX },
        data(0, whole),
        Frame::Fin { offset: CREDIT_INITIAL },
        Frame::Credit { consumed: 0, limit: CREDIT_MAX },
    ] {
        assert_eq!(stream.handle_frame(frame), Ok(()));
    }
}

#[test]
fn acknowledgements_do_not_go_back() {
    let mut stream = Stream::new(Budget::default());
    stream.write(&[1; 10]);
    stream.poll_frame(10);
    assert_eq!(stream.handle_frame(Frame::Credit { consumed: 10, limit: CREDIT_INITIAL }), Ok(()));
    let back = Frame::Credit { consumed: 9, limit: CREDIT_INITIAL };
    assert_eq!(stream.handle_frame(back), Err(Violation::Credit));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_frames_does_harm(frames in vec(frames(), 0..12), written in 0_usize..9, finish in any::<bool>()) {
        let mut stream = Stream::new(Budget::default());
        stream.write(&vec![2; written]);
        if finish {
            stream.finish();
        }
        let (mut arrived, mut read, mut fin) = (0, 0, false);
        for frame in frames {
            let len = if let Frame::Data { bytes, .. } = &frame { bytes.len() as u64 } else { 0 };
            let is_fin = matches!(frame, Frame::Fin { .. });
            let outcome = stream.handle_frame(frame);
            if outcome.is_ok() && stream.over().is_none() {
                arrived += len;
                fin |= is_fin;
            }
            assert!(outcome.is_ok() || stream.over() == Some(Cause::ProtocolError) || stream.is_finished());
            stream.poll_frame(7);
            match stream.read(3) {
                Read::Bytes(bytes) => read += bytes.len() as u64,
                Read::Finished => assert!(fin && read == arrived),
                Read::Pending => assert_eq!((fin, read), (false, arrived)),
                Read::Reset(cause) => assert_eq!(Some(cause), stream.over()),
            }
            assert!(read <= arrived && arrived <= read + CREDIT_INITIAL);
        }
    }
}
