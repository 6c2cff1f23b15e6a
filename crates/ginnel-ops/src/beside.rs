//! What goes on beside a daemon's work: its admin listeners, reloads, and word to the service manager.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{Admin, Observed};
use crate::notify::Notify;
use crate::reload::{Files, watch};

/// How often the service manager is told how the process is, when no watchdog asks for more.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Runs until it is dropped; whoever runs it in a task waits for that, so that the last word gets out. Without `files` there is nothing to reload, and SIGHUP keeps its usual effect.
///
/// The service manager hears that the process is ready when this begins: whatever listens must listen by then.
pub async fn beside(admin: Admin, observed: Arc<dyn Observed>, files: Option<Files>, shutdown: CancellationToken) {
    let notify = Notify::from_env().map(Arc::new);
    // A task of its own: files on a file system that hangs must not keep the watchdog from being told.
    let reloading = reloading(files, Arc::clone(&observed), notify.clone());
    let _reloading = AbortOnDropHandle::new(tokio::spawn(reloading));
    tokio::join!(
        admin.run(Arc::clone(&observed), CancellationToken::new()),
        report(notify.as_deref(), &*observed, &shutdown)
    );
}

async fn reloading(files: Option<Files>, observed: Arc<dyn Observed>, notify: Option<Arc<Notify>>) {
    let Some(files) = &files else { return };
    let reload = |_| async {
        if let Some(notify) = &notify {
            notify.reloading();
        }
        let outcome = observed.reload().await;
        if let Some(notify) = &notify {
            notify.ready(&summary(&*observed));
        }
        outcome
    };
    watch(files, reload).await;
}

/// Tells the service manager how the process is, as often as it wants to hear it.
async fn report(notify: Option<&Notify>, observed: &dyn Observed, shutdown: &CancellationToken) {
    let Some(notify) = notify else { return };
    notify.ready(&summary(observed));
    let every = notify.watchdog_interval().unwrap_or(SAY_EVERY).min(SAY_EVERY);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut farewell = Farewell { notify, is_said: false };
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !farewell.is_said => farewell.say(),
            _ = ticks.tick() => {
                // The status takes the locks that sessions take: a process in which that hangs is one that should be started again.
                notify.status(&summary(observed));
                notify.watchdog();
            }
        }
    }
}

/// Says once that the process is on its way out: when it is told to stop, or at the latest when this is dropped. A process without
/// sessions is gone before anybody has heard of the first.
struct Farewell<'a> {
    notify: &'a Notify,
    is_said: bool,
}

impl Farewell<'_> {
    fn say(&mut self) {
        if !std::mem::replace(&mut self.is_said, true) {
            self.notify.stopping();
        }
    }
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        self.say();
    }
}

fn summary(observed: &dyn Observed) -> String {
    let status = observed.status();
    match status.not_ready.first() {
        None => format!("ready, {} sessions", status.sessions.live),
        Some(why) => format!("not ready: {why}; {} sessions", status.sessions.live),
    }
}
