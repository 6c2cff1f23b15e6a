//! What is asked, and what is answered. Nothing here reads a socket.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use tracing::{debug, info};

use super::body::Text;
use super::{EndedSessions, Question, Shared, Which};
use super::{page, revoke};
use crate::reload::{Trigger, say};

/// How a question came, which decides what it may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Over TCP: whoever reaches the address may read.
    Address,
    /// Over the Unix socket: the owner of this process, or root, may also change something.
    Socket {
        /// The process that asks.
        pid: Option<i32>,
        /// Its user.
        uid: u32,
    },
}

/// The pages that a listener has.
const PAGES: &str = "/ /status /sessions /requests/ID /policy/test /denials /metrics /healthz /readyz";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Nothing is loaded from anywhere, the page's own style excepted, and the empty icon that keeps browsers from asking for one.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) type Answer = Response<Text>;

/// Answers a question.
pub(super) async fn answer<B>(shared: &Shared, door: Door, request: &Request<B>) -> Answer {
    if door == Door::Address && !is_for_us(request) {
        return text(
            StatusCode::FORBIDDEN,
            "The Host header must be an IP address or localhost: pages of the web must not read this one.\n",
        );
    }
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or_default();
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let answer = match (reading, path) {
        (true, _) => read(shared, path, query),
        (false, "/sessions/end" | "/reload" | "/revoke") if *request.method() == Method::POST => {
            control(shared, door, path, query).await
        }
        (false, _) => not_that_method("GET, HEAD"),
    };
    if *request.method() == Method::HEAD { answer.map(|_| Text::empty()) } else { answer }
}

/// Whether a request names this machine in a way that no web site can make a browser do.
fn is_for_us<B>(request: &Request<B>) -> bool {
    let header = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"));
    let Some(authority) = request.uri().authority().map(http::uri::Authority::as_str).or(header) else {
        return request.version() <= Version::HTTP_10;
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn read(shared: &Shared, path: &str, query: &str) -> Answer {
    let observed = &shared.observed;
    match path {
        "/" => html(page::render(&observed.status(), &observed.sessions(), &shared.samples())),
        "/status" => json(&observed.status()),
        "/sessions" => json(&observed.sessions()),
        "/policy/test" => judge(shared, query),
        "/denials" => revoke::list(shared),
        "/metrics" => match shared.metrics.text() {
            Ok(metrics) => typed(StatusCode::OK, super::metrics::CONTENT_TYPE, metrics),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "The metrics could not be written.\n"),
        },
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(shared),
        _ => match path.strip_prefix("/requests/") {
            Some(id) => one_request(shared, id),
            None => text(StatusCode::NOT_FOUND, format!("There is no such page. There are: {PAGES}\n")),
        },
    }
}

fn ready(shared: &Shared) -> Answer {
    let status = shared.observed.status();
    if status.ready {
        return text(StatusCode::OK, "ready\n");
    }
    let mut why = String::from("not ready\n");
    for reason in &status.not_ready {
        // Writing to a String cannot fail.
        let _ = writeln!(why, "{reason}");
    }
    text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn one_request(shared: &Shared, id: &str) -> Answer {
    match id.parse() {
        Err(error) => text(StatusCode::BAD_REQUEST, format!("This is no request id: {error}.\n")),
        Ok(id) => match shared.observed.request(id) {
            Some(request) => json(&request),
            None => text(StatusCode::NOT_FOUND, "This process does not know the request, or no longer.\n"),
        },
    }
}

fn judge(shared: &Shared, query: &str) -> Answer {
    let question = match question(query) {
        Ok(question) => question,
        Err(why) => return text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    };
    match shared.observed.judge(&question) {
        None => text(StatusCode::NOT_FOUND, "Only a server has a policy.\n"),
        Some(Err(why)) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Some(Ok(verdicts)) => match (question, verdicts.as_slice()) {
            (Question::One { .. }, [verdict]) => json(verdict),
            (Question::One { .. } | Question::All, verdicts) => json(&verdicts),
        },
    }
}

async fn control(shared: &Shared, door: Door, path: &str, query: &str) -> Answer {
    let Door::Socket { pid, uid } = door else {
        return text(
            StatusCode::FORBIDDEN,
            "This address is for reading. Control goes over the Unix socket that adminSocket names.\n",
        );
    };
    if path == "/reload" {
        info!(pid, uid, "reload asked for over the admin socket");
        let outcome = shared.observed.reload().await;
        say(Trigger::AdminSocket, &outcome);
        return match outcome {
            Ok(changed) => text(StatusCode::OK, with_line_end(changed)),
            Err(why) => text(StatusCode::CONFLICT, with_line_end(why.whole)),
        };
    }
    if path == "/revoke" {
        return revoke::answer(shared, (pid, uid), query).await;
    }
    match which(query) {
        Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Ok(which) => {
            let ended = shared.observed.end_sessions(&which);
            info!(pid, uid, ended, "sessions ended over the admin socket");
            debug!(?which, "those were asked for");
            json(&EndedSessions { ended })
        }
    }
}

pub(super) fn question(query: &str) -> Result<Question, String> {
    let (mut client, mut target, mut from) = (None, None, None);
    for (key, value) in pairs(query)? {
        let slot = match key.as_str() {
            "client" => &mut client,
            "target" => &mut target,
            "from" => &mut from,
            _ => {
                return Err(
                    "A policy test has the parameters client, target and from, or none for everything.".to_owned()
                );
            }
        };
        once(slot, &key, value)?;
    }
    match (client, target, from) {
        (None, None, None) => Ok(Question::All),
        (Some(client), Some(target), from) => Ok(Question::One { client, target, from }),
        (Some(_), None, _) | (None, Some(_), _) | (None, None, Some(_)) => {
            Err("A policy test needs both client and target, or none of them.".to_owned())
        }
    }
}

pub(super) fn which(query: &str) -> Result<Which, String> {
    let mut which = Which::default();
    for (key, value) in pairs(query)? {
        match key.as_str() {
            "request" => {
                let id = value.parse().map_err(|error| format!("The request is no request id: {error}."))?;
                once(&mut which.request, &key, id)?;
            }
            "client" => once(&mut which.client, &key, value)?,
            "agent" => once(&mut which.agent, &key, value)?,
            "target" => once(&mut which.target, &key, value)?,
            "rule" => once(&mut which.rule, &key, value)?,
            "all" if value == "true" => which.all = true,
            _ => {
                return Err("Sessions are named by request, client, agent, target and rule, or by all=true.".to_owned());
            }
        }
    }
    let Which { request, client, agent, target, rule, all } = &which;
    let narrowed = request.is_some() || [client, agent, target, rule].iter().any(|part| part.is_some());
    match (narrowed, all) {
        (false, false) => Err("Say which sessions: request, client, agent, target or rule, or all=true.".to_owned()),
        (true, true) => Err("all=true leaves nothing to choose: name sessions or say all=true.".to_owned()),
        (true, false) | (false, true) => Ok(which),
    }
}

pub(super) fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("The parameter {key} is there twice.")),
    }
}

/// The parameters of a query, as forms write them.
pub(super) fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("The parameter {part:?} has no value."))?;
        Ok((decoded(key)?, decoded(value)?))
    };
    query.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

fn decoded(text: &str) -> Result<String, String> {
    let malformed =
        || "A parameter is not well formed: it is UTF-8 with % and two hexadecimal digits where needed.".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(malformed);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).map_err(|_| malformed())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

fn with_line_end(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn not_that_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "This listener is for reading.\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

pub(super) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(json) => typed(StatusCode::OK, JSON, with_line_end(json)),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be written.\n"),
    }
}

fn html(page: String) -> Answer {
    let mut answer = typed(StatusCode::OK, "text/html; charset=utf-8", page);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

pub(super) fn text(status: StatusCode, words: impl Into<String>) -> Answer {
    typed(status, TEXT, words.into())
}

fn typed(status: StatusCode, kind: &'static str, words: String) -> Answer {
    let mut answer = Response::new(Text::new(words));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests;
