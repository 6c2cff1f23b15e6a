//! The metadata server of a virtual machine or container on Google Cloud: who the workload is, access tokens, ID tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::json;

use super::key_sets::SigningKey;
use super::{HttpServer, Reply, Request, lock};

/// How long an ID token of Google's lives, in seconds.
const ID_TOKEN_SECONDS: u64 = 3600;

/// Google's number for the account that is attached.
pub const SUBJECT: &str = "104857600000000000001";

/// Access tokens that were given out, and whose they are: what the metadata server says and Google's interfaces believe.
#[derive(Clone, Debug, Default)]
pub struct AccessTokens(Arc<Mutex<BTreeMap<String, String>>>);

impl AccessTokens {
    fn issue(&self, email: &str) -> String {
        let mut tokens = lock(&self.0);
        let token = format!("ya29.fake-{}", tokens.len());
        tokens.insert(token.clone(), email.to_owned());
        token
    }

    /// The account whose token stands in a request's `Authorization`.
    pub(super) fn caller(&self, request: &Request) -> Option<String> {
        let token = request.header("authorization")?.strip_prefix("Bearer ")?;
        lock(&self.0).get(token).cloned()
    }
}

/// A metadata server with one service account, which is also the default one.
#[derive(Debug)]
pub struct Metadata {
    http: HttpServer,
    tokens: AccessTokens,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    email: String,
    key: Arc<SigningKey>,
    is_google: bool,
    delay: Duration,
    instead: Option<Reply>,
}

impl Metadata {
    /// Starts one for this account; `key` is Google's, which signs ID tokens.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(email: &str, key: Arc<SigningKey>) -> Result<Self> {
        let tokens = AccessTokens::default();
        let state = State { email: email.to_owned(), key, is_google: true, delay: Duration::ZERO, instead: None };
        let state = Arc::new(Mutex::new(state));
        let (known, issued) = (Arc::clone(&state), tokens.clone());
        let http = HttpServer::start(move |request| {
            let state = lock(&known);
            let reply = state.instead.clone().unwrap_or_else(|| state.answer(request, &issued));
            let reply = if state.is_google { reply.header("Metadata-Flavor", "Google") } else { reply };
            reply.after(state.delay)
        })
        .await?;
        Ok(Self { http, tokens, state })
    }

    /// Host and port, as `GCE_METADATA_HOST` has it.
    pub fn host(&self) -> String {
        self.http.address().to_string()
    }

    /// The access tokens that it gave.
    pub fn tokens(&self) -> AccessTokens {
        self.tokens.clone()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.http.requests()
    }

    /// Whether answers carry the header that tells Google's server from others.
    pub fn is_google(&self, is_google: bool) {
        lock(&self.state).is_google = is_google;
    }

    /// How long every answer takes to begin.
    pub fn delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Answers everything with this, until it is told otherwise.
    pub fn instead(&self, reply: Option<Reply>) {
        lock(&self.state).instead = reply;
    }
}

impl State {
    fn answer(&self, request: &Request, tokens: &AccessTokens) -> Reply {
        if request.header("metadata-flavor") != Some("Google") {
            return Reply::new(403, "text/html; charset=UTF-8", "Missing Metadata-Flavor:Google header.");
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let text = |text: &str| Reply::new(200, "application/text", text);
        match path.strip_prefix("/computeMetadata/v1/") {
            Some("project/project-id") => text("acme"),
            Some("universe/universe-domain") => text("googleapis.com"),
            Some(path) => match path.strip_prefix("instance/service-accounts/").and_then(|path| path.split_once('/')) {
                Some((account, what)) if account == "default" || unescaped(account) == self.email => {
                    self.of_account(what, query, tokens)
                }
                Some(_) | None => not_found(),
            },
            None => not_found(),
        }
    }

    fn of_account(&self, what: &str, query: &str, tokens: &AccessTokens) -> Reply {
        match what {
            "email" => Reply::new(200, "application/text", self.email.as_str()),
            "token" => Reply::json(&json!({
                "access_token": tokens.issue(&self.email), "expires_in": 3599, "token_type": "Bearer",
            })),
            "identity" => {
                let parameter =
                    |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
                match parameter("audience").map(|(_, value)| unescaped(value)).filter(|audience| !audience.is_empty()) {
                    None => Reply::new(400, "text/html; charset=UTF-8", "non-empty audience parameter required"),
                    Some(audience) => self.identity(&audience, parameter("format").is_some_and(|(_, v)| v == "full")),
                }
            }
            _ => not_found(),
        }
    }

    fn identity(&self, audience: &str, is_full: bool) -> Reply {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut claims = json!({
            "iss": "https://accounts.google.com", "sub": SUBJECT, "azp": SUBJECT, "aud": audience,
            "iat": now, "exp": now + ID_TOKEN_SECONDS, "email": self.email, "email_verified": true,
        });
        if is_full {
            claims["google"] = json!({"compute_engine": {
                "instance_id": "1", "instance_name": "app", "project_id": "acme", "project_number": 1, "zone": "europe-west1-b",
            }});
        }
        match self.key.token(&claims) {
            Ok(token) => Reply::new(200, "text/html", token),
            Err(_) => Reply::new(500, "text/html", "Internal error"),
        }
    }
}

fn not_found() -> Reply {
    Reply::new(404, "text/html; charset=UTF-8", "Error 404 (Not Found)")
}

/// Takes percent-encoding and plus signs of a query back.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%');
        let is_escape = escaped.is_some();
        bytes.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = if is_escape { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
