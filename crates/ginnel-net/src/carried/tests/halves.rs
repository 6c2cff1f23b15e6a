//! The two halves of a session end one by one, and what a dropped end means.

use super::*;

/// More than any credit, so that a half that is open must really flow.
const MUCH: usize = 20 * 1024 * 1024;

/// Sends much from one end to the other, which reads to the end.
async fn flows(from: &mut Carried, to: &mut Carried) {
    let bytes = noise(MUCH);
    let send = async {
        from.write_all(&bytes).await.unwrap();
        from.shutdown().await.unwrap();
    };
    let (_, read) = soon(async { tokio::join!(send, rest(to)) }).await;
    assert!(read.unwrap() == bytes);
}

#[tokio::test]
async fn a_half_that_ended_leaves_the_other_open() {
    for far_first in [false, true] {
        let (caller, mut callee, _cable) = pair().await;
        let (mut near, mut far) = session(&caller, &mut callee).await;
        let (first, second) = if far_first { (&mut far, &mut near) } else { (&mut near, &mut far) };
        soon(first.write_all(b"all of it")).await.unwrap();
        soon(first.shutdown()).await.unwrap();
        assert_eq!(rest(second).await.unwrap(), b"all of it");
        flows(second, first).await;
    }
}

#[tokio::test]
async fn an_end_that_is_dropped_in_the_middle_resets_the_other() {
    for (has_ended, has_read) in [(false, false), (true, false), (false, true)] {
        let (caller, mut callee, _cable) = pair().await;
        let (mut near, mut far) = session(&caller, &mut callee).await;
        if has_ended {
            soon(near.shutdown()).await.unwrap();
            assert_eq!(rest(&mut far).await, Ok(vec![]));
        }
        if has_read {
            soon(far.shutdown()).await.unwrap();
            assert_eq!(rest(&mut near).await, Ok(vec![]));
        }
        drop(near);
        if has_read {
            assert_eq!(rest(&mut far).await.unwrap_err().cause, Cause::Aborted);
        } else {
            assert_eq!(writes_until(&mut far).await.cause, Cause::Aborted);
        }
        assert_eq!(
            rest(&mut far).await.is_ok(),
            has_ended,
            "a clean end is not taken back, and nothing else looks like one"
        );
    }
}

#[tokio::test]
async fn a_dropped_end_that_left_bytes_unread_resets_the_other() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    soon(far.write_all(b"nobody reads this")).await.unwrap();
    soon(near.read_exact(&mut [0; 1])).await.unwrap();
    soon(near.shutdown()).await.unwrap();
    drop(near);
    assert_eq!(writes_until(&mut far).await.cause, Cause::Aborted);
}

#[tokio::test]
async fn a_reset_does_not_overtake_the_clean_end_before_it() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    let bytes = noise(200_000);
    soon(near.write_all(&bytes)).await.unwrap();
    soon(near.shutdown()).await.unwrap();
    near.abort(Cause::Reset);
    assert!(rest(&mut far).await.unwrap() == bytes);
    assert_eq!(writes_until(&mut far).await.cause, Cause::Reset);
}

/// Waits until the session's own task has brought that about.
async fn until(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whether the session says now that it broke off.
async fn is_broken(carried: &mut Carried) -> bool {
    poll_fn(|cx| Poll::Ready(carried.poll_broken(cx).is_ready())).await
}

#[tokio::test]
async fn a_clean_end_is_told_before_the_reset_behind_it() {
    for said in [&b"last words"[..], b""] {
        let (caller, mut callee, _cable) = pair().await;
        let (mut near, mut far) = session(&caller, &mut callee).await;
        soon(near.write_all(said)).await.unwrap();
        soon(near.shutdown()).await.unwrap();
        near.abort(Cause::Reset);
        until(|| far.shared.lock().stream.over().is_some()).await;

        assert!(!is_broken(&mut far).await);
        let mut ahead = [0; 100];
        if !said.is_empty() {
            // A reader of records takes in more than it looks at: that does not tell it of the end.
            assert_eq!(soon(far.read(&mut ahead)).await.unwrap(), said.len());
            assert!(!is_broken(&mut far).await);
        }
        assert_eq!(soon(far.read(&mut ahead)).await.unwrap(), 0);
        assert_eq!(soon(poll_fn(|cx| far.poll_broken(cx))).await.cause, Cause::Reset);
    }
}

#[tokio::test]
async fn what_an_inner_handshake_writes_does_not_fail_before_the_clean_end_is_read() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    far.secure(true);
    soon(near.shutdown()).await.unwrap();
    near.abort(Cause::Reset);
    until(|| far.shared.lock().stream.over().is_some()).await;

    soon(far.write_all(b"tickets")).await.unwrap();
    assert_eq!(rest(&mut far).await, Ok(vec![]));
    assert_eq!(writes_until(&mut far).await.cause, Cause::Reset);

    let (mut near, mut far) = session(&caller, &mut callee).await;
    far.secure(true);
    near.abort(Cause::Reset);
    assert_eq!(writes_until(&mut far).await.cause, Cause::Reset, "no end was said, so that nothing is owed");
}

#[tokio::test]
async fn whoever_resets_a_session_hears_of_it_at_once() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    soon(near.shutdown()).await.unwrap();
    until(|| far.shared.lock().stream.has_end()).await;
    far.answers().abort(Cause::EndedByOperator);
    assert_eq!(soon(poll_fn(|cx| far.poll_broken(cx))).await.cause, Cause::EndedByOperator);
}

#[tokio::test]
async fn an_end_that_is_dropped_after_both_halves_still_delivers_its_last_bytes() {
    for far_leaves in [false, true] {
        let (caller, mut callee, _cable) = pair().await;
        let (near, far) = session(&caller, &mut callee).await;
        let (mut leaver, mut stayer) = if far_leaves { (far, near) } else { (near, far) };
        soon(stayer.shutdown()).await.unwrap();
        assert_eq!(rest(&mut leaver).await, Ok(vec![]));
        let bytes = noise(200_000);
        soon(leaver.write_all(&bytes)).await.unwrap();
        soon(leaver.shutdown()).await.unwrap();
        drop(leaver);
        assert!(rest(&mut stayer).await.unwrap() == bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn last_bytes_arrive_however_long_the_way_lets_nothing_through() {
    let pause = Duration::from_secs(2)..Duration::from_secs(14);
    let (caller, mut callee, _cable) = pair_with_pause(pause).await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    soon(far.shutdown()).await.unwrap();
    assert_eq!(rest(&mut near).await, Ok(vec![]));
    sleep(Duration::from_secs(3)).await;
    let bytes = noise(200_000);
    soon(near.write_all(&bytes)).await.unwrap();
    soon(near.shutdown()).await.unwrap();
    drop(near);
    assert!(rest(&mut far).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_session_is_over_for_good_when_both_halves_are() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    flows(&mut near, &mut far).await;
    flows(&mut far, &mut near).await;
    drop(near);
    callee.stop();
    assert_eq!(rest(&mut far).await, Ok(vec![]));
    assert_eq!(far.shared.lock().stream.over(), None);
}
