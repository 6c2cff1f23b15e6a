//! A service account's key file, and the tokens it signs.
//!
//! The format is Google's, whether Google made the key or [`ServiceAccountKey::create`]: one code path, one kind of file for operators.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls_pki_types::pem::SectionKind;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use ginnel_core::principal::is_email;

use crate::file::{self, FileError};
use crate::key::key_id;
use crate::pem;

/// A key file of Google's has about 2.4 KiB; nothing larger than this is one.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// How long a token may be used, in seconds. The server refuses more.
pub const TOKEN_LIFETIME_SECONDS: u64 = 300;

/// RSA keys that are taken: what Google makes, and room above it. Below is weak, above is slow enough to hurt a server.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Why a credential could not be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Configuration: the text is no e-mail address.
    #[error("an e-mail has the form name@domain, in lower-case letters, digits and . _ + -")]
    Email,
    /// Configuration: a field of the file is missing or has no usable value.
    #[error("{}: {field} {problem}", path.display())]
    Field {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: &'static str,
        /// What is wrong with it, without its content.
        problem: &'static str,
    },
    /// The environment: the file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Configuration: the file is no JSON of the expected shape. The parser's own words are left out, because they quote content.
    #[error("{}:{line}:{column}: not a service-account key in JSON", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where the parser stopped.
        line: usize,
        /// Where the parser stopped.
        column: usize,
    },
    /// Us: the cryptographic library could not make a key.
    #[error("cannot make an RSA key")]
    Generate,
    /// Us, or a clock before 1970: no token could be signed.
    #[error("cannot sign a token")]
    Sign,
}

/// A service account's e-mail and private key.
pub struct ServiceAccountKey {
    email: String,
    key_id: String,
    pair: RsaKeyPair,
}

crate::never_implements!(ServiceAccountKey: fmt::Display, Serialize, Clone);
crate::never_implements!(KeyFile: fmt::Debug, fmt::Display, Serialize, Clone);

impl ServiceAccountKey {
    /// Reads a key file, which must be for its owner only.
    ///
    /// # Errors
    /// [`CredentialError`], which names the file and the field and never holds content.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let bytes = file::read_private(path, FILE_BYTES_MAX)?;
        Self::from_json(&bytes, path)
    }

    /// Takes the content of a key file; `path` is what errors call it.
    ///
    /// # Errors
    /// [`CredentialError`], which names the file and the field and never holds content.
    pub fn from_json(json: &[u8], path: &Path) -> Result<Self, CredentialError> {
        let file = serde_json::from_slice::<KeyFile>(json).map_err(|error| CredentialError::Json {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        Self::from_file(file, path)
    }

    /// Makes an RSA key of 2048 bits, writes it to a new file of mode 0600, and gives the public half in PEM.
    ///
    /// Nothing that exists is replaced.
    ///
    /// # Errors
    /// [`CredentialError`] if the e-mail is none, or the file exists or cannot be written.
    pub fn create(email: &str, out: &Path) -> Result<String, CredentialError> {
        if !is_email(email) {
            return Err(CredentialError::Email);
        }
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| CredentialError::Generate)?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| CredentialError::Generate)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| CredentialError::Generate)?;
        let private = pem::encode("PRIVATE KEY", private.as_ref());
        let json = new_file(email, &key_id(public.as_ref()), &private).map_err(|_| CredentialError::Generate)?;
        file::create_private(out, &json)?;
        Ok(pem::encode("PUBLIC KEY", public.as_ref()).to_string())
    }

    /// The service account's e-mail.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// The key's name, which a token carries as `kid`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs a token for `audience` that only the holder of the key with this SubjectPublicKeyInfo hash can use.
    ///
    /// # Errors
    /// [`CredentialError::Sign`] if the clock is before 1970 or the cryptographic library fails.
    pub fn sign_token(
        &self,
        audience: &str,
        spki_sha256: [u8; 32],
        now: SystemTime,
    ) -> Result<SecretString, CredentialError> {
        let claims = token_claims(&self.email, audience, spki_sha256, now)?;
        let header = Header { alg: "RS256", kid: &self.key_id, typ: "JWT" };
        let header = serde_json::to_vec(&header).map_err(|_| CredentialError::Sign)?;
        let mut token = BASE64_URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| CredentialError::Sign)?;
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(SecretString::from(token))
    }

    fn from_file(mut file: KeyFile, path: &Path) -> Result<Self, CredentialError> {
        let wrong = |field, problem| CredentialError::Field { path: path.to_owned(), field, problem };
        let required = |field, value: &mut Option<String>| value.take().ok_or(wrong(field, "is missing"));
        // Taken first, so that it is wiped on every way out.
        let private_key = Zeroizing::new(required("private_key", &mut file.private_key)?);
        if required("type", &mut file.r#type)? != "service_account" {
            return Err(wrong("type", "is not service_account"));
        }
        let email = required("client_email", &mut file.client_email)?;
        if !is_email(&email) {
            return Err(wrong("client_email", "is not an e-mail"));
        }
        let key_id = required("private_key_id", &mut file.private_key_id)?;
        if !is_key_id(&key_id) {
            return Err(wrong("private_key_id", "has other characters than letters, digits, - and _"));
        }
        let der = pem::decode_one(private_key.as_bytes(), SectionKind::PrivateKey)
            .map(Zeroizing::new)
            .ok_or(wrong("private_key", "is not one PKCS#8 key in PEM"))?;
        let pair = RsaKeyPair::from_pkcs8(&der).map_err(|_| wrong("private_key", "is not an RSA key in PKCS#8"))?;
        if !MODULUS_BYTES.contains(&pair.public_modulus_len()) {
            return Err(wrong("private_key", "does not have 2048 to 4096 bits"));
        }
        Ok(Self { email, key_id, pair })
    }
}

impl fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountKey")
            .field("email", &self.email)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// The claims of a token of this service account for `audience`, bound to the key with this SubjectPublicKeyInfo hash, as JSON: what whoever
/// holds the account's key has to sign.
///
/// # Errors
/// [`CredentialError::Sign`] if the clock is before 1970 or the cryptographic library fails.
pub fn token_claims(
    email: &str,
    audience: &str,
    spki_sha256: [u8; 32],
    now: SystemTime,
) -> Result<String, CredentialError> {
    let iat = now.duration_since(UNIX_EPOCH).map_err(|_| CredentialError::Sign)?.as_secs();
    let mut jti = [0; 16];
    aws_lc_rs::rand::fill(&mut jti).map_err(|_| CredentialError::Sign)?;
    let claims = Claims {
        iss: email,
        sub: email,
        aud: audience,
        iat,
        exp: iat + TOKEN_LIFETIME_SECONDS,
        jti: BASE64_URL_SAFE_NO_PAD.encode(jti),
        cnf: Confirmation { spki_sha256: BASE64_URL_SAFE_NO_PAD.encode(spki_sha256) },
    };
    serde_json::to_string(&claims).map_err(|_| CredentialError::Sign)
}

/// Whether a text can name a signing key: 1 to 128 letters, digits, `-` and `_`.
pub fn is_key_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What is read of a key file; the rest is for programs that talk to Google.
#[derive(Deserialize)]
struct KeyFile {
    r#type: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<String>,
    client_email: Option<String>,
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

#[derive(Serialize)]
struct NewKeyFile<'a> {
    r#type: &'a str,
    project_id: &'a str,
    private_key_id: &'a str,
    private_key: &'a str,
    client_email: &'a str,
    client_id: &'a str,
    auth_uri: &'a str,
    token_uri: &'a str,
    auth_provider_x509_cert_url: &'a str,
    client_x509_cert_url: &'a str,
    universe_domain: &'a str,
}

fn new_file(email: &str, key_id: &str, private_key: &str) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let domain = email.split_once('@').map_or("", |(_, domain)| domain);
    let project_id = domain.strip_suffix(".iam.gserviceaccount.com").unwrap_or(domain);
    let client_x509_cert_url =
        format!("https://www.googleapis.com/robot/v1/metadata/x509/{}", email.replace('@', "%40").replace('+', "%2B"));
    let file = NewKeyFile {
        r#type: "service_account",
        project_id,
        private_key_id: key_id,
        private_key,
        client_email: email,
        // Google's number for an account that it knows; this one it does not.
        client_id: "",
        auth_uri: "https://accounts.google.com/o/oauth2/auth",
        token_uri: "https://oauth2.googleapis.com/token",
        auth_provider_x509_cert_url: "https://www.googleapis.com/oauth2/v1/certs",
        client_x509_cert_url: &client_x509_cert_url,
        universe_domain: "googleapis.com",
    };
    // Reserved in one piece, so that no reallocation leaves a copy of the key behind.
    let mut json = Zeroizing::new(Vec::with_capacity(2 * private_key.len() + 4096));
    serde_json::to_writer_pretty(&mut *json, &file)?;
    json.push(b'\n');
    Ok(json)
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    cnf: Confirmation,
}

#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "spki#S256")]
    spki_sha256: String,
}

#[cfg(test)]
mod tests;
