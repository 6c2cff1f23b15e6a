//! The log's directory: its lock, its files, and where it left off.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ginnel_core::audit::{Entry, Hash, LogFiles, Seal};
use ginnel_core::id::InstanceId;
use tracing::{info, warn};

use self::end::{Changed, End};
use self::looks::Looks;
use super::chain::Position;
use super::chain::keys::{Seed, is_signed};
use super::chain::state::{CHAPTERS_NAME, KEY_NAME, STATE_NAME, State, read_secret};
use super::chain::void::Void;
use super::lines::{LINE_MAX, next_line, old_files, old_name, reader};
use super::writer::{Look, Medium, Old};
use super::{AuditError, FILE_NAME};

mod end;
mod looks;

/// How far back from its end a log is searched for its last record, and for the chapter that this belongs to. A checkpoint, which names it,
/// comes with every thousandth record, and the longest record has some 2 KiB; so much without any is no log of ours.
const TAIL_MAX: u64 = 4 * 1024 * 1024;

/// Numbers that no log gets to: at a million records in a second it would take 300,000 years. A higher one was not written by us.
const SEQ_MAX: u64 = u64::MAX / 2;

/// Name of the file that is locked by whoever writes the log, whatever happens to the log's own files.
const LOCK_NAME: &str = "audit.lock";

/// Where a log goes on.
pub(super) struct Start {
    /// From what the next chapter begins.
    pub(super) state: State,
    /// The last record that counts.
    pub(super) last: Position,
    /// What lies after it in an older file.
    pub(super) void: Void,
    /// Length of the file up to the end of that record.
    pub(super) whole: u64,
    /// The record has no end of line.
    pub(super) is_unended: bool,
    /// Number and time of the first record of the file, if it has any.
    pub(super) first: Option<(u64, SystemTime)>,
}

/// The files, locked by this process.
pub(super) struct LogFile {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    lock: File,
    looks: Looks,
}

impl Medium for LogFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn add_to(&mut self, void: &mut Void, from: u64, bytes: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(from))?;
        let before = void.bytes();
        void.add_from(&mut (&self.file).take(bytes))?;
        if void.bytes() - before == bytes { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn is_in_place(&mut self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn replace(&mut self) -> io::Result<()> {
        // What somebody else put there is not written to, and not thrown away.
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&self.path)?;
        if let Err(error) = sync_directory(&self.directory) {
            // The writer goes on with the file that it knows, and tries again.
            let _ = fs::remove_file(&self.path);
            return Err(error);
        }
        self.file = file;
        Ok(())
    }

    fn keep(&mut self, state: &State, chapter: Option<&[u8]>) -> io::Result<()> {
        if let Some(line) = chapter {
            append_line(&self.directory.join(CHAPTERS_NAME), line)?;
        }
        state.write(&self.directory)
    }

    fn rotate(&mut self, first_seq: u64) -> io::Result<()> {
        let old = self.directory.join(old_name(first_seq));
        if old.try_exists()? {
            return Err(io::Error::new(ErrorKind::AlreadyExists, format!("{} is there already", old.display())));
        }
        fs::rename(&self.path, &old)?;
        let replaced = self.replace();
        if replaced.is_err() && !self.path.exists() {
            // It goes on as before; if that fails as well, the next write finds the file out of its place.
            let _ = fs::rename(&old, &self.path);
        }
        replaced
    }

    fn old(&mut self, last_seq: u64) -> io::Result<Vec<Old>> {
        // What has a number that the log has not got to is none of its files.
        let ours = old_files(&self.directory)?.into_iter().filter(|(first_seq, _)| *first_seq <= last_seq);
        ours.map(|(first_seq, path)| Ok(Old { bytes: fs::metadata(&path)?.len(), path, first_seq })).collect()
    }

    fn look(&mut self, old: &[Old], index: usize, budget: &mut u64) -> io::Result<Look> {
        self.looks.look(old, index, &self.path, budget)
    }

    fn remove(&mut self, old: &Old) -> io::Result<()> {
        fs::remove_file(&old.path)?;
        sync_directory(&self.directory)
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started holds the descriptor, and with it the lock, until it has begun.
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
impl LogFile {
    /// A file that is no log, such as a device, beside the state of one.
    pub(super) fn over(directory: &Path, file: File, path: &Path) -> io::Result<Self> {
        let lock = File::create(directory.join(LOCK_NAME))?;
        Ok(Self { directory: directory.to_owned(), path: path.to_owned(), file, lock, looks: Looks::default() })
    }
}

/// Appends a line, as one of its own also where a crash or a full disk left a part of another.
fn append_line(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut last = *b"\n";
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let end: &[u8] = if last == *b"\n" { b"" } else { b"\n" };
    file.write_all(&[end, line].concat())?;
    file.sync_data()
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Takes the log for this process and finds out where it goes on.
pub(super) fn open(files: &LogFiles) -> Result<(LogFile, Start), AuditError> {
    let directory = files.directory.as_path();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| AuditError::Directory { path: directory.to_owned(), source })?;
    let path = directory.join(FILE_NAME);
    let failed = |source| AuditError::Open { path: path.clone(), source };

    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(directory.join(LOCK_NAME)).map_err(failed)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => AuditError::InUse { path: path.clone() },
        TryLockError::Error(source) => failed(source),
    })?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
    // A new file's name must survive a crash as well as its content.
    sync_directory(directory).map_err(failed)?;
    let mut file = LogFile { directory: directory.to_owned(), path: path.clone(), file, lock, looks: Looks::default() };
    let start = start(&mut file)?;
    Ok((file, start))
}

fn start(log: &mut LogFile) -> Result<Start, AuditError> {
    let path = log.path.clone();
    let failed = |source| AuditError::Open { path: path.clone(), source };
    let Found { end, whole, void } = find_end(log)?;
    let last = end.last.unwrap_or(Position::before_all(0));
    if last.seq > SEQ_MAX {
        return Err(AuditError::NotALog { path });
    }
    let length = log.length().map_err(failed)?;
    if length > whole {
        warn!(path = %path.display(), bytes = length - whole, "the audit log has no record at its end; what is there is kept as it is");
    }
    let state = state(log, &end, last)?;
    let first = first_record(&path).map_err(failed)?;
    let is_unended = end.is_unended && whole > 0;
    Ok(Start { state, last, void, whole, is_unended, first })
}

/// The end of a log, in whichever file it is.
struct Found {
    end: End,
    /// Length of the file that is being written up to its last record.
    whole: u64,
    /// What lies after the last record in an older file.
    void: Void,
}

fn find_end(log: &mut LogFile) -> Result<Found, AuditError> {
    let path = log.path.clone();
    let failed = |source| AuditError::Open { path: path.clone(), source };
    let (bytes, is_whole) = tail(&mut log.file).map_err(failed)?;
    let end = End::find(&bytes, is_whole).map_err(|Changed| not_whole(&path, CHANGED))?;
    if end.last.is_some() {
        let length = log.length().map_err(failed)?;
        let whole = length - bytes.len() as u64 + end.length as u64;
        return Ok(Found { end, whole, void: Void::default() });
    }
    // A file without any record is new, or a crash cut off its first.
    if !is_whole {
        return Err(AuditError::NotALog { path });
    }
    let old = old_files(&log.directory).map_err(failed)?.pop();
    let Some((_, old)) = old else { return Ok(Found { end, whole: 0, void: Void::default() }) };
    let is_strange = end.is_strange;
    let mut file = File::open(&old).map_err(failed)?;
    let (bytes, is_whole) = tail(&mut file).map_err(failed)?;
    let end = End::find(&bytes, is_whole).map_err(|Changed| not_whole(&old, CHANGED))?;
    if end.last.is_none() {
        return Err(AuditError::NotALog { path: old });
    }
    if end.is_sealed && is_strange {
        return Err(not_whole(&path, CHANGED));
    }
    // A record without its end of line keeps it: the next one is in another file.
    let void = Void::from(&bytes[end.length..]);
    Ok(Found { end, whole: 0, void })
}

const CHANGED: &str = "there are records near its end that do not follow from those before them, or have no seal";
const CUT_OFF: &str =
    "it ends before a record that it is known to have had, so its end was cut off, or an older copy was put back";
const CLOSED: &str = "it was closed, and there are records after that";
const NO_STATE: &str = "its chain has begun, and chain.state, from which it goes on, is not there";
const OTHER_STATE: &str =
    "chain.state does not belong to the end of this log: one of the two was put back from an older copy";
const OTHER_KEY: &str = "there is a chain.key of another log beside it";

fn not_whole(path: &Path, what: &'static str) -> AuditError {
    AuditError::NotWhole { path: path.to_owned(), what }
}

/// From what the next chapter begins, which a new log is given here.
fn state(log: &mut LogFile, end: &End, last: Position) -> Result<State, AuditError> {
    let directory = log.directory.clone();
    let directory = directory.as_path();
    let path = log.path.clone();
    let at_state = |source| AuditError::Open { path: directory.join(STATE_NAME), source };
    let Some(mut state) = State::read(directory).map_err(at_state)? else {
        if end.is_sealed {
            return Err(not_whole(&path, NO_STATE));
        }
        return begin(directory, last);
    };
    if last.seq < state.seq {
        return Err(not_whole(&path, CUT_OFF));
    }
    match end.chapter {
        // A crash came before the first chapter was on disk.
        None if state.chapter == 0 && !end.is_sealed => {
            verifiers(directory, &state)?;
            Ok(state)
        }
        Some(chapter) if chapter.checked_add(1) == Some(state.chapter) => {
            if state.closed && last.seq != state.seq {
                return Err(not_whole(&path, CLOSED));
            }
            Ok(state)
        }
        // A crash came between the first line of the chapter and the next state: what follows is the next chapter.
        Some(chapter) if chapter == state.chapter => {
            let begun = end.beginning.as_deref().and_then(|line| begun(line, &state));
            if begun.is_none() || (state.closed && begun != Some(last.hash)) {
                return Err(not_whole(&path, OTHER_STATE));
            }
            state.closed = false;
            state.seed = state.seed.next();
            state.chapter += 1;
            // Both at once: the line may have been lost with the state, and after another crash in the same place the state would be two
            // chapters behind, which looks like an older copy. What they tell of has to be as durable as they are.
            log.sync().and_then(|()| log.keep(&state, end.beginning.as_deref())).map_err(at_state)?;
            Ok(state)
        }
        None | Some(_) => Err(not_whole(&path, OTHER_STATE)),
    }
}

/// The hash of a line that begins the chapter of a state, if whoever wrote it had the keys.
fn begun(line: &[u8], state: &State) -> Option<Hash> {
    let (_, seal) = Seal::split(line.strip_suffix(b"\n")?)?;
    let mut keys = state.seed.chapter();
    let is_signed = is_signed(&keys.signer.public(), &seal.hash, &seal.signature?);
    (is_signed && keys.macs.mac(&seal.hash) == seal.mac).then_some(seal.hash)
}

/// Begins a chain after the record `last`.
fn begin(directory: &Path, last: Position) -> Result<State, AuditError> {
    let failed = |source| AuditError::Open { path: directory.join(STATE_NAME), source };
    if directory.join(KEY_NAME).try_exists().map_err(failed)? {
        return Err(not_whole(&directory.join(FILE_NAME), OTHER_KEY));
    }
    let mut log = [0; 16];
    let seed = Seed::random().map_err(failed)?;
    aws_lc_rs::rand::fill(&mut log).map_err(|_| failed(io::Error::other("the system gives no random bytes")))?;
    let log = InstanceId::from_bytes(&log).map_err(|error| failed(io::Error::other(error)))?;
    let state = State { log, from: last.seq + 1, chapter: 0, seed, seq: last.seq, closed: false };
    state.write(directory).map_err(failed)?;
    verifiers(directory, &state)?;
    let key = directory.join(KEY_NAME);
    info!(key = %key.display(), "a new audit log: move this key to whoever verifies the log, and keep none here");
    Ok(state)
}

fn verifiers(directory: &Path, state: &State) -> Result<(), AuditError> {
    let path = directory.join(KEY_NAME);
    let failed = |source| AuditError::Open { path: path.clone(), source };
    state.write_verifiers(directory).map_err(failed)?;
    let key = read_secret(&path).map_err(failed)?;
    if key.log == state.log { Ok(()) } else { Err(not_whole(&directory.join(FILE_NAME), OTHER_KEY)) }
}

/// The end of a file, and whether that is all of it.
fn tail(file: &mut File) -> io::Result<(Vec<u8>, bool)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut tail)?;
    Ok((tail, start == 0))
}

/// Number and time of the first record of a file, if there is one near its beginning.
fn first_record(path: &Path) -> io::Result<Option<(u64, SystemTime)>> {
    let (mut reader, mut line) = (reader(path)?.take(2 * LINE_MAX as u64), Vec::new());
    while next_line(&mut reader, &mut line)?.is_some() {
        if let Ok(entry) = serde_json::from_slice::<Entry>(&line) {
            return Ok(Some((entry.seq, entry.time.into())));
        }
    }
    Ok(None)
}
