//! Waiting for what must happen, with a deadline instead of a guess.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep, timeout};

/// How long anything that should happen soon may take on a busy machine with two cores.
pub const SOON: Duration = Duration::from_secs(30);

/// How often a condition that nobody announces is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `look` finds something.
///
/// # Errors
/// The last error or absence that `look` reported, once `deadline` has passed; `what` names it.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let seen = look().await;
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() >= end {
            match seen {
                Err(error) => return Err(error).with_context(|| format!("waited {deadline:?} for {what}")),
                Ok(_) => bail!("waited {deadline:?} for {what}"),
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Awaits `future`, but not for ever.
///
/// # Errors
/// Names `what` if `deadline` passes first.
pub async fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> Result<T> {
    timeout(deadline, future).await.with_context(|| format!("waited {deadline:?} for {what}"))
}
