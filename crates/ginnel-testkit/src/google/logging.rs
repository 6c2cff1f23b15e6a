//! Cloud Logging over HTTP and JSON, as its official client speaks it: `entries.write` of `google/logging/v2/logging.proto`.
//!
//! It keeps what the service's documentation says of it: sizes, times that buckets store, errors of single entries beside `partialSuccess`, and that
//! entries with the same time and `insertId` are one when they are read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use ginnel_core::audit::Timestamp;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ServerConfig, version};

use super::{Body, HttpServer, Reply, Request, lock};
use crate::hosts::Authority;

/// What the client must show: the token that [`Logging::credentials`] lead to.
const TOKEN: &str = "ya29.fake-access-token";

/// Bytes of one request.
const REQUEST_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Bytes of one entry.
const ENTRY_BYTES_MAX: usize = 256 * 1024;

/// Labels of one entry.
const LABELS_MAX: usize = 64;

/// How old an entry may be to be stored.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// How far ahead of the clock an entry may be.
const AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// What goes wrong at a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error in the form that Google's interfaces have: HTTP status and name.
    Error(u16, &'static str),
    /// An error page of whatever stands in front of the service.
    Page(u16),
    /// `RESOURCE_EXHAUSTED`, and when to come again.
    Exhausted(Duration),
    /// The request is taken and never answered.
    Hang,
    /// The answer comes one byte at a time, with this time before each.
    Trickle(Duration),
    /// The connection is closed without an answer.
    Close,
    /// The entries are stored, and the connection is closed without an answer.
    StoreAndClose,
    /// The certificate is of nobody's authority. Only with TLS.
    Certificate,
}

/// The service, with one project, `acme`.
#[derive(Debug)]
pub struct Logging {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

/// Which entries the service never takes.
type Never = Box<dyn Fn(&Value) -> bool + Send>;

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    next: VecDeque<Fault>,
    may_write: bool,
    never: Option<Never>,
    stored: Vec<Value>,
    requests: Vec<usize>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("stored", &self.stored.len()).finish_non_exhaustive()
    }
}

impl Logging {
    /// Starts one without TLS.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let state = Arc::new(Mutex::new(State { may_write: true, ..State::default() }));
        let http = HttpServer::start(answer(Arc::clone(&state))).await?;
        Ok(Self { http, state })
    }

    /// Starts one with TLS, with files of its own in `dir`. Gives the root that clients have to be given as well.
    ///
    /// # Errors
    /// If there is no port, or a file cannot be written.
    pub async fn start_tls(dir: &Path) -> Result<(Self, PathBuf)> {
        let state = Arc::new(Mutex::new(State { may_write: true, ..State::default() }));
        let (good, bad) = (dir.join("good"), dir.join("bad"));
        std::fs::create_dir_all(&good)?;
        std::fs::create_dir_all(&bad)?;
        let (good, bad) = (Authority::create(&good)?, Authority::create(&bad)?);
        let certificates = Certificates { good: certified(&good)?, bad: certified(&bad)?, state: Arc::clone(&state) };
        let mut tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        // Whoever resumed a session would not be shown the certificate of the moment.
        tls.send_tls13_tickets = 0;
        let http = HttpServer::start_tls(Arc::new(tls), answer(Arc::clone(&state))).await?;
        Ok((Self { http, state }, good.root))
    }

    /// Where it is called.
    pub fn endpoint(&self) -> String {
        self.http.url()
    }

    /// Application default credentials of the kind `authorized_user`, whose tokens the service itself gives out.
    pub fn credentials(&self) -> Value {
        json!({
            "type": "authorized_user", "client_id": "test", "client_secret": "test", "refresh_token": "test",
            "token_uri": format!("{}/token", self.endpoint()),
        })
    }

    /// Writes [`Self::credentials`] into a directory, for `GOOGLE_APPLICATION_CREDENTIALS`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn credentials_file(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("logging_credentials.json");
        std::fs::write(&path, self.credentials().to_string())?;
        Ok(path)
    }

    /// Lets every request go wrong in this way, or none any more.
    pub fn set(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Lets the next requests go wrong, one after the other.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().next.extend(faults);
    }

    /// Whether whoever calls may write.
    pub fn permit(&self, may_write: bool) {
        self.state().may_write = may_write;
    }

    /// Never takes entries of which this says so.
    pub fn never(&self, is_bad: impl Fn(&Value) -> bool + Send + 'static) {
        self.state().never = Some(Box::new(is_bad));
    }

    /// How many entries each request had so far, those that failed included.
    pub fn requests(&self) -> Vec<usize> {
        self.state().requests.clone()
    }

    /// Every entry that arrived and is stored, as often as it came.
    pub fn arrived(&self) -> Vec<Value> {
        self.state().stored.clone()
    }

    /// The entries as they are read: each once, in the order in which they first came.
    pub fn entries(&self) -> Vec<Value> {
        let mut known = BTreeSet::new();
        let mut entries = self.arrived();
        entries.retain(|entry| known.insert((entry["timestamp"].to_string(), entry["insertId"].to_string())));
        entries
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The certificate of the moment.
struct Certificates {
    good: Arc<CertifiedKey>,
    bad: Arc<CertifiedKey>,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_bad = lock(&self.state).fault == Some(Fault::Certificate);
        Some(Arc::clone(if is_bad { &self.bad } else { &self.good }))
    }
}

fn certified(authority: &Authority) -> Result<Arc<CertifiedKey>> {
    let chain = vec![CertificateDer::from_pem_file(&authority.certificate)?];
    let key = PrivateKeyDer::from_pem_file(&authority.key)?;
    Ok(Arc::new(CertifiedKey::new(chain, any_supported_type(&key).context("a key that signs")?)))
}

fn answer(state: Arc<Mutex<State>>) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    move |request| {
        let mut state = lock(&state);
        match (request.method.as_str(), request.path.split('?').next().unwrap_or_default()) {
            ("POST", "/token") => {
                Reply::json(&json!({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}))
            }
            ("POST", "/v2/entries:write") => state.answer(request),
            _ => Reply::error(404, "NOT_FOUND", "no such method"),
        }
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        let said: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        self.requests.push(said["entries"].as_array().map_or(0, Vec::len));
        let fault = self.next.pop_front().or_else(|| self.fault.clone());
        match fault {
            Some(Fault::Error(code, status)) => Reply::error(code, status, "told so"),
            Some(Fault::Page(code)) => Reply::new(code, "text/html", "<html><title>Error</title></html>"),
            Some(Fault::Exhausted(after)) => exhausted(after),
            Some(Fault::Hang) => Reply::json(&json!({})).after(Duration::from_secs(3600)),
            Some(Fault::Trickle(pause)) => {
                let body = Body::Trickled(vec![b' '; 3600], pause);
                Reply { body, ..Reply::json(&json!({})) }
            }
            Some(Fault::Close) => Reply { body: Body::Nothing, ..Reply::json(&json!({})) },
            Some(Fault::StoreAndClose) => Reply { body: Body::Nothing, ..self.write(request, &said) },
            // Of a connection that was made before.
            Some(Fault::Certificate) | None => self.write(request, &said),
        }
    }

    fn write(&mut self, request: &Request, said: &Value) -> Reply {
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return Reply::error(401, "UNAUTHENTICATED", "request had invalid authentication credentials");
        }
        if request.body.len() > REQUEST_BYTES_MAX {
            return invalid("Request payload size exceeds the limit: 10485760 bytes.");
        }
        let name = said["logName"].as_str().unwrap_or_default().split('/').collect::<Vec<_>>();
        let (project, log) = match name[..] {
            ["projects", project, "logs", log] => (project, log),
            _ => return invalid("Name was not of the form projects/[PROJECT_ID]/logs/[LOG_ID]"),
        };
        if log.is_empty() || !log.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'%')) {
            return invalid("Log name contains illegal character");
        }
        if project != "acme" {
            return Reply::error(404, "NOT_FOUND", "The project does not exist");
        }
        if !self.may_write {
            let message = "Permission 'logging.logEntries.create' denied on resource (or it may not exist).";
            return Reply::error(403, "PERMISSION_DENIED", message);
        }
        if said["resource"]["type"].as_str().is_none() {
            return invalid("A monitored resource must be specified for each log entry.");
        }
        let now = SystemTime::now();
        let entries = said["entries"].as_array().cloned().unwrap_or_default();
        let wrong: BTreeMap<usize, String> =
            entries.iter().enumerate().filter_map(|(place, entry)| Some((place, self.wrong(entry, now)?))).collect();
        let is_dry = said["dryRun"] == json!(true);
        if !is_dry && (wrong.is_empty() || said["partialSuccess"] == json!(true)) {
            let taken = entries.into_iter().enumerate().filter(|(place, _)| !wrong.contains_key(place));
            let stored = taken.map(|(_, entry)| complete(entry, said)).filter(|entry| is_stored(entry, now));
            self.stored.extend(stored);
        }
        match wrong.first_key_value() {
            None => Reply::json(&json!({})),
            Some((_, first)) => in_part(first, &wrong, said["partialSuccess"] == json!(true)),
        }
    }

    /// What is wrong with an entry.
    fn wrong(&self, entry: &Value, now: SystemTime) -> Option<String> {
        if entry.to_string().len() > ENTRY_BYTES_MAX {
            return Some("Log entry with size exceeds maximum size of 256.0K".to_owned());
        }
        if entry["labels"].as_object().is_some_and(|labels| labels.len() > LABELS_MAX) {
            return Some("too many labels".to_owned());
        }
        match time(entry) {
            None => return Some("the timestamp is no time".to_owned()),
            Some(time) if time.duration_since(now).is_ok_and(|ahead| ahead > AHEAD_MAX) => {
                return Some("The timestamp is too far in the future".to_owned());
            }
            Some(_) => {}
        }
        self.never.as_ref().is_some_and(|is_bad| is_bad(entry)).then(|| "told so".to_owned())
    }
}

fn time(entry: &Value) -> Option<SystemTime> {
    let time = &entry["timestamp"];
    if time.is_null() { Some(SystemTime::now()) } else { Some(time.as_str()?.parse::<Timestamp>().ok()?.into()) }
}

/// Whether a bucket keeps it. One that is too old is taken, and nobody hears of it again.
fn is_stored(entry: &Value, now: SystemTime) -> bool {
    time(entry).is_some_and(|time| now.duration_since(time).map_or(true, |age| age <= RETENTION))
}

/// The entry with what the request says for all of them.
fn complete(mut entry: Value, said: &Value) -> Value {
    for name in ["logName", "resource"] {
        if entry[name].is_null() {
            entry[name] = said[name].clone();
        }
    }
    for (name, value) in said["labels"].as_object().into_iter().flatten() {
        if entry["labels"][name].is_null() {
            entry["labels"][name] = value.clone();
        }
    }
    entry
}

fn invalid(message: &str) -> Reply {
    Reply::error(400, "INVALID_ARGUMENT", message)
}

fn in_part(message: &str, wrong: &BTreeMap<usize, String>, is_partial: bool) -> Reply {
    let errors: BTreeMap<String, Value> = wrong
        .iter()
        .map(|(place, message)| (place.to_string(), json!({"code": INVALID_ARGUMENT, "message": message})))
        .collect();
    let detail = json!({
        "@type": "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors", "logEntryErrors": errors,
    });
    let details = if is_partial { vec![detail] } else { Vec::new() };
    let error = json!({"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details});
    Reply::new(400, "application/json; charset=UTF-8", json!({ "error": error }).to_string())
}

fn exhausted(after: Duration) -> Reply {
    let delay = format!("{}.{:03}s", after.as_secs(), after.subsec_millis());
    let detail = json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay});
    let message = "Quota exceeded for quota metric 'Write requests'";
    let error = json!({"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [detail]});
    Reply::new(429, "application/json; charset=UTF-8", json!({ "error": error }).to_string())
}
