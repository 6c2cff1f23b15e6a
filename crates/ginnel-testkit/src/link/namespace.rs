//! A network namespace: threads, sockets and processes in it.

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, BufRead, BufReader};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

/// Threads of a runtime in a namespace; a test and its hosts need no more.
const WORKERS: usize = 2;

const SETTINGS: &str = "/proc/sys/net/ipv4";

/// A network namespace. It lasts until it is dropped and everything in it has ended.
pub struct Namespace {
    /// A process that does nothing in it. It ends with its standard input, which we hold, however we end.
    holder: Child,
    entrance: Arc<File>,
}

impl Namespace {
    /// Makes one, in which only loopback is, and that down.
    ///
    /// # Errors
    /// If `unshare` is missing or not allowed to.
    pub(super) fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec cat >/dev/null"]);
        let mut holder =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("is util-linux installed?")?;
        let mut line = String::new();
        let said = holder.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line)).transpose()?;
        let entrance = File::open(entrance(holder.id()));
        // From here on dropping it ends the process.
        let namespace = Self { holder, entrance: Arc::new(entrance.context("opening the namespace")?) };
        ensure!(said == Some(1), "unshare could not make a network namespace");
        Ok(namespace)
    }

    /// What stands for it in the file system, for `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        entrance(self.holder.id())
    }

    /// Calls `work` on a thread in the namespace. A socket that is made there stays there, whoever uses it.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` panicked.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            enter(&self.entrance).context("entering a namespace")?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread panicked"))?
    }

    /// Runs a future to its end with a runtime all of whose threads are in the namespace: what it connects, binds and starts is there.
    ///
    /// # Errors
    /// What the future says, or why there is no such runtime.
    pub fn block_on<T: Send, F: Future<Output = Result<T>>>(&self, work: impl FnOnce() -> F + Send) -> Result<T> {
        let inside = || -> Result<T> {
            let outside = Arc::new(AtomicBool::new(false));
            let answer = self.runtime(&outside)?.block_on(work());
            ensure!(!outside.load(Ordering::Relaxed), "a thread of the runtime could not enter the namespace");
            answer
        };
        self.run(inside)?
    }

    /// A runtime all of whose own threads are in the namespace, or say that one is `outside`.
    fn runtime(&self, outside: &Arc<AtomicBool>) -> io::Result<Runtime> {
        let (entrance, outside) = (Arc::clone(&self.entrance), Arc::clone(outside));
        let start = move || {
            if enter(&entrance).is_err() {
                outside.store(true, Ordering::Relaxed);
            }
        };
        Builder::new_multi_thread().worker_threads(WORKERS).enable_all().on_thread_start(start).build()
    }

    /// A listener in the namespace, at a free port of `address`.
    ///
    /// # Errors
    /// If there is none.
    pub fn listener(&self, address: IpAddr) -> Result<std::net::TcpListener> {
        let listener = self.run(|| std::net::TcpListener::bind((address, 0)))??;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Errors
    /// What it said.
    pub(super) fn ip(&self, words: &[&str]) -> Result<()> {
        let output = self.run(|| Command::new("ip").args(words).output())?.context("is iproute2 installed?")?;
        ensure!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
        Ok(())
    }

    /// Keeps what would make one connection's fate depend on another's, and packets that nobody sent, out of the namespace.
    pub(super) fn quiet(&self) -> Result<()> {
        self.set(&Path::new(SETTINGS).join("tcp_no_metrics_save"), "1")?;
        let six = Path::new("/proc/sys/net/ipv6/conf/all/disable_ipv6");
        if six.exists() { self.set(six, "1") } else { Ok(()) }
    }

    /// Sets the congestion control of new connections. A kernel lets a namespace choose only what the machine's own namespace allows to
    /// everybody; what is missing there is added, and stays.
    pub(super) fn congestion(&self, name: &str) -> Result<()> {
        let setting = Path::new(SETTINGS).join("tcp_congestion_control");
        if self.set(&setting, name).is_ok() {
            return Ok(());
        }
        let allowed = Path::new(SETTINGS).join("tcp_allowed_congestion_control");
        let names = fs::read_to_string(&allowed).context("reading the allowed congestion controls")?;
        fs::write(&allowed, format!("{} {name}", names.trim_end())).with_context(|| format!("allowing {name}"))?;
        self.set(&setting, name)
    }

    fn set(&self, setting: &Path, value: &str) -> Result<()> {
        self.run(|| fs::write(setting, value))?.with_context(|| format!("setting {} to {value}", setting.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

fn entrance(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/ns/net"))
}

/// Moves the calling thread, and with it what it makes from then on.
fn enter(entrance: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(entrance.as_fd(), Some(LinkNameSpaceType::Network))?)
}
