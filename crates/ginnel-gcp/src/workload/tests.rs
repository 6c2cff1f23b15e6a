use std::future::Future;

use anyhow::{Context, Result, ensure};
use ginnel_core::report::Chain;
use ginnel_testkit::google::iam::{Iam, Trouble};
use ginnel_testkit::google::key_sets::SigningKey;
use ginnel_testkit::google::metadata;
use ginnel_testkit::google::{Body, Reply};
use ginnel_testkit::hosts::nobody;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;

const AUDIENCE: &str = "https://tunnel.acme.example/enrol";
const EMAIL: &str = "frontend@acme.iam.gserviceaccount.com";
const SPKI: [u8; 32] = [7; 32];
/// SPKI in base64url.
const SPKI_TEXT: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

/// No fault of the machine that tests is to look like one of Google's: between attempts the client draws waits of seconds, and a busy machine
/// adds its own.
const PATIENT: Waits = Waits { attempt: Duration::from_secs(60), sign: Duration::from_secs(240) };

/// Google on loopback.
struct Fakes {
    metadata: metadata::Metadata,
    iam: Iam,
}

impl Fakes {
    async fn start() -> Result<Self> {
        let metadata = metadata::Metadata::start(EMAIL, SigningKey::rsa("google-1")?.into()).await?;
        let iam = Iam::start(metadata.tokens()).await?;
        iam.account(EMAIL, SigningKey::rsa("account-1")?.into());
        Ok(Self { metadata, iam })
    }

    fn google(&self, method: Option<Method>) -> Result<Google> {
        self.google_with(Settings { method, endpoint: Some(self.iam.url()), service_account: None })
    }

    fn google_with(&self, settings: Settings) -> Result<Google> {
        crate::provider::install();
        let host = self.metadata.host();
        let access = Access::Metadata(format!("http://{host}"));
        Ok(Google { settings, metadata: Metadata::at(host)?, access, waits: PATIENT, worked: Mutex::default() })
    }
}

async fn token(google: &Google) -> Result<(Value, Value), AskError> {
    let token = google.ask(AUDIENCE, SPKI, SystemTime::now()).await?;
    let part = |index| {
        use base64::Engine as _;
        let part = token.expose_secret().split('.').nth(index).unwrap_or_default();
        let json = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    };
    Ok((part(0), part(1)))
}

/// The kind of an error, without what is in it.
fn kind(error: &AskError) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn google_signs_the_claims_that_a_key_would_sign_here() -> Result<()> {
    let fakes = Fakes::start().await?;
    let google = fakes.google(Some(Method::SignJwt))?;
    let (header, claims) = token(&google).await?;
    assert_eq!(header, json!({"alg": "RS256", "kid": "account-1", "typ": "JWT"}));
    assert_eq!((&claims["iss"], &claims["sub"], &claims["aud"]), (&json!(EMAIL), &json!(EMAIL), &json!(AUDIENCE)));
    assert_eq!(claims["cnf"], json!({"spki#S256": SPKI_TEXT}));
    let (iat, exp) = (claims["iat"].as_u64().context("iat")?, claims["exp"].as_u64().context("exp")?);
    assert_eq!(exp - iat, 300);
    assert!(claims["jti"].as_str().is_some_and(|jti| jti.len() == 22));
    assert_eq!(claims.as_object().map(serde_json::Map::len), Some(7), "{claims}");
    assert_eq!(google.shown(), format!("workload identity by signJwt of {EMAIL}"));
    let (_, again) = token(&google).await?;
    assert_ne!(claims["jti"], again["jti"]);
    Ok(())
}

#[tokio::test]
async fn an_id_token_is_bound_by_its_audience() -> Result<()> {
    let fakes = Fakes::start().await?;
    let google = fakes.google(Some(Method::IdToken))?;
    let (header, claims) = token(&google).await?;
    assert_eq!(header["kid"], "google-1");
    assert_eq!(claims["aud"], format!("{AUDIENCE}?k={SPKI_TEXT}"));
    assert_eq!((&claims["email"], &claims["email_verified"]), (&json!(EMAIL), &json!(true)));
    let requests = fakes.metadata.requests();
    let [only] = requests.as_slice() else { anyhow::bail!("{requests:?}") };
    assert!(
        only.path.starts_with("/computeMetadata/v1/instance/service-accounts/default/identity?audience="),
        "{only:?}"
    );
    assert!(only.path.contains("%3Fk%3D") && only.path.ends_with("&format=full"), "{only:?}");
    assert_eq!(google.shown(), "workload identity by idToken");
    assert_eq!(fakes.iam.requests().len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_named_account_is_the_one_that_is_asked_for() -> Result<()> {
    let fakes = Fakes::start().await?;
    let named = |email: &str, method| Settings {
        method: Some(method),
        endpoint: Some(fakes.iam.url()),
        service_account: Some(email.to_owned()),
    };
    let google = fakes.google_with(named(EMAIL, Method::IdToken))?;
    assert_eq!(token(&google).await?.1["email"], EMAIL);
    let other = "other@acme.iam.gserviceaccount.com";
    for method in [Method::SignJwt, Method::IdToken] {
        let error = token(&fakes.google_with(named(other, method))?).await.err().context("a token of another")?;
        assert_eq!(kind(&error), "NoAccount", "{method}");
        assert!(error.to_string().contains(other), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn without_permission_the_id_token_is_taken_and_remembered() -> Result<()> {
    for trouble in [None, Some(Trouble::Disabled), Some(Trouble::Scope)] {
        let fakes = Fakes::start().await?;
        fakes.iam.permit(EMAIL, false);
        fakes.iam.trouble(trouble);
        let google = fakes.google(None)?;
        assert_eq!(google.shown(), "workload identity by signJwt or idToken");
        assert_eq!(token(&google).await?.1["iss"], "https://accounts.google.com");
        let shown = google.shown();
        assert!(shown.starts_with("workload identity by idToken (signJwt: "), "{shown}");
        let calls = fakes.iam.requests().len();
        assert_eq!(calls, 1);
        token(&google).await?;
        assert_eq!(fakes.iam.requests().len(), calls, "what worked is asked first");
        assert_eq!(google.shown(), shown);
    }
    Ok(())
}

#[tokio::test]
async fn where_signing_is_permitted_it_is_what_is_taken() -> Result<()> {
    let fakes = Fakes::start().await?;
    let google = fakes.google(None)?;
    assert_eq!(token(&google).await?.1["iss"], EMAIL);
    assert!(google.shown().contains("signJwt"));
    // A fault of the moment is no reason to become somebody that the server may not know.
    fakes.iam.trouble(Some(Trouble::Quota));
    let error = token(&google).await.err().context("a token in spite of the quota")?;
    assert_eq!(kind(&error), "Quota");
    fakes.iam.trouble(None);
    token(&google).await?;
    Ok(())
}

#[tokio::test]
async fn every_refusal_of_iam_has_its_own_advice() -> Result<()> {
    let fakes = Fakes::start().await?;
    let google = fakes.google(Some(Method::SignJwt))?;
    let cases = [
        (Trouble::Disabled, "Disabled", "gcloud services enable iamcredentials.googleapis.com"),
        (Trouble::Scope, "Scope", "cloud-platform"),
        (Trouble::Quota, "Quota", "tried again"),
        (Trouble::Unavailable, "Unavailable", "tried again"),
    ];
    for (trouble, expected, advice) in cases {
        fakes.iam.trouble(Some(trouble));
        let error = token(&google).await.err().context("a token")?;
        assert_eq!(kind(&error), expected, "{}", Chain(&error));
        assert!(error.advice().contains(advice), "{}", error.advice());
    }
    fakes.iam.trouble(None);
    fakes.iam.permit(EMAIL, false);
    let error = token(&google).await.err().context("a token")?;
    assert_eq!(kind(&error), "Permission");
    assert!(error.to_string().contains("iam.serviceAccounts.signJwt"), "{error}");
    assert!(error.advice().contains("roles/iam.serviceAccountTokenCreator") && error.advice().contains(EMAIL));
    fakes.iam.permit(EMAIL, true);
    fakes.iam.quota(Some(1));
    token(&google).await?;
    assert_eq!(token(&google).await.err().map(|error| kind(&error)).as_deref(), Some("Quota"));
    fakes.iam.quota(None);
    // What was broken is not kept: after all of this it works at once.
    token(&google).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_the_metadata_server_is_told_from_it() -> Result<()> {
    let fakes = Fakes::start().await?;
    let fails = async |method, expected: &str| -> Result<()> {
        let error = token(&fakes.google(Some(method))?).await.err().context("a token")?;
        ensure!(kind(&error) == expected, "{expected}: {}", Chain(&error));
        Ok(())
    };
    fakes.metadata.is_google(false);
    fails(Method::IdToken, "NotMetadata").await?;
    fails(Method::SignJwt, "NotMetadata").await?;
    fakes.metadata.is_google(true);
    let huge = Body::Zeroes { bytes: 64 * 1024 + 1, announced: false };
    let reply = |status, body| Reply { body, ..Reply::new(status, "text/html", "") };
    let cases = [
        (reply(200, huge), "NotMetadata"),
        (reply(200, Body::Whole(b"no token".to_vec())), "Unusable"),
        (reply(200, Body::Whole(Vec::new())), "Unusable"),
        (reply(500, Body::Whole(Vec::new())), "Status"),
        (reply(302, Body::Whole(Vec::new())).header("Location", "http://127.0.0.1:1/"), "Status"),
        (reply(404, Body::Whole(Vec::new())), "NoAccount"),
    ];
    for (reply, expected) in cases {
        fakes.metadata.instead(Some(reply));
        fails(Method::IdToken, expected).await?;
    }
    fakes.metadata.instead(Some(reply(200, Body::Whole(b"default\n".to_vec()))));
    fails(Method::SignJwt, "NoAccount").await?;
    Ok(())
}

#[tokio::test]
async fn elsewhere_than_on_google_that_is_what_is_said() -> Result<()> {
    let fakes = Fakes::start().await?;
    let (_held, nobody) = nobody()?;
    let nobody = nobody.to_string();
    for method in [None, Some(Method::SignJwt), Some(Method::IdToken)] {
        let google = Google { metadata: Metadata::at(nobody.clone())?, ..fakes.google(method)? };
        let error = token(&google).await.err().context("a token")?;
        assert_eq!(kind(&error), "NoMetadata");
        assert!(error.to_string().contains(&nobody), "{error}");
        assert!(error.advice().contains("serviceAccountKeyFile"), "{}", error.advice());
    }
    Ok(())
}

#[tokio::test]
async fn slow_answers_end_in_a_bounded_time() -> Result<()> {
    let fakes = Fakes::start().await?;
    let lasts = async |future: &mut (dyn Future<Output = Result<(Value, Value), AskError>> + Unpin)| {
        let started = tokio::time::Instant::now();
        (future.await.err().map(|error| kind(&error)), started.elapsed())
    };
    fakes.iam.delay(Duration::from_secs(60));
    let google = Google { waits: Waits::USUAL, ..fakes.google(Some(Method::SignJwt))? };
    let (error, time) = lasts(&mut Box::pin(token(&google))).await;
    assert!(
        matches!(error.as_deref(), Some("Slow" | "Unavailable")) && time < Waits::USUAL.sign * 2,
        "{error:?} {time:?}"
    );
    fakes.metadata.delay(Duration::from_secs(60));
    let google = fakes.google(Some(Method::IdToken))?;
    let (error, time) = lasts(&mut Box::pin(token(&google))).await;
    assert!(error.as_deref() == Some("NoMetadata") && time < Waits::USUAL.sign, "{error:?} {time:?}");
    Ok(())
}

#[tokio::test]
async fn neither_tokens_nor_claims_are_shown() -> Result<()> {
    let fakes = Fakes::start().await?;
    let google = fakes.google(None)?;
    let answer = google.token(AUDIENCE, SPKI, SystemTime::now()).await;
    let token = answer.map_err(|error| anyhow::anyhow!("{}", error.advice))?;
    assert!(!format!("{google:?} {token:?}").contains("eyJ"));
    Ok(())
}
