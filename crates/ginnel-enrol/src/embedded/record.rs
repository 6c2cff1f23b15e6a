//! What is written down about the roots of one role: which there are, and how far the change from one to the next has come.
//!
//! A step is one record that takes the place of another. Everything else in the directory either is there before the record that needs it
//! (keys) or follows from the record (the public file, and that keys are gone that nobody needs).

use ginnel_core::principal::Role;
use ginnel_identity::pem;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;
use serde::{Deserialize, Serialize};

/// How long the certificates of a server may live that no record tells of: the longest lifetime that a configuration accepts.
const LIFETIME_UNKNOWN_S: u64 = 7 * 24 * 3600;

/// Between the moment at which a server takes a step up, and the last certificate that it signs as before: what is being signed, and the
/// second that is cut off.
const TAKEN_UP_WITHIN_S: u64 = 2;

/// The roots of one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Record {
    /// The number of the newest root; none is given twice.
    pub(super) newest: u32,
    /// The longest lifetime of certificates that a server was told to give.
    pub(super) lifetime_s: u64,
    /// The second since 1970 at which the last step was taken, 0 if that is not known.
    #[serde(default)]
    pub(super) stepped: u64,
    pub(super) phase: Phase,
}

/// How far a change of roots has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Phase {
    /// One root is trusted and signs.
    Settled { active: Root, retired: Option<Crossed> },
    /// Two are trusted, and the old one signs. `given` tells when the last certificate of the next one expires, if there may be any.
    Prepared { active: Root, next: Crossed, given: Option<Wait> },
    /// Two are trusted, and the new one signs. `given` tells when the last certificate of the old one expires.
    Activated { active: Crossed, outgoing: Root, given: Wait },
}

/// One root; its key has a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Root {
    /// Which one, counted from 1.
    pub(super) number: u32,
    /// The certificate in PEM.
    pub(super) certificate: String,
}

/// One root of a pair, with what leads from each to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Crossed {
    pub(super) root: Root,
    /// The newer root's key, signed by the older root, in PEM.
    pub(super) cross: String,
    /// The older root's key, signed by the newer root, in PEM.
    pub(super) back: String,
}

/// When the last certificate that a root has signed expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Wait {
    /// No server has taken it up that this root signs no more.
    Unseen,
    /// At this second since 1970 at the latest.
    Until(u64),
}

impl Record {
    /// The first record of a role, whose first root is this.
    pub(super) fn first(certificate: String, lifetime_s: Option<u64>) -> Self {
        let active = Root { number: 1, certificate };
        let lifetime_s = lifetime_s.unwrap_or(LIFETIME_UNKNOWN_S);
        Self { newest: 1, lifetime_s, stepped: 0, phase: Phase::Settled { active, retired: None } }
    }

    /// What is written down once a server signs by this record that gives certificates of this lifetime.
    #[must_use]
    pub(super) fn taken_up(&self, lifetime_s: u64, now: u64) -> Self {
        let mut record = self.clone();
        record.lifetime_s = record.lifetime_s.max(lifetime_s);
        // A server whose clock is behind would let the root leave too early.
        let began = now.max(record.stepped);
        let until = began.saturating_add(record.lifetime_s).saturating_add(TAKEN_UP_WITHIN_S);
        match &mut record.phase {
            Phase::Prepared { given: Some(wait), .. } | Phase::Activated { given: wait, .. } => {
                if *wait == Wait::Unseen {
                    *wait = Wait::Until(until);
                }
            }
            Phase::Settled { .. } | Phase::Prepared { given: None, .. } => {}
        }
        record
    }

    /// The root that signs.
    pub(super) fn active(&self) -> &Root {
        match &self.phase {
            Phase::Settled { active, .. } | Phase::Prepared { active, .. } => active,
            Phase::Activated { active, .. } => &active.root,
        }
    }

    /// What is sent with a leaf, so that it is believed by whoever trusts the other root alone: from before, or from when that one signed.
    pub(super) fn cross(&self) -> Option<&str> {
        match &self.phase {
            Phase::Activated { active, .. } => Some(&active.cross),
            Phase::Prepared { next, given: Some(_), .. } => Some(&next.back),
            Phase::Settled { .. } | Phase::Prepared { given: None, .. } => None,
        }
    }

    /// The roots that are to be trusted; the one that signs is the first.
    pub(super) fn trusted(&self) -> Vec<&Root> {
        match &self.phase {
            Phase::Settled { active, .. } => vec![active],
            Phase::Prepared { active, next, .. } => vec![active, &next.root],
            Phase::Activated { active, outgoing, .. } => vec![&active.root, outgoing],
        }
    }

    /// The roots whose keys are kept.
    pub(super) fn kept(&self) -> Vec<&Root> {
        let mut kept = self.trusted();
        if let Phase::Settled { retired: Some(retired), .. } = &self.phase {
            kept.push(&retired.root);
        }
        kept
    }

    /// The public file of a role.
    pub(super) fn public(&self) -> String {
        self.trusted().iter().map(|root| root.certificate.as_str()).collect()
    }
}

impl Root {
    pub(super) fn der(&self) -> Option<CertificateDer<'static>> {
        der(&self.certificate)
    }
}

/// A certificate from a record.
pub(super) fn der(text: &str) -> Option<CertificateDer<'static>> {
    pem::decode_one(text.as_bytes(), SectionKind::Certificate).map(CertificateDer::from)
}

/// The file of a record.
pub(super) fn file_name(role: Role) -> String {
    format!("{role}-ca.json")
}
