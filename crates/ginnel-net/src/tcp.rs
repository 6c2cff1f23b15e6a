//! One TCP connection to something that has several addresses.

use std::io;
use std::net::SocketAddr;

use ginnel_core::limits::CONNECT_STAGGER;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Connects to the first of the addresses that answers (RFC 8305).
///
/// Attempts begin in the order of the addresses, [`CONNECT_STAGGER`] apart or as soon as one has failed, so that an address that nobody
/// answers for delays the others and does not stop them. When one attempt is done the others are given up. The caller sets the deadline.
///
/// # Errors
/// The failure that came last; `None` if there was no address.
pub async fn first_to_answer<T, E, A>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> A,
) -> Result<T, Option<E>>
where
    A: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut failure = None;
    let mut start = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(outcome) = attempts.join_next() => {
                match outcome.map_err(io::Error::from) {
                    Ok(Ok(connected)) => return Ok(connected),
                    Ok(Err(error)) => failure = Some(error),
                    // An attempt that panicked has answered no better than one that failed.
                    Err(error) => tracing::error!(%error, "an attempt to connect broke off"),
                }
                start = Instant::now();
            }
            () = sleep_until(start), if waiting.len() > 0 => {
                if let Some(address) = waiting.next() {
                    attempts.spawn(attempt(address));
                }
                start = Instant::now() + CONNECT_STAGGER;
            }
            else => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect()
    }

    /// What becomes of the attempt at one address: after some milliseconds, or never.
    #[derive(Clone, Copy)]
    enum Fate {
        Answers(u64),
        Fails(u64),
        Silent,
    }

    type Outcome = Result<u16, Option<u16>>;

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_wins_and_nobody_waits_for_an_address_that_is_silent_or_failed() {
        use Fate::{Answers, Fails, Silent};
        let cases: [(&[Fate], Outcome, u64); 6] = [
            (&[Answers(10), Answers(1)], Ok(1), 10),
            (&[Silent, Silent, Answers(10)], Ok(3), 510),
            (&[Answers(300), Answers(10)], Ok(2), 260),
            (&[Fails(5), Fails(5), Answers(10)], Ok(3), 20),
            (&[Fails(5), Fails(300)], Err(Some(2)), 305),
            (&[], Err(None), 0),
        ];
        for (number, (fates, expected, millis)) in cases.into_iter().enumerate() {
            let start = Instant::now();
            let addresses = addresses(u16::try_from(fates.len()).unwrap());
            let outcome = first_to_answer(&addresses, |address| {
                let fate = fates[usize::from(address.port()) - 1];
                async move {
                    match fate {
                        Answers(after) => {
                            sleep(Duration::from_millis(after)).await;
                            Ok(address.port())
                        }
                        Fails(after) => {
                            sleep(Duration::from_millis(after)).await;
                            Err(address.port())
                        }
                        Silent => pending().await,
                    }
                }
            });
            assert_eq!(outcome.await, expected, "case {number}");
            assert_eq!(start.elapsed(), Duration::from_millis(millis), "case {number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_lost_are_given_up() {
        let alive = Arc::new(());
        let addresses = addresses(2);
        let outcome = first_to_answer(&addresses, |address| {
            let alive = Arc::clone(&alive);
            async move {
                if address.port() == 1 {
                    pending::<()>().await;
                }
                drop(alive);
                Ok::<_, ()>(address.port())
            }
        });
        assert_eq!(outcome.await, Ok(2));
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
