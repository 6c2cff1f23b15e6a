//! A child process whose standard error is collected, searched, and shown when a test fails.

use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::wait::{SOON, within};

/// Lines kept of one process; a process that says more than this in one test is itself the finding.
const LINES_MAX: usize = 200_000;

/// Lines shown of a process whose test failed.
const LINES_SHOWN: usize = 120;

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    ended: Mutex<bool>,
    changed: Notify,
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn collect(self: Arc<Self>, stderr: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut lines = self.lines();
            if lines.len() < LINES_MAX {
                lines.push(text);
            }
            drop(lines);
            self.changed.notify_waiters();
        }
        *self.ended() = true;
        self.changed.notify_waiters();
    }
}

/// A running child process. Dropping it kills it.
pub struct Daemon {
    name: String,
    child: Child,
    pid: Pid,
    group: bool,
    log: Arc<Log>,
    quiet: bool,
}

impl Daemon {
    /// Starts `command` with its standard error collected.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(name: &str, command: Command) -> Result<Self> {
        Self::start(name, command, false)
    }

    /// Starts `command` as the head of a process group of its own, all of which ends with it.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn_group(name: &str, mut command: Command) -> Result<Self> {
        command.process_group(0);
        Self::start(name, command, true)
    }

    fn start(name: &str, mut command: Command, group: bool) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).context("a process without an id")?;
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().context("standard error is piped")?;
        tokio::spawn(Arc::clone(&log).collect(stderr));
        Ok(Self { name: name.to_owned(), child, pid, group, log, quiet: false })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Everything that it said so far.
    pub fn lines(&self) -> Vec<String> {
        self.log.lines().clone()
    }

    /// Where its log ends at this moment, for [`Self::wait_for_after`].
    pub fn mark(&self) -> usize {
        self.log.lines().len()
    }

    /// Waits for a JSON log line with this message that `fits`, from the start of the log.
    ///
    /// # Errors
    /// If the process ends or the deadline passes first.
    pub async fn wait_for(&self, message: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_for_after(0, message, fits).await
    }

    /// Waits for a JSON log line with this message that `fits`, after `mark`.
    ///
    /// # Errors
    /// If the process ends or the deadline passes first.
    pub async fn wait_for_after(&self, mark: usize, message: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_within(SOON, mark, message, fits).await
    }

    /// Waits at most `deadline` for a JSON log line with this message that `fits`, after `mark`.
    ///
    /// # Errors
    /// If the process ends or the deadline passes first.
    pub async fn wait_within(
        &self,
        deadline: Duration,
        mark: usize,
        message: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let search = async {
            let mut seen = mark;
            loop {
                let changed = self.log.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let ended = *self.log.ended();
                {
                    let lines = self.log.lines();
                    for line in lines.iter().skip(seen) {
                        if let Some(value) = parse(line, message)
                            && fits(&value)
                        {
                            return Ok(value);
                        }
                    }
                    seen = seen.max(lines.len());
                }
                if ended {
                    bail!("{} ended without saying {message:?}", self.name);
                }
                changed.await;
            }
        };
        within(&format!("{} to say {message:?}", self.name), deadline, search).await?
    }

    /// Every JSON log line with this message.
    pub fn said(&self, message: &str) -> Vec<Value> {
        self.log.lines().iter().filter_map(|line| parse(line, message)).collect()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to end with SIGTERM and waits until it has.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        kill_process(self.pid, Signal::TERM)?;
        Ok(within(&format!("{} to end", self.name), SOON, self.child.wait()).await??)
    }

    /// Asks it to end with SIGTERM and does not wait.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::TERM)?)
    }

    /// Asks it with SIGHUP to read its configuration again.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn hang_up(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::HUP)?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(within(&format!("{} to end", self.name), SOON, self.child.wait()).await??)
    }

    /// Stops its clock: it keeps its connections and says nothing.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn pause(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::STOP)?)
    }

    /// Lets it go on after [`Self::pause`].
    ///
    /// # Errors
    /// If the process is gone.
    pub fn resume(&self) -> Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Checks that it never panicked, and keeps its log from being shown when it is dropped.
    ///
    /// # Errors
    /// Shows the line with the panic.
    pub fn check(&mut self) -> Result<()> {
        let panicked = self.log.lines().iter().find(|line| line.contains("panicked")).cloned();
        ensure!(panicked.is_none(), "{} panicked: {panicked:?}", self.name);
        self.quiet = true;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.group {
            // Its children would outlive it otherwise; a group that is already gone is what is wanted.
            kill_process_group(self.pid, Signal::KILL).ok();
        }
        if !self.quiet {
            let lines = self.log.lines();
            let mut out = std::io::stderr().lock();
            writeln!(out, "--- {} ({} lines) ---", self.name, lines.len()).ok();
            for line in lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)) {
                writeln!(out, "{line}").ok();
            }
        }
    }
}

fn parse(line: &str, message: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(|value| value["message"] == message)
}
