//! The networks that principals are known to come from, kept over restarts in a file beside the audit log.
//!
//! The file is a help for the memory and no record: what is new is in the audit log. One that is lost or cannot be read is begun anew, and
//! everybody's next network is then their first.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ginnel_core::network::{Network, Networks, Seen};
use ginnel_core::principal::Principal;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

/// Name of the file in its directory.
const FILE_NAME: &str = "networks.json";

/// Bytes of a file that are read: what the most networks take with the longest names.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How often the file is written at most. What was learnt since then is reported once more after a crash.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// What is known, and its file.
#[derive(Debug)]
pub struct NetworkBook {
    path: PathBuf,
    networks: Mutex<Networks>,
    changed: Notify,
}

/// One network, as the file has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    principal: String,
    network: String,
    last_day: u32,
}

impl NetworkBook {
    /// Reads what is known; `directory` is that of the audit log.
    pub fn open(directory: &Path) -> Arc<Self> {
        let path = directory.join(FILE_NAME);
        let networks = read(&path).unwrap_or_else(|error| {
            warn!(%error, path = %path.display(), "it is not known where principals have come from; that is learnt anew");
            Networks::default()
        });
        Arc::new(Self { path, networks: Mutex::new(networks), changed: Notify::new() })
    }

    /// Takes note that a principal comes from an address, and says what was known of that.
    pub fn see(&self, principal: &Principal, address: IpAddr, now: SystemTime) -> Seen {
        let seen = self.networks().see(principal, Network::of(address), day(now));
        if seen != Seen::Today {
            self.changed.notify_one();
        }
        seen
    }

    /// Keeps the file up to date for as long as it is polled.
    pub async fn keep(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            self.write().await;
            sleep(KEEP_EVERY).await;
        }
    }

    /// Writes the file.
    pub async fn write(self: &Arc<Self>) {
        let book = Arc::clone(self);
        let written = spawn_blocking(move || write(&book.path, &book.networks().clone())).await;
        if let Err(error) = written.unwrap_or_else(|broken_off| Err(io::Error::other(broken_off))) {
            warn!(%error, path = %self.path.display(), "where principals have come from cannot be kept; after a restart it is learnt anew");
        }
    }

    fn networks(&self) -> MutexGuard<'_, Networks> {
        // Every change is one step: a panic elsewhere cannot have left half of one.
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The day, counted from 1970.
fn day(now: SystemTime) -> u32 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() / 86_400).unwrap_or(u32::MAX)
}

fn read(path: &Path) -> io::Result<Networks> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Networks::default()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let mut networks = Networks::default();
    for Kept { principal, network, last_day } in serde_json::from_slice::<Vec<Kept>>(&bytes)? {
        let principal: Principal = principal.parse().map_err(io::Error::other)?;
        networks.learn(&principal, network.parse().map_err(io::Error::other)?, last_day);
    }
    Ok(networks)
}

/// Replaces the file, whole or not at all.
fn write(path: &Path, networks: &Networks) -> io::Result<()> {
    let kept: Vec<_> = networks
        .all()
        .map(|(principal, network, last_day)| Kept {
            principal: principal.to_string(),
            network: network.to_string(),
            last_day,
        })
        .collect();
    let next = path.with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    // Without this a crash of the machine may leave an empty file under the name.
    file.sync_all()?;
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal() -> Principal {
        "spiffe://acme.example/client/frontend".parse().expect("a principal")
    }

    fn at(day: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400 + 7)
    }

    fn see(book: &NetworkBook, address: &str, day: u64) -> Seen {
        book.see(&principal(), address.parse().expect("an address"), at(day))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_learnt_outlives_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let book = NetworkBook::open(directory.path());
        let keeping = tokio::spawn(Arc::clone(&book).keep());
        assert_eq!(see(&book, "203.0.113.7", 1), Seen::Never(0));
        assert_eq!(see(&book, "2001:db8::1", 1), Seen::Never(1));
        sleep(KEEP_EVERY * 3).await;
        keeping.abort();
        let book = NetworkBook::open(directory.path());
        assert_eq!(see(&book, "203.0.113.200", 1), Seen::Today);
        assert_eq!(see(&book, "2001:db8:0:ff::", 2), Seen::Before);
        assert_eq!(see(&book, "198.51.100.1", 2), Seen::Never(2));
        book.write().await;
        assert_eq!(see(&NetworkBook::open(directory.path()), "198.51.100.2", 2), Seen::Today);
    }

    #[test]
    fn what_cannot_be_read_is_learnt_anew() {
        for text in [
            "",
            "[",
            "{}",
            r#"[{"principal":"x","network":"203.0.113.0/24","lastDay":1}]"#,
            r#"[{"principal":"spiffe://a/client/b","network":"203.0.113.7/24","lastDay":1}]"#,
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            fs::write(directory.path().join(FILE_NAME), text).expect("writes");
            let book = NetworkBook::open(directory.path());
            assert_eq!(see(&book, "203.0.113.7", 1), Seen::Never(0), "{text}");
        }
    }
}
