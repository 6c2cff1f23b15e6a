//! What the chain keeps beside the log, in its directory.
//!
//! | file | holds | who may have it |
//! |---|---|---|
//! | `chain.state` | the seed of the next chapter | the process that writes the log, nobody else |
//! | `chain.key` | the first seed, from which every key follows | whoever verifies; it is to be moved away from the log |
//! | `chain.pub` | the first public key | everybody |
//! | `chapters.jsonl` | the first line of every chapter, also of files that were removed | everybody |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ginnel_core::audit::Hash;
use ginnel_core::id::InstanceId;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keys::Seed;

/// Name of the file with the seed of the next chapter.
pub(in crate::audit) const STATE_NAME: &str = "chain.state";

/// Name of the file with the secret key that verifies the log.
pub const KEY_NAME: &str = "chain.key";

/// Name of the file with the public key that verifies the log's checkpoints.
pub const PUBLIC_NAME: &str = "chain.pub";

/// Name of the file with the first line of every chapter.
pub(in crate::audit) const CHAPTERS_NAME: &str = "chapters.jsonl";

/// The edition of these files.
const VERSION: u32 = 1;

/// Bytes of such a file that are read; all of them have less than 300.
const BYTES_MAX: usize = 4096;

/// From what the next chapter begins.
#[derive(Clone)]
pub(in crate::audit) struct State {
    pub(in crate::audit) log: InstanceId,
    /// Number of the chain's first record.
    pub(in crate::audit) from: u64,
    /// The next chapter.
    pub(in crate::audit) chapter: u64,
    /// Its seed.
    pub(in crate::audit) seed: Seed,
    /// Number of a record that the log has got to at least.
    pub(in crate::audit) seq: u64,
    /// The log was closed with that record.
    pub(in crate::audit) closed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    v: u32,
    log: InstanceId,
    from: u64,
    chapter: u64,
    seq: u64,
    #[serde(default)]
    closed: bool,
    seed: String,
}

/// What verifies a log: the secret key, every record; the public one, what checkpoints vouch for.
#[derive(Clone)]
pub(in crate::audit) struct Verifier<K> {
    pub(in crate::audit) log: InstanceId,
    /// Number of the chain's first record.
    pub(in crate::audit) from: u64,
    pub(in crate::audit) key: K,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    v: u32,
    log: InstanceId,
    from: u64,
    seed: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicFile {
    v: u32,
    log: InstanceId,
    from: u64,
    key: Hash,
}

fn malformed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    let mut text = Zeroizing::new(String::with_capacity(2 * BYTES_MAX));
    io::Read::read_to_string(&mut io::Read::take(File::open(path)?, BYTES_MAX as u64), &mut text)?;
    // The error has line and column, and nothing of what stands there.
    serde_json::from_str(&text).map_err(|error| malformed(format!("line {}, column {}", error.line(), error.column())))
}

fn seed(v: u32, mut digits: String) -> io::Result<Seed> {
    let seed = Seed::from_hex(&digits);
    digits.zeroize();
    if v != VERSION {
        return Err(malformed(format!("edition {v}, of which this version knows nothing")));
    }
    seed.ok_or_else(|| malformed("a seed has 64 hexadecimal digits"))
}

fn line(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    // With room for all of it nothing is moved, which would leave the beginning where it was.
    let mut line = Zeroizing::new(Vec::with_capacity(BYTES_MAX));
    serde_json::to_writer(&mut *line, value)?;
    line.push(b'\n');
    Ok(line)
}

impl State {
    /// Reads the state in a directory; `None` if there is none.
    pub(in crate::audit) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let read: StateFile = match read(&directory.join(STATE_NAME)) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let StateFile { v, log, from, chapter, seq, closed, seed: digits } = read;
        Ok(Some(Self { log, from, chapter, seq, closed, seed: seed(v, digits)? }))
    }

    /// Puts it in the place of the one before, which is overwritten then; a crash leaves the one or the other.
    pub(in crate::audit) fn write(&self, directory: &Path) -> io::Result<()> {
        let Self { log, from, chapter, seq, closed, .. } = *self;
        let mut file =
            StateFile { v: VERSION, log, from, chapter, seq, closed, seed: String::clone(&self.seed.to_hex()) };
        let line = line(&file);
        file.seed.zeroize();
        let (path, next) = (directory.join(STATE_NAME), directory.join("chain.state.next"));
        let before = OpenOptions::new().write(true).open(&path).ok();
        let written = line.and_then(|line| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&line)?;
            file.sync_all()
        });
        if let Err(error) = written.and_then(|()| fs::rename(&next, &path)) {
            // The seed must not lie there twice; the error that counts is the first.
            let _ = fs::remove_file(&next);
            return Err(error);
        }
        File::open(directory)?.sync_all()?;
        if let Some(before) = before {
            // Its name is gone, its blocks are free and may be read for a long time. On many disks nothing better can be done, and where not even
            // this can, the chain goes on all the same.
            let _ = overwrite(before);
        }
        Ok(())
    }

    /// Writes the keys that verify the log, if they are not there. This is the first state, from which all keys follow.
    pub(in crate::audit) fn write_verifiers(&self, directory: &Path) -> io::Result<()> {
        let Self { log, from, .. } = *self;
        let mut secret = KeyFile { v: VERSION, log, from, seed: String::clone(&self.seed.to_hex()) };
        let public = PublicFile { v: VERSION, log, from, key: self.seed.chapter().signer.public() };
        let secret_line = line(&secret);
        secret.seed.zeroize();
        create(&directory.join(KEY_NAME), &secret_line?, 0o600)?;
        create(&directory.join(PUBLIC_NAME), &line(&public)?, 0o644)?;
        File::open(directory)?.sync_all()
    }
}

/// Overwrites a file with zeros where it lies.
fn overwrite(mut file: File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(BYTES_MAX).min(BYTES_MAX);
    file.write_all(&[0; BYTES_MAX][..length])?;
    file.sync_all()
}

/// Writes a file as a whole unless it is there: half a key, which a crash could leave, would be none.
fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let next = path.with_added_extension("next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&next, path)) {
        // The key must not lie there twice; the error that counts is the first.
        let _ = fs::remove_file(&next);
        return Err(error);
    }
    Ok(())
}

/// Reads a file like `chain.key`.
pub(in crate::audit) fn read_secret(path: &Path) -> io::Result<Verifier<Seed>> {
    let KeyFile { v, log, from, seed: digits } = read(path)?;
    Ok(Verifier { log, from, key: seed(v, digits)? })
}

/// Reads a file like `chain.pub`.
pub(in crate::audit) fn read_public(path: &Path) -> io::Result<Verifier<Hash>> {
    let PublicFile { v, log, from, key } = read(path)?;
    if v == VERSION { Ok(Verifier { log, from, key }) } else { Err(malformed(format!("edition {v} is not known"))) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state() -> State {
        let log = InstanceId::from_bytes(&[3; 16]).expect("16 bytes");
        State { log, from: 1, chapter: 0, seed: Seed::random().expect("random"), seq: 0, closed: false }
    }

    #[test]
    fn a_state_is_replaced_as_a_whole_and_read_back() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(State::read(directory.path()).expect("reads").is_none());
        let (first, second) = (state(), State { chapter: 4, seq: 77, ..state() });
        first.write(directory.path()).expect("writes");
        let elsewhere = tempfile::tempdir().expect("a directory");
        let blocks = elsewhere.path().join("the same blocks");
        fs::hard_link(directory.path().join(STATE_NAME), &blocks).expect("links");
        second.write(directory.path()).expect("writes");
        assert!(fs::read(&blocks).expect("reads").iter().all(|&byte| byte == 0), "the seed before is overwritten");
        let read = State::read(directory.path()).expect("reads").expect("is there");
        assert_eq!((read.log, read.from, read.chapter, read.seq), (second.log, 1, 4, 77));
        assert_eq!(read.seed.to_hex(), second.seed.to_hex());
        let text = fs::read_to_string(directory.path().join(STATE_NAME)).expect("reads");
        assert!(!text.contains(first.seed.to_hex().as_str()), "the seed before is gone");
        assert_eq!(fs::read_dir(directory.path()).expect("reads").count(), 1);
    }

    #[test]
    fn the_verifiers_are_written_once_the_secret_one_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (first, other) = (state(), state());
        // What a crash left of an earlier try, for everybody to read.
        fs::write(directory.path().join("chain.key.next"), "{\"v\":1,").expect("writes");
        first.write_verifiers(directory.path()).expect("writes");
        other.write_verifiers(directory.path()).expect("leaves them");
        let (key, public) = (directory.path().join(KEY_NAME), directory.path().join(PUBLIC_NAME));
        let secret = read_secret(&key).expect("reads");
        assert_eq!(secret.key.to_hex(), first.seed.to_hex());
        assert_eq!(read_public(&public).expect("reads").key, first.seed.chapter().signer.public());
        assert_eq!(fs::metadata(key).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("reads").count(), 2, "nothing else");
    }

    #[test]
    fn what_is_broken_is_named_without_its_content() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(STATE_NAME);
        let whole = |seed: &str, v: u32| {
            format!(r#"{{"v":{v},"log":"{}","from":1,"chapter":0,"seq":0,"seed":"{seed}"}}"#, "0".repeat(32))
        };
        let secret = "5e".repeat(32);
        for text in [
            String::new(),
            whole(&secret, 2),
            whole("5e5e", 1),
            whole(&secret, 1).replace("from", "since"),
            whole(&secret, 1)[..90].to_owned(),
        ] {
            fs::write(&path, &text).expect("writes");
            let error = State::read(directory.path()).map(drop).expect_err("is broken").to_string();
            assert!(!error.contains("5e5e"), "{error}");
        }
        fs::write(&path, whole(&secret, 1)).expect("writes");
        assert!(State::read(directory.path()).expect("reads").is_some());
    }
}
