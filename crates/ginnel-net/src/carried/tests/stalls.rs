//! A reader that does not read costs its own session's credit and nothing else.

use super::*;
use crate::body::tests::pair::RawCaller;

/// Many times the small unread frames that HTTP/2 stacks tolerate on a connection with windows as small as these.
const KEYSTROKES: usize = 6000;

async fn passes(bytes: &[u8], from: &mut Carried, to: &mut Carried) {
    let mut read = vec![0; bytes.len()];
    let (written, arrived) = soon(async { tokio::join!(from.write_all(bytes), to.read_exact(&mut read)) }).await;
    written.unwrap();
    arrived.unwrap();
    assert!(read == bytes);
}

#[tokio::test]
async fn a_stalled_session_waits_while_the_others_flow_and_then_goes_on() {
    let (caller, mut callee, _cable) = pair().await;
    let bytes = noise(3 * 1024 * 1024);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let (mut near, far) = session(&caller, &mut callee).await;
        let bytes = bytes.clone();
        let writing = tokio::spawn(async move {
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            near
        });
        stalled.push((writing, far));
    }
    let (mut near, mut far) = session(&caller, &mut callee).await;
    passes(&bytes, &mut near, &mut far).await;
    passes(&bytes, &mut far, &mut near).await;
    for (writing, mut far) in stalled {
        assert!(!writing.is_finished(), "nobody has read what was written");
        assert!(rest(&mut far).await.unwrap() == bytes);
        soon(writing).await.unwrap();
    }
}

#[tokio::test]
async fn a_stalled_session_holds_no_more_than_its_credit() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, far) = session(&caller, &mut callee).await;
    let writing = tokio::spawn(async move { near.write_all(&noise(1024 * 1024)).await });
    let (mut other, mut end) = session(&caller, &mut callee).await;
    passes(&noise(1024 * 1024), &mut other, &mut end).await;
    // The machine is asked directly: reading would grant more.
    let mut state = far.shared.lock();
    let waiting = std::iter::from_fn(|| match state.stream.read(usize::MAX) {
        Read::Bytes(bytes) => Some(bytes.len() as u64),
        Read::Finished | Read::Pending | Read::Reset(_) => None,
    });
    assert_eq!(waiting.sum::<u64>(), CREDIT_INITIAL);
    writing.abort();
}

#[tokio::test]
async fn unread_keystrokes_do_not_end_the_connection() {
    let (caller, mut callee, _cable) = pair().await;
    let (mut near, mut far) = session(&caller, &mut callee).await;
    let (mut other, mut end) = session(&caller, &mut callee).await;
    let keys = noise(KEYSTROKES);
    for key in &keys {
        soon(near.write_all(&[*key])).await.unwrap();
        // Each keystroke leaves by itself, as when a person types.
        while near.shared.lock().wants_to_send() {
            tokio::task::yield_now().await;
        }
    }
    passes(b"still alive", &mut other, &mut end).await;
    passes(b"both ways", &mut end, &mut other).await;
    soon(near.shutdown()).await.unwrap();
    assert!(rest(&mut far).await.unwrap() == keys);
}

#[tokio::test]
async fn a_peer_that_sends_byte_by_byte_does_not_end_the_connection() {
    let (caller, mut callee) = RawCaller::new().await;
    let (_response, mut raw) = caller.call().await;
    raw.send([open()]);
    let mut far = serving(callee.accept().await).await;
    far.tend();
    for offset in 0..KEYSTROKES as u64 {
        raw.send([data(offset, b"k")]);
        if offset % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let (_response, mut other) = caller.call().await;
    other.send([open(), data(0, b"still alive")]);
    let mut end = serving(callee.accept().await).await;
    soon(end.read_exact(&mut [0; 11])).await.unwrap();
    let mut keys = vec![0; KEYSTROKES];
    soon(far.read_exact(&mut keys)).await.unwrap();
    assert!(keys.iter().all(|key| *key == b'k'));
}
