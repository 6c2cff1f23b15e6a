//! What is on its way to a sink, in order.
//!
//! Invariant: the mark that [`Queue::settle`] gives is that of an entry which the sink has, or was given up on and counted, as it has everything
//! before it.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use super::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, FailureKind, LogEntry, Mark, WriteError};
use crate::audit::Timestamp;

/// Entries between the files and the sink: at most one batch.
#[derive(Debug)]
pub struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Entries in the next batch at most. It shrinks while batches are refused for what is in them, until the one that is at fault stands alone.
    width: usize,
}

#[derive(Debug)]
struct Item {
    entry: LogEntry,
    /// What is sent in its place once the sink has said that it never takes it.
    stub: Option<LogEntry>,
    is_settled: bool,
    bytes: usize,
    mark: Mark,
}

/// What to do after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the next batch: something is different from before.
    Again,
    /// Wait before anything is sent.
    Wait,
}

/// What an answer changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What to do.
    pub next: Next,
    /// Entries that the sink has, stubs included.
    pub delivered: u64,
    /// Those among them that stand for others.
    pub replaced: u64,
    /// Records that the sink takes in no form, while it takes others.
    pub lost: u64,
    /// How far it has got, if that is further than before.
    pub mark: Option<Mark>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { items: VecDeque::new(), bytes: 0, width: BATCH_ENTRIES_MAX }
    }
}

impl Queue {
    /// Adds an entry; `mark` is how far the sink has got once it has this one.
    pub fn push(&mut self, entry: LogEntry, mark: Mark) {
        let bytes = entry.bytes();
        self.bytes += bytes;
        self.items.push_back(Item { entry, stub: None, is_settled: false, bytes, mark });
    }

    /// Entries that may be added before there is a batch.
    pub fn room(&self) -> usize {
        if self.bytes >= BATCH_BYTES_MAX { 0 } else { BATCH_ENTRIES_MAX.saturating_sub(self.items.len()) }
    }

    /// How many are on their way.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The time of the oldest record among them.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.items.front().map(|item| item.entry.recorded())
    }

    /// The next batch, in order; empty only if nothing is on its way. Its entries are filed under times that the sink stores at `now`.
    pub fn batch(&mut self, now: SystemTime) -> Vec<&LogEntry> {
        for item in self.items.iter_mut().filter(|item| !item.is_settled).take(self.width) {
            item.stub.as_mut().unwrap_or(&mut item.entry).stamp(now);
        }
        let mut bytes = 0;
        let fits = |entry: &&LogEntry| {
            let is_first = bytes == 0;
            bytes += entry.bytes();
            is_first || bytes <= BATCH_BYTES_MAX
        };
        self.items.iter().filter(|item| !item.is_settled).map(Item::shown).take(self.width).take_while(fits).collect()
    }

    /// Takes the answer to the last batch, which had `sent` entries.
    pub fn settle(&mut self, sent: usize, answer: Result<(), &WriteError>) -> Settled {
        let mut settled = Settled { next: Next::Again, delivered: 0, replaced: 0, lost: 0, mark: None };
        match answer {
            Ok(()) => {
                self.settle_each(sent, &BTreeMap::new(), &mut settled);
                self.width = self.width.saturating_mul(2).min(BATCH_ENTRIES_MAX);
            }
            Err(WriteError::All { kind, .. }) if !kind.is_of_the_entries() => settled.next = Next::Wait,
            Err(WriteError::All { .. }) if sent > 1 => self.width = sent / 2,
            Err(WriteError::All { kind, .. }) => self.settle_each(sent, &BTreeMap::from([(0, *kind)]), &mut settled),
            Err(WriteError::Some { kinds, .. }) => {
                let kinds: BTreeMap<_, _> = kinds.range(..sent).map(|(place, kind)| (*place, *kind)).collect();
                if kinds.is_empty() {
                    // It says that entries were not taken, and not which: nothing is taken for granted.
                    settled.next = Next::Wait;
                } else {
                    self.settle_each(sent, &kinds, &mut settled);
                }
            }
        }
        self.drop_settled(&mut settled);
        settled
    }

    /// The first `sent` are with the sink, but for `refused`.
    fn settle_each(&mut self, sent: usize, refused: &BTreeMap<usize, FailureKind>, settled: &mut Settled) {
        let others_are_taken = refused.len() < sent;
        let batch = self.items.iter_mut().filter(|item| !item.is_settled).take(sent);
        for (place, item) in batch.enumerate() {
            match refused.get(&place) {
                None => {
                    item.is_settled = true;
                    settled.delivered += 1;
                    settled.replaced += u64::from(item.stub.is_some());
                }
                Some(kind) if !kind.is_of_the_entries() => settled.next = Next::Wait,
                Some(kind) if item.stub.is_none() => item.stub = Some(item.entry.stub(*kind)),
                // Refused in either form while others are taken: it is this record, and it must not hold up those behind it for ever.
                Some(_) if others_are_taken => {
                    item.is_settled = true;
                    settled.lost += 1;
                }
                // Refused in either form, and alone: it may be the place that is wrong, and the record waits.
                Some(_) => {
                    item.stub = None;
                    settled.next = Next::Wait;
                }
            }
        }
    }

    fn drop_settled(&mut self, settled: &mut Settled) {
        while self.items.front().is_some_and(|item| item.is_settled) {
            let Some(item) = self.items.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(item.bytes);
            settled.mark = Some(item.mark);
        }
    }
}

impl Item {
    fn shown(&self) -> &LogEntry {
        self.stub.as_ref().unwrap_or(&self.entry)
    }
}

#[cfg(test)]
mod tests;
