//! The metadata server: who this workload is, and ID tokens for it.
//!
//! It is plain HTTP on a link-local address that only the machine itself reaches. Redirects and proxies have no business there, and an answer
//! without its header comes from somebody else.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_core::principal::is_email;
use ginnel_identity::proof::is_token;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{AskError, SetUpError};

/// Where it is, unless the variable says otherwise.
const HOST: &str = "metadata.google.internal";

/// The variable that Google's own clients obey as well: host, or host and port.
const HOST_VARIABLE: &str = "GCE_METADATA_HOST";

/// The header of every request and answer, and its value.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");

/// It answers from the machine itself, within milliseconds; the first token of a node may take a second.
const WAIT: Duration = Duration::from_secs(2);

/// An ID token has about 1.5 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The audience of an ID token that is good for one key: the enrolment audience and the hash of the key's SubjectPublicKeyInfo.
pub fn bound_audience(audience: &str, spki_sha256: [u8; 32]) -> String {
    format!("{audience}?k={}", BASE64_URL_SAFE_NO_PAD.encode(spki_sha256))
}

/// The metadata server of this machine.
#[derive(Debug)]
pub(super) struct Metadata {
    client: Client,
    host: String,
}

impl Metadata {
    pub(super) fn of_this_machine() -> Result<Self, SetUpError> {
        let host = std::env::var(HOST_VARIABLE).ok().filter(|host| !host.is_empty());
        Self::at(host.unwrap_or_else(|| HOST.to_owned()))
    }

    pub(super) fn at(host: String) -> Result<Self, SetUpError> {
        // No TLS is spoken with it; what the library insists on trusts nobody.
        let tls = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(WAIT)
            .build()
            .map_err(SetUpError::Http)?;
        Ok(Self { client, host })
    }

    /// The e-mail of the service account that the workload runs as.
    pub(super) async fn email(&self) -> Result<String, AskError> {
        let answer = self.get("default", "email", &[]).await?;
        let text = str::from_utf8(&answer).unwrap_or_default().trim_ascii();
        match is_email(text) {
            true => Ok(text.to_owned()),
            // What a cluster without workload identity names its nodes' account.
            false => Err(AskError::NoAccount { account: "default".to_owned() }),
        }
    }

    /// An ID token of `account`, or of the one that the workload runs as, for exactly this audience.
    pub(super) async fn id_token(&self, account: Option<&str>, audience: &str) -> Result<SecretString, AskError> {
        let query = [("audience", audience), ("format", "full")];
        let answer = self.get(account.unwrap_or("default"), "identity", &query).await?;
        let text = str::from_utf8(&answer).unwrap_or_default().trim_ascii();
        match is_token(text) {
            true => Ok(SecretString::from(text)),
            false => Err(AskError::Unusable { whom: "the metadata server" }),
        }
    }

    async fn get(&self, account: &str, what: &str, query: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>, AskError> {
        let silent = |error: reqwest::Error| AskError::NoMetadata {
            host: self.host.clone(),
            source: error.without_url().into(),
        };
        let strange = |problem| AskError::NotMetadata { host: self.host.clone(), problem };
        let path = format!("http://{}/computeMetadata/v1/instance/service-accounts/{account}/{what}", self.host);
        let mut url = Url::parse(&path).map_err(|_| strange("GCE_METADATA_HOST is no host"))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut answer = self.client.get(url).header(FLAVOR.0, FLAVOR.1).send().await.map_err(silent)?;
        if answer.headers().get(FLAVOR.0).is_none_or(|value| value != FLAVOR.1) {
            return Err(strange("the header Metadata-Flavor is missing"));
        }
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(AskError::NoAccount { account: account.to_owned() }),
            status => return Err(AskError::Status { status: status.as_u16() }),
        }
        // Reserved in one piece, so that no reallocation leaves a copy of a token behind.
        let mut body = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
        while let Some(chunk) = answer.chunk().await.map_err(silent)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(strange("the answer is too large"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
