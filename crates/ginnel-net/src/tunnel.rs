//! What carries a session, as the two ends of it see it.

use std::error::Error;
use std::io;
use std::task::{Context, Poll};

use ginnel_core::cause::{Cause, Hop, Refusal};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};

/// One session, from the side of the application or of the target.
///
/// - `poll_shutdown` ends the outgoing half; everything written before arrives before that end.
/// - A read of zero bytes is the far end's own end, and nothing else is: a session that broke off fails to read and to write, with an error
///   made by [`broken`] where the cause is known.
/// - Dropping it before both halves have ended counts as `abort(Cause::Aborted)`.
pub trait Tunnel: AsyncRead + AsyncBufRead + AsyncWrite + Send + Unpin + 'static {
    /// Ends the session as a reset towards the far end, at once, whatever was written before.
    fn abort(&mut self, cause: Cause);

    /// Tells that the session broke off, also while nobody reads it because the application is stalled.
    ///
    /// The default never tells; reading and writing then find out.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let _ = cx;
        Poll::Pending
    }

    /// Gives the session a task of its own, for an owner that does not poll it while its application is stalled.
    fn tend(&mut self) {}
}

/// The error of reading or writing a session that `refusal.hop` ended for `refusal.cause`.
pub fn broken(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, refusal)
}

/// Who ended a session and why, from the error that reading or writing it gave, or from any error that this one caused.
///
/// An error that does not say was not made by [`broken`]: the connection under the session is gone.
pub fn reason(error: &(dyn Error + 'static)) -> Refusal {
    said(error).unwrap_or(Refusal::new(Hop::Server, Cause::Aborted))
}

/// The same; nothing for an error that was not made by [`broken`].
pub(crate) fn said(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(*refusal);
        }
        // `io::Error::source` passes over the error that it was made from.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn finds_the_reason_under_any_number_of_wrappers() {
        let refusal = Refusal::new(Hop::Agent, Cause::CertificateExpired);
        assert_eq!(reason(&broken(refusal)), refusal);
        assert_eq!(reason(&io::Error::other(Outer(broken(refusal)))), refusal);
        assert_eq!(
            reason(&Outer(io::Error::from(io::ErrorKind::BrokenPipe))),
            Refusal::new(Hop::Server, Cause::Aborted)
        );
    }
}
