//! What comes back from a key server, and what is taken of it.
#![cfg(test)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use ginnel_enrol::{KeySetId, KeySource, NoKey};
use ginnel_keys::{Fetch, FetchError, Http, IssuerKeys, KeySets, Timing};
use ginnel_testkit::google::key_sets::{Form, KeySets as Fake, SigningKey};
use ginnel_testkit::google::{Body, HttpServer, Reply};
use serde_json::json;

const ACCOUNT: &str = "agent@acme.iam.gserviceaccount.com";

/// A document that gzip makes from a tenth of a megabyte of blanks.
const GZIP: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];

/// A name, an answer, and whether an error is the one that it must lead to.
type Case = (&'static str, Reply, fn(&FetchError) -> bool);

fn account() -> KeySetId {
    KeySetId::Account(ACCOUNT.to_owned())
}

fn sets(fake: &Fake, form: Form, issuers: Vec<IssuerKeys>) -> Result<KeySets> {
    let timing = Timing { fresh_for: Duration::from_secs(1) };
    let sets = KeySets::new(timing, fake.accounts_url(form), fake.google_url(), None, issuers)?;
    sets.set_accounts(&BTreeSet::from([ACCOUNT.to_owned()]));
    Ok(sets)
}

async fn fetch(reply: Reply) -> Result<(Result<Vec<u8>, FetchError>, Duration)> {
    let server = HttpServer::start(move |_| reply.clone()).await?;
    let began = Instant::now();
    let outcome = Http::new(None)?.fetch(&server.url()).await;
    assert_eq!(server.requests().len(), 1);
    Ok((outcome, began.elapsed()))
}

#[tokio::test]
async fn documents_within_bounds_are_taken() -> Result<()> {
    let (outcome, _) = fetch(Reply::new(200, "application/json", "x".repeat(64 * 1024))).await?;
    assert_eq!(outcome?.len(), 64 * 1024);
    Ok(())
}

#[tokio::test]
async fn everything_else_is_refused_within_two_seconds() -> Result<()> {
    let zeroes =
        |bytes, announced| Reply { body: Body::Zeroes { bytes, announced }, ..Reply::new(200, "text/plain", "") };
    let trickle = Body::Trickled(b"{}".repeat(1000), Duration::from_secs(1));
    let cases: Vec<Case> = vec![
        ("a redirect", Reply::new(302, "text/plain", "").header("Location", "http://169.254.169.254/"), |e| {
            matches!(e, FetchError::Status(302))
        }),
        ("a permanent redirect", Reply::new(308, "text/plain", "").header("Location", "/"), |e| {
            matches!(e, FetchError::Status(308))
        }),
        ("an error", Reply::new(500, "text/plain", "oops"), |e| matches!(e, FetchError::Status(500))),
        ("not there", Reply::new(404, "text/plain", ""), |e| matches!(e, FetchError::Absent)),
        ("a byte more", Reply::new(200, "text/plain", "x".repeat(64 * 1024 + 1)), |e| {
            matches!(e, FetchError::TooLarge)
        }),
        ("a gibibyte, announced", zeroes(1 << 30, true), |e| matches!(e, FetchError::TooLarge)),
        ("a gibibyte, not announced", zeroes(1 << 30, false), |e| matches!(e, FetchError::TooLarge)),
        ("a gzip bomb", Reply::new(200, "application/json", GZIP).header("Content-Encoding", "gzip"), |e| {
            matches!(e, FetchError::Encoded)
        }),
        ("a byte a second", Reply { body: trickle, ..Reply::new(200, "text/plain", "") }, |e| {
            matches!(e, FetchError::TooSlow)
        }),
        ("no answer", Reply::new(200, "text/plain", "{}").after(Duration::from_secs(30)), |e| {
            matches!(e, FetchError::TooSlow)
        }),
    ];
    for (name, reply, is_right) in cases {
        let (outcome, took) = fetch(reply).await?;
        let error = outcome.expect_err(name);
        assert!(is_right(&error), "{name}: {error:?}");
        assert!(took < Duration::from_secs(3), "{name}: {took:?}");
    }
    Ok(())
}

#[tokio::test]
async fn both_forms_of_googles_sets_are_read() -> Result<()> {
    let fake = Fake::start().await?;
    fake.set_account(ACCOUNT, &[&SigningKey::rsa("one")?, &SigningKey::rsa("two")?])?;
    for form in [Form::Jwk, Form::X509] {
        let sets = sets(&fake, form, Vec::new())?;
        for (id, expected) in [("one", Ok(())), ("two", Ok(())), ("three", Err(NoKey::Unknown))] {
            assert_eq!(sets.find(&account(), id).await.map(|_| ()), expected, "{form:?} {id}");
        }
    }
    assert!(fake.asked().iter().all(|path| path.ends_with(ACCOUNT)), "{:?}", fake.asked());
    Ok(())
}

#[tokio::test]
async fn cached_keys_serve_while_a_key_server_misbehaves() -> Result<()> {
    let fake = Fake::start().await?;
    fake.set_account(ACCOUNT, &[&SigningKey::rsa("one")?])?;
    let timing = Timing { fresh_for: Duration::ZERO };
    let sets = KeySets::new(timing, fake.accounts_url(Form::Jwk), fake.google_url(), None, Vec::new())?;
    sets.set_accounts(&BTreeSet::from([ACCOUNT.to_owned()]));
    assert!(sets.find(&account(), "one").await.is_ok());
    let replies = [
        Reply::new(500, "text/plain", ""),
        Reply::new(200, "application/json", "{\"keys\": ["),
        Reply::new(200, "text/html", "<html>"),
        Reply::json(&json!([1, 2])),
        Reply::json(&json!({"error": "try again later"})),
        Reply::new(302, "text/plain", "").header("Location", "http://169.254.169.254/"),
    ];
    for reply in replies {
        fake.answer_instead(Some(reply.clone()));
        assert!(sets.find(&account(), "one").await.is_ok(), "{reply:?}");
        assert_eq!(sets.find(&account(), "two").await.map(|_| ()), Err(NoKey::Unavailable), "{reply:?}");
        assert!(sets.current(ACCOUNT).await.is_none(), "{reply:?}");
    }
    fake.answer_instead(None);
    assert_eq!(sets.find(&account(), "two").await.map(|_| ()), Err(NoKey::Unknown));
    Ok(())
}

fn issuer(url: String, jwks_uri: Option<String>) -> Vec<IssuerKeys> {
    vec![IssuerKeys { name: "idp".to_owned(), issuer: url, jwks_uri, ca_file: None }]
}

#[tokio::test]
async fn an_issuers_keys_are_found_by_discovery_or_where_the_operator_says() -> Result<()> {
    let fake = Fake::start().await?;
    fake.set_issuer(&[&SigningKey::p256("p")?, &SigningKey::rsa("r")?]);
    let id = KeySetId::Issuer("idp".to_owned());
    for jwks_uri in [None, Some(format!("{}/keys", fake.issuer_url()))] {
        let sets = sets(&fake, Form::Jwk, issuer(fake.issuer_url(), jwks_uri))?;
        assert!(sets.find(&id, "p").await.is_ok());
        assert!(sets.find(&id, "r").await.is_ok());
    }
    assert_eq!(fake.asked(), ["/.well-known/openid-configuration", "/keys", "/keys"]);
    Ok(())
}

#[tokio::test]
async fn a_discovery_document_must_name_the_same_issuer_and_a_safe_place() -> Result<()> {
    let fake = Fake::start().await?;
    fake.set_issuer(&[&SigningKey::rsa("r")?]);
    let url = fake.issuer_url();
    let documents = [
        json!({"issuer": format!("{url}/"), "jwks_uri": format!("{url}/keys")}),
        json!({"issuer": "https://other.example", "jwks_uri": format!("{url}/keys")}),
        json!({"issuer": url, "jwks_uri": "http://169.254.169.254/keys"}),
        json!({"issuer": url, "jwks_uri": "file:///etc/passwd"}),
        json!({"issuer": url}),
        json!({"jwks_uri": format!("{url}/keys")}),
    ];
    for document in documents {
        fake.set_discovery(document.clone());
        let sets = sets(&fake, Form::Jwk, issuer(url.clone(), None))?;
        let found = sets.find(&KeySetId::Issuer("idp".to_owned()), "r").await.map(|_| ());
        assert_eq!(found, Err(NoKey::Unavailable), "{document}");
    }
    assert!(fake.asked().iter().all(|path| path == "/.well-known/openid-configuration"), "{:?}", fake.asked());
    Ok(())
}

#[tokio::test]
async fn an_issuer_behind_a_private_authority_is_believed_by_that_authority_alone() -> Result<()> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key)?;
    let key = rcgen::KeyPair::generate()?;
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?
        .signed_by(&key, &rcgen::Issuer::new(params, &authority_key))?;
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().map_err(anyhow::Error::msg)?)?;
    let fake = Fake::start_tls(Arc::new(tls)).await?;
    fake.set_issuer(&[&SigningKey::rsa("r")?]);
    let directory = tempfile::tempdir()?;
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem())?;
    for (ca_file, expected) in [(Some(ca_file), Ok(())), (None, Err(NoKey::Unavailable))] {
        let keys = IssuerKeys {
            name: "idp".to_owned(),
            issuer: fake.issuer_url(),
            jwks_uri: Some(format!("{}/keys", fake.issuer_url())),
            ca_file,
        };
        let sets = sets(&fake, Form::Jwk, vec![keys])?;
        assert_eq!(sets.find(&KeySetId::Issuer("idp".to_owned()), "r").await.map(|_| ()), expected);
    }
    Ok(())
}
