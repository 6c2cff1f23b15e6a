//! Telling the service manager how the process is: systemd's `sd_notify` protocol, one datagram for each message.
//!
//! Nothing here fails: a process that cannot speak to its manager carries on, and the manager acts on the silence.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

/// How long one message may wait for a manager that does not read. It holds up the caller, and a message is worth no more than that.
const SEND_DEADLINE: Duration = Duration::from_millis(200);

/// Bytes of a status text: it is one line of `systemctl status`, and the manager passes over messages above 4,096 bytes.
const STATUS_BYTES_MAX: usize = 1024;

/// The watchdog hears this many messages in its time, so that one of them may be late.
const MESSAGES_PER_WATCHDOG: u32 = 2;

/// The service manager that started this process and wants to hear from it.
pub struct Notify {
    socket: UnixDatagram,
    manager: SocketAddr,
    watchdog: Option<Duration>,
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify")
            .field("manager", &self.manager)
            .field("watchdog", &self.watchdog)
            .finish_non_exhaustive()
    }
}

impl Notify {
    /// Takes the manager from the environment; `None` when there is none, or when it can be given no message.
    pub fn from_env() -> Option<Self> {
        let socket = env::var_os("NOTIFY_SOCKET")?;
        let (usec, pid) = (env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID"));
        Self::new(&socket, watchdog(usec.as_deref(), pid.as_deref()))
    }

    fn new(socket: &OsStr, watchdog: Option<Duration>) -> Option<Self> {
        let open = || {
            let manager = address(socket)?;
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_DEADLINE))?;
            Ok(Self { socket, manager, watchdog })
        };
        open().inspect_err(|error: &io::Error| warn!(%error, "cannot notify the service manager")).ok()
    }

    /// Says that the process has started, or that a reload is over, and how it is.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// Says that a reload has begun. [`Notify::ready`] ends it, whatever came of it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Says that the process is on its way out.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Says how the process is, for the eyes of people.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", line(text)));
    }

    /// How often [`Notify::watchdog`] is to be called; `None` when nobody waits for it.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says that the process is alive. Call it from where the work is done: a timer of its own would tick beside a stuck process.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.manager) {
            warn!(%error, "the service manager did not take a message");
        }
    }
}

/// A path, or `@` and a name that is in no directory.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

/// How often the watchdog wants to hear from this process. With another process's id beside it, it waits for that one.
fn watchdog(usec: Option<&OsStr>, pid: Option<&OsStr>) -> Option<Duration> {
    let ours = |pid: &OsStr| number(pid) == Some(u64::from(std::process::id()));
    if !pid.is_none_or(ours) {
        return None;
    }
    let micros = number(usec?).filter(|&micros| micros > 0)?;
    // Zero would make a timer that never rests.
    Some((Duration::from_micros(micros) / MESSAGES_PER_WATCHDOG).max(Duration::from_micros(1)))
}

fn number(text: &OsStr) -> Option<u64> {
    text.to_str()?.parse().ok()
}

/// A text in one line that cannot be taken for another assignment.
fn line(text: &str) -> String {
    let end = text.floor_char_boundary(STATUS_BYTES_MAX);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 8192];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn at_path() -> (tempfile::TempDir, UnixDatagram, Notify) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(path.as_os_str(), None).unwrap();
        (dir, manager, notify)
    }

    #[test]
    fn says_each_thing_in_a_datagram_of_its_own() {
        let (_dir, manager, notify) = at_path();
        notify.ready("2 agents");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=2 agents");
        notify.status("draining");
        assert_eq!(heard(&manager), "STATUS=draining");
        notify.watchdog();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        notify.stopping();
        assert_eq!(heard(&manager), "STOPPING=1");
    }

    #[test]
    fn a_reload_carries_the_time_of_the_machine() {
        let (_dir, manager, notify) = at_path();
        let micros = |message: String| {
            message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|text| text.parse::<u64>().ok()).unwrap()
        };
        notify.reloading();
        let first = micros(heard(&manager));
        notify.reloading();
        assert!(first > 0 && micros(heard(&manager)) >= first);
    }

    #[test]
    fn a_status_can_set_nothing_else_and_has_an_end() {
        let (_dir, manager, notify) = at_path();
        notify.status("bad\nREADY=1\r\0MAINPID=1");
        assert_eq!(heard(&manager), "STATUS=bad READY=1  MAINPID=1");
        notify.status(&"é".repeat(5_000));
        assert_eq!(heard(&manager).len(), "STATUS=".len() + STATUS_BYTES_MAX);
    }

    #[test]
    fn an_abstract_name_works_like_a_path() {
        let name = format!("ginnel-notify-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notify = Notify::new(&OsString::from(format!("@{name}")), None).unwrap();
        notify.ready("up");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=up");
    }

    #[test]
    fn an_address_that_is_none_is_no_manager() {
        let long = format!("/{}", "x".repeat(500));
        for bad in ["", "@", "relative", "vsock:2:1234", &long] {
            assert!(Notify::new(OsStr::new(bad), None).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_manager_that_does_not_listen_or_read_holds_nobody_up() {
        let (dir, manager, notify) = at_path();
        // More than any queue of datagrams holds, and well below what a blocked sender would need.
        let full = (0..100_000).any(|_| notify.socket.send_to_addr(b"x", &notify.manager).is_err());
        assert!(full, "a send gives up");
        notify.stopping();
        drop((manager, dir));
        notify.stopping();
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_and_only_by_the_process_it_waits_for() {
        let ours = std::process::id().to_string();
        let half = Some(Duration::from_secs(15));
        for (usec, pid, interval) in [
            (Some("30000000"), None, half),
            (Some("30000000"), Some(ours.as_str()), half),
            (Some("30000000"), Some("1"), None),
            (Some("30000000"), Some("x"), None),
            (Some("1"), None, Some(Duration::from_micros(1))),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (None, Some(ours.as_str()), None),
            (None, None, None),
        ] {
            let given = watchdog(usec.map(OsStr::new), pid.map(OsStr::new));
            assert_eq!(given, interval, "{usec:?} {pid:?}");
        }
    }
}
