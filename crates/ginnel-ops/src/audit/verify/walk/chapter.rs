//! Where one chapter ends and the next one begins.

use std::sync::Arc;

use ginnel_core::audit::{Checkpoint, Seal};

use super::super::super::chain::Position;
use super::super::super::chain::keys::{is_signed, running};
use super::super::super::show::Place;
use super::super::report::{Proof, Run};
use super::claim::Claim;
use super::doubt::Suspect;
use super::line::{Beginning, Header};
use super::{Chapter, Head, Past, Signing, Walk};

impl Walk {
    /// Takes the first record of a chapter, after which everything is as it says.
    pub(super) fn begin(
        &mut self,
        place: &Place,
        header: &Header,
        said: &Beginning,
        (record, seal): (&[u8], &Seal),
        start: u64,
    ) -> Result<(), Suspect> {
        let hash = running(&said.after_hash, record);
        if hash != seal.hash || said.after.checked_add(1) != Some(header.seq) {
            return Err(Suspect::Changed(header.seq));
        }
        let from = self.past.iter().rev().find(|past| past.at.seq == said.after);
        let left = from.map(|from| (from.at.seq, from.signing));
        let seed = match from {
            None if self.past.is_empty() => {
                self.may_be_first(said)?;
                self.trust.secret.clone()
            }
            None => return Err(Suspect::Elsewhere(header.seq)),
            Some(from) => {
                follows(from, said, header.seq, start)?;
                from.chapter.next_seed.clone()
            }
        };
        let mut keys = seed.map(|seed| seed.chapter());
        if let Some(keys) = &mut keys
            && (keys.signer.public() != said.key || keys.macs.mac(&hash) != seal.mac)
        {
            return Err(Suspect::Foreign(header.seq));
        }
        if self.anchors.keys.get(&said.chapter).is_some_and(|key| *key != said.key) {
            return Err(Suspect::Foreign(header.seq));
        }
        if !seal.signature.is_some_and(|signature| is_signed(&said.key, &hash, &signature)) {
            return Err(Suspect::Unsigned(header.seq));
        }
        if self.past.is_empty() {
            let after = Position { seq: said.after, hash: said.after_hash };
            let is_explained = said.chapter == 0 && self.trust.from.is_none_or(|from| from == header.seq);
            self.head = Some(Head { after, place: place.clone(), is_explained });
            self.report.first_seq = header.seq;
            self.report.log = Some(said.log);
            self.anchored(place, after);
        }
        if let Some((last, signing)) = left {
            self.leave(last, signing);
        }
        // What counts for nothing is not gone back to.
        while self.past.back().is_some_and(|past| past.at.seq > said.after) {
            self.past.pop_back();
        }
        self.claim = None;
        if said.void > 0 && (left.is_some() || self.doubt.is_some()) {
            let range = start.saturating_sub(said.void)..start;
            self.claim = Some(Claim { seq: header.seq, place: place.clone(), range, hash: said.void_hash });
        }
        self.report.chapters += 1;
        self.report.closed = false;
        self.report.checkpoint = Some(Checkpoint { seq: header.seq, hash, time: header.time });
        let (macs, next_seed) = keys.map(|keys| (keys.macs, keys.next)).unzip();
        self.macs = macs;
        let Beginning { chapter: number, key, next_key, .. } = *said;
        let chapter = Arc::new(Chapter { number, key, next_key, next_seed });
        let signing = Signing { seq: header.seq, is_closing: false };
        self.good(place, (Position { seq: header.seq, hash }, header.time), chapter, signing);
        Ok(())
    }

    /// Says what the signature of the next chapter does not make up for. It covers what lay there when that began, and a process that starts has
    /// no key of the records before: between the two anybody could have written those that their own chapter did not sign.
    fn leave(&mut self, last: u64, signing: Signing) {
        // A chapter whose beginning is written again after a failure leaves the same one.
        if self.left.replace(last) == Some(last) {
            return;
        }
        if !signing.is_closing {
            self.report.unclosed += 1;
            self.report.note(format!(
                "the chapter before was not closed: what followed record {last} may be lost or cut; only an anchor proves that nothing did"
            ));
        }
        if last > signing.seq && self.report.proof != Proof::SecretKey {
            let run = Run { first_seq: signing.seq.saturating_add(1), last_seq: last };
            self.report.unsigned(run);
            self.report.note(format!("{run} were never signed by their chapter: only the secret key proves them"));
        }
    }

    /// Whether the first chapter at hand is one of the log that is to be verified.
    fn may_be_first(&self, said: &Beginning) -> Result<(), Suspect> {
        if self.trust.log.is_some_and(|log| log != said.log) {
            return Err(Suspect::OtherLog(said.after.saturating_add(1)));
        }
        if self.trust.is_pinned && self.trust.first_key != Some(said.key) {
            return Err(Suspect::Foreign(said.after.saturating_add(1)));
        }
        // Records without a seal come before the chain, and it says how many.
        if self.unsealed > said.after { Err(Suspect::Elsewhere(said.after.saturating_add(1))) } else { Ok(()) }
    }
}

/// Whether a chapter begins where it says that it does.
fn follows(from: &Past, said: &Beginning, seq: u64, start: u64) -> Result<(), Suspect> {
    if from.at.hash != said.after_hash {
        return Err(Suspect::Changed(seq));
    }
    if from.chapter.number.checked_add(1) != Some(said.chapter) || from.chapter.next_key != said.key {
        return Err(Suspect::Foreign(seq));
    }
    let found = start - from.end;
    if found == said.void { Ok(()) } else { Err(Suspect::Void { seq, said: said.void, found }) }
}
