//! The CA of a pool: a root, or a root with a subordinate CA that signs.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Signs for a pool. Clones are the same authority.
#[derive(Clone)]
pub(super) struct Authority(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    /// Certificates in PEM, that of the signing CA first, the root last.
    chain: Vec<String>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    pub(super) fn new(name: &str, is_subordinate: bool) -> Result<Self> {
        let (root_params, root_key) = (params(&format!("{name} root")), KeyPair::generate()?);
        let root_certificate = root_params.self_signed(&root_key)?;
        let root = Issuer::new(root_params, root_key);
        if !is_subordinate {
            return Ok(Self(Arc::new(Inner { issuer: root, chain: vec![root_certificate.pem()] })));
        }
        let (params, key) = (params(name), KeyPair::generate()?);
        let certificate = params.signed_by(&key, &root)?;
        let chain = vec![certificate.pem(), root_certificate.pem()];
        Ok(Self(Arc::new(Inner { issuer: Issuer::new(params, key), chain })))
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.0.issuer
    }

    pub(super) fn chain(&self) -> &[String] {
        &self.0.chain
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}
