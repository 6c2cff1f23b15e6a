//! How things stand with the roots of a role, and what can follow.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_core::principal::Role;
use ginnel_identity::hex;
use ginnel_identity::key::sha256;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Step;
use crate::embedded::directory;
use crate::embedded::record::{Phase, Record, Root, Wait};

/// How far the change of a role's root has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// One root is trusted and signs.
    Settled,
    /// The next one is trusted as well.
    Prepared,
    /// The next one signs, and the old one is trusted as well.
    Activated,
}

/// What a root is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It signs.
    Active,
    /// It is trusted and will sign.
    Next,
    /// It is trusted and has signed.
    Outgoing,
    /// It is not trusted; its key is kept for a rollback.
    Retired,
}

/// One root of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootStanding {
    /// Which one, counted from 1.
    pub number: u32,
    /// What it is for.
    pub used: Use,
    /// End of its validity.
    pub not_after: SystemTime,
    /// SHA-256 of the certificate in hexadecimal digits.
    pub sha256: String,
    /// Where its key lies.
    pub key: PathBuf,
}

/// When the root that does not sign may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Nobody shows a certificate of it.
    Free,
    /// No running server has taken it up that this root signs no more.
    NotTakenUp,
    /// Its last certificate expires then.
    From(SystemTime),
}

/// How things stand with the roots of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose certificates they sign.
    pub role: Role,
    /// How far a change has come.
    pub state: State,
    /// The roots, the one that signs first.
    pub roots: Vec<RootStanding>,
    /// When the other trusted root may leave, if there is one.
    pub leaving: Option<Leaving>,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Prepared => "prepared",
            Self::Activated => "activated",
        }
    }
}

impl Use {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Next => "next",
            Self::Outgoing => "outgoing",
            Self::Retired => "retired",
        }
    }
}

impl Standing {
    pub(super) fn of(directory: &Path, role: Role, record: &Record) -> Option<Self> {
        let (uses, leaving): (Vec<_>, _) = match &record.phase {
            Phase::Settled { retired: None, .. } => (vec![Use::Active], None),
            Phase::Settled { retired: Some(_), .. } => (vec![Use::Active, Use::Retired], None),
            Phase::Prepared { given, .. } => (vec![Use::Active, Use::Next], Some(leaving(*given))),
            Phase::Activated { given, .. } => (vec![Use::Active, Use::Outgoing], Some(leaving(Some(*given)))),
        };
        let roots = record.kept().into_iter().zip(uses);
        let roots: Option<Vec<_>> = roots.map(|(root, used)| RootStanding::of(directory, role, root, used)).collect();
        Some(Self { role, state: state(&record.phase), roots: roots?, leaving })
    }

    /// What can be done next and what it does, a line for each step.
    pub fn next(&self) -> Vec<(Step, String)> {
        let role = self.role;
        let (who, own) = match role {
            Role::Server => ("agents and clients", "the server's certificate"),
            Role::Agent => ("clients", "agents' certificates"),
            Role::Client => ("agents", "clients' certificates"),
        };
        let file = format!("{role}-root.pem");
        let number = |at: usize| self.roots.get(at).map_or(0, |root| root.number);
        let (active, other) = (number(0), number(1));
        match self.state {
            State::Settled => {
                let mut next = vec![(
                    Step::Prepare,
                    format!(
                        "makes the next root and publishes it in {file} beside root {active}; nobody's certificate changes"
                    ),
                )];
                if other > 0 {
                    next[0].1.push_str(&format!(". The key of root {other} is deleted: no rollback leads back to it"));
                    let back = format!(
                        "publishes root {other} again, so that {who} that trust it alone are let in; root {active} goes on signing"
                    );
                    next.push((Step::Rollback, back));
                }
                next
            }
            State::Prepared => vec![
                (
                    Step::Activate,
                    format!(
                        "{own} are signed by root {other} from the next renewal on, with what leads to root {active}: {who} that trust either are \
                         not disturbed. Hand {file} out to {who} before or after"
                    ),
                ),
                (
                    Step::Rollback,
                    format!("takes root {other} out of {file} and deletes its key; nobody's certificate changes"),
                ),
            ],
            State::Activated => vec![
                (
                    Step::Retire,
                    format!(
                        "takes root {other} out of {file} and of what is sent: {who} that trust root {other} alone are shut out. Do it when {who} \
                         have {file} with both"
                    ),
                ),
                (
                    Step::Rollback,
                    format!(
                        "{own} are signed by root {other} again from the next renewal on; {who} that trust either are not disturbed"
                    ),
                ),
            ],
        }
    }
}

impl RootStanding {
    fn of(directory: &Path, role: Role, root: &Root, used: Use) -> Option<Self> {
        let der = root.der()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let end = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        let not_after = UNIX_EPOCH + Duration::from_secs(end);
        let key = directory::key_path(directory, role, root.number);
        Some(Self { number: root.number, used, not_after, sha256: hex(&sha256(&der)), key })
    }
}

/// How far a record says that a change has come.
pub(super) fn state(phase: &Phase) -> State {
    match phase {
        Phase::Settled { .. } => State::Settled,
        Phase::Prepared { .. } => State::Prepared,
        Phase::Activated { .. } => State::Activated,
    }
}

/// When the trusted root that does not sign may leave.
pub(super) fn leaving(given: Option<Wait>) -> Leaving {
    match given {
        None => Leaving::Free,
        Some(Wait::Unseen) => Leaving::NotTakenUp,
        Some(Wait::Until(second)) => Leaving::From(UNIX_EPOCH + Duration::from_secs(second)),
    }
}
