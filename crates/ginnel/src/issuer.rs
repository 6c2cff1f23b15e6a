//! Opens the issuer that the configuration names: the one place that knows every kind.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ginnel_config::{CasIssuer, IssuerKind, IssuerSection, ServerConfig, ServerIssuer};
use ginnel_core::principal::TrustDomain;
use ginnel_enrol::{EmbeddedIssuer, Issuer};
use ginnel_server::app::Certifier;

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
        IssuerKind::Cas(settings) => match cas(trust_domain, config, settings).await {
            Ok(issuer) => Ok(issuer),
            Err(source) => Err(OpenError { doing: "opening Certificate Authority Service".to_owned(), source }),
        },
    }
}

/// Opens what a server gets certificates from.
///
/// # Errors
/// As [`open`].
pub(crate) async fn of_server(config: &ServerConfig) -> Result<Certifier, OpenError> {
    match &config.issuer {
        ServerIssuer::Here(section) => open(&config.trust_domain, section).await.map(Certifier::Issuer),
        ServerIssuer::Elsewhere(remote) => match crate::credential::open(&remote.credential) {
            Ok(credential) => Ok(Certifier::Enrolment(credential)),
            Err(error) => Err(OpenError { doing: "opening issuer.enrolment".to_owned(), source: Box::new(error) }),
        },
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

#[cfg(feature = "gcp")]
async fn cas(
    trust_domain: &TrustDomain,
    config: &IssuerSection,
    settings: &CasIssuer,
) -> Result<Arc<dyn Issuer>, Box<dyn Error + Send + Sync>> {
    use ginnel_config::CasTier;
    use ginnel_core::principal::Role;
    use ginnel_gcp::cas::{self, Pool, Tier};
    use ginnel_identity::Roots;

    let pool = |role: Role| {
        let pinned = settings.roots.of(role).as_deref().map(Roots::read).transpose()?;
        Ok::<_, ginnel_identity::TrustError>(Pool { name: settings.pools.of(role).to_string(), pinned })
    };
    let settings = cas::Settings {
        trust_domain: trust_domain.clone(),
        lifetime: config.certificate_lifetime,
        server: pool(Role::Server)?,
        agent: pool(Role::Agent)?,
        client: pool(Role::Client)?,
        tier: match settings.tier {
            CasTier::Enterprise => Tier::Enterprise,
            CasTier::DevOps => Tier::DevOps,
        },
        endpoint: settings.endpoint.clone(),
    };
    Ok(Arc::new(cas::CasIssuer::open(settings).await?))
}

#[cfg(not(feature = "gcp"))]
async fn cas(
    _: &TrustDomain,
    _: &IssuerSection,
    _: &CasIssuer,
) -> Result<Arc<dyn Issuer>, Box<dyn Error + Send + Sync>> {
    Err("this program was built without it; the feature gcp brings it".into())
}
