//! The chain of a log's records: each sealed with a hash that runs on, a MAC by a key of its own and, now and then, a signature.

use std::sync::Arc;

use ginnel_core::audit::{Event, Hash, NO_HASH, Record, Seal, Timestamp};
use ginnel_core::id::InstanceId;

use self::keys::{ChapterKeys, MacKey, Signer, running};
use self::state::State;
use self::void::Void;

pub(super) mod keys;
pub(super) mod state;
pub(super) mod void;

/// Records from one checkpoint to the next: what nobody but the holder of the chain's key can vouch for is never more. Each costs 40 µs.
pub(super) const CHECKPOINT_RECORDS: u64 = 1_000;

/// A record's place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

impl Position {
    /// Before the first record of a chain that follows record `seq`.
    pub(super) fn before_all(seq: u64) -> Self {
        Self { seq, hash: NO_HASH }
    }
}

/// A log whose records are sealed, as far as one process writes it in one chapter.
#[derive(Clone)]
pub(super) struct Chain {
    log: InstanceId,
    boot: InstanceId,
    chapter: u64,
    /// Number of the chain's first record.
    from: u64,
    last: Position,
    macs: MacKey,
    signer: Arc<Signer>,
    next_key: Hash,
    /// Records since the last one that is signed.
    unsigned: u64,
}

/// A record cannot be written down as JSON, which no record of ours is.
#[derive(Debug, thiserror::Error)]
#[error("an audit record cannot be written down")]
pub(super) struct Unwritable(#[from] serde_json::Error);

impl Chain {
    /// Begins the chapter of `state` after the record `last`, and gives the line that says so; `void` stands between the two. With it
    /// comes the state from which the chapter after this one begins.
    pub(super) fn begin(
        state: &State,
        last: Position,
        void: &Void,
        boot: InstanceId,
        time: Timestamp,
    ) -> Result<(Self, Vec<u8>, State), Unwritable> {
        let ChapterKeys { macs, signer, next } = state.seed.chapter();
        let next_key = next.chapter().signer.public();
        let State { log, from, chapter, .. } = *state;
        let event = Event::ChapterBegun {
            log,
            chapter,
            after: last.seq,
            after_hash: last.hash,
            void: void.bytes(),
            void_hash: void.hash(),
            key: signer.public(),
            next_key,
        };
        let mut chain = Self { log, boot, chapter, from, last, macs, signer: Arc::new(signer), next_key, unsigned: 0 };
        let mut line = Vec::new();
        chain.seal(time, event, &mut line)?;
        let next = State { log, from, chapter: chapter + 1, seed: next, seq: chain.last.seq, closed: false };
        Ok((chain, line, next))
    }

    /// The last record.
    pub(super) fn last(&self) -> Position {
        self.last
    }

    /// Records since the last one that is signed.
    pub(super) fn unsigned(&self) -> u64 {
        self.unsigned
    }

    /// Appends the next record to `lines`. On an error nothing has changed.
    pub(super) fn seal(&mut self, time: Timestamp, event: Event, lines: &mut Vec<u8>) -> Result<(), Unwritable> {
        let is_signed = matches!(event, Event::ChapterBegun { .. } | Event::Checkpoint { .. });
        let start = lines.len();
        let seq = self.last.seq + 1;
        let record = Record::new(seq, time, self.boot, event);
        if let Err(error) = serde_json::to_writer(&mut *lines, &record) {
            lines.truncate(start);
            return Err(error.into());
        }
        // The closing brace comes with the seal.
        lines.pop();
        let hash = running(&self.last.hash, &lines[start..]);
        let mac = self.macs.mac(&hash);
        let signature = is_signed.then(|| self.signer.sign(&hash));
        Seal { hash, mac, signature }.append_to(lines);
        lines.push(b'\n');
        self.last = Position { seq, hash };
        self.unsigned = if is_signed { 0 } else { self.unsigned + 1 };
        Ok(())
    }

    /// What the next checkpoint says.
    pub(super) fn checkpoint(&self, closing: bool) -> Event {
        // The checkpoint counts itself.
        let records = self.last.seq + 2 - self.from;
        let Self { log, chapter, next_key, .. } = *self;
        Event::Checkpoint { log, chapter, records, next_key, closing }
    }
}

#[cfg(test)]
mod tests {
    use ginnel_core::audit::{Entry, Text};

    use super::keys::{Seed, is_signed};
    use super::*;

    fn id(byte: u8) -> InstanceId {
        InstanceId::from_bytes(&[byte; 16]).expect("16 bytes")
    }

    #[test]
    fn every_line_is_a_record_with_a_seal_that_runs_on() {
        let seed = Seed::random().expect("random");
        let key = seed.chapter().signer.public();
        let state = State { log: id(1), from: 8, chapter: 0, seed, seq: 7, closed: false };
        let time = "2026-11-22".parse().expect("a time");
        let (mut chain, mut lines, next) =
            Chain::begin(&state, Position::before_all(7), &Void::from(&b"abc"[..]), id(2), time).expect("writable");
        for policy in ["a", "b"] {
            let event = Event::Started { version: Text::new("0.1.0"), policy: Text::new(policy) };
            chain.seal(time, event, &mut lines).expect("writable");
        }
        assert_eq!(chain.unsigned(), 2);
        chain.seal(time, chain.checkpoint(true), &mut lines).expect("writable");
        assert_eq!((chain.unsigned(), chain.last().seq, next.chapter, next.seq), (0, 11, 1, 8));

        let mut before = NO_HASH;
        let mut macs = state.seed.chapter().macs;
        let lines: Vec<_> = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        for (line, seq) in lines.iter().zip(8..) {
            let entry: Entry = serde_json::from_slice(line).expect("a record");
            let (record, seal) = Seal::split(line).expect("a seal");
            assert_eq!((entry.seq, seal.hash), (seq, running(&before, record)));
            assert_eq!(seal.mac, macs.mac(&seal.hash));
            let signed = seal.signature.is_some_and(|signature| is_signed(&key, &seal.hash, &signature));
            assert_eq!(signed, seq == 8 || seq == 11, "{seq}");
            before = seal.hash;
        }
        let last: Entry = serde_json::from_slice(lines[3]).expect("a record");
        assert_eq!((last.event.as_str(), last.records, last.closing), ("checkpoint", Some(4), Some(true)));
    }
}
