//! The issuing CAs of one role that are believed, given by configuration and never learnt.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::file::{self, FileError};
use crate::hex;
use crate::key::sha256;
use crate::pem;

/// Two CAs are enough to change one for the other; this leaves room and bounds the work of a handshake.
const ROOTS_MAX: usize = 16;

/// Sixteen certificates with long names and RSA 4096 keys fit.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Why a text is no set of roots.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The environment: the file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Configuration: the named file's content is wrong.
    #[error("{} holds no usable roots", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<TrustError>,
    },
    /// Configuration: a certificate may not issue others.
    #[error("certificate {number} is not that of a CA")]
    NotAnAuthority {
        /// Which one, counted from 1.
        number: usize,
    },
    /// Configuration: there is no certificate, or something else.
    #[error("there must be CERTIFICATE blocks in PEM, and nothing else")]
    Pem,
    /// Configuration: more certificates than make sense.
    #[error("there are more than {ROOTS_MAX} certificates")]
    TooMany,
    /// Configuration: a certificate cannot be used as trust anchor.
    #[error("certificate {number} cannot be used as trust anchor")]
    Unusable {
        /// Which one, counted from 1.
        number: usize,
    },
}

/// The trust anchors of one role. Cloning is cheap.
#[derive(Clone)]
pub struct Roots(Arc<Inner>);

struct Inner {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Of each anchor, how many CAs may stand between it and a leaf; `None` for any number.
    path_lengths_max: Vec<Option<usize>>,
}

impl Roots {
    /// Reads the PEM file of [`Self::from_pem`].
    ///
    /// # Errors
    /// [`TrustError`], which names the file.
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let text = file::read_public(path, FILE_BYTES_MAX)?;
        Self::from_pem(&text).map_err(|source| TrustError::Content { path: path.to_owned(), source: Box::new(source) })
    }

    /// Takes one or more CA certificates in PEM.
    ///
    /// # Errors
    /// [`TrustError`] if there is none, anything else than certificates, or one that is not a CA's.
    pub fn from_pem(text: &[u8]) -> Result<Self, TrustError> {
        let blocks = pem::decode_all(text, SectionKind::Certificate).ok_or(TrustError::Pem)?;
        Self::from_der(blocks.into_iter().map(CertificateDer::from).collect())
    }

    /// Takes one or more CA certificates in DER.
    ///
    /// # Errors
    /// Those of [`Self::from_pem`].
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        if certificates.is_empty() {
            return Err(TrustError::Pem);
        }
        if certificates.len() > ROOTS_MAX {
            return Err(TrustError::TooMany);
        }
        let (mut anchors, mut path_lengths_max) = (Vec::new(), Vec::new());
        for (certificate, number) in certificates.iter().zip(1..) {
            path_lengths_max.push(authority(certificate, number)?);
            let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| TrustError::Unusable { number })?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self(Arc::new(Inner { certificates, anchors, path_lengths_max })))
    }

    /// The certificates as they were given.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    /// The certificates in PEM, as [`Self::from_pem`] takes them.
    pub fn to_pem(&self) -> String {
        self.0.certificates.iter().map(|certificate| pem::encode("CERTIFICATE", certificate).to_string()).collect()
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.0.anchors
    }

    /// How many CAs may stand between this anchor and a leaf; `None` for any number.
    pub(crate) fn path_length_max(&self, anchor: &TrustAnchor<'_>) -> Option<usize> {
        let same = self.0.anchors.iter().zip(&self.0.path_lengths_max).filter(|(known, _)| *known == anchor);
        same.filter_map(|(_, length)| *length).min()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.certificates.iter().map(|certificate| hex(&sha256(certificate)))).finish()
    }
}

/// The roots that a process believes at this moment, changed when their file is. Clones share it.
#[derive(Clone, Debug)]
pub struct CurrentRoots(Arc<RwLock<Roots>>);

impl CurrentRoots {
    /// The roots that are believed now.
    pub fn now(&self) -> Roots {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Believes these from the next handshake on, and says whether they are others than before; connections that exist stay.
    pub fn set(&self, roots: Roots) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = current.certificates() != roots.certificates();
        *current = roots;
        is_other
    }
}

/// A file of roots that is read again while the process runs.
#[derive(Debug)]
pub struct RootsFile {
    path: RwLock<PathBuf>,
    roots: CurrentRoots,
}

impl RootsFile {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// Those of [`Roots::read`].
    pub fn open(path: &Path) -> Result<Self, TrustError> {
        Ok(Self { path: RwLock::new(path.to_owned()), roots: Roots::read(path)?.into() })
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.path.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it says, which changes with it.
    pub fn roots(&self) -> &CurrentRoots {
        &self.roots
    }

    /// Puts what was read from `path` into force, for good; says so if it is something else than before.
    pub fn replace(&self, path: &Path, roots: Roots, whose: &str) -> Option<String> {
        path.clone_into(&mut self.path.write().unwrap_or_else(PoisonError::into_inner));
        let count = roots.certificates().len();
        let are = if count == 1 { "1 is".to_owned() } else { format!("{count} are") };
        self.roots.set(roots).then(|| format!("roots of the {whose} have changed: {are} trusted"))
    }
}

impl From<Roots> for CurrentRoots {
    fn from(roots: Roots) -> Self {
        Self(Arc::new(RwLock::new(roots)))
    }
}

impl From<&Roots> for CurrentRoots {
    fn from(roots: &Roots) -> Self {
        roots.clone().into()
    }
}

impl From<&CurrentRoots> for CurrentRoots {
    fn from(shared: &CurrentRoots) -> Self {
        shared.clone()
    }
}

/// Checks that a certificate may issue others, and gives its bound on the path below it.
fn authority(certificate: &CertificateDer<'_>, number: usize) -> Result<Option<usize>, TrustError> {
    let unusable = || TrustError::Unusable { number };
    let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| unusable())?;
    let constraints = certificate.basic_constraints().map_err(|_| unusable())?;
    let usage = certificate.key_usage().map_err(|_| unusable())?;
    if !rest.is_empty() {
        return Err(unusable());
    }
    let constraints =
        constraints.filter(|constraints| constraints.value.ca).ok_or(TrustError::NotAnAuthority { number })?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(TrustError::NotAnAuthority { number });
    }
    Ok(constraints.value.path_len_constraint.map(|length| usize::try_from(length).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use ginnel_core::principal::Role;

    use super::*;
    use crate::testing::{Authority, Profile};

    #[test]
    fn takes_certificates_of_authorities() {
        let (agent, client) = (Authority::new("agent"), Authority::new("client"));
        let text = format!("a comment\n{}{}", agent.pem(), client.pem());
        let roots = Roots::from_pem(text.as_bytes()).expect("roots");
        assert_eq!(roots.certificates().len(), 2);
        assert_eq!(Roots::from_pem(roots.to_pem().as_bytes()).expect("roots").certificates(), roots.certificates());
    }

    #[test]
    fn refuses_everything_else() {
        let agent = Authority::new("agent");
        let leaf = agent.issue(&Profile::of(Role::Agent));
        let leaf = pem::encode("CERTIFICATE", &leaf.chain()[0]);
        let key = pem::encode("PRIVATE KEY", b"secret");
        let broken = pem::encode("CERTIFICATE", b"no certificate");
        let cases = [
            (String::new(), "CERTIFICATE blocks"),
            (key.to_string(), "CERTIFICATE blocks"),
            (format!("{}{}", agent.pem(), *key), "CERTIFICATE blocks"),
            (format!("{}{}", agent.pem(), *leaf), "certificate 2 is not"),
            (broken.to_string(), "certificate 1 cannot"),
            (agent.pem().repeat(ROOTS_MAX + 1), "more than"),
        ];
        for (text, message) in cases {
            let error = Roots::from_pem(text.as_bytes()).expect_err(message);
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn what_is_believed_changes_for_all_who_share_it() {
        let (old, new) = (Authority::new("old").roots(), Authority::new("new").roots());
        let current = CurrentRoots::from(&old);
        let shared = CurrentRoots::from(&current);
        assert!(!current.set(old), "the same");
        assert!(current.set(new.clone()), "others");
        assert_eq!(shared.now().certificates(), new.certificates());
    }

    #[test]
    fn names_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("agent-root.pem");
        assert!(Roots::read(&path).expect_err("missing").to_string().contains("agent-root.pem"));
        std::fs::write(&path, "nothing").expect("written");
        assert!(Roots::read(&path).expect_err("empty").to_string().contains("agent-root.pem"));
    }
}
