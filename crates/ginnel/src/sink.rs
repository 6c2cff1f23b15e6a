//! Opens what takes audit records beyond the disk: the one place that knows every kind.

use std::sync::Arc;

use ginnel_config::{CloudLogging, EnrolmentConfig, ServerConfig};
use ginnel_core::sink::Sink;

/// The program cannot do what the configuration asks for.
#[derive(Debug, thiserror::Error)]
#[error("audit.cloudLogging is set, and this program was built without it; the feature gcp brings it")]
pub(crate) struct NotBuiltIn;

/// Who writes.
#[cfg_attr(not(feature = "gcp"), expect(dead_code, reason = "only what goes to Google says who wrote it"))]
struct Writer<'a> {
    trust_domain: String,
    job: &'static str,
    name: &'a str,
}

/// The sink of a server, if it has one. Nothing is asked of it yet.
///
/// # Errors
/// [`NotBuiltIn`] if this program does not have that kind.
pub(crate) fn of_server(config: &ServerConfig) -> Result<Option<Arc<dyn Sink>>, NotBuiltIn> {
    opened(config.cloud_logging.as_ref(), &server(config))
}

/// The same of a process that only enrols.
///
/// # Errors
/// As [`of_server`].
pub(crate) fn of_enrolment(config: &EnrolmentConfig) -> Result<Option<Arc<dyn Sink>>, NotBuiltIn> {
    opened(config.cloud_logging.as_ref(), &enrolment(config))
}

/// Asks the sink of a server whether it would take records; `None` if there is none. Gives its place, or what is wrong.
pub(crate) async fn try_server(config: &ServerConfig) -> Option<Result<String, Box<dyn std::error::Error>>> {
    Some(tried(config.cloud_logging.as_ref()?, &server(config)).await)
}

/// The same of a process that only enrols.
pub(crate) async fn try_enrolment(config: &EnrolmentConfig) -> Option<Result<String, Box<dyn std::error::Error>>> {
    Some(tried(config.cloud_logging.as_ref()?, &enrolment(config)).await)
}

fn server(config: &ServerConfig) -> Writer<'_> {
    Writer { trust_domain: config.trust_domain.to_string(), job: "ginnel-server", name: config.server.name.as_str() }
}

fn enrolment(config: &EnrolmentConfig) -> Writer<'_> {
    Writer { trust_domain: config.trust_domain.to_string(), job: "ginnel-enrolment", name: config.server.name.as_str() }
}

#[cfg(feature = "gcp")]
fn cloud_logging(config: &CloudLogging, writer: &Writer<'_>) -> ginnel_gcp::logging::CloudLogging {
    let CloudLogging { project, log_name, location, timeout, endpoint } = config.clone();
    let Writer { trust_domain: namespace, job, name } = writer;
    ginnel_gcp::logging::CloudLogging::new(ginnel_gcp::logging::Settings {
        project,
        log_name,
        location,
        namespace: namespace.clone(),
        job: (*job).to_owned(),
        task: (*name).to_owned(),
        timeout,
        endpoint,
    })
}

#[cfg(feature = "gcp")]
fn opened(config: Option<&CloudLogging>, writer: &Writer<'_>) -> Result<Option<Arc<dyn Sink>>, NotBuiltIn> {
    Ok(config.map(|config| Arc::new(cloud_logging(config, writer)) as Arc<dyn Sink>))
}

#[cfg(feature = "gcp")]
async fn tried(config: &CloudLogging, writer: &Writer<'_>) -> Result<String, Box<dyn std::error::Error>> {
    let sink = cloud_logging(config, writer);
    sink.probe().await?;
    Ok(sink.place())
}

#[cfg(not(feature = "gcp"))]
fn opened(config: Option<&CloudLogging>, _: &Writer<'_>) -> Result<Option<Arc<dyn Sink>>, NotBuiltIn> {
    if config.is_some() { Err(NotBuiltIn) } else { Ok(None) }
}

#[cfg(not(feature = "gcp"))]
async fn tried(_: &CloudLogging, _: &Writer<'_>) -> Result<String, Box<dyn std::error::Error>> {
    Err(NotBuiltIn.into())
}
