//! Opens the issuer that the configuration names: the one place that knows every kind.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ginnel_config::{IssuerKind, IssuerSection, ServerConfig, ServerIssuer};
use ginnel_core::principal::TrustDomain;
use ginnel_enrol::{EmbeddedIssuer, Issuer};

/// Why there is no issuer: what was being done, and the error beneath.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub(crate) struct OpenError {
    doing: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

/// Opens the issuer of a configuration.
///
/// # Errors
/// [`OpenError`] says which issuer, and why not.
pub(crate) async fn open(trust_domain: &TrustDomain, config: &IssuerSection) -> Result<Arc<dyn Issuer>, OpenError> {
    match &config.kind {
        IssuerKind::Embedded { directory } => embedded(trust_domain, config, directory),
        IssuerKind::Cas(_) => Err(OpenError {
            doing: "opening Certificate Authority Service".to_owned(),
            source: "this program was built without it".into(),
        }),
    }
}

/// Opens the issuer of a server, if it has one.
///
/// # Errors
/// As [`open`].
pub(crate) async fn of_server(config: &ServerConfig) -> Result<Option<Arc<dyn Issuer>>, OpenError> {
    match &config.issuer {
        ServerIssuer::Here(section) => open(&config.trust_domain, section).await.map(Some),
        ServerIssuer::Elsewhere(_) => Ok(None),
    }
}

fn embedded(
    trust_domain: &TrustDomain,
    config: &IssuerSection,
    directory: &Path,
) -> Result<Arc<dyn Issuer>, OpenError> {
    let lifetime = config.certificate_lifetime;
    match EmbeddedIssuer::open(directory, trust_domain, lifetime, SystemTime::now()) {
        Ok(issuer) => Ok(Arc::new(issuer)),
        Err(error) => {
            Err(OpenError { doing: format!("opening the issuer in {}", directory.display()), source: Box::new(error) })
        }
    }
}
