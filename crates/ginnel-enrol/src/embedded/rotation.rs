//! Changing the root of a role: prepare, activate, retire, and one step back from each.
//!
//! | step | trusted | signs | sent with a leaf |
//! |---|---|---|---|
//! | (settled) | old | old | |
//! | prepare | old, next | old | |
//! | activate | next, old | next | the next root's key, signed by the old root |
//! | (rolled back) | old, next | old | the old root's key, signed by the next root |
//! | retire | next | next | |
//!
//! No step makes a certificate unverifiable for somebody who pins a root that is not retired: activating sends along what leads to the old
//! root, and a root whose certificates may still be shown is not taken out of trust unless that is asked for. A key is deleted only when no step
//! leads back to it. Decision 10 in `docs/decisions` has the reasons.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ginnel_core::principal::{Role, TrustDomain};
use ginnel_identity::pem;
use rcgen::{BasicConstraints, IsCa, SerialNumber};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::directory::{self, OpenError};
use super::files::{check_directory, exists, lock};
use super::record::{Crossed, Phase, Record, Root, Wait};
use super::{AuthorityKey, authority_params, date, purposes, seconds, serial};

mod standing;

pub use standing::{Leaving, RootStanding, Standing, State, Use};

use standing::{leaving, state};

/// Roots that a role may ever have: with one a month, eighty years. Every number up to it is looked at when the directory is opened.
const ROOTS_EVER_MAX: u32 = 1000;

/// A step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Makes the next root and publishes it beside the one in use.
    Prepare,
    /// Signs with the next root.
    Activate,
    /// Takes the old root out of trust.
    Retire,
    /// Goes one step back.
    Rollback,
}

/// Why a step was not taken. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The environment: the directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The caller: no server has made the directory yet.
    #[error("{} holds no CA of the {role} role; a server makes the directory when it starts for the first time", path.display())]
    NoAuthority {
        /// Which directory.
        path: PathBuf,
        /// Whose CA.
        role: Role,
    },
    /// The caller: the step does not follow from where things stand.
    #[error("cannot {} the {role} role's root: {}", step.as_str(), instead(*state, *step))]
    OutOfOrder {
        /// Whose root.
        role: Role,
        /// How far the change has come.
        state: State,
        /// What was asked for.
        step: Step,
    },
    /// The environment: the root is of an earlier version and can vouch for no other.
    #[error(
        "root {number} of the {role} role was made for leaves alone and cannot vouch for a next one; start over with an empty directory and hand out the new roots"
    )]
    LeavesOnly {
        /// Whose root.
        role: Role,
        /// Which.
        number: u32,
    },
    /// The caller: a root that would leave has certificates that are still valid.
    #[error("certificates of root {number} of the {role} role may be valid until {}: whoever shows one would be refused", ginnel_core::audit::Timestamp::from(*until))]
    TooEarly {
        /// Whose root.
        role: Role,
        /// Which.
        number: u32,
        /// When the last one has expired.
        until: SystemTime,
    },
    /// The caller: no server has taken up that the root signs no more.
    #[error(
        "no server has taken up the last step yet, so that root {number} of the {role} role may still be signing; start the server, or wait until it has read the directory again"
    )]
    NotTakenUp {
        /// Whose root.
        role: Role,
        /// Which.
        number: u32,
    },
    /// The caller: the root was changed more often than makes sense.
    #[error("the {role} role has had {ROOTS_EVER_MAX} roots; start over with an empty directory")]
    TooMany {
        /// Whose root.
        role: Role,
    },
}

impl Step {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
            Self::Rollback => "rollback",
        }
    }
}

/// What can be done where a step cannot.
fn instead(state: State, step: Step) -> &'static str {
    match state {
        State::Settled if step == Step::Rollback => "there is nothing to go back to; a change begins with prepare",
        State::Settled => "there is no next root; a change begins with prepare",
        State::Prepared => "the next root is prepared; what follows is activate, or rollback",
        State::Activated => "the new root signs, and the old one is still trusted; what follows is retire, or rollback",
    }
}

/// Tells how things stand with the roots of a role. It changes nothing and waits for nobody.
///
/// # Errors
/// [`StepError`] if the directory cannot be read, or is none of an issuer's.
pub fn standing(directory: &Path, role: Role) -> Result<Standing, StepError> {
    check_directory(directory)?;
    let record = known(directory, role)?;
    Standing::of(directory, role, &record).ok_or_else(|| malformed(directory, role).into())
}

/// Takes one step. It is taken as a whole or not at all, and a running server takes it up when it reads the directory again.
///
/// A root whose certificates may still be shown stays trusted, and the step is refused, unless `danger_early` says that their holders may be
/// shut out.
///
/// # Errors
/// [`StepError`]; nothing has changed then.
pub fn take(
    directory: &Path,
    role: Role,
    step: Step,
    danger_early: bool,
    now: SystemTime,
) -> Result<Standing, StepError> {
    check_directory(directory)?;
    let _lock = lock(directory)?;
    let before = known(directory, role)?;
    // What an interrupted step has left is put right before the next one.
    directory::finish(directory, role, &before)?;
    let after = Taking { directory, role, danger_early, now }.step(&before, step)?;
    let forgets = before.trusted().iter().any(|root| !after.kept().contains(root));
    if forgets {
        // First, because afterwards nobody knows whose root that was in the public file.
        publish_less(directory, role, &before, &after)?;
    }
    directory::write(directory, role, &after)?;
    directory::finish(directory, role, &after)?;
    Standing::of(directory, role, &after).ok_or_else(|| malformed(directory, role).into())
}

/// Publishes what `after` trusts, in the words of a record that still knows all roots.
fn publish_less(directory: &Path, role: Role, before: &Record, after: &Record) -> Result<(), OpenError> {
    let less = super::files::put(directory, &directory::root_path(directory, role), after.public().as_bytes(), 0o644);
    debug_assert!(after.trusted().iter().all(|root| before.kept().contains(root)), "less, and nothing else");
    Ok(less?)
}

fn malformed(directory: &Path, role: Role) -> OpenError {
    OpenError::Record { path: directory::record_path(directory, role) }
}

fn known(directory: &Path, role: Role) -> Result<Record, StepError> {
    if let Some(record) = directory::record(directory, role)? {
        return Ok(record);
    }
    if !exists(&directory::root_path(directory, role)).map_err(OpenError::from)? {
        return Err(StepError::NoAuthority { path: directory.to_owned(), role });
    }
    Ok(directory::first(directory, role, None)?)
}

/// What a step needs beside the record.
struct Taking<'a> {
    directory: &'a Path,
    role: Role,
    danger_early: bool,
    now: SystemTime,
}

impl Taking<'_> {
    /// The record after a step.
    fn step(&self, before: &Record, step: Step) -> Result<Record, StepError> {
        let mut newest = before.newest;
        let phase = match (before.phase.clone(), step) {
            (Phase::Settled { active, .. }, Step::Prepare) => {
                if newest >= ROOTS_EVER_MAX {
                    return Err(StepError::TooMany { role: self.role });
                }
                newest += 1;
                let next = self.next(&active, newest)?;
                Phase::Prepared { active, next, given: None }
            }
            (Phase::Prepared { active, next, .. }, Step::Activate) => {
                Phase::Activated { active: next, outgoing: active, given: Wait::Unseen }
            }
            (Phase::Activated { active, outgoing, given }, Step::Retire) => {
                self.may_leave(&outgoing, Some(given))?;
                let Crossed { root, cross, back } = active;
                Phase::Settled { active: root, retired: Some(Crossed { root: outgoing, cross, back }) }
            }
            (Phase::Settled { active, retired: Some(Crossed { root: outgoing, cross, back }) }, Step::Rollback) => {
                Phase::Activated { active: Crossed { root: active, cross, back }, outgoing, given: Wait::Unseen }
            }
            (Phase::Activated { active, outgoing, .. }, Step::Rollback) => {
                Phase::Prepared { active: outgoing, next: active, given: Some(Wait::Unseen) }
            }
            (Phase::Prepared { active, next, given }, Step::Rollback) => {
                self.may_leave(&next.root, given)?;
                Phase::Settled { active, retired: None }
            }
            (
                Phase::Settled { .. } | Phase::Prepared { .. } | Phase::Activated { .. },
                Step::Prepare | Step::Activate | Step::Retire | Step::Rollback,
            ) => {
                return Err(StepError::OutOfOrder { role: self.role, state: state(&before.phase), step });
            }
        };
        let stepped = seconds(self.now).ok_or(OpenError::Clock)?;
        Ok(Record { newest, lifetime_s: before.lifetime_s, stepped, phase })
    }

    /// Whether a root may be taken out of trust.
    fn may_leave(&self, root: &Root, given: Option<Wait>) -> Result<(), StepError> {
        if self.danger_early {
            return Ok(());
        }
        let (role, number) = (self.role, root.number);
        match leaving(given) {
            Leaving::Free => Ok(()),
            Leaving::NotTakenUp => Err(StepError::NotTakenUp { role, number }),
            Leaving::From(until) if until > self.now => Err(StepError::TooEarly { role, number, until }),
            Leaving::From(_) => Ok(()),
        }
    }

    /// Makes the root that follows `active`, and lets `active` vouch for it.
    fn next(&self, active: &Root, number: u32) -> Result<Crossed, StepError> {
        let Self { directory, role, now, .. } = *self;
        let malformed = || malformed(directory, role);
        let der = active.der().ok_or_else(malformed)?;
        let (_, old) = X509Certificate::from_der(&der).map_err(|_| malformed())?;
        let constraints = old.basic_constraints().ok().flatten();
        if constraints.is_none_or(|constraints| constraints.value.path_len_constraint == Some(0)) {
            return Err(StepError::LeavesOnly { role, number: active.number });
        }
        let trust_domain = trust_domain(&old).ok_or_else(malformed)?;
        let old_key = directory::read_key(&directory::key_path(directory, role, active.number))?;
        let key = directory::make_key(directory, &directory::key_path(directory, role, number))?;
        let certificate = directory::make_root(role, &key, &trust_domain, now)?;
        let new = super::record::der(&certificate).ok_or_else(malformed)?;
        let (_, new) = X509Certificate::from_der(&new).map_err(|_| malformed())?;
        // What one vouches for ends with either.
        let ends = new.validity().not_after.timestamp().min(old.validity().not_after.timestamp());
        let vouching = Vouching { role, trust_domain, begins: new.validity().not_before.timestamp(), ends };
        let cross = vouching.sign(&key, &old_key)?;
        let back = vouching.sign(&old_key, &key)?;
        Ok(Crossed { root: Root { number, certificate }, cross, back })
    }
}

/// What one CA of a role says of another.
struct Vouching {
    role: Role,
    trust_domain: TrustDomain,
    begins: i64,
    ends: i64,
}

impl Vouching {
    /// Lets the CA with the key `by` vouch for the one with the key `of`; gives PEM.
    fn sign(&self, of: &AuthorityKey, by: &AuthorityKey) -> Result<String, OpenError> {
        let moment = |seconds: i64| u64::try_from(seconds).ok().and_then(date).ok_or(OpenError::Clock);
        let mut params = authority_params(self.role, of, &self.trust_domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        // Verifiers ask every certificate below the root for the purpose.
        params.extended_key_usages = purposes(self.role);
        params.use_authority_key_identifier_extension = true;
        params.not_before = moment(self.begins)?;
        params.not_after = moment(self.ends)?;
        params.serial_number = Some(SerialNumber::from_slice(&serial().ok_or(OpenError::Generate)?));
        let issuer = rcgen::Issuer::new(authority_params(self.role, by, &self.trust_domain), by);
        let certificate = params.signed_by(of, &issuer).map_err(OpenError::Sign)?;
        Ok(pem::encode("CERTIFICATE", certificate.der()).to_string())
    }
}

/// The trust domain that a root was made for.
fn trust_domain(root: &X509Certificate<'_>) -> Option<TrustDomain> {
    let names = root.subject_alternative_name().ok().flatten()?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => uri.strip_prefix("spiffe://")?.parse().ok(),
        _ => None,
    }
}
