//! Identities whose keys Google has: how they come and how they go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use ginnel_testkit::google::Reply;
use ginnel_testkit::google::key_sets::{Form, KeySets, SigningKey};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::wait::{SOON, eventually};
use ginnel_testkit::{Part, World, peer, proxy};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world;

const AGENT: &str = "agent@acme.iam.gserviceaccount.com";

const CLIENT: &str = "client@acme.iam.gserviceaccount.com";
const AUDIENCE: &str = "https://tunnel.acme.example/enrol";

/// Sessions that are opened, so that both of two agents have some: all on one of them comes about once in a hundred thousand times.
const SESSIONS: usize = 18;

/// A key of the agent's account: Google's id of it, and the public half in PEM.
type Key = (String, String);

fn google(keys: &KeySets) -> Value {
    json!({
        "serviceAccountKeys": keys.accounts_url(Form::Jwk), "idTokenKeys": keys.google_url(), "keysFreshFor": "1s",
    })
}

/// The public half and the id of a key file in the world's directory.
fn key(world: &World, name: &str) -> Result<Key> {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(world.directory().join(format!("{name}.json")))?)?;
    let id = file["private_key_id"].as_str().context("an id")?.to_owned();
    Ok((id, std::fs::read_to_string(world.directory().join(format!("{name}.pub.pem")))?))
}

fn publish(keys: &KeySets, published: &[&Key]) -> Result<()> {
    let published: Vec<_> = published.iter().map(|(id, pem)| (id.as_str(), pem.as_str())).collect();
    keys.set_account_pems(AGENT, &published)
}

/// A session with the instance of the agent that carries it.
struct Carried {
    stream: TcpStream,
    instance: String,
}

impl Carried {
    async fn open(world: &World, target: &str) -> Result<Self> {
        let opened = proxy::connect(world.proxy_addr(), target).await?.opened()?;
        let is_it =
            |record: &&Value| record["event"] == "connected" && record["requestId"] == opened.request_id.as_str();
        let records = world.audit_until("the session on record", |records| records.iter().any(|r| is_it(&r))).await?;
        let record = records.iter().find(is_it).context("a record")?;
        let instance = record["agentInstance"].as_str().context("an instance")?.to_owned();
        Ok(Self { stream: opened.stream, instance })
    }

    async fn echoes(&mut self) -> Result<()> {
        self.stream.write_all(b"here").await?;
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).await?;
        ensure!(&answer == b"here");
        Ok(())
    }
}

/// Which instance of the agent came with which key.
fn keys_of_instances(world: &World) -> Result<BTreeMap<String, String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let enrolled = world.audit_of("enrolled")?;
    let proofs: BTreeMap<_, _> =
        enrolled.iter().map(|record| (text(&record["serial"]), text(&record["proof"]))).collect();
    let links = world.audit_of("linkUp")?;
    let proof = |record: &Value| proofs.get(&text(&record["serial"])).cloned().unwrap_or_default();
    Ok(links.iter().map(|record| (text(&record["agentInstance"]), proof(record))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_key_at_google_cuts_off_whom_it_enrolled_and_nobody_else() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let keys = KeySets::start().await?;
    let mut world = world()
        .agents(2)
        .target(&target)
        .server_setting("/google", google(&keys))
        .server_setting("/identities/0/publicKeys", json!("google"))
        .start_unready()
        .await?;
    let old = key(&world, "agent")?;
    publish(&keys, &[&old])?;
    world.roster(0, 2).await?;

    // A second key beside the first, and one agent that takes it.
    let mut create = world.ginnel();
    create.args(["credentials", "create", AGENT, "--out"]).arg(world.directory().join("next.json"));
    let public = ginnel_testkit::command::succeed(create).await?;
    std::fs::write(world.directory().join("next.pub.pem"), public + "\n")?;
    let new = key(&world, "next")?;
    publish(&keys, &[&old, &new])?;
    world.edit("agent", |config| config["credential"]["serviceAccountKeyFile"] = json!("next.json"))?;
    let mark = world.client.mark();
    world.restart(Part::Agent(1)).await?;
    world.roster(mark, 2).await?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(Carried::open(&world, &target).await?);
    }
    let proofs = keys_of_instances(&world)?;
    let has = |session: &Carried, key: &Key| proofs.get(&session.instance) == Some(&format!("googleKey:{}", key.0));
    ensure!(sessions.iter().all(|session| has(session, &old) || has(session, &new)), "{proofs:?}");
    ensure!(sessions.iter().any(|session| has(session, &old)) && sessions.iter().any(|session| has(session, &new)));

    // Google is away: nobody is cut off.
    keys.answer_instead(Some(Reply::error(503, "UNAVAILABLE", "away")));
    asked_more(&keys, 4).await?;
    for session in &mut sessions {
        session.echoes().await?;
    }
    keys.answer_instead(None);

    publish(&keys, &[&new])?;
    let ended = sessions.iter().filter(|session| has(session, &old)).count();
    let is_cut = |record: &&Value| record["event"] == "ended" && record["cause"] == "notAdmitted";
    world.audit_until("the ends on record", |records| records.iter().filter(is_cut).count() == ended).await?;
    for session in &mut sessions {
        if has(session, &old) {
            let mut rest = Vec::new();
            ensure!(session.stream.read_to_end(&mut rest).await.is_err(), "looks like a clean end");
        } else {
            session.echoes().await?;
        }
    }
    let down = |record: &&Value| record["event"] == "linkDown" && record["cause"] == "notAdmitted";
    let records = world.audit_until("the link on record", |records| records.iter().any(|r| down(&r))).await?;
    ensure!(records.iter().filter(down).count() == 1);

    // It does not come back with the certificate that it still has, and whoever has the other key goes on.
    world.server.wait_for("certificate that was enrolled with a key that is gone at Google", |_| true).await?;
    Carried::open(&world, &target).await?.echoes().await?;
    ensure!(world.audit()?.iter().filter(is_cut).count() == ended, "a bystander was cut off");
    world.finish(&[])
}

/// Waits until the agent, whose key was deleted, is cut off and stays out with the certificate that it has; the client is a bystander.
async fn is_cut_off(world: &World, session: &mut Carried) -> Result<()> {
    let is_down = |record: &Value| record["event"] == "linkDown" && record["cause"] == "notAdmitted";
    world.audit_until("the link on record", |records| records.iter().any(is_down)).await?;
    let mut rest = Vec::new();
    ensure!(session.stream.read_to_end(&mut rest).await.is_err(), "looks like a clean end");
    let is_end = |record: &Value| record["event"] == "ended" && record["cause"] == "notAdmitted";
    world.audit_until("the end on record", |records| records.iter().any(is_end)).await?;
    world.server.wait_for("certificate that was enrolled with a key that is gone at Google", |_| true).await?;
    ensure!(world.audit_of("clientDown")?.is_empty(), "a bystander was cut off");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_key_at_google_cuts_off_whom_it_enrolled_before_a_restart_of_the_server() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    // The second time the server that comes back has never seen the key.
    for is_deleted_before in [false, true] {
        let keys = KeySets::start().await?;
        let mut world = world()
            .target(&target)
            .server_setting("/google", google(&keys))
            .server_setting("/identities/0/publicKeys", json!("google"))
            .start_unready()
            .await?;
        let key = key(&world, "agent")?;
        publish(&keys, &[&key])?;
        world.roster(0, 1).await?;
        let enrolled = world.audit_of("enrolled")?.len();
        let mark = world.client.mark();
        if is_deleted_before {
            world.part(Part::Server)?.kill().await?;
            publish(&keys, &[])?;
        }
        world.restart(Part::Server).await?;
        world.roster(mark, 1).await?;
        if is_deleted_before {
            let is_down = |record: &Value| record["event"] == "linkDown" && record["cause"] == "notAdmitted";
            world.audit_until("the link on record", |records| records.iter().any(is_down)).await?;
        } else {
            let mut session = Carried::open(&world, &target).await?;
            session.echoes().await?;
            publish(&keys, &[])?;
            is_cut_off(&world, &mut session).await?;
        }
        ensure!(
            world.audit_of("enrolled")?.len() == enrolled,
            "the certificate was another one than before the restart"
        );
        let links = world.audit_of("linkUp")?;
        ensure!(links.iter().all(|link| link["proof"] == format!("googleKey:{}", key.0)), "{links:?}");
        world.finish(&[])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_key_at_google_cuts_off_whom_it_enrolled_in_another_process() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let keys = KeySets::start().await?;
    let world = world()
        .enrolment_apart()
        .target(&target)
        .server_setting("/google", json!({"serviceAccountKeys": keys.accounts_url(Form::Jwk), "keysFreshFor": "1s"}))
        .enrolment_setting("/google", google(&keys))
        .enrolment_setting("/identities/1/publicKeys", json!("google"))
        .start_unready()
        .await?;
    let key = key(&world, "agent")?;
    publish(&keys, &[&key])?;
    world.roster(0, 1).await?;
    let mut session = Carried::open(&world, &target).await?;
    session.echoes().await?;

    // Google is away for the server: nobody is cut off.
    keys.answer_instead(Some(Reply::error(503, "UNAVAILABLE", "away")));
    asked_more(&keys, 3).await?;
    session.echoes().await?;
    keys.answer_instead(None);
    asked_more(&keys, 2).await?;
    session.echoes().await?;
    ensure!(keys.asked().iter().all(|path| path.ends_with(AGENT)), "somebody else's keys: {:?}", keys.asked());

    publish(&keys, &[])?;
    is_cut_off(&world, &mut session).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_enrolment_hears_the_same() -> Result<()> {
    let keys = KeySets::start().await?;
    let google_key = SigningKey::rsa("google")?;
    let (known, stranger) = (SigningKey::rsa("known")?, SigningKey::rsa("known")?);
    keys.set_google(&[&google_key]);
    keys.set_account(CLIENT, &[&known])?;
    let world = world()
        .agents(0)
        .target("127.0.0.1:1")
        .server_setting("/google", google(&keys))
        .server_setting("/identities/1/publicKeys", json!("google"))
        .start_unready()
        .await?;
    let key = ginnel_identity::KeyPair::generate()?;
    let hash = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(key.spki_sha256());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let claims = |email: &str, jti: &str, iat: u64| {
        json!({
            "iss": email, "sub": email, "aud": AUDIENCE, "iat": iat, "exp": iat + 300, "jti": format!("{jti:0>22}"),
            "cnf": {"spki#S256": hash},
        })
    };
    let id_token = json!({
        "iss": "https://accounts.google.com", "aud": AUDIENCE, "sub": "1", "email": CLIENT, "email_verified": true,
        "iat": now, "exp": now + 3600,
    });
    let cases = [
        ("unknownIdentity", known.token(&claims("other@acme.iam.gserviceaccount.com", "a", now))?),
        ("signature", stranger.token(&claims(CLIENT, "b", now))?),
        ("expired", known.token(&claims(CLIENT, "c", now - 1000))?),
        ("keyId", SigningKey::rsa("unknown")?.token(&claims(CLIENT, "d", now))?),
        ("audience", google_key.token(&id_token)?),
        ("malformed", "nonsense".to_owned()),
    ];
    let mut heard = BTreeSet::new();
    for (reason, token) in &cases {
        let is_it = |record: &&Value| record["event"] == "enrolmentRefused" && record["reason"] == *reason;
        let before = world.audit()?.iter().filter(is_it).count();
        heard.insert(peer::refused_enrolment(&world, token, &key).await?);
        world.audit_until(reason, |records| records.iter().filter(is_it).count() > before).await?;
    }
    ensure!(heard.len() == 1, "{heard:?}");
    let other = keys.asked().into_iter().find(|path| path.contains("other@"));
    ensure!(other.is_none(), "keys of a stranger were asked for: {other:?}");
    world.finish(&[])
}

/// Waits until so many more requests have come.
async fn asked_more(keys: &KeySets, more: usize) -> Result<()> {
    let before = keys.asked().len();
    eventually("requests for keys", SOON + Duration::from_secs(10), async || {
        Ok((keys.asked().len() >= before + more).then_some(()))
    })
    .await
}
