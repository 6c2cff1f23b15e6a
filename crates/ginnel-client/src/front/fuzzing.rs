//! What reads the words of applications, opened to fuzzing: no program is built with it.

use ginnel_core::target::Target;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use super::socks::message;
use super::{headers, http as front_http};

/// Reads a SOCKS 5 greeting: its length, nothing while it may still become one, or what is wrong.
///
/// # Errors
/// What is wrong, in words.
pub fn socks_greeting(bytes: &[u8]) -> Result<Option<usize>, String> {
    message::greeting(bytes).map(|found| found.map(|(length, ())| length)).map_err(|invalid| invalid.to_string())
}

/// Reads a SOCKS 5 request: its length and its target, nothing while it may still become one, or what is wrong.
///
/// # Errors
/// What is wrong, in words.
pub fn socks_request(bytes: &[u8]) -> Result<Option<(usize, Target)>, String> {
    message::request(bytes).map_err(|invalid| invalid.to_string())
}

/// What the head of an HTTP request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A tunnel to this target.
    Connect(Target),
    /// A plain request to this target, which is told this host.
    Plain(Target, HeaderValue),
}

/// Judges the head of an HTTP request without a body.
///
/// # Errors
/// A sentence about why it is not for the proxy.
pub fn judge(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Asked, String> {
    front_http::judge(method, uri, version, headers, &String::new()).map(|asked| match asked {
        front_http::Asked::Connect(target) => Asked::Connect(target),
        front_http::Asked::Plain(target, host) => Asked::Plain(target, host),
    })
}

/// Turns the headers of a request to the proxy into those of a request to the target.
pub fn headers_for_target(headers: &mut HeaderMap, host: HeaderValue, length: Option<u64>) {
    headers::for_target(headers, host, length);
}

/// Turns the headers of a target's answer into those of the proxy's.
pub fn headers_for_application(headers: &mut HeaderMap) {
    headers::for_application(headers);
}
