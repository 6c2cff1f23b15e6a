//! What the service's errors mean to us.

use std::collections::BTreeMap;
use std::error::Error;

use ginnel_core::sink::{FailureKind, WriteError};
use google_cloud_gax::error::rpc::{Code, StatusDetails};
use google_cloud_logging_v2::model::WriteLogEntriesPartialErrors;

use crate::error::{is_transient_authentication, retry_after};

pub(super) fn all(kind: FailureKind, source: Box<dyn Error + Send + Sync>) -> WriteError {
    WriteError::All { kind, retry_after: None, source }
}

/// The client could not be made: there are no credentials, or they are none.
pub(super) fn of_building(error: google_cloud_gax::client_builder::Error) -> WriteError {
    let kind = if error.is_transport() { FailureKind::Connection } else { FailureKind::Permission };
    all(kind, error.into())
}

/// A request failed, as a whole or in part.
pub(super) fn of_call(error: google_cloud_gax::error::Error) -> WriteError {
    match in_part(&error) {
        Some(kinds) => WriteError::Some { kinds, source: error.into() },
        None => WriteError::All { kind: kind(&error), retry_after: retry_after(&error), source: error.into() },
    }
}

/// The entries that were not taken, if all others were.
fn in_part(error: &google_cloud_gax::error::Error) -> Option<BTreeMap<usize, FailureKind>> {
    let errors = error.status()?.details.iter().find_map(|detail| {
        if let StatusDetails::Other(any) = detail { any.to_msg::<WriteLogEntriesPartialErrors>().ok() } else { None }
    })?;
    let kinds: BTreeMap<_, _> = errors
        .log_entry_errors
        .iter()
        .filter_map(|(place, status)| Some((usize::try_from(*place).ok()?, of_code(Code::from(status.code)))))
        .collect();
    // A failure of the whole request names no entry.
    (!kinds.is_empty()).then_some(kinds)
}

fn kind(error: &google_cloud_gax::error::Error) -> FailureKind {
    match (error.http_status_code(), error.status()) {
        // Said by what stands in front of the service as well, in whatever form.
        (Some(413), _) => FailureKind::TooLarge,
        (_, Some(status)) => of_code(status.code),
        (Some(401 | 403 | 407), None) => FailureKind::Permission,
        (Some(408), None) => FailureKind::Timeout,
        (Some(429), None) => FailureKind::Quota,
        // Not the service's own words: what some proxy refuses says nothing about entries.
        (Some(400..500), None) => FailureKind::Refused,
        (Some(_), None) => FailureKind::Unavailable,
        (None, None) if error.is_authentication() && !is_transient_authentication(error) => FailureKind::Permission,
        (None, None) if error.is_timeout() => FailureKind::Timeout,
        (None, None) if error.is_serialization() || error.is_binding() => FailureKind::Invalid,
        (None, None) if error.is_deserialization() => FailureKind::Unavailable,
        (None, None) => FailureKind::Connection,
    }
}

fn of_code(code: Code) -> FailureKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => FailureKind::Invalid,
        Code::Unauthenticated | Code::PermissionDenied => FailureKind::Permission,
        Code::ResourceExhausted => FailureKind::Quota,
        Code::DeadlineExceeded => FailureKind::Timeout,
        Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Unimplemented => FailureKind::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => FailureKind::Unavailable,
        // What nobody knows yet is taken to pass as well.
        _ => FailureKind::Unavailable,
    }
}
