//! What a walk comes to, once all lines were taken.

use super::super::report::{Finding, Proof, Report, Wrong};
use super::{Head, Walk};

impl Walk {
    /// Says what was found in so many files.
    pub(in crate::audit::verify) fn end(mut self, files: usize) -> Report {
        self.report.files = files;
        if self.report.finding.is_none() {
            self.report.finding = self.finding();
        }
        self.notes();
        self.report
    }

    fn finding(&mut self) -> Option<Finding> {
        let last = self.past.back().map(|past| past.at.seq);
        if let Some(doubt) = self.doubt.take() {
            if !doubt.is_open_end() {
                let signed =
                    self.report.checkpoint.map_or(self.report.first_seq, |checkpoint| checkpoint.seq.saturating_add(1));
                return Some(doubt.finding(signed, self.report.proof));
            }
            let bytes = doubt.bytes();
            self.report.note(format!(
                "{}: {bytes} bytes at the end are no whole record: it is being written, or a crash or a cut left them",
                doubt.place()
            ));
        }
        let unproved = self.head.as_ref().filter(|head| !head.is_explained);
        if let Some(Head { after, place, .. }) =
            unproved.filter(|head| self.anchors.records.get(&head.after.seq) != Some(&head.after.hash))
        {
            let seq = self.trust.from.unwrap_or(1);
            let text = format!(
                "the log begins with record {}: what was before is not there, and no record says that it was removed",
                after.seq.saturating_add(1)
            );
            return Some(Finding { place: Some(place.clone()), seq, wrong: Wrong::HeadCutOff, text });
        }
        let known = self.anchors.records.keys().next_back().copied().unwrap_or(0).max(self.trust.at_least);
        let got_to = last.unwrap_or(self.unsealed);
        if known > got_to {
            let seq = got_to.saturating_add(1);
            let text = format!(
                "the log ends with record {got_to}, and it is known to have had record {known}: its end was cut off, or an older copy put back"
            );
            return Some(Finding { place: None, seq, wrong: Wrong::CutOff, text });
        }
        if self.compared == 0
            && let Some((&seq, _)) = self.anchors.records.last_key_value()
        {
            let text = "no anchor names a record that is at hand: they prove nothing of it".to_owned();
            return Some(Finding { place: None, seq, wrong: Wrong::Anchor, text });
        }
        if last.is_none() && self.unsealed > 0 {
            let text = "no record has a seal: this log proves nothing".to_owned();
            return Some(Finding { place: None, seq: 1, wrong: Wrong::Unsealed, text });
        }
        None
    }

    fn notes(&mut self) {
        let report = &mut self.report;
        if let Some(text) = self.trust.state_missing.take().filter(|_| report.records > 0) {
            report.say(text);
        }
        if self.unsealed > 0 && report.records > 0 {
            report.say(format!("{} records from before the chain have no seal: nothing proves them", self.unsealed));
        }
        let below = self.head.as_ref().map_or(0, |head| self.anchors.records.range(..head.after.seq).count());
        if below > 0 {
            report.say(format!(
                "{below} of the anchors name records from before the first at hand: they prove nothing here"
            ));
        }
        let behind =
            report.checkpoint.map_or(report.records, |checkpoint| report.last_seq.saturating_sub(checkpoint.seq));
        match report.proof {
            Proof::SecretKey if self.trust.is_beside => report.say(
                "the secret key lies beside the log: whoever can read it can forge what it proves; move it away and give it with --key",
            ),
            Proof::PublicKey if self.trust.is_beside => {
                report.say("the public key lies beside the log: whoever can write there can replace both; give one from elsewhere with --public-key");
            }
            Proof::Itself if report.records > 0 => {
                report.say("no key was given: the log fits together, and nothing proves who wrote it");
            }
            Proof::SecretKey | Proof::PublicKey | Proof::Itself => {}
        }
        if report.proof != Proof::SecretKey && behind > 0 {
            report.say(format!("{behind} records at the end are not signed yet: only the secret key proves them"));
        }
        if report.records > 0 && !report.closed {
            report.say("the log does not say that it was closed: it is being written, or a crash or a cut ended it");
        }
    }
}
