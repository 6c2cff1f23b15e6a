//! Sets of public keys: of service accounts, of Google's ID tokens, and of any OIDC issuer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls_pki_types::pem::SectionKind;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use super::{HttpServer, Reply, Request, lock};

/// A key that signs tokens, as Google or an issuer holds it.
pub struct SigningKey {
    id: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A key of RSA, 2048 bits, that signs by RS256.
    ///
    /// # Errors
    /// If none can be made.
    pub fn rsa(id: &str) -> Result<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| anyhow::anyhow!("no RSA key"))?;
        Ok(Self { id: id.to_owned(), pair: Pair::Rsa(pair) })
    }

    /// A key of P-256 that signs by ES256.
    ///
    /// # Errors
    /// If none can be made.
    pub fn p256(id: &str) -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| anyhow::anyhow!("no key"))?;
        Ok(Self { id: id.to_owned(), pair: Pair::P256(pair) })
    }

    /// Its name in sets and tokens.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let der: Option<PublicKeyX509Der<'_>> = pair.public_key().as_der().ok();
                let der = der.as_ref().map(|der| der.as_ref()).unwrap_or_default();
                let (modulus, exponent) = numbers(der).unwrap_or_default();
                json!({"kid": self.id, "kty": "RSA", "alg": "RS256", "use": "sig", "n": text(&modulus), "e": text(&exponent)})
            }
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({
                    "kid": self.id, "kty": "EC", "alg": "ES256", "use": "sig", "crv": "P-256",
                    "x": text(&point[1..33]), "y": text(&point[33..]),
                })
            }
        }
    }

    /// A self-signed certificate with the public half, in PEM, as the x509 form of Google's sets has it. Only for RSA.
    ///
    /// # Errors
    /// For a key of P-256, or if none can be made.
    pub fn certificate(&self) -> Result<String> {
        let Pair::Rsa(pair) = &self.pair else { anyhow::bail!("only RSA keys have certificates") };
        let der: Pkcs8V1Der<'_> = pair.as_der()?;
        let key = rcgen::KeyPair::try_from(der.as_ref())?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "service account");
        Ok(params.self_signed(&key)?.pem())
    }

    /// The public half as a DER SubjectPublicKeyInfo. Only for RSA.
    ///
    /// # Errors
    /// For a key of P-256.
    pub fn spki_der(&self) -> Result<Vec<u8>> {
        let Pair::Rsa(pair) = &self.pair else { anyhow::bail!("only for RSA") };
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
        Ok(der.as_ref().to_vec())
    }

    /// The private half as a key file in Google's form.
    ///
    /// # Errors
    /// For a key of P-256.
    pub fn key_file(&self, email: &str) -> Result<String> {
        let Pair::Rsa(pair) = &self.pair else { anyhow::bail!("only RSA keys sign as service accounts") };
        let der: Pkcs8V1Der<'_> = pair.as_der()?;
        let file = json!({
            "type": "service_account", "project_id": "acme", "private_key_id": self.id,
            "private_key": ginnel_identity::pem::encode("PRIVATE KEY", der.as_ref()).to_string(),
            "client_email": email, "client_id": "100000000000000000001",
            "token_uri": "https://oauth2.googleapis.com/token",
        });
        Ok(file.to_string())
    }

    /// Signs a token with the usual header and these claims.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn token(&self, claims: &Value) -> Result<String> {
        let alg = match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
        };
        self.token_with(&json!({"alg": alg, "kid": self.id, "typ": "JWT"}), &claims.to_string())
    }

    /// Signs a token with this header and these claims, whatever they are.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn token_with(&self, header: &Value, claims: &str) -> Result<String> {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let message = format!("{}.{}", text(header.to_string().as_bytes()), text(claims.as_bytes()));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)
                    .map_err(|_| anyhow::anyhow!("not signed"))?;
                signature
            }
            Pair::P256(pair) => {
                let signature = pair.sign(&random, message.as_bytes()).map_err(|_| anyhow::anyhow!("not signed"))?;
                signature.as_ref().to_vec()
            }
        };
        Ok(format!("{message}.{}", text(&signature)))
    }
}

/// Modulus and exponent of a SubjectPublicKeyInfo, without leading zeroes.
fn numbers(spki_der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki_der).ok()?;
    let Ok(PublicKey::RSA(rsa)) = spki.parsed() else { return None };
    let plain = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    Some((plain(rsa.modulus), plain(rsa.exponent)))
}

/// In which form sets are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON Web Key Set.
    Jwk,
    /// An object from key ids to certificates in PEM.
    X509,
}

/// A key server: per-account sets under `/service_accounts/v1/jwk/` and `/service_accounts/v1/metadata/x509/`, Google's own under
/// `/oauth2/v3/certs`, and an OIDC issuer whose discovery document names `/keys`.
#[derive(Debug)]
pub struct KeySets {
    http: HttpServer,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<String, Vec<(Value, Option<String>)>>,
    google: Vec<Value>,
    issuer: Vec<Value>,
    discovery: Option<Value>,
    instead: Option<Reply>,
}

impl KeySets {
    /// Starts one without any key.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let state: Arc<Mutex<State>> = Arc::default();
        let http = HttpServer::start(answer(Arc::clone(&state))).await?;
        Ok(Self { http, state })
    }

    /// Starts one with TLS.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start_tls(tls: Arc<tokio_rustls::rustls::ServerConfig>) -> Result<Self> {
        let state: Arc<Mutex<State>> = Arc::default();
        let http = HttpServer::start_tls(tls, answer(Arc::clone(&state))).await?;
        Ok(Self { http, state })
    }

    /// The URL before an account's e-mail.
    pub fn accounts_url(&self, form: Form) -> String {
        match form {
            Form::Jwk => format!("{}/service_accounts/v1/jwk/", self.http.url()),
            Form::X509 => format!("{}/service_accounts/v1/metadata/x509/", self.http.url()),
        }
    }

    /// The URL of the set that signs Google's ID tokens.
    pub fn google_url(&self) -> String {
        format!("{}/oauth2/v3/certs", self.http.url())
    }

    /// The URL of the OIDC issuer.
    pub fn issuer_url(&self) -> String {
        self.http.url()
    }

    /// Publishes these keys for an account, in place of what was.
    ///
    /// # Errors
    /// If a certificate cannot be made.
    pub fn set_account(&self, email: &str, keys: &[&SigningKey]) -> Result<()> {
        let keys: Result<Vec<_>> = keys.iter().map(|key| Ok((key.jwk(), key.certificate().ok()))).collect();
        lock(&self.state).accounts.insert(email.to_owned(), keys?);
        Ok(())
    }

    /// Publishes these keys for an account, each with its id and its public half in PEM, in place of what was.
    ///
    /// # Errors
    /// If one is no RSA key in PEM.
    pub fn set_account_pems(&self, email: &str, keys: &[(&str, &str)]) -> Result<()> {
        let mut published = Vec::new();
        for (id, pem) in keys {
            let der = ginnel_identity::pem::decode_one(pem.as_bytes(), SectionKind::PublicKey).context("PEM")?;
            let (modulus, exponent) = numbers(&der).context("an RSA key")?;
            let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
            let jwk = json!({"kid": id, "kty": "RSA", "alg": "RS256", "use": "sig", "n": text(&modulus), "e": text(&exponent)});
            published.push((jwk, None));
        }
        lock(&self.state).accounts.insert(email.to_owned(), published);
        Ok(())
    }

    /// Publishes the keys of Google's ID tokens.
    pub fn set_google(&self, keys: &[&SigningKey]) {
        lock(&self.state).google = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Publishes the keys of the OIDC issuer.
    pub fn set_issuer(&self, keys: &[&SigningKey]) {
        lock(&self.state).issuer = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Lets the discovery document be another.
    pub fn set_discovery(&self, document: Value) {
        lock(&self.state).discovery = Some(document);
    }

    /// Answers everything so until it is told otherwise.
    pub fn answer_instead(&self, reply: Option<Reply>) {
        lock(&self.state).instead = reply;
    }

    /// Every path that was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.http.requests().into_iter().map(|request| request.path).collect()
    }

    /// Every request, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.http.requests()
    }
}

fn answer(state: Arc<Mutex<State>>) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    move |request| {
        let state = lock(&state);
        if let Some(reply) = &state.instead {
            return reply.clone();
        }
        let not_found = || Reply::error(404, "NOT_FOUND", "Requested entity was not found.");
        let set = |keys: &[Value]| Reply::json(&json!({"keys": keys})).header("Cache-Control", "public, max-age=21600");
        let path = request.path.as_str();
        if request.method != "GET" {
            return Reply::error(405, "UNIMPLEMENTED", "Only GET.");
        }
        if let Some(email) = path.strip_prefix("/service_accounts/v1/jwk/") {
            let Some(keys) = state.accounts.get(&email.replace("%40", "@")) else { return not_found() };
            return set(&keys.iter().map(|(jwk, _)| jwk.clone()).collect::<Vec<_>>());
        }
        if let Some(email) = path.strip_prefix("/service_accounts/v1/metadata/x509/") {
            let Some(keys) = state.accounts.get(&email.replace("%40", "@")) else { return not_found() };
            let certificates: serde_json::Map<_, _> = keys
                .iter()
                .filter_map(|(jwk, pem)| Some((jwk["kid"].as_str()?.to_owned(), json!(pem.as_ref()?))))
                .collect();
            return Reply::json(&Value::Object(certificates));
        }
        match path {
            "/oauth2/v3/certs" => set(&state.google),
            "/keys" => set(&state.issuer),
            "/.well-known/openid-configuration" => {
                let host = format!("http://{}", request.header("host").unwrap_or_default());
                let usual = json!({"issuer": host, "jwks_uri": format!("{host}/keys")});
                Reply::json(state.discovery.as_ref().unwrap_or(&usual))
            }
            _ => not_found(),
        }
    }
}
