//! The IAM Credentials API, as far as it signs: `POST /v1/projects/-/serviceAccounts/EMAIL:signJwt`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::key_sets::SigningKey;
use super::metadata::{AccessTokens, unescaped};
use super::{HttpServer, Reply, Request, lock};

/// What Google says when it does not sign, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The API is not enabled in the caller's project.
    Disabled,
    /// The caller's access token is for other interfaces.
    Scope,
    /// Too many calls.
    Quota,
    /// A fault at Google.
    Unavailable,
}

/// The API. Accounts are added to it; each may sign for itself until that is taken from it.
#[derive(Debug)]
pub struct Iam {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    tokens: AccessTokens,
    keys: BTreeMap<String, Arc<SigningKey>>,
    may_sign: BTreeSet<String>,
    calls_left: Option<u64>,
    delay: Duration,
    trouble: Option<Trouble>,
    signed: u64,
}

impl Iam {
    /// Starts one that believes these access tokens.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(tokens: AccessTokens) -> Result<Self> {
        let state = State {
            tokens,
            keys: BTreeMap::new(),
            may_sign: BTreeSet::new(),
            calls_left: None,
            delay: Duration::ZERO,
            trouble: None,
            signed: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let known = Arc::clone(&state);
        let http = HttpServer::start(move |request| {
            let mut state = lock(&known);
            let reply = state.answer(request).unwrap_or_else(|refused| *refused);
            reply.after(state.delay)
        })
        .await?;
        Ok(Self { http, state })
    }

    /// Where it is, for the setting `endpoint`.
    pub fn url(&self) -> String {
        self.http.url()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.http.requests()
    }

    /// Adds an account whose tokens are signed with `key`, or gives it another key.
    pub fn account(&self, email: &str, key: Arc<SigningKey>) {
        let mut state = lock(&self.state);
        state.keys.insert(email.to_owned(), key);
        state.may_sign.insert(email.to_owned());
    }

    /// Takes from an account the right to sign for itself, or gives it back.
    pub fn permit(&self, email: &str, is_permitted: bool) {
        let mut state = lock(&self.state);
        match is_permitted {
            true => state.may_sign.insert(email.to_owned()),
            false => state.may_sign.remove(email),
        };
    }

    /// How many more calls are answered before the quota is used up.
    pub fn quota(&self, calls: Option<u64>) {
        lock(&self.state).calls_left = calls;
    }

    /// How long every answer takes to begin.
    pub fn delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Refuses every call, until it is told otherwise.
    pub fn trouble(&self, trouble: Option<Trouble>) {
        lock(&self.state).trouble = trouble;
    }

    /// How many tokens it has signed.
    pub fn signed(&self) -> u64 {
        lock(&self.state).signed
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Result<Reply, Box<Reply>> {
        let refuse = |code, status, message: &str| Box::new(Reply::error(code, status, message));
        let path = request.path.split('?').next().unwrap_or_default();
        let email = path.strip_prefix("/v1/projects/-/serviceAccounts/").and_then(|path| path.strip_suffix(":signJwt"));
        let Some(email) = email.filter(|_| request.method == "POST").map(unescaped) else {
            return Err(refuse(404, "NOT_FOUND", "Method not found."));
        };
        let Some(caller) = self.tokens.caller(request) else {
            return Err(refuse(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."));
        };
        if let Some(trouble) = self.trouble {
            return Err(Box::new(trouble.reply()));
        }
        match &mut self.calls_left {
            Some(0) => return Err(Box::new(Trouble::Quota.reply())),
            Some(left) => *left -= 1,
            None => {}
        }
        let Some(key) = self.keys.get(&email).cloned() else {
            return Err(refuse(404, "NOT_FOUND", &format!("Unknown service account: {email}")));
        };
        if caller != email || !self.may_sign.contains(&email) {
            let message = "Permission 'iam.serviceAccounts.signJwt' denied on resource (or it may not exist).";
            let metadata = json!({"permission": "iam.serviceAccounts.signJwt"});
            return Err(Box::new(explained(403, "PERMISSION_DENIED", message, "IAM_PERMISSION_DENIED", &metadata)));
        }
        let invalid = |_| refuse(400, "INVALID_ARGUMENT", "Request contains an invalid argument.");
        let body: Value = serde_json::from_slice(&request.body).map_err(invalid)?;
        // The claims come as a string that holds JSON.
        let payload = body["payload"].as_str().unwrap_or_default();
        let claims: Value = serde_json::from_str(payload).map_err(invalid)?;
        if !claims.is_object() {
            return Err(refuse(400, "INVALID_ARGUMENT", "The payload is not a JSON object."));
        }
        let header = json!({"alg": "RS256", "kid": key.id(), "typ": "JWT"});
        let Ok(token) = key.token_with(&header, payload) else {
            return Err(refuse(500, "INTERNAL", "Internal error."));
        };
        self.signed += 1;
        Ok(Reply::json(&json!({"keyId": key.id(), "signedJwt": token})))
    }
}

impl Trouble {
    fn reply(self) -> Reply {
        let service = json!({"service": "iamcredentials.googleapis.com"});
        match self {
            Self::Disabled => {
                let message =
                    "IAM Service Account Credentials API has not been used in project 1 before or it is disabled.";
                explained(403, "PERMISSION_DENIED", message, "SERVICE_DISABLED", &service)
            }
            Self::Scope => {
                let message = "Request had insufficient authentication scopes.";
                explained(403, "PERMISSION_DENIED", message, "ACCESS_TOKEN_SCOPE_INSUFFICIENT", &service)
            }
            Self::Quota => explained(
                429,
                "RESOURCE_EXHAUSTED",
                "Quota exceeded for quota metric.",
                "RATE_LIMIT_EXCEEDED",
                &service,
            ),
            Self::Unavailable => Reply::error(503, "UNAVAILABLE", "The service is currently unavailable."),
        }
    }
}

/// An error with the reason for machines, as Google's interfaces give it.
fn explained(code: u16, status: &str, message: &str, reason: &str, metadata: &Value) -> Reply {
    let detail = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata,
    });
    let error = json!({"error": {"code": code, "message": message, "status": status, "details": [detail]}});
    Reply { status: code, ..Reply::json(&error) }
}

/// The public half of a key in PEM, as a server takes it in `publicKeys`.
///
/// # Errors
/// For a key that is not RSA.
pub fn public_pem(key: &SigningKey) -> Result<String> {
    Ok(ginnel_identity::pem::encode("PUBLIC KEY", &key.spki_der()?).to_string())
}
