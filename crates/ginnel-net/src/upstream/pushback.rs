//! What a server says of when it is worth asking again: gRPC's own word for it, in the trailers of a refusal.

use std::error::Error;
use std::time::Duration;

use super::EnrolError;

/// The trailer, in milliseconds.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A server must not be able to silence somebody for longer than a restart of it takes to be noticed.
const PUSHBACK_MAX: Duration = Duration::from_secs(60);

/// How long to leave the server alone beside the ordinary backoff, which spreads those who were told the same.
pub(super) fn pushback(error: &(dyn Error + 'static)) -> Duration {
    let Some(EnrolError::Refused(status)) = error.downcast_ref() else { return Duration::ZERO };
    let told = status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok());
    let told = told.and_then(|told| told.parse().ok()).map_or(Duration::ZERO, Duration::from_millis);
    told.min(PUSHBACK_MAX)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn takes_what_the_server_says_within_bounds() {
        let cases = [
            (None, Duration::ZERO),
            (Some("1500"), Duration::from_millis(1500)),
            (Some("99999999"), PUSHBACK_MAX),
            (Some("-1"), Duration::ZERO),
            (Some("soon"), Duration::ZERO),
        ];
        for (told, expected) in cases {
            let mut status = Status::unavailable("no certificate can be issued now");
            if let Some(told) = told {
                status.metadata_mut().insert(PUSHBACK, told.parse().expect("ASCII"));
            }
            assert_eq!(pushback(&EnrolError::Refused(status)), expected, "{told:?}");
        }
        assert_eq!(pushback(&EnrolError::TimedOut), Duration::ZERO);
    }
}
