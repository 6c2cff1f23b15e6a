//! Headers that a proxy changes.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

/// What belongs to one connection and not to the message (RFC 9110, 7.6.1), beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 5] = [CONNECTION, HeaderName::from_static("keep-alive"), TE, TRANSFER_ENCODING, UPGRADE];

/// Prefixes of headers that are between the application and this proxy. A target's word on who refused what would be a lie.
const OURS: [&str; 2] = ["proxy-", "ginnel-"];

/// Turns the headers of a request to the proxy into those of a request to the target. `length` is the body's, if it is known.
pub(super) fn for_target(headers: &mut HeaderMap, host: HeaderValue, length: Option<u64>) {
    let counted = headers.contains_key(CONTENT_LENGTH);
    strip(headers);
    // The body is only read, and an application told to continue, once the target takes it.
    headers.remove(EXPECT);
    headers.remove(CONTENT_LENGTH);
    match length {
        Some(0) if !counted => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        None => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Turns the headers of a target's answer into those of the proxy's.
pub(super) fn for_application(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // It overrides a length, which would be wrong for the body as it is passed on.
        headers.remove(CONTENT_LENGTH);
    }
    strip(headers);
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let ours = headers.keys().filter(|name| OURS.iter().any(|prefix| name.as_str().starts_with(prefix)));
    let doomed: Vec<HeaderName> = ours.cloned().chain(named).chain(HOP_BY_HOP).collect();
    for name in doomed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn host() -> HeaderValue {
        HeaderValue::from_static("host.example")
    }

    #[test]
    fn a_request_loses_what_was_meant_for_the_proxy() {
        let mut before = headers(&[
            ("accept", "*/*"),
            ("authorization", "for the target"),
            ("connection", "X-One , close"),
            ("expect", "100-continue"),
            ("ginnel-hop", "server"),
            ("host", "other.example"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "for the proxy"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("x-one", "1"),
            ("x-two", "2"),
        ]);
        for_target(&mut before, host(), Some(0));
        let after = headers(&[
            ("accept", "*/*"),
            ("authorization", "for the target"),
            ("connection", "close"),
            ("host", "host.example"),
            ("x-two", "2"),
        ]);
        assert_eq!(before, after);
    }

    #[test]
    fn a_body_is_framed_as_it_is_sent() {
        let cases = [
            (&[][..], Some(0), None),
            (&[("content-length", "0")], Some(0), Some(("content-length", "0"))),
            (&[("content-length", "5"), ("connection", "content-length")], Some(5), Some(("content-length", "5"))),
            (&[("transfer-encoding", "chunked")], None, Some(("transfer-encoding", "chunked"))),
            (
                &[("content-length", "5"), ("transfer-encoding", "chunked")],
                None,
                Some(("transfer-encoding", "chunked")),
            ),
        ];
        for (lines, length, framing) in cases {
            let mut before = headers(lines);
            for_target(&mut before, host(), length);
            let mut after = headers(&[("host", "host.example"), ("connection", "close")]);
            after.extend(headers(framing.as_slice()));
            assert_eq!(before, after, "{lines:?}");
        }
    }

    #[test]
    fn an_answer_cannot_speak_for_the_proxy() {
        let mut before = headers(&[
            ("connection", "keep-alive, x-one"),
            ("content-length", "7"),
            ("ginnel-cause", "notAllowed"),
            ("proxy-authenticate", "Basic"),
            ("server", "x"),
            ("transfer-encoding", "chunked"),
            ("x-one", "1"),
        ]);
        for_application(&mut before);
        assert_eq!(before, headers(&[("server", "x")]));
    }
}
