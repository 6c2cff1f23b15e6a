//! The embedded issuer's directory: how it is made, finished, checked and never replaced.
//!
//! All keys are written before the first root. So a directory with any root is one that may be trusted by somebody, where a missing key
//! is a loss; one without a root never was, and is finished. Of each role there is a [`Record`]; what an interrupted change has left beside it
//! is put right whenever the directory is opened.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use ginnel_core::principal::{Role, TrustDomain};
use ginnel_identity::file::{self, FileError};
use ginnel_identity::pem;
use ginnel_identity::trust::{Roots, TrustError};
use rcgen::{PublicKeyData as _, SerialNumber};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::files::{exists, lock, make_directory, put, remove, unfinished};
use super::record::{self, Record};
use super::{
    AUTHORITY_LIFETIME, Authority, AuthorityKey, BACKDATED, authority_name, authority_params, authority_uri, date,
    seconds, serial,
};

/// A P-256 key has 241 bytes in PEM.
const KEY_FILE_BYTES_MAX: usize = 16 * 1024;

/// Three certificates of ours have 3 KiB in PEM.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Why the issuer's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The environment: another process is opening the directory.
    #[error("{} is being opened by another process", path.display())]
    Busy {
        /// Which directory.
        path: PathBuf,
    },
    /// The environment: the clock is beyond what a certificate can show.
    #[error("the clock cannot be right")]
    Clock,
    /// The environment: a file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Us: the cryptographic library could not make a key.
    #[error("cannot make a CA key")]
    Generate,
    /// The environment: a file holds no key of ours.
    #[error("{} is not one P-256 key in PKCS#8 and PEM", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// The environment: a key is gone whose root may be trusted.
    #[error("{} is missing, but roots were made already; restore it, or start over with an empty directory and hand out the new roots", path.display())]
    KeyMissing {
        /// Which file.
        path: PathBuf,
    },
    /// Configuration: certificates must live for a second at least.
    #[error("the lifetime of certificates is shorter than a second")]
    Lifetime,
    /// The environment: a root and the key beside it are not of one CA.
    #[error("{} is not the root of the key beside it", path.display())]
    Mismatch {
        /// Which root.
        path: PathBuf,
    },
    /// The environment: others on the machine may look into the directory or change it.
    #[error("{} has mode {mode:04o}, which lets others in; run chmod 700 {}", path.display(), path.display())]
    Mode {
        /// Which directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Configuration: the path names something else.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// Which path.
        path: PathBuf,
    },
    /// The environment: what is written down about the roots cannot be read.
    #[error("{} is not a record of roots", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
    },
    /// The environment: a root cannot be read.
    #[error(transparent)]
    Root(#[from] TrustError),
    /// Us: a root could not be signed.
    #[error("cannot sign a root")]
    Sign(#[source] rcgen::Error),
    /// Configuration: the CAs were made for another trust domain.
    #[error("{} is of another trust domain; use another directory for this one", path.display())]
    TrustDomain {
        /// Which root.
        path: PathBuf,
    },
}

/// The roles that have CAs.
pub(super) const ROLES: [Role; 3] = [Role::Server, Role::Agent, Role::Client];

/// A directory that was read and checked, which no other process changes meanwhile.
pub(super) struct Opened<'a> {
    directory: &'a Path,
    roles: [InRole; 3],
    _lock: File,
}

/// What was read of one role.
struct InRole {
    role: Role,
    record: Record,
    is_written: bool,
}

/// Reads and checks the directory, after it was made where that is safe; gives the CAs of server, agent and client. It is told with
/// [`Opened::taken_up`] when they sign.
///
/// `lifetime_s` is that of the certificates that a CA which is made here gives.
pub(super) fn open<'a>(
    directory: &'a Path,
    trust_domain: &TrustDomain,
    lifetime_s: u64,
    now: SystemTime,
) -> Result<([Authority; 3], Opened<'a>), OpenError> {
    make_directory(directory)?;
    // Held until everything was read, and written down: of two servers that start at once, one makes the directory, and no step comes
    // between what is read and what is said to be taken up.
    let lock = lock(directory)?;
    make_missing_keys(directory)?;
    let [server, agent, client]: [Result<_, OpenError>; 3] = ROLES.map(|role| {
        let record = record(directory, role)?;
        let is_written = record.is_some();
        let record = match record {
            Some(record) => record,
            // Who had this root before may have given certificates of any lifetime.
            None if exists(&root_path(directory, role))? => first(directory, role, None)?,
            None => {
                let key = read_key(&key_path(directory, role, 1))?;
                let root = make_root(role, &key, trust_domain, now)?;
                put(directory, &root_path(directory, role), root.as_bytes(), 0o644)?;
                first(directory, role, Some(lifetime_s))?
            }
        };
        let authority = authority(directory, role, trust_domain, &record)?;
        is_published(directory, role, &record)?;
        Ok((authority, InRole { role, record, is_written }))
    });
    let ((server, of_server), (agent, of_agent), (client, of_client)) = (server?, agent?, client?);
    let opened = Opened { directory, roles: [of_server, of_agent, of_client], _lock: lock };
    Ok(([server, agent, client], opened))
}

impl Opened<'_> {
    /// Writes down that the CAs which were read are those that sign, as of now, with certificates of this lifetime; and does what an
    /// interrupted change has left undone.
    pub(super) fn taken_up(self, lifetime_s: u64, now: SystemTime) -> Result<(), OpenError> {
        let now = seconds(now).ok_or(OpenError::Clock)?;
        for InRole { role, record, is_written } in self.roles {
            let taken_up = record.taken_up(lifetime_s, now);
            if !is_written || record != taken_up {
                write(self.directory, role, &taken_up)?;
            }
            finish(self.directory, role, &taken_up)?;
        }
        Ok(())
    }
}

/// Where the key of a root lies. That of the first has no number, because most roles never have another.
pub(super) fn key_path(directory: &Path, role: Role, number: u32) -> PathBuf {
    directory.join(if number == 1 { format!("{role}-ca.key.pem") } else { format!("{role}-ca-{number}.key.pem") })
}

pub(super) fn root_path(directory: &Path, role: Role) -> PathBuf {
    directory.join(format!("{role}-root.pem"))
}

pub(super) fn record_path(directory: &Path, role: Role) -> PathBuf {
    directory.join(record::file_name(role))
}

/// What is written down about a role, if anything is.
pub(super) fn record(directory: &Path, role: Role) -> Result<Option<Record>, OpenError> {
    let path = record_path(directory, role);
    if !exists(&path)? {
        return Ok(None);
    }
    let text = file::read_public(&path, RECORD_BYTES_MAX)?;
    serde_json::from_slice(&text).map(Some).map_err(|_| OpenError::Record { path })
}

/// What is to be written down about a role that has one root, and had no other.
pub(super) fn first(directory: &Path, role: Role, lifetime_s: Option<u64>) -> Result<Record, OpenError> {
    let path = root_path(directory, role);
    let roots = Roots::read(&path)?;
    match roots.certificates() {
        [_] => Ok(Record::first(roots.to_pem(), lifetime_s)),
        // Who made a second one has written it down.
        _ => Err(OpenError::Mismatch { path }),
    }
}

/// Puts a record into the place of the one before: the moment at which a step is taken.
pub(super) fn write(directory: &Path, role: Role, record: &Record) -> Result<(), OpenError> {
    let path = record_path(directory, role);
    let mut text = serde_json::to_vec_pretty(record).map_err(|_| OpenError::Record { path: path.clone() })?;
    text.push(b'\n');
    Ok(put(directory, &path, &text, 0o600)?)
}

/// Does what follows from a record, and what an interruption may have left undone.
pub(super) fn finish(directory: &Path, role: Role, record: &Record) -> Result<(), OpenError> {
    publish(directory, role, record)?;
    let kept: Vec<_> = record.kept().iter().map(|root| root.number).collect();
    // One more than there are: its key may be there, and the record that it was made for is not.
    for number in (1..=record.newest.saturating_add(1)).filter(|number| !kept.contains(number)) {
        let path = key_path(directory, role, number);
        for path in [unfinished(&path), path] {
            if exists(&path)? {
                remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Brings the public file into line. One that holds a root which is not this role's is somebody's mistake, and stays.
pub(super) fn publish(directory: &Path, role: Role, record: &Record) -> Result<(), OpenError> {
    if is_published(directory, role, record)? {
        return Ok(());
    }
    Ok(put(directory, &root_path(directory, role), record.public().as_bytes(), 0o644)?)
}

/// Whether the public file is what it is to be, after it was found to hold no root that is not this role's.
fn is_published(directory: &Path, role: Role, record: &Record) -> Result<bool, OpenError> {
    let path = root_path(directory, role);
    if !exists(&path)? {
        return Ok(false);
    }
    let there = Roots::read(&path)?;
    let known: Vec<_> = record.kept().iter().filter_map(|root| root.der()).collect();
    if there.certificates().iter().any(|root| !known.contains(root)) {
        return Err(OpenError::Mismatch { path });
    }
    Ok(there.to_pem() == record.public())
}

fn make_missing_keys(directory: &Path) -> Result<(), OpenError> {
    let mut missing = Vec::new();
    let mut may_be_trusted = false;
    for role in ROLES {
        let record = record(directory, role)?;
        may_be_trusted |= record.is_some() || exists(&root_path(directory, role))?;
        let numbers = record.map_or(vec![1], |record| record.kept().iter().map(|root| root.number).collect());
        for number in numbers {
            let path = key_path(directory, role, number);
            if !exists(&path)? {
                missing.push(path);
            }
        }
    }
    for path in missing {
        if may_be_trusted {
            return Err(OpenError::KeyMissing { path });
        }
        make_key(directory, &path)?;
    }
    Ok(())
}

/// Makes a key and its file.
pub(super) fn make_key(directory: &Path, path: &Path) -> Result<AuthorityKey, OpenError> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| OpenError::Generate)?;
    let pkcs8 = key.to_pkcs8v1().map_err(|_| OpenError::Generate)?;
    put(directory, path, pem::encode("PRIVATE KEY", pkcs8.as_ref()).as_bytes(), 0o600)?;
    Ok(AuthorityKey(key))
}

pub(super) fn read_key(path: &Path) -> Result<AuthorityKey, OpenError> {
    let wrong = || OpenError::Key { path: path.to_owned() };
    let text = file::read_private(path, KEY_FILE_BYTES_MAX)?;
    let der = pem::decode_one(&text, SectionKind::PrivateKey).map(Zeroizing::new).ok_or_else(wrong)?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map(AuthorityKey).map_err(|_| wrong())
}

/// Makes the root of a key, in PEM.
pub(super) fn make_root(
    role: Role,
    key: &AuthorityKey,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<String, OpenError> {
    let now = seconds(now).ok_or(OpenError::Clock)?;
    let mut params = authority_params(role, key, trust_domain);
    params.not_before = date(now.saturating_sub(BACKDATED.as_secs())).ok_or(OpenError::Clock)?;
    params.not_after = date(now.saturating_add(AUTHORITY_LIFETIME.as_secs())).ok_or(OpenError::Clock)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial().ok_or(OpenError::Generate)?));
    let root = params.self_signed(key).map_err(OpenError::Sign)?;
    Ok(pem::encode("CERTIFICATE", root.der()).to_string())
}

/// The CA that a record says signs, after all of its keys and roots have been found to belong together.
fn authority(
    directory: &Path,
    role: Role,
    trust_domain: &TrustDomain,
    record: &Record,
) -> Result<Authority, OpenError> {
    let path = root_path(directory, role);
    let malformed = || OpenError::Record { path: record_path(directory, role) };
    let mut active = None;
    for root in record.kept() {
        let key = read_key(&key_path(directory, role, root.number))?;
        let (not_before, not_after) = check_root(&root.der().ok_or_else(malformed)?, role, &key, trust_domain, &path)?;
        if root == record.active() {
            let params = authority_params(role, &key, trust_domain);
            active = Some((rcgen::Issuer::new(params, key), not_before, not_after));
        }
    }
    let (issuer, not_before, not_after) = active.ok_or_else(malformed)?;
    let cross = record.cross().map(|text| record::der(text).ok_or_else(malformed)).transpose()?;
    let roots = Roots::from_pem(record.public().as_bytes())?;
    Ok(Authority { number: record.active().number, issuer, cross, roots, not_before, not_after })
}

/// Checks that a root is this CA's, and gives its validity.
fn check_root(
    root: &CertificateDer<'_>,
    role: Role,
    key: &AuthorityKey,
    trust_domain: &TrustDomain,
    path: &Path,
) -> Result<(u64, u64), OpenError> {
    let mismatch = || OpenError::Mismatch { path: path.to_owned() };
    let (_, root) = X509Certificate::from_der(root).map_err(|_| mismatch())?;
    // The name is compared too, because leaves name their issuer: with another one they would find no path.
    let name = root.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    if root.public_key().raw != key.subject_public_key_info() || name != Some(authority_name(role, key).as_str()) {
        return Err(mismatch());
    }
    let expected = authority_uri(trust_domain);
    let names = root.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    if !matches!(names, [GeneralName::URI(uri)] if *uri == expected) {
        return Err(OpenError::TrustDomain { path: path.to_owned() });
    }
    let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).map_err(|_| mismatch());
    Ok((seconds(root.validity().not_before)?, seconds(root.validity().not_after)?))
}
