//! The embedded issuer's directory: how it is made, finished, checked and never replaced.
//!
//! All keys are written before the first root. So a directory with any root is one that may be trusted by somebody, where a missing key
//! is a loss; one without a root never was, and is finished.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
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

use super::{
    AUTHORITY_LIFETIME, Authority, AuthorityKey, BACKDATED, authority_name, authority_params, authority_uri, date,
    seconds, serial,
};

/// A P-256 key has 241 bytes in PEM.
const KEY_FILE_BYTES_MAX: usize = 16 * 1024;

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

const ROLES: [Role; 3] = [Role::Server, Role::Agent, Role::Client];

/// Opens the directory, and makes or finishes it where it is safe to; gives the CAs of server, agent and client.
pub(super) fn open(directory: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<[Authority; 3], OpenError> {
    prepare(directory)?;
    // Held until everything was read: of two servers that start at once, one makes the directory.
    let _lock = lock(directory)?;
    make_missing_keys(directory)?;
    let [server, agent, client] = ROLES.map(|role| {
        let key = read_key(&key_path(directory, role))?;
        let path = root_path(directory, role);
        if !exists(&path)? {
            make_root(role, &key, trust_domain, now, directory)?;
        }
        read_authority(role, key, trust_domain, &path)
    });
    Ok([server?, agent?, client?])
}

fn key_path(directory: &Path, role: Role) -> PathBuf {
    directory.join(format!("{role}-ca.key.pem"))
}

fn root_path(directory: &Path, role: Role) -> PathBuf {
    directory.join(format!("{role}-root.pem"))
}

fn prepare(directory: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .or_else(|source| {
            // Something else of that name is told below.
            if source.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(source) }
        })
        .map_err(FileError::io("create", directory))?;
    let metadata = fs::metadata(directory).map_err(FileError::io("read", directory))?;
    if !metadata.is_dir() {
        return Err(OpenError::NotADirectory { path: directory.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Mode { path: directory.to_owned(), mode });
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(FileError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Busy { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(FileError::io("lock", &path)(source).into()),
    }
}

fn exists(path: &Path) -> Result<bool, FileError> {
    path.try_exists().map_err(FileError::io("read", path))
}

fn make_missing_keys(directory: &Path) -> Result<(), OpenError> {
    let mut missing = Vec::new();
    let mut may_be_trusted = false;
    for role in ROLES {
        may_be_trusted |= exists(&root_path(directory, role))?;
        let path = key_path(directory, role);
        if !exists(&path)? {
            missing.push(path);
        }
    }
    for path in missing {
        if may_be_trusted {
            return Err(OpenError::KeyMissing { path });
        }
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| OpenError::Generate)?;
        let pkcs8 = key.to_pkcs8v1().map_err(|_| OpenError::Generate)?;
        create_atomically(directory, &path, pem::encode("PRIVATE KEY", pkcs8.as_ref()).as_bytes(), 0o600)?;
    }
    Ok(())
}

/// Creates a file that is either whole or not there, also after a power cut. Called with the lock held and only for what does not exist.
fn create_atomically(directory: &Path, path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FileError::io("remove", &unfinished)(error)),
    }
    file::create(&unfinished, content, mode)?;
    fs::rename(&unfinished, path).map_err(FileError::io("create", path))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(FileError::io("write", directory))
}

fn read_key(path: &Path) -> Result<AuthorityKey, OpenError> {
    let wrong = || OpenError::Key { path: path.to_owned() };
    let text = file::read_private(path, KEY_FILE_BYTES_MAX)?;
    let der = pem::decode_one(&text, SectionKind::PrivateKey).map(Zeroizing::new).ok_or_else(wrong)?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map(AuthorityKey).map_err(|_| wrong())
}

fn make_root(
    role: Role,
    key: &AuthorityKey,
    trust_domain: &TrustDomain,
    now: SystemTime,
    directory: &Path,
) -> Result<(), OpenError> {
    let now = seconds(now).ok_or(OpenError::Clock)?;
    let mut params = authority_params(role, key, trust_domain);
    params.not_before = date(now.saturating_sub(BACKDATED.as_secs())).ok_or(OpenError::Clock)?;
    params.not_after = date(now.saturating_add(AUTHORITY_LIFETIME.as_secs())).ok_or(OpenError::Clock)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial().ok_or(OpenError::Generate)?));
    let root = params.self_signed(key).map_err(OpenError::Sign)?;
    let text = pem::encode("CERTIFICATE", root.der());
    create_atomically(directory, &root_path(directory, role), text.as_bytes(), 0o644)?;
    Ok(())
}

fn read_authority(
    role: Role,
    key: AuthorityKey,
    trust_domain: &TrustDomain,
    path: &Path,
) -> Result<Authority, OpenError> {
    let roots = Roots::read(path)?;
    let [root] = roots.certificates() else { return Err(OpenError::Mismatch { path: path.to_owned() }) };
    let (not_before, not_after) = check_root(root, role, &key, trust_domain, path)?;
    let params = authority_params(role, &key, trust_domain);
    Ok(Authority { issuer: rcgen::Issuer::new(params, key), roots, not_before, not_after })
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
