//! Who was shut out while a process runs: what an operator revokes, and what that means for certificates, rules and targets.
//!
//! A denial takes away and never gives: what is not denied is judged by the configuration as if there were no denials.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::audit::Timestamp;
use crate::evidence::Evidence;
use crate::limits::DENIALS_MAX;
use crate::pattern::TargetPattern;
use crate::principal::{Name, Principal, Role, TrustDomain, is_email};
use crate::status::Denied;

#[cfg(test)]
mod tests;

/// Bytes of a reason that are kept: a sentence with the number of a ticket.
pub const REASON_MAX: usize = 200;

/// What [`Kind::All`] is followed by.
pub const ALL: &str = "sessions";

/// Digits of a serial number: RFC 5280 has at most 20 octets.
const SERIAL_DIGITS_MAX: usize = 40;

/// What is denied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Everybody with this principal.
    Principal(Principal),
    /// Everybody with this service account.
    Email(String),
    /// Every certificate for the key with this SHA-256 of its SubjectPublicKeyInfo, every enrolment whose token such a key verified, and every
    /// certificate that was given for one.
    Key([u8; 32]),
    /// The certificates with this serial number, in lower-case hexadecimal digits without leading zero bytes.
    Serial(String),
    /// What this rule allows, unless another rule allows it as well. Servers only.
    Rule(Name),
    /// These targets. Agents only.
    Target(TargetPattern),
    /// Every session. Agents only.
    All,
}

/// How a subject is named by whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A principal, `ROLE/NAME`, or an e-mail.
    Who,
    /// A key's hash.
    Key,
    /// A serial number.
    Serial,
    /// A rule's name.
    Rule,
    /// A pattern of targets.
    Target,
    /// Every session there is, by the word [`ALL`].
    All,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Who, Self::Key, Self::Serial, Self::Rule, Self::Target, Self::All];

    /// The word for it in questions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Who => "who",
            Self::Key => "key",
            Self::Serial => "serial",
            Self::Rule => "rule",
            Self::Target => "target",
            Self::All => "all",
        }
    }
}

impl Subject {
    /// Reads what somebody wants to deny; `domain` completes `ROLE/NAME`.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn read(kind: Kind, text: &str, domain: Option<&TrustDomain>) -> Result<Self, String> {
        match kind {
            Kind::Who => who(text, domain),
            Kind::Key => key(text).map(Self::Key),
            Kind::Serial => serial(text).map(Self::Serial),
            Kind::Rule => {
                text.parse().map(Self::Rule).map_err(|error| format!("{text:?} is no name of a rule: {error}."))
            }
            Kind::Target => {
                text.parse().map(Self::Target).map_err(|error| format!("{text:?} is no pattern of targets: {error}."))
            }
            Kind::All if text == ALL => Ok(Self::All),
            Kind::All => Err(format!("Everything is denied by the word {ALL} alone.")),
        }
    }

    /// The word for what kind of thing it is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Principal(_) => "principal",
            Self::Email(_) => "email",
            Self::Key(_) => "key",
            Self::Serial(_) => "serial",
            Self::Rule(_) => "rule",
            Self::Target(_) => "target",
            Self::All => "all",
        }
    }

    /// Which of that kind.
    pub fn value(&self) -> String {
        match self {
            Self::Principal(principal) => principal.to_string(),
            Self::Email(email) => email.clone(),
            Self::Key(hash) => hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            Self::Serial(serial) => serial.clone(),
            Self::Rule(name) => name.to_string(),
            Self::Target(pattern) => pattern.to_string(),
            Self::All => ALL.to_owned(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

fn who(text: &str, domain: Option<&TrustDomain>) -> Result<Subject, String> {
    let principal = if text.starts_with("spiffe://") {
        text.parse::<Principal>().map_err(|error| format!("{text:?} is no principal: {error}."))?
    } else if let Some((role, name)) = text.split_once('/') {
        let role = role.parse().map_err(|error| format!("{text:?} is not ROLE/NAME: {error}."))?;
        let name = name.parse().map_err(|error| format!("{text:?} is not ROLE/NAME: {error}."))?;
        let domain = domain.ok_or("This process does not know its trust domain yet: name the whole principal.")?;
        Principal { trust_domain: domain.clone(), role, name }
    } else if is_email(text) {
        return Ok(Subject::Email(text.to_owned()));
    } else {
        return Err(format!("{text:?} is neither ROLE/NAME, nor a principal, nor an e-mail in lower case."));
    };
    match principal.role {
        Role::Server => Err("A server cannot be denied: stop it, or take its address away.".to_owned()),
        Role::Agent | Role::Client => Ok(Subject::Principal(principal)),
    }
}

fn key(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "A key is named by the 64 hexadecimal digits of the SHA-256 of its SubjectPublicKeyInfo.".to_owned();
    let digits = hexadecimal(text).ok_or_else(wrong)?;
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() {
        return Err(wrong());
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(16 * pair[0] + pair[1]).map_err(|_| wrong())?;
    }
    Ok(hash)
}

fn serial(text: &str) -> Result<String, String> {
    let wrong = || "A serial number is 1 to 40 hexadecimal digits, and not 0.".to_owned();
    let digits = hexadecimal(text).filter(|digits| digits.len() <= SERIAL_DIGITS_MAX).ok_or_else(wrong)?;
    let first = digits.iter().position(|&digit| digit != 0).ok_or_else(wrong)?;
    let digits = &digits[first..];
    let half = if digits.len() % 2 == 1 { "0" } else { "" };
    let rest = digits.iter().filter_map(|&digit| char::from_digit(digit, 16));
    Ok(half.chars().chain(rest).collect())
}

/// The values of hexadecimal digits, with or without colons between them.
fn hexadecimal(text: &str) -> Option<Vec<u32>> {
    /// More text than the longest with a colon after every second digit.
    const TEXT_MAX: usize = 128;
    if text.len() > TEXT_MAX {
        return None;
    }
    text.chars().filter(|&c| c != ':').map(|c| c.to_digit(16)).collect()
}

/// One denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What.
    pub subject: Subject,
    /// Since when.
    pub since: Timestamp,
    /// Who asked for it.
    pub by: String,
    /// Why, in that person's words; anything may be in it, at most [`REASON_MAX`] bytes.
    pub reason: Option<String>,
}

impl Denial {
    /// A denial from `since` on; a longer reason is cut.
    pub fn new(subject: Subject, since: Timestamp, by: String, reason: Option<&str>) -> Self {
        let reason = reason.filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| reason[..reason.floor_char_boundary(REASON_MAX)].to_owned());
        Self { subject, since, by, reason }
    }

    /// The denial as it is shown.
    pub fn shown(&self) -> Denied {
        Denied {
            kind: self.subject.kind().to_owned(),
            value: self.subject.value(),
            since: self.since,
            by: self.by.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// What a verified certificate shows of whoever holds it, and where it was shown from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Who it is.
    pub principal: Principal,
    /// The service account.
    pub email: String,
    /// The certificate's serial number, as in [`Subject::Serial`].
    pub serial: String,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo.
    pub key: [u8; 32],
    /// What the certificate was given for, if it says so: one that was made without an enrolment, or by an older version, does not.
    pub evidence: Option<Evidence>,
    /// Where the connection comes from on which it was shown, as far as who was shown it can tell: a server can, an agent cannot.
    pub source: Option<IpAddr>,
}

/// There are as many denials as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are {DENIALS_MAX} denials, and there can be no more; take identities and rules out of the configuration, and undo denials that this makes needless"
)]
pub struct TooMany;

/// The denials in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    entries: BTreeMap<Subject, Denial>,
}

impl Denials {
    /// All of these; of two with one subject the first.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(denials: impl IntoIterator<Item = Denial>) -> Result<Self, TooMany> {
        let mut entries = BTreeMap::new();
        for denial in denials {
            entries.entry(denial.subject.clone()).or_insert(denial);
            if entries.len() > DENIALS_MAX {
                return Err(TooMany);
            }
        }
        Ok(Self { entries })
    }

    /// These and one more; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn with(&self, denial: Denial) -> Result<Self, TooMany> {
        let mut entries = self.entries.clone();
        if !entries.contains_key(&denial.subject) && entries.len() >= DENIALS_MAX {
            return Err(TooMany);
        }
        entries.entry(denial.subject.clone()).or_insert(denial);
        Ok(Self { entries })
    }

    /// These without one.
    pub fn without(&self, subject: &Subject) -> Self {
        let mut entries = self.entries.clone();
        entries.remove(subject);
        Self { entries }
    }

    /// Every denial, ordered by subject.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &Denial> {
        self.entries.values()
    }

    /// Whether this very thing is denied.
    pub fn has(&self, subject: &Subject) -> bool {
        self.entries.contains_key(subject)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }

    /// Whether somebody with this certificate is shut out, for whatever reason.
    pub fn denies(&self, shown: &Shown) -> bool {
        let Shown { principal, email, serial, key, evidence, source: _ } = shown;
        !self.entries.is_empty()
            && (self.denies_identity(principal, email)
                || self.has(&Subject::Serial(serial.clone()))
                || self.denies_key(key)
                || evidence.as_ref().is_some_and(|evidence| self.denies_key(&evidence.verified_by)))
    }

    /// Whether this identity is shut out, whatever its certificate.
    pub fn denies_identity(&self, principal: &Principal, email: &str) -> bool {
        self.denies_principal(principal) || self.has(&Subject::Email(email.to_owned()))
    }

    /// Whether this principal is shut out by its name, or everybody is.
    pub fn denies_principal(&self, principal: &Principal) -> bool {
        self.denies_all() || self.has(&Subject::Principal(principal.clone()))
    }

    /// Whether the key with this hash is shut out.
    pub fn denies_key(&self, hash: &[u8; 32]) -> bool {
        self.has(&Subject::Key(*hash))
    }

    /// Whether nothing is allowed by this rule.
    pub fn denies_rule(&self, name: &str) -> bool {
        self.entries.keys().any(|subject| matches!(subject, Subject::Rule(rule) if rule.as_str() == name))
    }

    /// Whether there is to be no session at all.
    pub fn denies_all(&self) -> bool {
        self.has(&Subject::All)
    }

    /// The targets that are shut out.
    pub fn targets(&self) -> Vec<TargetPattern> {
        let target = |subject: &Subject| match subject {
            Subject::Target(pattern) => Some(pattern.clone()),
            Subject::Principal(_)
            | Subject::Email(_)
            | Subject::Key(_)
            | Subject::Serial(_)
            | Subject::Rule(_)
            | Subject::All => None,
        };
        self.entries.keys().filter_map(target).collect()
    }
}
