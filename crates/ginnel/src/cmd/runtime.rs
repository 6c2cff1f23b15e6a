//! The threads that move bytes, and how often they look up from them.

use std::io;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// Turns of tasks until a thread looks whether something has come in for others. A bulk session always has a next turn, so that its thread never
/// rests; at tokio's 61 turns of a frame each, a small message on the same thread waited for 7 ms in the middle (docs/session-cost.md). Looking
/// is one system call in a turn that copies, encrypts and sends 64 KiB.
const TURNS_BETWEEN_LOOKS: u32 = 1;

/// The runtime of every command.
///
/// # Errors
/// The system's, if there are no threads or descriptors to be had.
pub(super) fn build() -> io::Result<Runtime> {
    with_workers(available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)))
}

/// One thread for every two cores: each that is added wakes the others more often. With one for every core, small messages took a fifth longer
/// and a third more CPU time, and bulk was no faster.
fn with_workers(workers: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(workers).event_interval(TURNS_BETWEEN_LOOKS).enable_all().build()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const ROUND_TRIPS: u64 = 20;

    /// Turns that another task may have while a byte goes there and back: some for each of the two tasks that pass it on.
    const TURNS_MAX: u64 = 16;

    async fn echo(listener: TcpListener) {
        let (mut peer, _) = listener.accept().await.unwrap();
        while let Ok(byte) = peer.read_u8().await {
            peer.write_u8(byte).await.unwrap();
        }
    }

    #[test]
    fn a_task_that_always_has_a_next_turn_does_not_keep_small_messages_waiting() {
        let runtime = with_workers(1).unwrap();
        let turns = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&turns);
        let bulk = poll_fn(move |cx| {
            // Long enough that what the others write has come in by the next look.
            let started = std::time::Instant::now();
            while started.elapsed().as_micros() < 50 {
                std::hint::spin_loop();
            }
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let messages = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            tokio::spawn(echo(listener));
            tokio::spawn(bulk);
            let before = turns.load(Ordering::Relaxed);
            for _ in 0..ROUND_TRIPS {
                stream.write_u8(7).await.unwrap();
                stream.read_u8().await.unwrap();
            }
            turns.load(Ordering::Relaxed) - before
        };
        let taken = runtime.block_on(runtime.spawn(messages)).unwrap();
        runtime.shutdown_background();
        assert!(taken <= TURNS_MAX * ROUND_TRIPS, "{taken} turns for {ROUND_TRIPS} round trips");
    }
}
