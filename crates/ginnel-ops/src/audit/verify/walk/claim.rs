//! What chapters say of bytes that are no records, which whoever has the bytes compares.

use std::ops::Range;

use ginnel_core::audit::Hash;

use super::super::super::show::Place;
use super::super::report::{Finding, Wrong};
use super::Walk;

/// What a chapter says of the bytes before it that count for nothing.
pub(in crate::audit::verify) struct Claim {
    pub(super) seq: u64,
    pub(super) place: Place,
    /// Where they are, in all bytes that were read.
    pub(in crate::audit::verify) range: Range<u64>,
    /// Their hash, as it is claimed.
    pub(in crate::audit::verify) hash: Option<Hash>,
}

impl Walk {
    /// What a chapter says of the bytes before it, once that stands.
    pub(in crate::audit::verify) fn claim(&mut self) -> Option<Claim> {
        self.due.take()
    }

    /// Nothing more comes.
    pub(in crate::audit::verify) fn close(&mut self) {
        self.due = self.claim.take();
    }

    /// What a chapter says of the bytes before it is not so.
    pub(in crate::audit::verify) fn deny(&mut self, claim: Claim) {
        let Claim { seq, place, .. } = claim;
        let text = format!("record {seq} says which bytes before it count for nothing, and there are others");
        self.report.finding.get_or_insert(Finding { place: Some(place), seq, wrong: Wrong::Void, text });
    }
}
