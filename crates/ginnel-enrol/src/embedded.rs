//! The issuer without a cloud: three CAs in a directory, made at the first start, each of which can be replaced by another step by step
//! ([`rotation`]).
//!
//! Each role has a CA of its own, so that a certificate of one role finds no path where another is expected. Clocks, files and keys are
//! the server's own: whoever can read the directory can be anybody.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair as _};
use ginnel_core::principal::{Principal, Role, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_identity::key::p256_point;
use ginnel_identity::oid::{EVIDENCE, INNER_INITIATOR, INNER_RESPONDER};
use ginnel_identity::trust::Roots;
use ginnel_identity::{hex, is_email};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;

use crate::issuer::{CertificateRequest, IssueError, Issued, Issuer, Issuing};

pub mod rotation;

mod directory;
mod files;
mod record;

#[cfg(test)]
mod tests;

pub use directory::OpenError;

/// Life of a CA. Its root is pinned in the configuration of agents and clients, where changing it is work.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far before the present a certificate begins, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// Shortest lifetime of a certificate: what a certificate's clock can tell apart.
const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// Signs with CAs that lie in a directory.
pub struct EmbeddedIssuer {
    trust_domain: TrustDomain,
    lifetime: Duration,
    directory: PathBuf,
    authorities: RwLock<Arc<Authorities>>,
}

/// The CAs that sign.
struct Authorities {
    server: Authority,
    agent: Authority,
    client: Authority,
}

/// The CA of one role.
struct Authority {
    /// Which of the role's roots it is.
    number: u32,
    issuer: rcgen::Issuer<'static, AuthorityKey>,
    /// What leads to the root before, as long as somebody may trust that one alone.
    cross: Option<CertificateDer<'static>>,
    /// All that are to be trusted, this one's the first.
    roots: Roots,
    not_before: u64,
    not_after: u64,
}

impl EmbeddedIssuer {
    /// Opens the directory and, at the first start, makes it: mode 0700, the CAs' keys (0600) and the public `server-root.pem`,
    /// `agent-root.pem` and `client-root.pem`.
    ///
    /// An interrupted first start is finished. Nothing that exists is ever replaced: a key that is missing beside a root is an error,
    /// because a new one would lock out everybody who trusts that root.
    ///
    /// # Errors
    /// [`OpenError`], which names the file and what to do.
    pub fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, OpenError> {
        if lifetime < LIFETIME_MIN {
            return Err(OpenError::Lifetime);
        }
        let (authorities, opened) = directory::open(directory, trust_domain, lifetime.as_secs(), now)?;
        // Before it signs: a longer lifetime has to be on record before there is a certificate of it.
        opened.taken_up(lifetime.as_secs(), now)?;
        let authorities = RwLock::new(Arc::new(Authorities::of_roles(authorities)));
        Ok(Self { trust_domain: trust_domain.clone(), lifetime, directory: directory.to_owned(), authorities })
    }

    /// Reads the directory again, in which a root may have been changed, and signs by it from then on. Says what is different, and if it
    /// could not be written down that a step is taken up: then a root that signs no more stays trusted until that was possible.
    ///
    /// # Errors
    /// [`OpenError`]; what was in use stays.
    pub fn read_again(&self, now: SystemTime) -> Result<Vec<String>, OpenError> {
        let began = Instant::now();
        let (after, opened) = directory::open(&self.directory, &self.trust_domain, self.lifetime.as_secs(), now)?;
        let after = Authorities::of_roles(after);
        let before = self.authorities();
        let different = directory::ROLES.into_iter().filter_map(|role| after.of(role).different(before.of(role), role));
        let mut different: Vec<_> = different.collect();
        *self.authorities.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        // Until here the roots of before have signed, however long the disk took.
        if let Err(error) = opened.taken_up(self.lifetime.as_secs(), now + began.elapsed()) {
            let why = Chain(&error);
            different.push(format!(
                "it cannot be written down that this is taken up ({why}): no root may be retired until a reload could do that"
            ));
        }
        Ok(different)
    }

    /// Signs a certificate that is valid from now on.
    ///
    /// # Errors
    /// [`IssueError`]; nothing was issued then.
    pub fn sign(&self, request: &CertificateRequest, now: SystemTime) -> Result<Issued, IssueError> {
        let role = request.principal.role;
        if request.principal.trust_domain != self.trust_domain {
            return Err(IssueError::TrustDomain { principal: request.principal.clone() });
        }
        let authorities = self.authorities();
        let authority = authorities.of(role);
        let (not_before, not_after) = authority.validity(role, self.lifetime, now)?;
        let mut params = leaf(&request.principal, &request.email, &request.server_names)?;
        let extension = request.extension()?.map(|content| CustomExtension::from_oid_content(EVIDENCE, content));
        params.custom_extensions.extend(extension);
        params.not_before = date(not_before).ok_or(IssueError::Authority { role })?;
        params.not_after = date(not_after).ok_or(IssueError::Authority { role })?;
        let serial = serial().ok_or(IssueError::Sign(rcgen::Error::RingUnspecified))?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let key = SubjectKey(p256_point(&request.spki_der).ok_or(IssueError::Key)?);
        let certificate = params.signed_by(&key, &authority.issuer).map_err(IssueError::Sign)?;
        Ok(Issued {
            chain: std::iter::once(certificate.der().clone()).chain(authority.cross.clone()).collect(),
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
            serial: hex(&serial),
        })
    }

    fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.authorities.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Authorities {
    fn of_roles([server, agent, client]: [Authority; 3]) -> Self {
        Self { server, agent, client }
    }

    fn of(&self, role: Role) -> &Authority {
        match role {
            Role::Server => &self.server,
            Role::Agent => &self.agent,
            Role::Client => &self.client,
        }
    }
}

impl std::fmt::Debug for EmbeddedIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedIssuer")
            .field("trust_domain", &self.trust_domain)
            .field("lifetime", &self.lifetime)
            .field("directory", &self.directory)
            .field("server", &self.authorities().server.roots)
            .field("agent", &self.authorities().agent.roots)
            .field("client", &self.authorities().client.roots)
            .finish_non_exhaustive()
    }
}

impl Issuer for EmbeddedIssuer {
    fn issue<'a>(&'a self, request: &'a CertificateRequest, now: SystemTime) -> Issuing<'a> {
        Box::pin(ready(self.sign(request, now)))
    }

    fn roots(&self, role: Role) -> Roots {
        self.authorities().of(role).roots.clone()
    }

    fn reload(&self, now: SystemTime) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.read_again(now)?)
    }

    fn files(&self) -> Vec<PathBuf> {
        // Every step changes these, as its last word; the records change also when a server takes a step up.
        directory::ROLES.into_iter().map(|role| directory::root_path(&self.directory, role)).collect()
    }
}

impl Authority {
    /// From when until when a certificate of now is valid, never beyond the CA itself.
    fn validity(&self, role: Role, lifetime: Duration, now: SystemTime) -> Result<(u64, u64), IssueError> {
        let now = seconds(now).filter(|now| (self.not_before..self.not_after).contains(now));
        let now = now.ok_or(IssueError::Authority { role })?;
        let not_before = now.saturating_sub(BACKDATED.as_secs()).max(self.not_before);
        Ok((not_before, now.saturating_add(lifetime.as_secs()).min(self.not_after)))
    }

    /// What is different from before, if anything is.
    fn different(&self, before: &Self, role: Role) -> Option<String> {
        let is_same = self.roots.certificates() == before.roots.certificates() && self.cross == before.cross;
        let trusted = match self.roots.certificates().len() {
            1 => "1 is trusted".to_owned(),
            more => format!("{more} are trusted"),
        };
        (!is_same).then(|| format!("roots of the {role} role have changed: root {} signs, {trusted}", self.number))
    }
}

/// A CA's key. It leaves the process only for its file.
struct AuthorityKey(EcdsaKeyPair);

ginnel_identity::never_implements!(AuthorityKey: std::fmt::Debug, std::fmt::Display, serde::Serialize, Clone);

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// The point of the key that a leaf is for.
struct SubjectKey<'a>(&'a [u8]);

impl PublicKeyData for SubjectKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// What a CA says of itself, all but its validity and serial number: a function of role, key and trust domain, so that a root which was lost
/// can be made again from its key.
fn authority_params(role: Role, key: &AuthorityKey, trust_domain: &TrustDomain) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, authority_name(role, key));
    params.subject_alt_names = uri(&authority_uri(trust_domain)).into_iter().collect();
    // Leaves below it, and the CA that is to follow, for which it vouches while one is changed for the other.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// The key is part of the name, so that two CAs of one role can be told apart while one is changed for the other.
fn authority_name(role: Role, key: &AuthorityKey) -> String {
    let hash = ginnel_identity::key::sha256(&key.subject_public_key_info());
    format!("Ginnel {role} CA {}", hex(&hash[..4]))
}

fn authority_uri(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

/// What a leaf says, all but its validity and serial number.
fn leaf(principal: &Principal, email: &str, server_names: &[String]) -> Result<CertificateParams, IssueError> {
    if !is_email(email) {
        return Err(IssueError::Email);
    }
    if (principal.role == Role::Server) == server_names.is_empty() {
        return Err(IssueError::Names);
    }
    let email = Ia5String::try_from(email).map_err(|_| IssueError::Email)?;
    let mut params = CertificateParams::default();
    // Empty, which makes the alternative names critical: whoever does not understand them must not accept the certificate.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::Rfc822Name(email));
    params.subject_alt_names.extend(uri(&principal.to_string()));
    for name in server_names {
        params.subject_alt_names.push(alternative_name(name).ok_or(IssueError::Names)?);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes(principal.role);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn purposes(role: Role) -> Vec<ExtendedKeyUsagePurpose> {
    let inner = |oid: &[u64]| ExtendedKeyUsagePurpose::Other(oid.to_vec());
    match role {
        Role::Server => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        Role::Agent => vec![ExtendedKeyUsagePurpose::ClientAuth, inner(INNER_RESPONDER)],
        Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth, inner(INNER_INITIATOR)],
    }
}

fn alternative_name(name: &str) -> Option<SanType> {
    match ServerName::try_from(name).ok()? {
        ServerName::DnsName(name) => Ia5String::try_from(name.as_ref()).ok().map(SanType::DnsName),
        ServerName::IpAddress(address) => Some(SanType::IpAddress(address.into())),
        _ => None,
    }
}

/// `None` never happens: principals and trust domains are ASCII.
fn uri(text: &str) -> Option<SanType> {
    Ia5String::try_from(text).ok().map(SanType::URI)
}

/// 128 bits, of which the first two say that the number is positive and has its full length.
fn serial() -> Option<[u8; 16]> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).ok()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Some(serial)
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn date(seconds: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}
