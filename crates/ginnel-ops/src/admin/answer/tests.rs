use super::super::testing::fake;
use super::*;
use crate::admin::Revocation;
use ginnel_core::denial::Kind;

const SOCKET: Door = Door::Socket { pid: Some(7), uid: 0 };

async fn ask(door: Door, method: &str, target: &str, host: Option<&str>) -> (u16, String) {
    let (_, shared) = fake();
    ask_of(&shared, door, method, target, host).await
}

async fn ask_of(shared: &Shared, door: Door, method: &str, target: &str, host: Option<&str>) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(target);
    if let Some(host) = host {
        request = request.header(HOST, host);
    }
    let answer = answer(shared, door, &request.body(()).unwrap()).await;
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
    (answer.status().as_u16(), answer.body().words())
}

#[tokio::test]
async fn answers_only_those_who_name_this_machine() {
    let hosts = [
        (Some("127.0.0.1:50051"), 200),
        (Some("localhost"), 200),
        (Some("LOCALHOST:1"), 200),
        (Some("[::1]:50051"), 200),
        (Some("10.0.0.5"), 200),
        (Some("evil.example:50051"), 403),
        (Some("localhost.evil.example"), 403),
        (Some("127.0.0.1.evil.example"), 403),
        (Some(""), 403),
        (None, 403),
    ];
    for (host, expected) in hosts {
        assert_eq!(ask(Door::Address, "GET", "/healthz", host).await.0, expected, "{host:?}");
    }
    assert_eq!(ask(Door::Address, "GET", "http://evil.example/healthz", Some("localhost")).await.0, 403);
    assert_eq!(ask(SOCKET, "GET", "/healthz", Some("whatever")).await.0, 200);
}

#[tokio::test]
async fn has_pages_for_people_and_programs() {
    let id = "0123456789abcdef0123456789abcdef";
    let known = format!("/requests/{id}");
    let cases = [
        ("/", 200, "<!DOCTYPE html>"),
        ("/status", 200, "\"role\": \"server\""),
        ("/sessions", 200, id),
        (known.as_str(), 200, "gitlab.acme.internal:443"),
        ("/requests/ffffffffffffffffffffffffffffffff", 404, "no longer"),
        ("/requests/../status", 400, "no request id"),
        ("/metrics", 200, "ginnel_ready 1"),
        ("/readyz", 200, "ready"),
        ("/policy/test", 200, "[]"),
        ("/policy/test?client=front%65nd&target=a:1", 200, "\"client\": \"frontend\""),
        ("/policy/test?client=frontend", 400, "both client and target"),
        ("/policy/test?client=a&client=b&target=c:1", 400, "twice"),
        ("/policy/test?client=%zz&target=a:1", 400, "not well formed"),
        ("/nothing", 404, "/readyz"),
    ];
    for (path, status, part) in cases {
        let (answered, words) = ask(Door::Address, "GET", path, Some("localhost")).await;
        assert!(answered == status && words.contains(part), "{path}: {answered} {words}");
    }
    assert_eq!(ask(Door::Address, "HEAD", "/status", Some("localhost")).await, (200, String::new()));
}

#[tokio::test]
async fn says_why_it_is_not_ready() {
    let (fake, shared) = fake();
    {
        let mut status = fake.status.lock().unwrap();
        status.ready = false;
        status.not_ready = vec!["no agent is connected".to_owned()];
    }
    let answered = ask_of(&shared, Door::Address, "GET", "/readyz", Some("localhost")).await;
    assert_eq!(answered, (503, "not ready\nno agent is connected\n".to_owned()));
}

#[tokio::test]
async fn the_address_changes_nothing_and_the_socket_only_what_is_named() {
    let (fake, shared) = fake();
    for path in ["/sessions/end?all=true", "/reload", "/status"] {
        let (status, _) = ask_of(&shared, Door::Address, "POST", path, Some("localhost")).await;
        assert!(matches!(status, 403 | 405), "{path}: {status}");
    }
    assert_eq!(ask_of(&shared, SOCKET, "GET", "/sessions/end?all=true", None).await.0, 404);
    let malformed =
        ["", "?all=false", "?all=true&client=a", "?client=a&client=b", "?request=1", "?nobody=a", "?client"];
    for query in malformed {
        assert_eq!(ask_of(&shared, SOCKET, "POST", &format!("/sessions/end{query}"), None).await.0, 400, "{query}");
    }
    assert!(fake.ended.lock().unwrap().is_empty());
    let (status, words) =
        ask_of(&shared, SOCKET, "POST", "/sessions/end?client=frontend&target=git.acme%3A22", None).await;
    assert!(status == 200 && words.contains("\"ended\": 1"), "{status} {words}");
    let which = fake.ended.lock().unwrap()[0].clone();
    assert_eq!(
        (which.client.as_deref(), which.target.as_deref(), which.all),
        (Some("frontend"), Some("git.acme:22"), false)
    );
    assert_eq!(ask_of(&shared, SOCKET, "POST", "/reload", None).await, (409, "server.yaml:1:1: is empty\n".to_owned()));
}

#[tokio::test]
async fn a_revocation_comes_over_the_socket_and_names_one_thing_and_who_asks() {
    let (fake, shared) = fake();
    let cases = [
        (Door::Address, "/revoke?who=client/frontend", 403, "Unix socket"),
        (SOCKET, "/revoke?who=client/frontend&reason=incident+12", 200, "\"sessions\": 3"),
        (SOCKET, "/revoke?serial=0aff&undo=true", 200, "\"sessions\": 3"),
        (SOCKET, "/revoke?who=nobody", 400, "nobody"),
        (SOCKET, "/revoke?who=full", 409, "disk is full"),
        (SOCKET, "/revoke", 400, "what is to be denied"),
        (SOCKET, "/revoke?who=a&serial=1", 400, "twice"),
        (SOCKET, "/revoke?who=a&undo=yes", 400, "one of who"),
        (SOCKET, "/revoke?all=sessions&target=a.b:1", 400, "twice"),
        (SOCKET, "/revoke?everything=true", 400, "one of who"),
    ];
    for (door, path, expected, words) in cases {
        let (status, text) = ask_of(&shared, door, "POST", path, Some("localhost")).await;
        assert!(status == expected && text.contains(words), "{path}: {status} {text}");
    }
    assert_eq!(ask_of(&shared, SOCKET, "GET", "/denials", None).await, (200, "[]\n".to_owned()));
    let revoked = fake.revoked.lock().unwrap();
    let Revocation { kind, text, undo, reason, by } = &revoked[0];
    assert_eq!((*kind, text.as_str(), *undo), (Kind::Who, "client/frontend", false));
    assert_eq!((reason.as_deref(), by.as_str()), (Some("incident 12"), "uid 0, pid 7"));
    assert!(revoked[1].undo);
}
