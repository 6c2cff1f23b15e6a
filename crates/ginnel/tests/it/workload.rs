//! Clients without a key: Google vouches for them, or the platform puts a token into a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{output, succeed};
use ginnel_testkit::google::iam::{Iam, Trouble, public_pem};
use ginnel_testkit::google::key_sets::{Form, KeySets, SigningKey};
use ginnel_testkit::google::metadata::Metadata;
use ginnel_testkit::hosts::{TcpHost, nobody};
use ginnel_testkit::stream::{Ending, read_to_ending};
use ginnel_testkit::world::Part;
use ginnel_testkit::{World, within};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::transcript::Transcript;
use crate::world;

/// The client's account in a world.
const EMAIL: &str = "client@acme.iam.gserviceaccount.com";

/// Google on loopback, with the client's account.
struct Google {
    metadata: Metadata,
    iam: Iam,
    sets: KeySets,
    public_key: String,
}

impl Google {
    async fn start() -> Result<Self> {
        let google = Arc::new(SigningKey::rsa("google")?);
        let sets = KeySets::start().await?;
        sets.set_google(&[&google]);
        let metadata = Metadata::start(EMAIL, google).await?;
        let iam = Iam::start(metadata.tokens()).await?;
        let key = Arc::new(SigningKey::rsa("9d2f4c1b7a")?);
        let public_key = public_pem(&key)?;
        sets.set_account(EMAIL, &[&key])?;
        iam.account(EMAIL, key);
        Ok(Self { metadata, iam, sets, public_key })
    }

    fn credential(&self, method: Option<&str>) -> Value {
        let mut workload = json!({"endpoint": self.iam.url()});
        if let Some(method) = method {
            workload["method"] = json!(method);
        }
        json!({"workloadIdentity": workload})
    }

    /// A world whose client has no key file, and whose server knows the key that Google keeps for the account.
    fn world(&self, method: Option<&str>) -> ginnel_testkit::WorldBuilder {
        world()
            .client_public_key(self.public_key.clone())
            .client_credential(self.credential(method), &[("GCE_METADATA_HOST", &self.metadata.host())])
    }
}

/// Kubernetes, as far as it makes tokens for a pod.
struct Cluster {
    key: SigningKey,
    sets: KeySets,
    made: AtomicUsize,
}

impl Cluster {
    const SUBJECT: &str = "system:serviceaccount:acme:frontend";

    async fn start() -> Result<Self> {
        let (key, sets) = (SigningKey::rsa("cluster-1")?, KeySets::start().await?);
        sets.set_issuer(&[&key]);
        Ok(Self { key, sets, made: AtomicUsize::new(0) })
    }

    /// Puts another token into the file, in one step, as the node's agent does it.
    fn project(&self, world: &World) -> Result<()> {
        // A server takes no token from before its start, by the slowest clock that it allows for. With the fastest one, nobody has to wait a
        // minute here; in the first two seconds it is from the future. One second would not do: a server counts from the end of that in which it started.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 62;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let token = self.key.token(&json!({
            "iss": self.sets.issuer_url(), "sub": Self::SUBJECT, "aud": ["https://tunnel.acme.example/enrol"],
            "iat": now, "nbf": now - 1, "exp": now + 600, "jti": format!("00000000-0000-4000-8000-{number:012}"),
            "kubernetes.io": {"namespace": "acme", "serviceaccount": {"name": "frontend", "uid": "1"}},
        }))?;
        let (next, path) = (world.directory().join("token.next"), world.directory().join("token"));
        std::fs::write(&next, token + "\n")?;
        Ok(std::fs::rename(next, path)?)
    }
}

async fn fetch(world: &World, host: &TcpHost) -> Result<()> {
    let mut connect = world.ginnel();
    let (address, proxy) = (host.address(), world.proxy_addr().to_string());
    connect.args(["connect", &address.ip().to_string(), &address.port().to_string(), "--proxy", &proxy]);
    let output = output(connect).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_tokens_google_signs_enrols_and_carries_a_request() -> Result<()> {
    let google = Google::start().await?;
    let host = TcpHost::echo().await?;
    let mut world = google.world(None).target(host.address()).start().await?;
    fetch(&world, &host).await?;
    ensure!(google.iam.signed() == 1, "{}", google.iam.signed());
    let enrolled = world.audit_of("enrolled")?;
    let principal = "spiffe://acme.example/client/frontend";
    ensure!(enrolled.iter().any(|record| record.to_string().contains(principal)), "{enrolled:?}");
    let admin = world.admin(Part::Client).await?.to_string();
    let mut status = world.ginnel();
    status.args(["status", "--json", "--admin", &admin]);
    let status: Value = serde_json::from_str(&succeed(status).await?)?;
    let proof = format!("workload identity by signJwt of {EMAIL}");
    ensure!(status["certificate"]["credential"] == proof, "{status}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_until_google_signs_again() -> Result<()> {
    let google = Google::start().await?;
    google.iam.trouble(Some(Trouble::Quota));
    let host = TcpHost::echo().await?;
    let world = google.world(Some("signJwt")).target(host.address()).start_unready().await?;
    let is_quota = |line: &Value| line.to_string().contains("quota");
    world.client.wait_for_after(0, "enrolment failed", is_quota).await?;
    google.iam.trouble(None);
    world.roster(0, 1).await?;
    fetch(&world, &host).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_are_signed_one_by_one_and_outlast_trouble_at_google() -> Result<()> {
    let google = Google::start().await?;
    let host = TcpHost::echo().await?;
    let world = google.world(Some("signJwt")).certificate_lifetime("9s").target(host.address()).start().await?;
    world.client.wait_for("certificate renewed", |_| true).await?;
    google.iam.trouble(Some(Trouble::Quota));
    let mark = world.client.mark();
    world.client.wait_for_after(mark, "renewal failed; the certificate stays in use", |_| true).await?;
    google.iam.trouble(None);
    let mark = world.client.mark();
    world.client.wait_for_after(mark, "certificate renewed", |_| true).await?;
    fetch(&world, &host).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_which_way_was_taken_and_what_google_wants() -> Result<()> {
    let google = Google::start().await?;
    let host = TcpHost::echo().await?;
    let world = google.world(None).agents(0).target(host.address()).start_unready().await?;
    world.roster(0, 0).await?;
    let mut transcript = Transcript::of(&world);
    let (_held, nobody) = nobody()?;
    transcript.name(nobody, "NOBODY");
    let check = async |transcript: &mut Transcript, note: &str, metadata: &str, method: Option<&str>| -> Result<()> {
        let directory = world.directory();
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(directory.join("client.yaml"))?)?;
        config["credential"] = google.credential(method);
        let path = directory.join("client-checked.yaml");
        std::fs::write(&path, config.to_string())?;
        let mut command = world.ginnel();
        command.args(["check", "client", "--config"]).arg(&path).env("GCE_METADATA_HOST", metadata);
        let shown = format!("ginnel check client --config {}", path.display());
        transcript.note(note);
        transcript.run_as(&shown, command).await.context(note.to_owned())?;
        Ok(())
    };
    let here = google.metadata.host();
    check(&mut transcript, "Google signs", &here, None).await?;
    google.iam.permit(EMAIL, false);
    check(&mut transcript, "Google may not sign; the server does not know Google's ID tokens", &here, None).await?;
    check(&mut transcript, "Google may not sign, and nothing else is wanted", &here, Some("signJwt")).await?;
    google.iam.trouble(Some(Trouble::Disabled));
    check(&mut transcript, "the API is not enabled", &here, Some("signJwt")).await?;
    google.iam.trouble(Some(Trouble::Quota));
    check(&mut transcript, "the quota is used up", &here, Some("signJwt")).await?;
    check(&mut transcript, "this is not Google", &nobody.to_string(), None).await?;
    transcript.is_golden("check-workload.txt")?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_google_for_keys_takes_both_kinds_of_tokens() -> Result<()> {
    for (method, may_sign, way) in
        [(Some("signJwt"), true, "signJwt"), (Some("idToken"), true, "idToken"), (None, false, "idToken")]
    {
        let google = Google::start().await?;
        google.iam.permit(EMAIL, may_sign);
        let keys =
            json!({"idTokenKeys": google.sets.google_url(), "serviceAccountKeys": google.sets.accounts_url(Form::Jwk)});
        let host = TcpHost::echo().await?;
        let world = google.world(method).server_setting("/google", keys);
        let world = world.server_setting("/identities/1/publicKeys", json!("google")).target(host.address());
        let world = world.start().await.with_context(|| format!("{method:?}"))?;
        fetch(&world, &host).await?;
        let by_way =
            |line: &Value| line["credential"].as_str().is_some_and(|shown| shown.contains(&format!("by {way}")));
        world.client.wait_for("enrolled", by_way).await?;
        world.finish(&[])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_taken_out_takes_those_with_it_who_came_by_its_tokens() -> Result<()> {
    let cluster = Cluster::start().await?;
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let issuer = json!({"name": "cluster", "issuer": cluster.sets.issuer_url(), "binding": "bearer"});
    let world = world()
        .client_credential(json!({"tokenFile": "token"}), &[])
        .server_setting("/oidcIssuers", json!([issuer]))
        .server_setting("/identities/1/oidc", json!({"issuer": "cluster", "subject": Cluster::SUBJECT}))
        .target(host.local_addr()?);
    let mut world = world.start_unready().await?;
    cluster.project(&world)?;
    world.roster(0, 1).await?;
    let mark = world.client.mark();
    // What it came by is known of a certificate from before a restart as well.
    world.restart(Part::Server).await?;
    world.roster(mark, 1).await?;
    let by_token = world.audit_of("clientUp")?;
    ensure!(by_token.iter().all(|record| record["proof"] == "bearer:cluster"), "{by_token:?}");
    let mut cut = Pair::open(&world, &host).await?;
    cut.exchange().await?;

    // The identity stays, with its key.
    world.edit("server", |config| {
        if let Some(config) = config.as_object_mut() {
            config.remove("oidcIssuers");
        }
        if let Some(identity) = config["identities"][1].as_object_mut() {
            identity.remove("oidc");
        }
    })?;
    let mut reload = world.ginnel();
    reload.args(["reload", "--socket"]).arg(world.socket(Part::Server));
    let said = succeed(reload).await?;
    for stream in [&mut cut.app, &mut cut.target] {
        let ending = within("the end of its session", Duration::from_secs(1), read_to_ending(stream)).await?.1;
        ensure!(ending == Ending::Reset, "{ending:?}");
    }
    ensure!(said.contains("oidcIssuers removed: cluster"), "{said}");
    ensure!(said.contains("1 session is no longer allowed") && said.contains("no longer admitted and w"), "{said}");
    let is_end = |record: &Value| record["event"] == "ended" && record["cause"] == "notAdmitted";
    world.audit_until("the end in the audit", |log| log.iter().any(is_end)).await?;
    ensure!(world.audit_of("linkDown")?.is_empty(), "a bystander was cut off");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_file_is_used_once_and_the_next_one_is_waited_for() -> Result<()> {
    let cluster = Cluster::start().await?;
    let host = TcpHost::echo().await?;
    let issuer = json!({"name": "cluster", "issuer": cluster.sets.issuer_url(), "binding": "bearer"});
    let world = world()
        .client_credential(json!({"tokenFile": "token"}), &[])
        .server_setting("/oidcIssuers", json!([issuer]))
        .server_setting("/identities/1/oidc", json!({"issuer": "cluster", "subject": Cluster::SUBJECT}))
        .certificate_lifetime("12s")
        .target(host.address());
    let mut world = world.start_unready().await?;
    world.client.wait_for("enrolment failed", |line| line.to_string().contains("/token")).await?;
    cluster.project(&world)?;
    world.roster(0, 1).await?;

    world.client.wait_for("no certificate can be asked for yet", |_| true).await?;
    let admin = world.admin(Part::Client).await?.to_string();
    let mut status = world.ginnel();
    status.args(["status", "--json", "--admin", &admin]);
    let status: Value = serde_json::from_str(&succeed(status).await?)?;
    let failure = status["certificate"]["renewalFailure"]["error"].as_str().unwrap_or_default();
    ensure!(failure.contains("was used already; waiting for another one in it"), "{status}");
    let mark = world.client.mark();
    cluster.project(&world)?;
    world.client.wait_for_after(mark, "certificate renewed", |_| true).await?;
    fetch(&world, &host).await?;
    let replays =
        world.audit_of("enrolmentRefused")?.into_iter().filter(|record| record["reason"] == "replayed").count();
    ensure!(replays == 0, "a used token was shown: {:?}", world.audit()?);

    // A process that starts does not know what was used; the server does, and says nothing but no.
    world.restart(Part::Client).await?;
    world.client.wait_for("enrolment failed", |line| line.to_string().contains("gRPC status 16")).await?;
    world.audit_until("a replay", |all| all.iter().any(|record| record["reason"] == "replayed")).await?;
    cluster.project(&world)?;
    world.roster(0, 1).await?;
    fetch(&world, &host).await?;
    world.finish(&[])
}
