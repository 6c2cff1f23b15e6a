//! Opens the issuer that the configuration names: the one place that knows every kind.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ginnel_config::{IssuerKind, ServerConfig};
use ginnel_enrol::{EmbeddedIssuer, Issuer};

/// Why there is no issuer: what was being done, and the error beneath.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub(crate) struct OpenError {
    doing: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

/// Opens the issuer of a server's configuration.
///
/// # Errors
/// [`OpenError`] says which issuer, and why not.
pub(crate) async fn open(config: &ServerConfig) -> Result<Arc<dyn Issuer>, OpenError> {
    match &config.issuer.kind {
        IssuerKind::Embedded { directory } => embedded(config, directory),
        IssuerKind::Cas(_) => Err(OpenError {
            doing: "opening Certificate Authority Service".to_owned(),
            source: "this program was built without it".into(),
        }),
    }
}

fn embedded(config: &ServerConfig, directory: &Path) -> Result<Arc<dyn Issuer>, OpenError> {
    let lifetime = config.issuer.certificate_lifetime;
    match EmbeddedIssuer::open(directory, &config.trust_domain, lifetime, SystemTime::now()) {
        Ok(issuer) => Ok(Arc::new(issuer)),
        Err(error) => {
            Err(OpenError { doing: format!("opening the issuer in {}", directory.display()), source: Box::new(error) })
        }
    }
}
