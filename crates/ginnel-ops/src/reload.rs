//! Configuration that changes while the process runs: when to read it again, and what is in force.
//!
//! What is in force is replaced as a whole or not at all. A file that cannot be used changes nothing: the last good configuration stays, and
//! the failure is shown in log, status and metrics until a reload succeeds.

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::audit::Timestamp;
use ginnel_core::status::{Config, Failure};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, info};

use crate::signals::Hangups;

/// How often files are looked at. A change is taken up when it has stood still from one look to the next, so that a file that is still being
/// written is left alone: half a second to a second after the last write.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When a reload that failed is tried again: what was missing may be a file that nobody watches because no configuration in force names it.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is in force, and what came of the last attempt to change it.
#[derive(Debug)]
pub struct InForce(Mutex<Config>);

impl InForce {
    /// What the process started with.
    pub fn new(version: String, entries: usize) -> Self {
        Self(Mutex::new(Config { version, entries: count(entries), applied: Some(now()), ..Config::default() }))
    }

    /// A reload came into force.
    pub fn applied(&self, version: String, entries: usize) {
        let mut config = self.lock();
        let reloads = config.reloads + 1;
        *config = Config {
            version,
            entries: count(entries),
            applied: Some(now()),
            reloads,
            failures: config.failures,
            failure: None,
        };
    }

    /// Something else than a reload changed what is in force.
    pub fn changed(&self, version: String, entries: usize) {
        let mut config = self.lock();
        config.version = version;
        config.entries = count(entries);
    }

    /// A reload failed. The same failure again does not count.
    pub fn failed(&self, error: &str) {
        let mut config = self.lock();
        if config.failure.as_ref().is_some_and(|failure| failure.error == error) {
            return;
        }
        config.failures += 1;
        config.failure = Some(Failure { time: now(), error: error.to_owned() });
    }

    /// The state, for the status.
    pub fn config(&self) -> Config {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a reload was begun, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A file was changed.
    FileChange,
    /// The process got SIGHUP.
    Hangup,
    /// Somebody asked for it over the admin socket.
    AdminSocket,
}

/// Why a reload came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// All of it, for whoever asks the process.
    pub whole: String,
    /// The same without what the files say, for the log.
    pub logged: String,
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self { whole: text.clone(), logged: text }
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// The state of files at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(Vec<(PathBuf, Stamp)>);

impl Seen {
    /// Looks at these files. Whoever reads them does this before: a change that comes meanwhile is then seen afterwards.
    pub fn now(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.ino(), found.ctime(), found.ctime_nsec(), found.len()))
        };
        Self(files.into_iter().map(|path| (path.clone(), stamp(&path))).collect())
    }

    /// These files, and then those.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Asks on a thread of its own: a file system that hangs must hold up nothing but this.
    async fn soon(files: Vec<PathBuf>) -> Self {
        tokio::task::spawn_blocking(|| Self::now(files)).await.unwrap_or_default()
    }
}

/// The files whose change asks for a reload.
pub struct Files {
    /// How they were before they were read for the first time.
    pub read: Seen,
    /// Which they are. It is asked before every look, because a reload may change it.
    pub named: Box<dyn Fn() -> Vec<PathBuf> + Send + Sync>,
}

/// Calls `reload` whenever one of the `files` has changed and whenever SIGHUP comes; never ends.
pub async fn watch<F>(files: &Files, reload: impl Fn(Trigger) -> F)
where
    F: Future<Output = Result<String, Fault>>,
{
    let look = || Seen::soon((files.named)());
    let mut hangups = Hangups::listen();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = files.read.clone();
    let mut last = known.clone();
    let mut failed: Option<(Instant, Fault)> = None;
    loop {
        let trigger = tokio::select! {
            biased;
            () = hangups.next() => Trigger::Hangup,
            _ = looks.tick() => {
                let seen = look().await;
                let stands_still = seen == last;
                last.clone_from(&seen);
                let is_due = failed.as_ref().is_some_and(|(at, _)| at.elapsed() >= TRY_AGAIN_AFTER);
                if (seen == known || !stands_still) && !is_due {
                    continue;
                }
                Trigger::FileChange
            }
        };
        // Taken before the files are read: a change that comes meanwhile is seen at the next look. So are files that this reload adds, which
        // costs a reload that changes nothing.
        known = look().await;
        last.clone_from(&known);
        let outcome = reload(trigger).await;
        let before = failed.take().map(|(_, why)| why);
        if let Err(why) = &outcome {
            failed = Some((Instant::now(), why.clone()));
        }
        // What is wrong with the same file in the same way was said.
        if outcome.is_ok() || outcome.as_ref().err() != before.as_ref() {
            say(trigger, &outcome);
        }
    }
}

/// Reloads on a thread of its own: files are waited for, and nothing else may be held up by one on a file system that hangs.
///
/// # Errors
/// Those of `reload`.
pub async fn apart(reload: impl FnOnce() -> Result<String, Fault> + Send + 'static) -> Result<String, Fault> {
    tokio::task::spawn_blocking(reload).await.unwrap_or_else(|_| Err("the reload broke off".into()))
}

/// Logs what came of a reload.
pub fn say(trigger: Trigger, outcome: &Result<String, Fault>) {
    let by = match trigger {
        Trigger::FileChange => "file change",
        Trigger::Hangup => "SIGHUP",
        Trigger::AdminSocket => "admin socket",
    };
    match outcome {
        Ok(changed) => {
            info!(by, "configuration reloaded");
            // Names of a customer's hosts may be in it.
            debug!(changed = one_line(changed), "what changed");
        }
        Err(why) => {
            error!(by, error = one_line(&why.logged), "configuration not reloaded; what was in force before still is");
            if why.whole != why.logged {
                debug!(error = one_line(&why.whole), "what is wrong");
            }
        }
    }
}

fn one_line(text: &str) -> String {
    text.trim_end().replace('\n', "; ")
}

/// What tells one state of a file from another. A name that is moved onto the file, or a link that is turned, shows in the inode.
/// The time of the last change of the inode is what nobody can set back.
type Stamp = Option<(u64, i64, i64, u64)>;

fn count(entries: usize) -> u64 {
    u64::try_from(entries).unwrap_or(u64::MAX)
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    #[test]
    fn a_failure_shows_until_a_reload_succeeds_and_changes_nothing_else() {
        let in_force = InForce::new("a".to_owned(), 1);
        in_force.failed("server.yaml:1:1: is empty");
        let config = in_force.config();
        assert_eq!((config.version.as_str(), config.failures, config.failure.is_some()), ("a", 1, true));
        in_force.applied("b".to_owned(), 2);
        let config = in_force.config();
        assert_eq!((config.version.as_str(), config.reloads, config.failures), ("b", 1, 1));
        assert_eq!((config.entries, config.failure), (2, None));
    }

    /// Watches a file that was read for the first time when it was as `read` says.
    fn watching(file: &Path, read: Seen) -> (AbortOnDropHandle<()>, mpsc::UnboundedReceiver<Trigger>) {
        let (told, hear) = mpsc::unbounded_channel();
        let named = vec![file.to_owned()];
        let files = Files { read, named: Box::new(move || named.clone()) };
        let reload = move |trigger| {
            told.send(trigger).unwrap();
            std::future::ready(Ok(String::new()))
        };
        (AbortOnDropHandle::new(tokio::spawn(async move { watch(&files, reload).await })), hear)
    }

    #[tokio::test]
    async fn a_change_between_the_first_reading_and_the_first_look_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.yaml");
        fs::write(&file, "one").unwrap();
        let read = Seen::now([file.clone()]);
        fs::write(&file, "two, which is longer").unwrap();
        let (_watching, mut hear) = watching(&file, read);
        assert_eq!(timeout(LOOK_EVERY * 20, hear.recv()).await.unwrap(), Some(Trigger::FileChange));
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_once_it_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.yaml");
        fs::write(&file, "one").unwrap();
        let (_watching, mut hear) = watching(&file, Seen::now([file.clone()]));
        // Nothing has changed yet: several looks come to nothing.
        assert!(timeout(LOOK_EVERY * 4, hear.recv()).await.is_err());
        let next = dir.path().join("next");
        fs::write(&next, "two").unwrap();
        fs::rename(&next, &file).unwrap();
        assert_eq!(timeout(LOOK_EVERY * 20, hear.recv()).await.unwrap(), Some(Trigger::FileChange));
    }
}
