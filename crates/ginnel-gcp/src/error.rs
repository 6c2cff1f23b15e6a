//! What the errors of Google's clients say beside their code.

use std::error::Error as _;
use std::time::Duration;

use google_cloud_gax::error::rpc::StatusDetails;
use google_cloud_gax::error::{CredentialsError, Error};

/// When the service wants to be asked again, if it said so.
pub(crate) fn retry_after(error: &Error) -> Option<Duration> {
    let delay = error
        .status()?
        .details
        .iter()
        .find_map(|detail| if let StatusDetails::RetryInfo(info) = detail { info.retry_delay } else { None })?;
    Duration::try_from(delay).ok()
}

/// Whether the credentials may be had later; otherwise they are wrong.
pub(crate) fn is_transient_authentication(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<CredentialsError>());
    source.is_none_or(CredentialsError::is_transient)
}
