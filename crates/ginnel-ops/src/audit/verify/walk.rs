//! The walk through a log, line by line: what follows from what, and what to make of a line that does not.
//!
//! A line that does not fit is only a *doubt* at first: a crash or a failed write may have left it, and then the next chapter says so, signed, by
//! how many bytes there are. A doubt that no chapter settles is what is wrong, and the lines after it tell what kind of change it was.

use std::collections::VecDeque;
use std::sync::Arc;

use ginnel_core::audit::{Checkpoint, Hash, Seal, Text, Timestamp};
use ginnel_core::id::InstanceId;

use self::claim::Claim;
use self::doubt::{Doubt, Suspect};
pub(super) use self::line::Line;
use self::line::{Beginning, Header, Removal, Signed};
use super::super::chain::Position;
use super::super::chain::keys::{MacKey, Seed, is_signed, running};
use super::super::lines::Extent;
use super::super::show::Place;
use super::Anchors;
use super::report::{Finding, Proof, Report, Wrong};

mod chapter;
mod claim;
mod doubt;
mod line;
mod verdict;

/// Good lines that are remembered, because a chapter may say that the last of them count for nothing: more than go out in one group, which is
/// what a failed sync leaves.
const PAST_MAX: usize = 4_096;

/// What is believed before the first line.
#[derive(Default)]
pub(super) struct Trust {
    /// Which log the keys are for.
    pub(super) log: Option<InstanceId>,
    /// Number of the chain's first record.
    pub(super) from: Option<u64>,
    /// The seed of the first chapter at hand.
    pub(super) secret: Option<Seed>,
    /// Whether the first chapter's public key has to follow from one that is believed.
    pub(super) is_pinned: bool,
    /// The one that follows.
    pub(super) first_key: Option<Hash>,
    /// Whether the keys lie beside the log.
    pub(super) is_beside: bool,
    /// A number that the log has got to.
    pub(super) at_least: u64,
    /// Why the process's own memory of that number is not there.
    pub(super) state_missing: Option<String>,
}

/// A chapter that is being walked through.
struct Chapter {
    number: u64,
    key: Hash,
    next_key: Hash,
    next_seed: Option<Seed>,
}

/// A good line: where the walk could go on from.
struct Past {
    at: Position,
    time: Timestamp,
    /// Bytes up to its end.
    end: u64,
    chapter: Arc<Chapter>,
    signing: Signing,
}

/// How far a chapter has vouched for itself.
#[derive(Clone, Copy)]
struct Signing {
    /// The last signed record.
    seq: u64,
    /// It says that nothing follows in its chapter.
    is_closing: bool,
}

/// Where the log at hand begins.
struct Head {
    after: Position,
    place: Place,
    /// Something says why nothing is before.
    is_explained: bool,
}

pub(super) struct Walk {
    trust: Trust,
    anchors: Anchors,
    /// Anchors that name a record at hand.
    compared: usize,
    /// Bytes that were read.
    read: u64,
    /// Records without a seal before the first that has one.
    unsealed: u64,
    head: Option<Head>,
    past: VecDeque<Past>,
    macs: Option<MacKey>,
    doubt: Option<Doubt>,
    /// What the last chapter says of the bytes before it, as long as another may take its place, and when that stands.
    claim: Option<Claim>,
    due: Option<Claim>,
    /// The last record of the chapter before.
    left: Option<u64>,
    report: Report,
}

impl Walk {
    pub(super) fn new(trust: Trust, anchors: Anchors) -> Self {
        let proof = match (&trust.secret, trust.is_pinned) {
            (Some(_), _) => Proof::SecretKey,
            (None, true) => Proof::PublicKey,
            (None, false) => Proof::Itself,
        };
        let report = Report { proof, log: trust.log, ..Report::default() };
        let (head, past) = (None, VecDeque::with_capacity(PAST_MAX));
        Self {
            trust,
            anchors,
            compared: 0,
            read: 0,
            unsealed: 0,
            head,
            past,
            macs: None,
            doubt: None,
            claim: None,
            due: None,
            left: None,
            report,
        }
    }

    /// Takes the next line of the log; `is_newest` if it is in the last file.
    pub(super) fn line(&mut self, place: &Place, line: &[u8], extent: Extent, is_newest: bool) {
        let start = self.read;
        self.read += extent.bytes;
        if self.report.finding.is_some() {
            return;
        }
        let line = Line::parse(line);
        if self.doubt.is_none() {
            if let Err(suspect) = self.take(place, &line, start) {
                let at = self.past.back().map(|past| past.at);
                let is_open_end = is_newest && !extent.is_ended;
                let mut doubt = Doubt::new(suspect, at, place.clone(), extent.bytes, is_open_end);
                doubt.weigh(&line, self.has(&line));
                self.doubt = Some(doubt);
            }
            return;
        }
        if let Line::Chapter { header, chapter, record, seal } = &line
            && self.may_settle(chapter)
            && self.begin(place, header, chapter, (record, seal), start).is_ok()
        {
            if let Some(doubt) = self.doubt.take() {
                let (bytes, place) = (doubt.bytes(), doubt.place());
                let among = match doubt.records() {
                    0 => String::new(),
                    count => format!(", {count} whole records among them that nothing proves"),
                };
                self.report.note(format!(
                    "{place}: {bytes} bytes that a crash or a failed write left{among}; record {} says so",
                    header.seq
                ));
            }
            return;
        }
        let is_again = self.doubt.as_ref().is_some_and(Doubt::is_in_question) && self.has(&line);
        if let Some(doubt) = &mut self.doubt {
            doubt.weigh(&line, is_again);
            doubt.hear(&line, extent.bytes);
        }
    }

    /// Whether the very same record came before.
    fn has(&self, line: &Line<'_>) -> bool {
        let Line::Sealed { header, record, seal, .. } = line else { return false };
        let mut before = None;
        self.past.iter().any(|past| {
            let after = before.replace(past.at.hash);
            past.at.seq == header.seq
                && after.is_some_and(|after| running(&after, record) == past.at.hash)
                && past.at.hash == seal.hash
        })
    }

    /// Whether a chapter can settle a doubt: only one that can be excused, and at the very beginning only if it is about all that is there.
    fn may_settle(&self, said: &Beginning) -> bool {
        if !self.doubt.as_ref().is_none_or(Doubt::is_excusable) {
            return false;
        }
        !self.past.is_empty() || self.doubt.as_ref().is_some_and(|doubt| doubt.bytes() == said.void)
    }

    /// Takes a line that fits.
    fn take(&mut self, place: &Place, line: &Line<'_>, start: u64) -> Result<(), Suspect> {
        match line {
            Line::Chapter { header, chapter, record, seal } => {
                self.begin(place, header, chapter, (record, seal), start)
            }
            Line::Sealed { header, record, seal, line } => self.follow(place, header, (record, seal), line),
            Line::Unsealed(seq) => {
                let is_before = self.past.is_empty() && self.trust.from.is_none_or(|from| *seq < from);
                self.unsealed += u64::from(is_before);
                if is_before { Ok(()) } else { Err(Suspect::Changed(*seq)) }
            }
            Line::Unreadable { .. } => Err(Suspect::Unreadable),
        }
    }

    /// Takes a record that continues a chapter.
    fn follow(
        &mut self,
        place: &Place,
        header: &Header,
        (record, seal): (&[u8], &Seal),
        line: &[u8],
    ) -> Result<(), Suspect> {
        let Some(Past { at, chapter, signing, .. }) = self.past.back() else {
            return Err(Suspect::Headless(header.seq));
        };
        let (chapter, mut signing) = (Arc::clone(chapter), *signing);
        if at.seq.checked_add(1) != Some(header.seq) {
            return Err(Suspect::Elsewhere(header.seq));
        }
        let hash = running(&at.hash, record);
        if hash != seal.hash {
            return Err(Suspect::Changed(header.seq));
        }
        let mut macs = self.macs.clone();
        if macs.as_mut().is_some_and(|macs| macs.mac(&hash) != seal.mac) {
            return Err(Suspect::Sealed(header.seq));
        }
        if signing.is_closing {
            // No process writes on in a chapter that it has closed; without the secret key nothing else tells who did.
            return Err(Suspect::Closed(header.seq));
        }
        let is_checkpoint = header.event == "checkpoint";
        match &seal.signature {
            Some(signature) if is_checkpoint && is_signed(&chapter.key, &hash, signature) => {}
            None if !is_checkpoint => {}
            Some(_) | None => return Err(Suspect::Unsigned(header.seq)),
        }
        if is_checkpoint {
            self.checkpoint(header, &chapter, hash, line)?;
            signing = Signing { seq: header.seq, is_closing: self.report.closed };
        } else {
            self.report.closed = false;
        }
        if header.event == "fileRemoved" {
            self.removal(line);
        }
        self.macs = macs;
        if self.claim.is_some() {
            // No later chapter goes back to before this one, which has another record: what it says of the bytes before it stands.
            self.due = self.claim.take();
            self.past.drain(..self.past.len() - 1);
        }
        self.good(place, (Position { seq: header.seq, hash }, header.time), chapter, signing);
        Ok(())
    }

    /// Takes a signed record, whose signature is right, by its word.
    fn checkpoint(&mut self, header: &Header, chapter: &Chapter, hash: Hash, line: &[u8]) -> Result<(), Suspect> {
        let suspect = Suspect::Changed(header.seq);
        let Ok(Signed { log, chapter: number, records, closing }) = serde_json::from_slice(line) else {
            return Err(suspect);
        };
        let counted = self
            .trust
            .from
            .is_none_or(|from| header.seq.checked_sub(from).and_then(|before| before.checked_add(1)) == Some(records));
        if number != chapter.number || self.report.log != Some(log) || !counted {
            return Err(suspect);
        }
        self.report.checkpoint = Some(Checkpoint { seq: header.seq, hash, time: header.time });
        self.report.closed = closing;
        Ok(())
    }

    fn good(&mut self, place: &Place, (at, time): (Position, Timestamp), chapter: Arc<Chapter>, signing: Signing) {
        self.report.last_seq = at.seq;
        self.report.records = at.seq - self.report.first_seq + 1;
        if self.past.len() == PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(Past { at, time, end: self.read, chapter, signing });
        self.anchored(place, at);
    }

    /// Compares a record with what was kept of it elsewhere.
    fn anchored(&mut self, place: &Place, at: Position) {
        let Some(hash) = self.anchors.records.get(&at.seq) else { return };
        self.compared += 1;
        if *hash != at.hash {
            let seq = at.seq;
            let text = format!(
                "record {seq} is not the one that the anchor names: the log was replaced, up to there or from before it"
            );
            let place = Some(place.clone());
            self.report.finding.get_or_insert(Finding { place, seq, wrong: Wrong::Anchor, text });
        }
    }

    /// Takes the word of a record for what is not at hand.
    fn removal(&mut self, line: &[u8]) {
        let Ok(Removal { file, last_seq, last_hash }) = serde_json::from_slice(line) else { return };
        if let Some(head) = &mut self.head
            && head.after.seq == last_seq
            && last_hash == Some(head.after.hash)
        {
            head.is_explained = true;
            self.report.note(format!(
                "records up to {last_seq} were removed as the configuration wants, {} the last of them",
                Text::new(file)
            ));
        }
    }

    /// Chapters that have begun.
    pub(super) fn chapters(&self) -> u64 {
        self.report.chapters
    }

    /// The first record, if all that came have a seal.
    pub(super) fn first_seq(&self) -> Option<u64> {
        (self.unsealed == 0).then_some(self.report.first_seq)
    }

    /// The record that the chapter which has just begun follows, and when that was written. Of one that has no seal only the number is known, and
    /// that it was written before the chapter.
    pub(super) fn before_chapter(&self) -> Option<(Position, Timestamp)> {
        let is_sound = self.doubt.is_none() && self.report.finding.is_none();
        let chapter = self.past.back().filter(|_| is_sound)?;
        match self.past.iter().nth_back(1) {
            Some(last) => Some((last.at, last.time)),
            None => self.head.as_ref().filter(|_| self.unsealed > 0).map(|head| (head.after, chapter.time)),
        }
    }

    /// Bytes that were read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }
}
