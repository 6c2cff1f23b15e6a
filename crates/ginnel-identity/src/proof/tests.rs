use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

/// Nothing here waits for anything.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("waits"),
    }
}

fn token(credential: &Credential) -> Result<SecretString, TokenError> {
    ready(credential.token("https://tunnel.acme.example/enrol", [7; 32], SystemTime::now()))
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("mode");
}

#[test]
fn a_key_signs_a_token_for_each_call() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key.json");
    ServiceAccountKey::create("agent@acme.example", &path).expect("created");
    let credential = Credential::read_key(&path).expect("read");
    let (first, second) = (token(&credential).expect("a token"), token(&credential).expect("a token"));
    assert!(is_token(first.expose_secret()));
    assert_ne!(first.expose_secret(), second.expose_secret());
    credential.used(&first);
    assert!(credential.waits_for().is_none());
    assert!(credential.shown().contains("agent@acme.example"));
}

#[test]
fn a_token_in_a_file_is_read_anew_and_given_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let credential = Credential::token_file(path.clone());
    assert!(matches!(token(&credential), Err(TokenError::File(FileError::Io { .. }))), "it is not there yet");
    assert!(credential.waits_for().is_none(), "what is not there yet is an error and not awaited in silence");

    write(&path, "aa.bb.cc\n", 0o600);
    let first = token(&credential).expect("a token");
    assert_eq!(first.expose_secret(), "aa.bb.cc");
    assert_eq!(token(&credential).expect("one that no server has seen").expose_secret(), "aa.bb.cc");
    credential.used(&first);
    assert!(matches!(token(&credential), Err(TokenError::Used { .. })));
    assert!(credential.waits_for().is_some_and(|error| error.to_string().contains("waiting for another one")));

    write(&path, "aa.bb.dd", 0o600);
    assert!(credential.waits_for().is_none());
    assert_eq!(token(&credential).expect("another").expose_secret(), "aa.bb.dd");
}

#[test]
fn takes_files_as_kubernetes_projects_them_and_none_that_others_may_change() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let credential = Credential::token_file(path.clone());
    for (mode, taken) in [(0o600, true), (0o640, true), (0o644, true), (0o400, true), (0o660, false), (0o602, false)] {
        write(&path, "aa.bb.cc", mode);
        let found = token(&credential);
        assert_eq!(found.is_ok(), taken, "{mode:o}: {found:?}");
        if let Err(error) = found {
            assert!(matches!(&error, TokenError::File(FileError::Open { .. })), "{error}");
        }
        std::fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn says_which_file_holds_no_token_without_repeating_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let credential = Credential::token_file(path.clone());
    for text in ["", "secret", "a.b", "a.b.c.d", "a..c", "a.b c.d", "a.b.ü", "{\"token\": \"a.b.c\"}"] {
        write(&path, text, 0o600);
        let error = token(&credential).expect_err(text);
        assert!(matches!(error, TokenError::NoToken { .. }), "{text}: {error}");
        assert!(error.to_string().contains("token") && !error.to_string().contains("secret"), "{error}");
    }
    write(&path, &format!("{}.b.c", "a".repeat(TOKEN_BYTES_MAX)), 0o600);
    assert!(matches!(token(&credential), Err(TokenError::File(FileError::Size { .. }))));
}

#[test]
fn debug_shows_no_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    write(&path, "aa.bb.cc", 0o600);
    let credential = Credential::token_file(path);
    credential.used(&token(&credential).expect("a token"));
    assert!(!format!("{credential:?}").contains("aa.bb.cc"));
}
