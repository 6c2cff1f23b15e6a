//! A token that a server was shown is used, however the call ends.

use ginnel_identity::proof::Credential;
use secrecy::SecretString;
use tonic::{Code, Status};

/// Makes the call that shows the token. Only a token that was refused was not taken; after anything else it may have been, also after a call
/// that nobody waits for any more.
pub(super) async fn present<T>(
    credential: &Credential,
    token: &SecretString,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut shown = Shown { credential, token: Some(token) };
    let answer = call.await;
    if answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
        shown.token = None;
    }
    answer
}

/// A token that is marked as used in the end, unless it is taken out.
struct Shown<'a> {
    credential: &'a Credential,
    token: Option<&'a SecretString>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token {
            self.credential.used(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::{Duration, SystemTime};

    use tokio::time::timeout;

    use super::*;

    /// Whether a token counts as used after a call that ended so, or that did not end in time.
    async fn is_used(call: impl Future<Output = Result<(), Status>>) -> bool {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        std::fs::write(&path, "a.b.c").expect("written");
        let credential = Credential::token_file(path);
        let token = credential.token("audience", [0; 32], SystemTime::UNIX_EPOCH).await.expect("a token");
        let _ = timeout(Duration::from_secs(15), present(&credential, &token, call)).await;
        credential.waits_for().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_token_that_was_refused_is_shown_again() {
        assert!(!is_used(ready(Err(Status::unauthenticated("enrolment refused")))).await);
        assert!(is_used(ready(Ok(()))).await);
        assert!(is_used(ready(Err(Status::unavailable("no certificate can be issued now")))).await);
        assert!(is_used(pending()).await, "no answer in time");
    }
}
