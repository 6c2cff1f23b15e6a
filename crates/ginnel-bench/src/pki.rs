//! Certificates for the peers: P-256 keys under one authority, for each end of a leg, as PEM files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

/// The name in the certificate of every end that is dialled.
pub(crate) const NAME: &str = "peer.bench.example";

/// A directory with certificates and keys, which ends with it.
pub(crate) struct Pki {
    dir: TempDir,
}

impl Pki {
    /// Makes an authority and one certificate for either end.
    pub(crate) fn make() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bench authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        let pki = Self { dir };
        pki.write("ca.pem", &pem)?;
        let issuer = Issuer::new(params, key);
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new([NAME.to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, NAME);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            let pem = params.signed_by(&key, &issuer)?.pem();
            pki.write(&format!("{name}.pem"), &pem)?;
            pki.write(&format!("{name}.key"), &key.serialize_pem())?;
            pki.write(&format!("{name}.both"), &format!("{pem}{}", key.serialize_pem()))?;
        }
        Ok(pki)
    }

    /// Where the files are: `ca.pem`, and for `server` and `client` a `.pem`, a `.key` and a `.both`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of one of them, as configuration files want it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.file(name), text).with_context(|| format!("writing {name}"))
    }
}
