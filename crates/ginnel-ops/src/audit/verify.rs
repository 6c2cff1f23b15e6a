//! Proving that a log is whole: every record is what was written, in its place, and none is missing.
//!
//! What can be proved depends on what the verifier has ([`Proof`]): with the secret key of the chain every record, with the public key
//! everything up to the last signed one, with neither that the log fits together. That its end is there only something can prove that was kept
//! elsewhere: an anchor, or the number of a record.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ginnel_core::audit::{Hash, Seal};
use serde::Deserialize;

use self::again::{Bytes, look_again, walk_through};
pub(super) use self::kept::{Kept, KeptWalk};
pub use self::report::{Finding, Note, Proof, Report, Run, Wrong};
use self::walk::{Line, Trust, Walk};
use super::chain::keys::{Seed, is_signed, running};
use super::chain::state::{CHAPTERS_NAME, KEY_NAME, PUBLIC_NAME, STATE_NAME, State, read_public, read_secret};
use super::lines::{log_files, next_line, reader};

mod again;
mod kept;
mod report;
mod walk;

/// Anchors that are taken from one file; somebody who keeps one an hour has as many after a year.
const ANCHORS_MAX: usize = 10_000;

/// Bytes of a file of anchors that are read: room for the most of them as whole records.
const ANCHORS_BYTES_MAX: u64 = 32 << 20;

/// Chapters to which keys are derived from the first: one for each minute of two years. It takes some seconds.
const CHAPTERS_MAX: u64 = 1_000_000;

/// How often a log that goes on in another file meanwhile is verified again. It does that once in hours.
const RETRIES_MAX: usize = 3;

/// What a log lacks whose state cannot be asked.
const NO_END: &str = "only an anchor proves that its end is there";

/// What to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// The log in a directory, with what lies beside it.
    Directory(PathBuf),
    /// These files in this order.
    Files(Vec<PathBuf>),
}

/// What the verifier has from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// A file like `chain.key`. Without it and `public`, one in the directory is used.
    pub key: Option<PathBuf>,
    /// A file like `chain.pub`.
    pub public: Option<PathBuf>,
    /// Files with records, or answers of `ginnel status --json`, that were kept elsewhere.
    pub anchors: Vec<PathBuf>,
    /// The number of a record that the log is known to have had.
    pub at_least: Option<u64>,
}

/// Why a log could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file of anchors has none, or too many (input).
    #[error("{} has no record with `seq` and `hash`, or more than {ANCHORS_MAX}", path.display())]
    Anchors {
        /// The file.
        path: PathBuf,
    },
    /// Anchors contradict each other: one of them is of another log, or was changed (input).
    #[error("{} has another hash for record {seq}, or another key of its chapter, than an anchor before it", path.display())]
    Contradiction {
        /// The file with the later anchor.
        path: PathBuf,
        /// The record that it is about.
        seq: u64,
    },
    /// A file could not be read, or is not what it was given for (input, environment).
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> VerifyError + '_ {
    move |source| VerifyError::Read { path: path.to_owned(), source }
}

/// Verifies one log from its first record at hand to its last.
///
/// # Errors
/// [`VerifyError`] if something could not be read; what is wrong with the log is in the report.
pub fn verify(log: &Log, evidence: &Evidence) -> Result<Report, VerifyError> {
    let directory = match log {
        Log::Directory(directory) => directory,
        Log::Files(files) => return verify_files(None, files, evidence),
    };
    let list = || log_files(directory).map_err(reading(directory));
    let mut files = list()?;
    for _ in 0..RETRIES_MAX {
        let verified = verify_files(Some(directory), &files, evidence);
        let listed = list()?;
        if listed == files || verified.as_ref().is_ok_and(Report::is_whole) {
            return verified;
        }
        // The log has gone on in another file meanwhile, or an old one was removed.
        files = listed;
    }
    verify_files(Some(directory), &files, evidence)
}

fn verify_files(directory: Option<&Path>, files: &[PathBuf], evidence: &Evidence) -> Result<Report, VerifyError> {
    let mut anchors = Anchors::default();
    for path in &evidence.anchors {
        anchors.read(path)?;
    }
    let mut trust = Trust { at_least: evidence.at_least.unwrap_or(0), ..Trust::default() };
    keys(&mut trust, &mut anchors, directory, evidence)?;
    match directory.map(State::read) {
        // Somebody who cuts the log off may forget it.
        Some(Ok(Some(state))) => trust.at_least = trust.at_least.max(state.seq),
        Some(Ok(None)) => trust.state_missing = Some(format!("there is no {STATE_NAME} beside the log: {NO_END}")),
        Some(Err(error)) => trust.state_missing = Some(format!("{STATE_NAME} cannot be read ({error}): {NO_END}")),
        None => {}
    }
    if let Some(chapter) = first_chapter(files)? {
        first_key(&mut trust, &anchors.keys, directory, chapter)?;
    }
    let mut walk = Walk::new(trust, anchors);
    let mut bytes = Bytes::Files(Vec::new());
    for (index, file) in files.iter().enumerate() {
        if let Bytes::Files(files) = &mut bytes {
            files.push((walk.read(), file));
        }
        let mut reader = reader(file).map_err(reading(file))?;
        walk_through(&mut walk, file, &mut reader, index + 1 == files.len(), &bytes)?;
    }
    end(walk, files.len(), &bytes)
}

/// Verifies the content of a file as [`verify`] verifies a file without anything from elsewhere; `path` is what places call it.
///
/// # Errors
/// As of [`verify`]; none for what is in memory.
pub fn verify_content(path: &Path, content: &[u8]) -> Result<Report, VerifyError> {
    let mut walk = Walk::new(Trust::default(), Anchors::default());
    let bytes = Bytes::Content(content);
    walk_through(&mut walk, path, &mut &*content, true, &bytes)?;
    end(walk, 1, &bytes)
}

fn end(mut walk: Walk, files: usize, bytes: &Bytes<'_>) -> Result<Report, VerifyError> {
    walk.close();
    look_again(&mut walk, bytes)?;
    Ok(walk.end(files))
}

/// Finds the keys that were given or lie beside the log.
fn keys(
    trust: &mut Trust,
    anchors: &mut Anchors,
    directory: Option<&Path>,
    evidence: &Evidence,
) -> Result<(), VerifyError> {
    let is_given = evidence.key.is_some() || evidence.public.is_some();
    let beside = |name: &str| directory.filter(|_| !is_given).map(|it| it.join(name)).filter(|path| path.exists());
    let secret = evidence.key.clone().or_else(|| beside(KEY_NAME));
    let public = evidence.public.clone().or_else(|| beside(PUBLIC_NAME));
    trust.is_beside = !is_given && (secret.is_some() || public.is_some());
    if let Some(path) = &secret {
        match read_secret(path) {
            Ok(key) => {
                (trust.log, trust.from) = (Some(key.log), Some(key.from));
                anchors.keys.insert(0, key.key.chapter().signer.public());
                trust.secret = Some(key.key);
            }
            // Whoever may read the log need not be allowed to read what lies beside it.
            Err(error) if evidence.key.is_none() && error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(reading(path)(error)),
        }
    }
    if let Some(path) = &public {
        let key = read_public(path).map_err(reading(path))?;
        (trust.log, trust.from) = (Some(key.log), Some(key.from));
        anchors.keys.insert(0, key.key);
    }
    Ok(())
}

/// The first chapter that the files have, if they have any.
fn first_chapter(files: &[PathBuf]) -> Result<Option<u64>, VerifyError> {
    let mut line = Vec::new();
    for file in files {
        let mut reader = reader(file).map_err(reading(file))?;
        while next_line(&mut reader, &mut line).map_err(reading(file))?.is_some() {
            if let Some(chapter) = Line::parse(&line).chapter() {
                return Ok(Some(chapter));
            }
        }
    }
    Ok(None)
}

/// Finds what the first chapter at hand is verified with.
fn first_key(
    trust: &mut Trust,
    pinned: &BTreeMap<u64, Hash>,
    directory: Option<&Path>,
    chapter: u64,
) -> Result<(), VerifyError> {
    // A key of a later chapter says nothing of the first; it is compared when that chapter begins.
    trust.is_pinned = pinned.range(..=chapter).next().is_some();
    if let Some(first) = trust.secret.take().filter(|_| chapter <= CHAPTERS_MAX) {
        let seed = (0..chapter).fold(first, |seed: Seed, _| seed.next());
        trust.first_key = Some(seed.chapter().signer.public());
        trust.secret = Some(seed);
        return Ok(());
    }
    let Some((&number, &key)) = pinned.range(..=chapter).next_back() else { return Ok(()) };
    let mut known = (number, key);
    let path = directory.map(|directory| directory.join(CHAPTERS_NAME)).filter(|path| path.exists());
    if let Some(path) = path.filter(|_| number < chapter) {
        // Files that were removed have taken the beginnings of their chapters with them; this one has kept them.
        let mut reader = reader(&path).map_err(reading(&path))?;
        let mut line = Vec::new();
        while known.0 < chapter && next_line(&mut reader, &mut line).map_err(reading(&path))?.is_some() {
            known = follow(known, &line).unwrap_or(known);
        }
    }
    trust.first_key = (known.0 == chapter).then_some(known.1);
    Ok(())
}

/// The next chapter and its key, by the word of the first line of a chapter whose key is known.
fn follow((number, key): (u64, Hash), line: &[u8]) -> Option<(u64, Hash)> {
    let (record, seal) = Seal::split(line)?;
    let Line::Chapter { chapter, .. } = Line::parse(line) else { return None };
    let is_it = chapter.chapter == number && chapter.key == key && running(&chapter.after_hash, record) == seal.hash;
    let is_signed = seal.signature.is_some_and(|signature| is_signed(&key, &seal.hash, &signature));
    (is_it && is_signed).then_some((number + 1, chapter.next_key))
}

/// What was kept elsewhere.
#[derive(Default)]
struct Anchors {
    /// The hashes of records, by their numbers.
    records: BTreeMap<u64, Hash>,
    /// The public keys of chapters.
    keys: BTreeMap<u64, Hash>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Anchor {
    seq: u64,
    hash: Hash,
    chapter: Option<u64>,
    key: Option<Hash>,
    next_key: Option<Hash>,
}

impl Anchors {
    fn read(&mut self, path: &Path) -> Result<(), VerifyError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(ANCHORS_BYTES_MAX).read_to_string(&mut text))
            .map_err(reading(path))?;
        let mut taken = 0;
        // An answer of `ginnel status --json` has several lines; everything else one for each record.
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(whole) => {
                let checkpoint = whole.pointer("/audit/checkpoint").unwrap_or(&whole);
                taken += self.take(path, serde_json::from_value(checkpoint.clone()).ok())?;
            }
            Err(_) => {
                for line in text.lines() {
                    taken += self.take(path, serde_json::from_str(line).ok())?;
                }
            }
        }
        if (1..=ANCHORS_MAX).contains(&taken) { Ok(()) } else { Err(VerifyError::Anchors { path: path.to_owned() }) }
    }

    /// Takes an anchor; gives how many that were.
    fn take(&mut self, path: &Path, anchor: Option<Anchor>) -> Result<usize, VerifyError> {
        let Some(Anchor { seq, hash, chapter, key, next_key }) = anchor else { return Ok(0) };
        let mut fits = *self.records.entry(seq).or_insert(hash) == hash;
        if let Some(chapter) = chapter {
            for (chapter, key) in [(chapter, key), (chapter.saturating_add(1), next_key)] {
                fits &= key.is_none_or(|key| *self.keys.entry(chapter).or_insert(key) == key);
            }
        }
        if fits { Ok(1) } else { Err(VerifyError::Contradiction { path: path.to_owned(), seq }) }
    }
}

#[cfg(test)]
mod tests;
