//! One document over HTTP, within bounds.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ginnel_identity::file::{self, FileError};
use ginnel_identity::pem;
use reqwest::header::{ACCEPT, CONTENT_ENCODING};
use reqwest::{Client, StatusCode, redirect};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;

/// Most bytes of a document. A set of ten keys has 4 KiB, in certificates 12 KiB.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// How long a document may take, from the look-up of its host's name to its last byte. Whoever enrols waits for it, and has five seconds.
pub const FETCH_WAIT: Duration = Duration::from_secs(2);

/// Bytes of a file of authorities: more certificates than a private authority has.
const AUTHORITIES_BYTES_MAX: usize = 256 * 1024;

/// Why a document could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server says that there is no such document.
    #[error("there is no such document")]
    Absent,
    /// The document is encoded, which was not asked for.
    #[error("the answer is compressed")]
    Encoded,
    /// The connection, or TLS on it.
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    /// The server answered with another status than 200; what it redirects to is not asked.
    #[error("the answer's status is {0}")]
    Status(u16),
    /// Longer than it may be.
    #[error("the answer has more than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// It took too long.
    #[error("the answer took more than {} s", FETCH_WAIT.as_secs())]
    TooSlow,
}

/// A document on its way.
pub type Fetched<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send + 'a>>;

/// Fetches documents.
pub trait Fetch: Send + Sync {
    /// Fetches one, within the bounds of this module.
    fn fetch<'a>(&'a self, url: &'a str) -> Fetched<'a>;
}

/// Fetches over HTTP; over TLS with version 1.3 alone.
#[derive(Clone, Debug)]
pub struct Http(Client);

/// Why nothing can be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Configuration: the file of authorities holds no certificates, or some that cannot be read.
    #[error("{path} holds no usable certificates")]
    Authorities {
        /// Which file.
        path: String,
    },
    /// Us: the client could not be made.
    #[error("could not make an HTTP client")]
    Client(#[source] reqwest::Error),
    /// The environment: the file of authorities cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Us: TLS could not be set up.
    #[error("could not set TLS up")]
    Tls(#[source] rustls::Error),
}

impl Http {
    /// Fetches from servers whose certificates lead to the authorities in this file, or, without one, to those of the system.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn new(authorities: Option<&Path>) -> Result<Self, HttpError> {
        let roots = match authorities {
            Some(path) => from_file(path)?,
            None => from_system(),
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HttpError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .referer(false)
            // As everywhere in this program: no variable of the environment decides where connections go.
            .no_proxy()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            // Sets are fetched minutes apart.
            .pool_max_idle_per_host(0)
            .timeout(FETCH_WAIT)
            .build()
            .map_err(HttpError::Client)?;
        Ok(Self(client))
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let request = self.0.get(url).header(ACCEPT, "application/json");
        let mut answer = request.send().await.map_err(FetchError::from)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(FetchError::Absent),
            other => return Err(FetchError::Status(other.as_u16())),
        }
        if answer.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(FetchError::Encoded);
        }
        if answer.content_length().is_some_and(|length| length > DOCUMENT_BYTES_MAX as u64) {
            return Err(FetchError::TooLarge);
        }
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(FetchError::from)? {
            if document.len() + piece.len() > DOCUMENT_BYTES_MAX {
                return Err(FetchError::TooLarge);
            }
            document.extend_from_slice(&piece);
        }
        Ok(document)
    }
}

impl Fetch for Http {
    fn fetch<'a>(&'a self, url: &'a str) -> Fetched<'a> {
        Box::pin(self.get(url))
    }
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // The address is the operator's own setting, and in the log beside this.
        if error.is_timeout() { Self::TooSlow } else { Self::Http(error.without_url()) }
    }
}

fn from_file(path: &Path) -> Result<RootCertStore, HttpError> {
    let unusable = || HttpError::Authorities { path: path.display().to_string() };
    let text = file::read_public(path, AUTHORITIES_BYTES_MAX)?;
    let mut roots = RootCertStore::empty();
    for der in pem::decode_all(&text, SectionKind::Certificate).ok_or_else(unusable)? {
        roots.add(CertificateDer::from(der)).map_err(|_| unusable())?;
    }
    Ok(roots)
}

/// The system's authorities. Without any, connections fail and say so.
fn from_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!("the system has no certificate authorities; key sets cannot be fetched");
    }
    roots
}
