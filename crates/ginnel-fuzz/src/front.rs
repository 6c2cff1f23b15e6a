//! What applications say to the client's front ends.

use std::str::FromStr;

use ginnel_client::front::fuzzing::{
    Asked, headers_for_application, headers_for_target, judge, socks_greeting, socks_request,
};
use ginnel_core::target::Target;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

/// The longest request: a name of 255 bytes.
const SOCKS_MESSAGE_MAX: usize = 262;

/// Greetings and requests of SOCKS 5: a verdict comes within the longest message, and more bytes do not change it.
pub fn socks(data: &[u8]) {
    let greeting = |bytes: &[u8]| socks_greeting(bytes).map(|found| found.map(|length| (length, ())));
    decides(data, greeting);
    decides(data, socks_request);
    if let Ok(Some((_, target))) = socks_request(data) {
        assert_eq!(target.to_string().parse::<Target>(), Ok(target));
    }
}

fn decides<T: PartialEq + std::fmt::Debug>(data: &[u8], parse: impl Fn(&[u8]) -> Result<Option<(usize, T)>, String>) {
    let verdict = parse(data);
    match &verdict {
        Ok(Some((length, _))) => {
            assert!((1..=data.len().min(SOCKS_MESSAGE_MAX)).contains(length));
            assert_eq!(parse(&data[..*length]), verdict);
            assert_eq!(parse(&data[..*length - 1]), Ok(None), "it was complete before");
        }
        Ok(None) => assert!(data.len() < SOCKS_MESSAGE_MAX),
        Err(_) => assert_eq!(parse(&[data, b"more"].concat()), verdict),
    }
}

/// Heads of HTTP requests: `METHOD ADDRESS` on the first line, headers on the others.
pub fn http_head(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let Some((method, uri)) =
        lines.next().and_then(|line| str::from_utf8(line).ok()).and_then(|line| line.split_once(' '))
    else {
        return;
    };
    let (Ok(method), Ok(uri)) = (Method::from_str(method), Uri::from_str(uri)) else { return };
    let headers = lines.filter_map(header).collect::<HeaderMap>();
    for version in [Version::HTTP_10, Version::HTTP_11] {
        match judge(&method, &uri, version, &headers) {
            Ok(Asked::Connect(target)) => {
                assert_eq!(method, Method::CONNECT);
                assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
            Ok(Asked::Plain(target, host)) => {
                assert!(method != Method::CONNECT && uri.scheme_str() == Some("http"));
                let host = host.to_str().expect("text");
                assert!(!host.contains('@'), "a user name reaches the target");
                let named = |text: &str| text.parse::<Target>().or_else(|_| format!("{text}:80").parse::<Target>());
                assert_eq!(named(host), Ok(target.clone()), "the target is told another host");
                let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
                assert!(hosts.len() <= 1, "two hosts are one too many");
                for host in hosts {
                    assert_eq!(
                        named(host.to_str().expect("text")),
                        Ok(target.clone()),
                        "the header names another host"
                    );
                }
            }
            Err(why) => assert!(why.ends_with('.') && !why.contains(['\n', '\r'])),
        }
    }
    passed_on(headers);
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// What belongs to one connection stays on it, in both directions.
fn passed_on(headers: HeaderMap) {
    let mut to_target = headers.clone();
    headers_for_target(&mut to_target, HeaderValue::from_static("host.example"), None);
    assert_eq!(to_target.get_all(HOST).iter().collect::<Vec<_>>(), ["host.example"]);
    assert_eq!(to_target.get_all(CONNECTION).iter().collect::<Vec<_>>(), ["close"]);
    let mut to_application = headers;
    headers_for_application(&mut to_application);
    assert!(!to_application.contains_key(CONNECTION));
    for (name, _) in to_target.iter().chain(&to_application) {
        let ours = name.as_str().starts_with("proxy-") || name.as_str().starts_with("ginnel-");
        let between = ["keep-alive", "te", "upgrade"].contains(&name.as_str());
        assert!(!ours && !between, "{name} is passed on");
    }
}
